"""Models in half precision compute what the graph says, within the rounding of halves."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import bnn_tvm
from benchmarks.networks import bireal18
from bnn_tvm import pipeline
from bnn_tvm.api import verify
from bnn_tvm.devices import QemuDevice, find_qemu
from bnn_tvm.frontend import prepare
from bnn_tvm.options import CompileOptions
from bnn_tvm.passes.float16 import _ELEMENTWISE, _FOLLOWS, LAYERS, use_float16
from bnn_tvm.program import Program
from bnn_tvm.recognize import recognize
from bnn_tvm.targets import resolve
from tests.passes.bnn_ops import evaluate, parse
from tests.pipeline.run_program import run_program
from tests.pipeline.test_operators import FORMS, feeds, model_of

ARM = {"target": "arm64", "mcpu": "cortex-a76", "float16": True}
CONV = "bnn_tvm.BinaryConv<strides=[1,1],dilations=[1,1],pads=[1,1,1,1],group=1,pad_value=0>"

needs_qemu = pytest.mark.skipif(find_qemu("aarch64") is None, reason="needs qemu-aarch64")


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {
        "w": rng.normal(size=(6, 6, 3, 3)).astype(np.float32),
        "bias": rng.normal(size=6).astype(np.float32),
        "slope": rng.normal(size=(6, 1, 1)).astype(np.float32),
        "t6": (rng.normal(size=(1, 6, 1, 1)) / 7).astype(np.float32),
        "d6": rng.choice(np.array([-1, 1], np.int8), (1, 6, 1, 1)),
        "bw": rng.choice(np.array([-1, 1], np.int8), (6, 6, 3, 3)),
        "scale": (rng.normal(size=6) / 8).astype(np.float32),
        "offset": rng.normal(size=6).astype(np.float32),
    }


FIRST = "a = Conv<pads=[1,1,1,1]>(x, w, bias)"


def _behind_layers(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with an identity layer behind every float input: what reads it reads halves."""
    graph = model.graph
    layers = []
    for value in graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT or value.name == "s":
            continue  # s holds NaN and infinities, which a sum spreads
        made, weight, dense = f"{value.name}_half", f"{value.name}_eye", len(shape) == 2
        eye = np.eye(shape[1], dtype=np.float32).reshape(shape[1], -1, *[1] * (len(shape) - 2))
        graph.initializer.append(onnx.numpy_helper.from_array(eye, weight))
        op = "MatMul" if dense else "Conv"
        layers.append(onnx.helper.make_node(op, [value.name, weight], [made], name=made))
        for node in graph.node:
            node.input[:] = [made if name == value.name else name for name in node.input]
    nodes = [*layers, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _build(model: onnx.ModelProto) -> Program:
    """For this machine: what is chosen and where types change are the same on every target."""
    halves = use_float16(pipeline.simplify(model)).halves
    return pipeline.build(model, resolve(CompileOptions()), halves=halves)


def _run(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> list[np.ndarray]:
    return run_program(_build(model), resolve(CompileOptions()).tvm_target(), values)


COMPUTED = sorted({*LAYERS, *_ELEMENTWISE, *_FOLLOWS} & set(FORMS))
OTHERS = [
    pytest.param(op, marks=() if op in COMPUTED else pytest.mark.slow) for op in sorted(FORMS)
]


def test_every_operator_that_computes_in_half_precision_has_forms() -> None:
    assert {*LAYERS, *_ELEMENTWISE, *_FOLLOWS} - set(COMPUTED) == {"Identity"}


@pytest.mark.parametrize("op", OTHERS)
def test_operator_on_halves(op: str) -> None:
    model = _behind_layers(model_of(FORMS[op]))
    values = {value.name: feeds()[value.name] for value in model.graph.input}
    for name, array in values.items():
        if array.dtype == np.float32:
            values[name] = array.astype(np.float16).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, values)
    got = _run(prepare(model).model, values)
    for output, ours, want in zip(model.graph.output, got, wanted, strict=True):
        assert (ours.dtype, ours.shape) == (want.dtype, want.shape), output.name
        if want.dtype == np.float32:
            atol = 4e-3 * float(np.abs(want[np.isfinite(want)]).max(initial=1.0))
            np.testing.assert_allclose(ours, want, rtol=0, atol=atol, err_msg=output.name)
        else:
            np.testing.assert_array_equal(ours, want, err_msg=output.name)


@pytest.mark.parametrize(
    "body",
    [
        "g = GlobalAveragePool(a) h = Sigmoid(a) i = Mul(h, g) y = Relu(i)",
        f"s = bnn_tvm.Binarize(x, t6, d6) b = {CONV}(s, bw, scale, offset) y = Add(b, a)",
        f"s = bnn_tvm.Binarize(x, t6, d6) b = {CONV}(s, bw, scale, offset) c = PRelu(b, slope)"
        " y = Concat<axis=1>(b, a, c)",
        f"s = bnn_tvm.Binarize(x, t6, d6) b = {CONV}(s, bw, scale, offset) c = Add(b, a)"
        " g = GlobalAveragePool(b) y = Mul(c, g)",
    ],
)
def test_float32_and_binary_layers_between(body: str) -> None:
    model = parse(f"{FIRST} {body}", _arrays())
    x = np.random.default_rng(8).normal(size=(2, 6, 9, 8)).astype(np.float32)
    assert any(tensor.dtype == "float16" for tensor in _build(model).tensors)
    (got,), (want,) = _run(model, {"x": x}), evaluate(model, {"x": x})
    error = np.abs(got - want).max() / np.abs(want).max()
    # Not more than the rounding of halves, and not a float32 result that slipped through.
    assert 1e-6 < error < 5e-3


def test_a_layer_writes_halves_and_the_change_of_layout_makes_them_float32() -> None:
    model = parse(FIRST.replace("a =", "y ="), _arrays())
    program = _build(model)
    layer, moved = program.calls[-2:]
    assert layer.macs > 0
    assert program.tensors[layer.args[-1]].dtype == "float16"
    assert moved.args == (layer.args[-1], program.outputs[0])
    assert program.tensors[moved.args[-1]].dtype == "float32"


def test_a_reader_of_float32_in_the_same_order_is_given_it_by_the_layer() -> None:
    program = _build(parse(f"{FIRST} h = Sigmoid(a) y = Relu(h)", _arrays()))
    (layer,) = [call for call in program.calls if call.macs]
    assert program.tensors[layer.args[-1]].dtype == "float32"


def test_a_binariser_decides_on_what_half_precision_gives() -> None:
    body = f"{FIRST} s = bnn_tvm.Binarize(a, t6, d6) y = {CONV}(s, bw, scale, offset)"
    model = parse(body, _arrays())
    x = np.random.default_rng(9).normal(size=(2, 6, 9, 8)).astype(np.float32)
    (got,) = _run(model, {"x": x})
    (halves,) = _run(parse(FIRST.replace("a =", "y ="), _arrays()), {"x": x})
    binary = parse(f"s = bnn_tvm.Binarize(x, t6, d6) y = {CONV}(s, bw, scale, offset)", _arrays())
    (want,) = evaluate(binary, {"x": halves})
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_a_model_compiled_without_the_option_has_no_halves(digits: Path) -> None:
    compiled = bnn_tvm.compile_model(digits, target="arm64", mcpu="cortex-a76")
    assert not any("f16" in layer.kernel for layer in compiled.artifact.metadata.layers)
    assert not any("float16" in decision.implied for decision in compiled.decisions)


@needs_qemu
def test_digits_agree_on_every_test_image(digits: Path) -> None:
    data = np.load(digits.with_name("test_digits.npz"))
    compiled = bnn_tvm.compile_model(digits, **ARM)
    kernels = {layer.kernel for layer in compiled.artifact.metadata.layers}
    assert {"depthwise_f16_neon", "conv2d_f16_neon_8x16", "dense_f16_neon_8x8"} <= kernels
    with QemuDevice("aarch64") as device, closing(device.load(compiled.artifact)) as model:
        assert model.self_test() < 0.1
        samples = [{"image": image[None]} for image in data["image"]]
        logits = np.concatenate([result["logits"] for result in model.run_many(samples)])
    assert logits.dtype == np.float32
    assert np.array_equal(logits.argmax(1), data["logits"].argmax(1))
    error = np.linalg.norm(logits - data["logits"]) / np.linalg.norm(data["logits"])
    assert 1e-4 < error < 0.05


@needs_qemu
def test_a_residual_network_verifies_and_its_integers_are_the_same() -> None:
    # At 32x32 the last maps are single pixels, where one sign is much (docs/float16.md).
    report = verify(bireal18(size=64, classes=10), CompileOptions(**ARM), samples=2)
    assert report.ok, report
    assert report.relative_tolerance == 0.5 and report.relative_error is not None
    for layer in report.layers:
        assert layer.exact if layer.binary else layer.tolerance == 0.02, layer
        assert layer.binary != ("float16" in layer.implied)
    assert sum(not layer.binary for layer in report.layers) == 5


def test_the_simplified_graph_is_a_valid_model_of_halves(digits: Path) -> None:
    graph = pipeline.simplify(recognize(prepare(digits), CompileOptions()).model)
    use_float16(graph)
    onnx.checker.check_model(ir.to_proto(graph))
