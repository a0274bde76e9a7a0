"""Operators around the binary layers: what the pipeline computes is what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bnn_tvm import pipeline
from bnn_tvm.options import CompileOptions
from bnn_tvm.targets import resolve
from tests.pipeline.run_program import run_program

# Bodies over x: float[2,6,9,8]; y is the output. Constants c1 [6,1,1], c4 [1,6,1,1], w [8,5], k0.
BODIES = {
    "broadcast by rank": "t = Mul(x, c1) y = Add(t, c4)",
    "scalar": "y = Mul(x, k0)",
    "two tensors, one transposed": """
        a = GlobalAveragePool(x) t = Sub(x, a) y = Max(t, x)""",
    "tf2onnx transposes": """
        t = Transpose<perm=[0,2,3,1]>(x) u = Relu(t) v = Transpose<perm=[0,3,1,2]>(u)
        m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(v) y = Transpose<perm=[0,2,3,1]>(m)""",
    "layout meets natural": """
        m = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(x) t = Add(m, x) y = Sigmoid(t)""",
    "concat channels": """
        m = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(x) y = Concat<axis=1>(m, x, m)""",
    "concat height": """
        m = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(x) y = Concat<axis=-2>(x, m)""",
    "average pool counts": """
        y = AveragePool<kernel_shape=[3,2],pads=[1,0,1,1],strides=[2,2],count_include_pad=1>(x)""",
    "ceil mode": "y = MaxPool<kernel_shape=[2,2],strides=[2,2],ceil_mode=1>(x)",
    "ceil mode average": "y = AveragePool<kernel_shape=[2,2],strides=[2,2],ceil_mode=1>(x)",
    "global max": "y = GlobalMaxPool(x)",
    "flatten after pool": "p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) y = Flatten(p)",
    "reshape": "p = MaxPool<kernel_shape=[2,2]>(x) y = Reshape(p, shape)",
    "pad in layout": """
        p = MaxPool<kernel_shape=[2,2]>(x) q = Pad(p, pads, k0) y = Relu(q)""",
    "pad reflect": 'y = Pad<mode="reflect">(x, pads)',
    "split and shuffle": """
        p = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(x)
        a, b = Split<axis=1,num_outputs=2>(p) y = Concat<axis=1>(b, a)""",
    "channel shuffle": """
        p = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(x) q = Reshape(p, groups)
        r = Transpose<perm=[0,2,1,3,4]>(q) y = Reshape(r, back)""",
    "prelu": "p = MaxPool<kernel_shape=[2,2]>(x) y = PRelu(p, c1)",
    "comparison and where": """
        p = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(x)
        g = GreaterOrEqual(p, x) l = Less(x, c1) n = Not(l) b = And(g, n) y = Where(b, x, p)""",
    "clip and leaky": "t = LeakyRelu<alpha=0.25>(x) u = Neg(t) y = Clip(u, k0)",
    "reduce mean": "y = ReduceMean<keepdims=0>(x, axes)",
    "softmax": "g = GlobalAveragePool(x) f = Flatten(g) y = Softmax<axis=-1>(f)",
    "matmul of rows": "y = MatMul(x, w)",
    "gemm": """
        g = GlobalAveragePool(x) f = Flatten(g) y = Gemm<transB=1,alpha=0.5,beta=2.0>(f, gw, gb)""",
    "gemm and what follows": """
        g = GlobalAveragePool(x) f = Flatten(g) d = Gemm<transB=1>(f, gw, gb) r = Relu(d)
        n = BatchNormalization(r, v4, gb, v4, v4) y = PRelu(n, gb)""",
    "conv": "y = Conv<pads=[1,0,2,1],strides=[2,1]>(x, cw, cb)",
    "conv 1-d": "r = Reshape(x, lines) y = Conv<pads=[1,2],dilations=[2]>(r, lw)",
    "grouped conv and batch norm": """
        c = Conv<group=3>(x, gcw) y = BatchNormalization(c, v6, v6, v6, v6)""",
    "depthwise": "y = Conv<group=6,pads=[1,1,1,1]>(x, dw)",
    "lone batch norm": "r = Relu(x) y = BatchNormalization(r, v6, v6, v6, v6)",
    "input returned": "t = Relu(x) y = Identity(t)",
}


def _model(body: str) -> onnx.ModelProto:
    rng = np.random.default_rng(7)
    floats = {
        "c1": (6, 1, 1),
        "c4": (1, 6, 1, 1),
        "k0": (),
        "w": (8, 5),
        "gw": (4, 6),
        "gb": (4,),
        "cw": (7, 6, 3, 2),
        "cb": (7,),
        "lw": (5, 9, 3),
        "gcw": (6, 2, 3, 3),
        "dw": (6, 1, 3, 3),
    }
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in floats.items()}
    arrays["v6"] = rng.uniform(0.5, 1.5, 6).astype(np.float32)
    arrays["v4"] = rng.uniform(0.5, 1.5, 4).astype(np.float32)
    integers = {
        "shape": [2, -1, 7],
        "pads": [0, 0, 1, 2, 0, 0, 0, 1],
        "groups": [2, 2, 3, 9, 8],
        "back": [2, 6, 9, 8],
        "lines": [2, 9, 48],
        "axes": [2, 3],
    }
    arrays |= {name: np.array(v, np.int64) for name, v in integers.items()}
    text = f"""
        <ir_version: 9, opset_import: ["" : 18]>
        g (float[2,6,9,8] x) => (y) {{ {body} }}"""
    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    for name in sorted(used & set(arrays)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(arrays[name], name))
    for node in model.graph.node:
        node.name = node.output[0]
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model)
    return model


@pytest.fixture(scope="module")
def spec():
    return resolve(CompileOptions())


@pytest.mark.parametrize("name", BODIES)
def test_agrees_with_onnxruntime(name: str, spec) -> None:
    model = _model(BODIES[name])
    x = np.random.default_rng(3).normal(size=(2, 6, 9, 8)).astype(np.float32)
    expected = ort.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, {"x": x})
    program = pipeline.build(model, spec)
    results = run_program(program, spec.tvm_target(), {"x": x})
    assert len(results) == len(expected)
    for result, reference in zip(results, expected, strict=True):
        assert result.shape == reference.shape
        np.testing.assert_allclose(result, reference, rtol=2e-5, atol=2e-5)


def test_transposes_around_layout_cost_no_kernel(spec) -> None:
    program = pipeline.build(_model(BODIES["tf2onnx transposes"]), spec)
    assert [call.kind for call in program.calls].count("transpose") <= 1
    assert len(program.calls) <= 3


def test_what_follows_a_dense_layer_is_fused_into_its_kernel(spec) -> None:
    program = pipeline.build(_model(BODIES["gemm and what follows"]), spec)
    assert program.calls[-1].kind == "dense"


def test_equal_layers_share_one_kernel(spec) -> None:
    body = """
        a = Conv<pads=[1,1,1,1],group=6>(x, dw) r = Relu(a)
        b = Conv<pads=[1,1,1,1],group=6>(r, dw) s = Relu(b)
        c = Conv<pads=[1,1,1,1],group=6>(s, dw) y = Relu(c)"""
    program = pipeline.build(_model(body), spec)
    layers = [call for call in program.calls if call.macs]
    assert [call.layer for call in layers] == ["a", "b", "c"]
    assert len({call.symbol for call in layers}) == 1


@pytest.mark.parametrize("shape", [(3,), (2, 2)])
@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_gather_by_an_input(shape: tuple[int, ...], kind: str, spec) -> None:
    dims = ",".join(map(str, shape))
    table = np.arange(20, dtype=np.float32).reshape(5, 4)
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 18]>
        g ({kind}[{dims}] i) => (y) {{ y = Gather<axis=0>(table, i) }}""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    model.graph.node[0].name = "y"
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    indices = np.array([4, -5, -1, 0][: int(np.prod(shape))], kind).reshape(shape)
    program = pipeline.build(model, spec)
    (result,) = run_program(program, spec.tvm_target(), {"i": indices})
    np.testing.assert_array_equal(result, table[indices])
    # Where ONNX has no answer, no memory beside the table is read.
    far = np.full(shape, 10**6, kind)
    (result,) = run_program(program, spec.tvm_target(), {"i": far})
    np.testing.assert_array_equal(result, table[np.full(shape, 4)])
