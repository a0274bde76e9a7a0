"""Half precision: what computes in it, what does not and why, and where types change."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bnn_tvm.passes.float16 import Float16Plan, use_float16
from tests.passes.bnn_ops import parse

CONV = "bnn_tvm.BinaryConv<strides=[1,1],dilations=[1,1],pads=[1,1,1,1],group=1,pad_value=0>"
FIRST = "a = Conv<pads=[1,1,1,1]>(x, w, bias)"
BITS = "s = bnn_tvm.Binarize(a, t0, up)"


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def _weights(*rows: float) -> np.ndarray:
    """[co, 6, 3, 3] whose largest magnitude per channel is given."""
    rng = np.random.default_rng(1)
    w = rng.uniform(-1, 1, (len(rows), 6, 3, 3)).astype(np.float32)
    w[:, 0, 0, 0] = 1
    return w * np.asarray(rows, np.float32).reshape(-1, 1, 1, 1)


ARRAYS = {
    "w": _normal(6, 6, 3, 3),
    "bias": _normal(6),
    "t0": np.zeros((), np.float32),
    "up": np.ones((), np.int8),
    "bw": np.random.default_rng(2).choice(np.array([-1, 1], np.int8), (6, 6, 3, 3)),
    "scale": _normal(6),
    "offset": _normal(6),
    "big_scale": np.full(6, 2000, np.float32),
    "c": _normal(1, 6, 1, 1),
    "small": np.full((1, 6, 1, 1), 1e-6, np.float32),
    "large": np.full((1, 6, 1, 1), 1e6, np.float32),
    "axes": np.array([2], np.int64),
    "dense": _normal(432, 5),
    "deep": _normal(4, 6, 16, 16),
    "low": np.float32(-1e30),
    "high": np.float32(6),
    "pads": np.array([0, 0, 1, 1, 0, 0, 0, 0], np.int64),
    "lowest": np.float32(-np.inf),
    "too_low": np.float32(-1e30),
}


def convert(
    body: str, only: frozenset[str] | None = None, **arrays: np.ndarray
) -> tuple[ir.Model, Float16Plan]:
    model = ir.from_proto(parse(body, ARRAYS | arrays))
    plan = use_float16(model, only)
    onnx.checker.check_model(ir.to_proto(model))
    return model, plan


def types(model: ir.Model) -> dict[str, str]:
    return {
        str(value.name): value.dtype.numpy().name
        for node in model.graph
        for value in node.outputs
        if value.dtype is not None
    }


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_a_layer_computes_in_half_precision_between_two_casts() -> None:
    model, plan = convert("y = Conv<pads=[1,1,1,1]>(x, w, bias)")
    assert operators(model) == ["Cast", "Conv", "Cast"]
    assert plan.layers == {"y": "Conv"} and plan.kept == {} and plan.halves == {"y"}
    (output,) = model.graph.outputs
    assert output.name == "y" and output.dtype == ir.DataType.FLOAT
    (conv,) = (node for node in model.graph if node.op_type == "Conv")
    assert all(value.dtype == ir.DataType.FLOAT16 for value in (*conv.inputs, *conv.outputs))
    assert conv.inputs[1].const_value.numpy().dtype == np.float16


def test_a_binariser_compares_the_halves_and_its_layer_is_rounded_once_for_all() -> None:
    model, plan = convert(f"{FIRST} {BITS} b = {CONV}(s, bw, scale, offset) y = Add(b, a)")
    assert operators(model) == ["Cast", "Conv", "Binarize", "BinaryConv", "Cast", "Add", "Cast"]
    assert plan.elementwise == ["y"]
    binarize = next(node for node in model.graph if node.op_type == "Binarize")
    assert binarize.inputs[0].dtype == ir.DataType.FLOAT16
    assert types(model)["b"] == "float32"


def test_every_reader_of_a_rounded_binary_layer_reads_what_is_rounded() -> None:
    second = f"u = bnn_tvm.Binarize(b, t0, up) v = {CONV}(u, bw, scale, offset)"
    model, _ = convert(
        f"{FIRST} {BITS} b = {CONV}(s, bw, scale, offset) {second} r = Add(b, a) y = Add(r, v)"
    )
    readers = {use.node.op_type for value in _named(model, "b") for use in value.uses()}
    assert readers == {"Cast"}


def test_a_reader_in_float32_gets_what_is_rounded_too() -> None:
    model, _ = convert(
        f"{FIRST} {BITS} b = {CONV}(s, bw, scale, offset) r = Add(b, a) g = GlobalAveragePool(b)"
        " y = Mul(r, g)"
    )
    (pool,) = (node for node in model.graph if node.op_type == "GlobalAveragePool")
    back = pool.inputs[0].producer()
    assert back.op_type == "Cast" and back.inputs[0].dtype == ir.DataType.FLOAT16
    assert pool.inputs[0].dtype == ir.DataType.FLOAT and types(model)["g"] == "float32"


def test_what_only_bits_are_read_of_stays_in_float32() -> None:
    model, plan = convert(
        f"{FIRST} {BITS} b = {CONV}(s, bw, scale, offset) m = MaxPool<kernel_shape=[2,2]>(b)"
        f" u = bnn_tvm.Binarize(m, t0, up) y = {CONV}(u, bw, scale, offset)"
    )
    assert types(model)["m"] == "float32" and plan.elementwise == []


def test_work_behind_a_pooled_binary_layer_is_in_half_precision() -> None:
    body = f"{BITS.replace('(a', '(x')} b = {CONV}(s, bw, scale, offset)"
    model, plan = convert(f"{body} m = MaxPool<kernel_shape=[2,2]>(b) y = PRelu(m, c)")
    assert plan.elementwise == ["y"]
    assert types(model)["m"] == "float32" and "m.float16" in types(model)


def test_work_on_the_input_before_the_first_layer_stays_in_float32() -> None:
    model, plan = convert("p = Mul(x, c) y = Conv(p, w)")
    assert operators(model) == ["Mul", "Cast", "Conv", "Cast"]
    assert plan.elementwise == []


def test_pools_and_moves_follow_their_input() -> None:
    model, plan = convert(
        f"{FIRST} p = MaxPool<kernel_shape=[2,2],strides=[1,1]>(a) q = Pad(p, pads, lowest)"
        " r = Concat<axis=1>(x, q, x) f = Flatten(r) y = Relu(f)"
    )
    assert {types(model)[name] for name in "pqrf"} == {"float16"}
    assert plan.elementwise == ["y"]


def test_other_operators_read_and_write_float32() -> None:
    model, plan = convert(f"{FIRST} g = GlobalAveragePool(a) y = Conv(g, k)", k=_normal(4, 6, 1, 1))
    assert operators(model) == ["Cast", "Conv", "Cast", "GlobalAveragePool", "Cast", "Conv", "Cast"]
    assert types(model)["g"] == "float32" and set(plan.layers) == {"a", "y"}


def test_only_named_nodes_are_converted() -> None:
    body = f"{FIRST} y = Conv<pads=[1,1,1,1]>(a, w)"
    model, plan = convert(body, frozenset({"y"}))
    assert plan.layers == {"y": "Conv"} and types(model)["a"] == "float32"
    model, plan = convert(body, frozenset())
    assert not plan.halves and "Cast" not in operators(model)


RANGE = "is outside half precision's range (6.1e-05 to 65504)"


@pytest.mark.parametrize(
    ("body", "arrays", "kept"),
    [
        ("y = Conv(x, w)", {"w": _weights(1, 1e5)}, f"a channel's largest weight of 1e+05 {RANGE}"),
        ("y = Conv(x, w)", {"w": _weights(1, 1e-5)}, f"weight of 1e-05 {RANGE}"),
        ("y = Conv(x, w, b)", {"w": _weights(1), "b": np.float32([7e4])}, f"bias of 7e+04 {RANGE}"),
        ("f = Flatten(x) y = Gemm<alpha=1e-6>(f, dense)", {}, "a channel's largest weight of"),
        ("f = Flatten(x) y = MatMul(f, m)", {"m": _normal(432, 5) * 1e6}, "a channel's largest"),
        ("y = Conv(x, deep)", {}, "1536 taps is too long for half precision (at most 1152)"),
        ("y = Conv(x, v)", {"v": np.zeros(0)}, "its weights are computed"),
        ("f = Flatten(x) y = MatMul(t, f)", {"t": np.zeros(0)}, "its weights are computed"),
    ],
)  # fmt: skip
def test_a_layer_that_stays_says_why(body: str, arrays: dict[str, np.ndarray], kept: str) -> None:
    for name, array in list(arrays.items()):
        if array.size == 0:
            computed = {"v": "v = Abs(w)", "t": "t = Transpose<perm=[1,0]>(f)"}[name]
            head, last = body.rsplit("y =", 1)
            body = f"{head} {computed} y ={last}"
            del arrays[name]
    if "deep" in body:
        model = parse("y = Conv(x, deep)", ARRAYS, "float[1,6,16,16] x")
        plan = use_float16(ir.from_proto(model))
    else:
        _, plan = convert(body, **arrays)
    assert kept in plan.kept["y"]
    assert not plan.halves


def test_a_dead_channel_is_no_obstacle_beside_its_bias() -> None:
    weights = _weights(1, 1e-9, 0)
    _, plan = convert("y = Conv(x, w, b)", w=weights, b=np.float32([0, 0.5, 0]))
    assert plan.layers


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        ("Mul(a, small)", f"a factor of 1e-06 {RANGE}"),
        ("Mul(a, large)", f"a factor of 1e+06 {RANGE}"),
        ("Div(a, large)", f"the reciprocal of a divisor of 1e-06 {RANGE}"),
        ("Div(a, x)", "its divisor is computed"),
        ("Add(a, large)", f"a constant of 1e+06 {RANGE}"),
        ("Sub(a, small)", f"a constant of 1e-06 {RANGE}"),
        ("PRelu(a, large)", f"a slope of 1e+06 {RANGE}"),
        ("LeakyRelu<alpha=1e6>(a)", f"a slope of 1e+06 {RANGE}"),
    ],
)
def test_a_constant_out_of_range_keeps_all_that_follows(step: str, kept: str) -> None:
    model, plan = convert(f"{FIRST} b = {step} r = Relu(b) y = Conv(r, w)")
    assert plan.kept["b"] == kept
    assert plan.kept["y"] == "its input may exceed half precision's range: it comes from b"
    assert "r" not in plan.kept and plan.elementwise == []
    assert {types(model)[name] for name in "bry"} == {"float32"}


@pytest.mark.parametrize(
    "step", ["PRelu(a, small)", "Clip(a, low, high)", "LeakyRelu<alpha=1e-9>(a)", "Mul(a, c)"]
)
def test_harmless_constants_do_not(step: str) -> None:
    _, plan = convert(f"{FIRST} y = {step}")
    assert plan.elementwise == ["y"] and not plan.kept


def test_bits_end_what_a_large_value_began() -> None:
    body = f"b = Mul(x, large) {FIRST} d = Mul(a, large) s = bnn_tvm.Binarize(d, t0, up)"
    model, plan = convert(f"{body} e = {CONV}(s, bw, scale, offset) y = PRelu(e, c)")
    assert plan.elementwise == ["y"] and types(model)["d"] == "float32"


def test_a_binary_layer_beyond_the_range_is_not_rounded() -> None:
    model, plan = convert(f"{FIRST} {BITS} b = {CONV}(s, bw, big_scale, offset) y = Add(b, a)")
    assert types(model)["y"] == "float32"
    assert plan.kept["y"].startswith(
        "its input may exceed half precision's range: it comes from b, and a largest value of"
    )


@pytest.mark.parametrize(
    ("step", "source"),
    [
        ("Exp(a)", "Exp (b)"),
        ("Pad(a, pads, too_low)", "b: a constant of 1e+30"),
    ],
)
def test_sources_of_large_values(step: str, source: str) -> None:
    _, plan = convert(f"{FIRST} b = {step} y = Conv(b, w)")
    assert source in plan.kept["y"]


def test_wide_integers_are_large_values_and_bytes_are_not() -> None:
    body = "i = Cast<to=%d>(x) a = Cast<to=1>(i) y = Conv(a, w)"
    _, wide = convert(body % onnx.TensorProto.INT32)
    assert wide.kept["y"].endswith("it is cast from int32")
    _, narrow = convert(body % onnx.TensorProto.UINT8)
    assert narrow.layers == {"y": "Conv"}


def test_warnings_are_one_line_a_group_and_one_for_each_that_stays() -> None:
    second = "d = Conv<pads=[1,1,1,1]>(a, w) r = Relu(d) e = Mul(r, small)"
    _, plan = convert(f"{FIRST} {second} f = Flatten(r) y = Gemm(f, dense)")
    assert plan.warnings() == (
        "float16: 2 convolutions compute in half precision, inexact: a, d",
        "float16: 1 dense layer computes in half precision, inexact: y",
        "float16: 1 elementwise operator computes in half precision, inexact: r",
        f"float16: e stays in float32: a factor of 1e-06 {RANGE}",
    )


def _named(model: ir.Model, name: str) -> list[ir.Value]:
    return [v for node in model.graph for v in node.outputs if v.name == name]
