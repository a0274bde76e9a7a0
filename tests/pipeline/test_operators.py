"""Every operator of the table, compiled and compared with onnxruntime, in each of its forms."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from bnn_tvm import pipeline
from bnn_tvm.frontend import prepare
from bnn_tvm.frontend.operators import OPERATORS
from bnn_tvm.options import CompileOptions
from bnn_tvm.targets import resolve
from tests.pipeline.run_program import run_program

OPSET = 20

# Bodies over the inputs: x, z float[2,6,4,5]; p float[2,6,4,5], all positive; s float[2,6,4,5] with
# NaN, infinities, both zeros and halves; v float[3,7]; i, k int32[2,6]; q int64[2,6]; u uint8[2,6];
# b, d bool[2,6]. Every tensor that nothing reads is compared.
FORMS = {
    # layers
    "Conv": """
        y0 = Conv<pads=[1,0,2,1],strides=[2,1]>(x, cw, cb) y1 = Conv<group=6>(x, dw)
        y2 = Conv<auto_pad="SAME_UPPER",strides=[2,2]>(x, cw)
        y3 = Conv<auto_pad="SAME_LOWER",strides=[2,2],kernel_shape=[3,2]>(x, cw)
        y4 = Conv<dilations=[2,1],pads=[2,2,2,2],group=2>(x, gcw)
        r = Reshape(x, lines) y5 = Conv<pads=[1,2]>(r, lw)""",
    "Gemm": """
        y0 = Gemm(v, w75, b5) y1 = Gemm<transA=1,alpha=0.5,beta=2.0>(v, w35)
        y2 = Gemm<transB=1>(v, w57, k0) y3 = Gemm<transB=1>(v, v) y4 = Gemm(w53, v)""",
    "MatMul": """
        t = Transpose<perm=[0,1,3,2]>(x) y0 = MatMul(x, t) y1 = MatMul(t, w45) y2 = MatMul(x, w5)
        y3 = MatMul(w53, v) y4 = MatMul(x, w256)""",
    # spatial
    "AveragePool": """
        y0 = AveragePool<kernel_shape=[3,2],pads=[1,0,1,1],strides=[2,2],count_include_pad=1>(x)
        y1 = AveragePool<kernel_shape=[2,2],strides=[2,2],ceil_mode=1>(x)
        y2 = AveragePool<kernel_shape=[3,3],auto_pad="SAME_UPPER">(x)
        y3 = AveragePool<kernel_shape=[2,2],dilations=[2,2]>(x)
        r = Reshape(x, lines) y4 = AveragePool<kernel_shape=[3],pads=[1,1]>(r)""",
    "BatchNormalization": """
        y0 = BatchNormalization<epsilon=0.1>(x, c6, d6, c6, e6)
        t = Reshape(x, rows) y1 = BatchNormalization(t, c6, d6, c6, e6)""",
    "DepthToSpace": """
        t = Concat<axis=1>(x, z) y0 = DepthToSpace<blocksize=2>(t)
        y1 = DepthToSpace<blocksize=2,mode="CRD">(t)""",
    "GlobalAveragePool": """
        y0 = GlobalAveragePool(x) r = Reshape(x, lines) y1 = GlobalAveragePool(r)""",
    "GlobalMaxPool": "y0 = GlobalMaxPool(x) r = Reshape(x, lines) y1 = GlobalMaxPool(r)",
    "InstanceNormalization": """
        y0 = InstanceNormalization<epsilon=0.01>(x, c6, d6)
        r = Reshape(x, lines) y1 = InstanceNormalization(r, c6, d6)""",
    "MaxPool": """
        y0 = MaxPool<kernel_shape=[3,2],pads=[1,0,1,1],strides=[2,1]>(x)
        y1 = MaxPool<kernel_shape=[2,2],strides=[2,2],ceil_mode=1>(x)
        y2 = MaxPool<kernel_shape=[3,3],auto_pad="SAME_LOWER">(x)
        y3 = MaxPool<kernel_shape=[2,2],dilations=[2,3]>(x)
        r = Reshape(x, lines) y4 = MaxPool<kernel_shape=[3],pads=[1,1],strides=[2]>(r)""",
    "Pad": """
        y0 = Pad(x, pads, k0) y1 = Pad<mode="reflect">(x, small) y2 = Pad<mode="edge">(x, pads)
        y3 = Pad(x, crop) y4 = Pad(x, two, k0, axes2)""",
    "Resize": """
        y0 = Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor">
            (x, , twice)
        y1 = Resize<mode="linear",coordinate_transformation_mode="half_pixel">(x, , twice)
        y2 = Resize<mode="linear",coordinate_transformation_mode="align_corners">(x, , , sizes)
        y3 = Resize<mode="nearest">(x, , , sizes)
        y4 = Resize<mode="cubic">(x, , twice)""",
    "SpaceToDepth": "y0 = SpaceToDepth<blocksize=2>(square)",
    # elementwise
    "Abs": "y0 = Abs(s) y1 = Abs(i)",
    "Add": "y0 = Add(x, c1) y1 = Add(x, z) y2 = Add(i, k) y3 = Add(q, q)",
    "And": "y0 = And(b, d)",
    "Cast": """
        y0 = Cast<to=6>(x) y1 = Cast<to=7>(x) y2 = Cast<to=9>(x) y3 = Cast<to=1>(i)
        y4 = Cast<to=1>(b) y5 = Cast<to=1>(u) y6 = Cast<to=6>(q) y7 = Cast<to=2>(p)
        y8 = Cast<to=9>(i) y9 = Cast<to=3>(k)""",
    "CastLike": "y0 = CastLike(x, i) y1 = CastLike(i, x)",
    "Ceil": "y0 = Ceil(s)",
    "Clip": "y0 = Clip(x, k0) y1 = Clip(x, , k0) y2 = Clip(x, km, k0) y3 = Clip(x)",
    "Div": "y0 = Div(x, p) y1 = Div(x, c1) y2 = Div(i, k) y3 = Div(k0, p)",
    "Elu": "y0 = Elu(x) y1 = Elu<alpha=0.5>(x)",
    "Equal": "y0 = Equal(s, h1) y1 = Equal(i, k) y2 = Equal(b, d)",
    "Erf": "y0 = Erf(x)",
    "Exp": "y0 = Exp(x)",
    "Floor": "y0 = Floor(s)",
    "Gelu": 'y0 = Gelu(x) y1 = Gelu<approximate="tanh">(x)',
    "Greater": "y0 = Greater(s, h1) y1 = Greater(i, k)",
    "GreaterOrEqual": "y0 = GreaterOrEqual(s, h1) y1 = GreaterOrEqual(i, k)",
    "HardSigmoid": "y0 = HardSigmoid(x) y1 = HardSigmoid<alpha=0.1666667,beta=0.5>(x)",
    "HardSwish": "y0 = HardSwish(x)",
    "IsInf": "y0 = IsInf(s) y1 = IsInf<detect_negative=0>(s) y2 = IsInf<detect_positive=0>(s)",
    "IsNaN": "y0 = IsNaN(s)",
    "LeakyRelu": "y0 = LeakyRelu(x) y1 = LeakyRelu<alpha=0.25>(x) y2 = LeakyRelu<alpha=-2.0>(x)",
    "Less": "y0 = Less(s, h1) y1 = Less(i, k)",
    "LessOrEqual": "y0 = LessOrEqual(s, h1) y1 = LessOrEqual(i, k)",
    "Log": "y0 = Log(p)",
    "Max": "y0 = Max(x, z, c1) y1 = Max(x) y2 = Max(i, k)",
    "Mean": "y0 = Mean(x, z, c1) y1 = Mean(x)",
    "Min": "y0 = Min(x, z, c1) y1 = Min(x) y2 = Min(i, k)",
    "Mish": "y0 = Mish(x)",
    "Mod": "y0 = Mod<fmod=1>(x, p) y1 = Mod(i, k) y2 = Mod<fmod=1>(i, k)",
    "Mul": "y0 = Mul(x, c1) y1 = Mul(x, k0) y2 = Mul(i, k)",
    "Neg": "y0 = Neg(x) y1 = Neg(i)",
    "Not": "y0 = Not(b)",
    "Or": "y0 = Or(b, d)",
    "PRelu": "y0 = PRelu(x, c1) y1 = PRelu(x, one) y2 = PRelu(s, c1) y3 = PRelu(x, z)",
    "Pow": "y0 = Pow(p, z) y1 = Pow(x, ktwo) y2 = Pow(x, kthree)",
    "Reciprocal": "y0 = Reciprocal(p)",
    "Relu": "y0 = Relu(x)",
    "Round": "y0 = Round(s)",
    "Selu": "y0 = Selu(x) y1 = Selu<alpha=1.5,gamma=2.0>(x)",
    "Shrink": "y0 = Shrink(x) y1 = Shrink<lambd=0.75,bias=0.25>(x)",
    "Sigmoid": "y0 = Sigmoid(x)",
    "Sign": "y0 = Sign(x) y1 = Sign(i)",
    "Softplus": "y0 = Softplus(x)",
    "Softsign": "y0 = Softsign(x)",
    "Sqrt": "y0 = Sqrt(p)",
    "Sub": "y0 = Sub(x, c1) y1 = Sub(k0, x) y2 = Sub(i, k)",
    "Sum": "y0 = Sum(x, z, c1) y1 = Sum(x)",
    "Tanh": "y0 = Tanh(x)",
    "ThresholdedRelu": "y0 = ThresholdedRelu(x) y1 = ThresholdedRelu<alpha=0.25>(x)",
    "Where": "g = Greater(x, z) y0 = Where(g, x, c1) y1 = Where(b, i, k) y2 = Where(g, k0, z)",
    "Xor": "y0 = Xor(b, d)",
    # shapes
    "Concat": "y0 = Concat<axis=1>(x, z, x) y1 = Concat<axis=-1>(i, k)",
    "Expand": "y0 = Expand(v, larger) y1 = Expand(x, scalar_shape)",
    "Flatten": "y0 = Flatten(x) y1 = Flatten<axis=0>(x) y2 = Flatten<axis=-1>(x)",
    "Gather": """
        y0 = Gather<axis=1>(x, picks) y1 = Gather<axis=-1>(x, pick) y2 = Gather(v, table)
        y3 = Gather<axis=1>(x, below)""",
    "Reshape": "y0 = Reshape(x, rows) y1 = Reshape(x, kept) y2 = Reshape(i, flat)",
    "Slice": """
        y0 = Slice(x, starts, ends, axes) y1 = Slice(x, back, front, last, minus)
        y2 = Slice(x, starts, ends, axes, steps) y3 = Slice(v, first, far)""",
    "Split": """
        a, y1 = Split<axis=1,num_outputs=2>(x) y0 = Neg(a) y2, y3, y4 = Split<axis=-1>(x, parts)""",
    "Squeeze": "t = Unsqueeze(v, ends2) y0 = Squeeze(t, ends2) y1 = Squeeze(t)",
    "Tile": "y0 = Tile(v, repeats)",
    "Transpose": "y0 = Transpose<perm=[0,2,3,1]>(x) y1 = Transpose(x) y2 = Transpose(i)",
    "Unsqueeze": "y0 = Unsqueeze(v, ends2) y1 = Unsqueeze(x, first)",
    # heads
    "ArgMax": """
        y0 = ArgMax<axis=1>(x) y1 = ArgMax<axis=-1,keepdims=0>(x)
        y2 = ArgMax<axis=1,select_last_index=1>(ties) y3 = ArgMax<axis=1>(ties)""",
    "ArgMin": """
        y0 = ArgMin<axis=1>(x) y1 = ArgMin<axis=-1,keepdims=0>(x)
        y2 = ArgMin<axis=1,select_last_index=1>(ties) y3 = ArgMin<axis=1>(ties)""",
    "LayerNormalization": """
        y0 = LayerNormalization(x, b5, b5) y1 = LayerNormalization<axis=-2,epsilon=0.1>(x, w45)""",
    "LogSoftmax": "y0 = LogSoftmax(x) y1 = LogSoftmax<axis=1>(x)",
    "Softmax": "y0 = Softmax(x) y1 = Softmax<axis=1>(x) y2 = Softmax<axis=-1>(v)",
}
# onnxruntime 1.23, the last for Python 3.10, fails on reductions over no axes.
OLD_RUNTIME = tuple(int(part) for part in ort.__version__.split(".")[:2]) < (1, 24)
FORMS |= {
    f"Reduce{kind}": f"""
        y0 = Reduce{kind}(x, axes) y1 = Reduce{kind}<keepdims=0>(x, last)
        y2 = Reduce{kind}<keepdims=0>(v)"""
    + ("" if OLD_RUNTIME else f" y3 = Reduce{kind}<noop_with_empty_axes=1>(v)")
    for kind in ["L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
}

# Upsample is an operator of old files: the version converter makes a Resize of it.
ELSEWHERE = {"Upsample"}

INPUTS = {
    **dict.fromkeys(["x", "z", "p", "s"], ("float", (2, 6, 4, 5))),
    "v": ("float", (3, 7)),
    "square": ("float", (2, 3, 4, 6)),
    "ties": ("float", (2, 6, 2)),
    **dict.fromkeys(["i", "k"], ("int32", (2, 6))),
    "q": ("int64", (2, 6)),
    "u": ("uint8", (2, 6)),
    **dict.fromkeys(["b", "d"], ("bool", (2, 6))),
}


def constants() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = {
        "c1": (6, 1, 1),
        "cw": (7, 6, 3, 2),
        "cb": (7,),
        "dw": (6, 1, 3, 3),
        "gcw": (4, 3, 2, 3),
        "lw": (5, 6, 4),
        "w75": (7, 5),
        "w57": (5, 7),
        "w35": (3, 5),
        "w53": (5, 3),
        "w45": (4, 5),
        "w5": (5,),
        "w256": (2, 1, 5, 6),
        "b5": (5,),
        "d6": (6,),
    }
    floats: dict[str, object] = {n: rng.normal(size=shape) for n, shape in shapes.items()}
    floats |= {"c6": rng.uniform(0.5, 2, 6), "e6": rng.uniform(0.5, 2, 6)}
    floats |= {"k0": 0.75, "km": -0.5, "ktwo": 2.0, "kthree": 3.0, "h1": 0.5, "one": [0.25]}
    floats["twice"] = [1, 1, 2, 2]
    integers = {
        "lines": [2, 6, 20],
        "rows": [-1, 6],
        "kept": [0, 0, -1],
        "flat": [-1],
        "sizes": [2, 6, 7, 9],
        "pads": [0, 1, 1, 0, 0, 2, 2, 1],
        "small": [0, 0, 1, 2, 0, 0, 2, 1],
        "crop": [0, -1, 0, 1, 0, 0, -1, -2],
        "two": [1, 0, 2, 1],
        "axes2": [2, 3],
        "larger": [2, 3, 7],
        "scalar_shape": [1],
        "picks": [5, 0, 3, 3],
        "pick": 2,
        "below": [-1, -6, 2],
        "table": [[0, 2], [1, 1]],
        "starts": [1, -4],
        "ends": [5, 100],
        "axes": [1, 3],
        "steps": [2, 3],
        "back": [-1],
        "front": [-100],
        "last": [3],
        "minus": [-2],
        "first": [1],
        "far": [1 << 62],
        "parts": [1, 3, 1],
        "ends2": [0, 3],
        "repeats": [2, 3],
    }
    return {n: np.asarray(a, np.float32) for n, a in floats.items()} | {
        n: np.asarray(a, np.int64) for n, a in integers.items()
    }


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shape = INPUTS["x"][1]
    special = np.round(rng.normal(size=shape) * 8) / 2
    marks = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -1.5, -2.5, np.nan, np.inf, -np.inf]
    special.flat[: len(marks)] = marks
    arrays = {
        "x": rng.normal(size=shape) * 2,
        "z": rng.normal(size=shape),
        "p": rng.uniform(0.1, 4, shape),
        "s": special,
        "v": rng.normal(size=(3, 7)),
        "square": rng.normal(size=(2, 3, 4, 6)),
        "ties": rng.integers(0, 2, (2, 6, 2)),
        "i": rng.integers(-9, 10, (2, 6)),
        "k": rng.choice([-4, -3, 2, 3, 5], (2, 6)),
        "q": rng.integers(-9, 10, (2, 6)),
        "u": rng.integers(0, 256, (2, 6)),
        "b": rng.integers(0, 2, (2, 6)),
        "d": rng.integers(0, 2, (2, 6)),
    }
    arrays["i"][0, :2] = arrays["k"][0, :2]
    types = {"float": np.float32, "bool": np.bool_}
    return {
        n: np.asarray(a).astype(types.get(INPUTS[n][0], INPUTS[n][0])) for n, a in arrays.items()
    }


def model_of(body: str) -> onnx.ModelProto:
    """A model of the nodes in `body`; its outputs are the tensors that nothing reads."""
    text = f'<ir_version: 9, opset_import: ["" : {OPSET}]> g (float x) => (float y) {{ {body} }}'
    model = parser.parse_model(text)
    graph = model.graph
    read = {name for node in graph.node for name in node.input}
    made = [name for node in graph.node for name in node.output]
    del graph.input[:], graph.output[:]
    for name in sorted(read & set(INPUTS)):
        dtype, shape = INPUTS[name]
        kind = onnx.TensorProto.DataType.Value(dtype.upper())
        graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in made if n not in read)
    graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants().items() if name in read
    )
    return model


def check(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> None:
    """Compile, run, and compare with onnxruntime: integers and truth values exactly."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    used = {value.name: values[value.name] for value in model.graph.input}
    wanted = session.run(None, used)
    spec = resolve(CompileOptions(target="x86_64"))
    program = pipeline.build(prepare(model).model, spec)
    got = run_program(program, spec.tvm_target(), used)
    for output, g, w in zip(model.graph.output, got, wanted, strict=True):
        assert (g.dtype, g.shape) == (w.dtype, w.shape), output.name
        if w.dtype == np.float32:
            np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-6, err_msg=output.name)
        else:
            np.testing.assert_array_equal(g, w, err_msg=output.name)


def test_every_operator_of_the_table_is_here() -> None:
    assert set(FORMS) | ELSEWHERE == set(OPERATORS)
    for op, body in FORMS.items():
        assert op in {node.op_type for node in model_of(body).graph.node}


SLOPES = {
    "up to one": ("PRelu(s, slope)", [1, 0.25, 1e-30, 0.5, 0.75, 0.01], True),
    "above one": ("PRelu(s, slope)", [1, 0.25, 1.5, 0.5, 0.75, 0.01], False),
    "zero": ("PRelu(s, slope)", [0, 0.25, 1, 0.5, 0.75, 0.01], False),
    "below zero": ("PRelu(s, slope)", [1, 0.25, -0.5, 0.5, 0.75, 0.01], False),
    "leaky": ("LeakyRelu<alpha=0.25>(s)", [0.25] * 6, True),
    "leaky by default": ("LeakyRelu(s)", [0.01] * 6, True),
    "leaky above one": ("LeakyRelu<alpha=1.5>(s)", [1.5] * 6, False),
}


@pytest.mark.parametrize("name", SLOPES)
def test_prelu_is_a_maximum_where_that_is_the_same_to_the_bit(name: str) -> None:
    text, slopes, larger = SLOPES[name]
    slope = np.asarray(slopes, np.float32).reshape(6, 1, 1)
    model = model_of(f"y = {text}")
    if "slope" in text:
        model.graph.initializer.append(numpy_helper.from_array(slope, "slope"))
    special = feeds()["s"]
    special[:, :, 0] = [0.0, -0.0, np.inf, -np.inf, np.nan]
    spec = resolve(CompileOptions(target="x86_64"))
    program = pipeline.build(prepare(model).model, spec)
    (call,) = program.calls
    assert ("T.max(" in str(program.module[call.symbol])) == larger
    (got,) = run_program(program, spec.tvm_target(), {"s": special})
    with np.errstate(invalid="ignore"):
        wanted = np.where(special >= 0, special, special * slope)
    np.testing.assert_array_equal(got, wanted)
    known = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(got[known]), np.signbit(wanted[known]))


@pytest.mark.parametrize("op", sorted(FORMS))
def test_operator(op: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(model_of(FORMS[op]), feeds())
