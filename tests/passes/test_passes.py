"""Every pass changes the graph's shape, never its result."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bnn_tvm import pipeline
from bnn_tvm.importer.layers import comparison
from bnn_tvm.options import CompileOptions
from bnn_tvm.passes.fold_affine import fold_affine
from bnn_tvm.passes.fold_pad import fold_pad
from bnn_tvm.passes.sink_binarize import sink_binarize
from bnn_tvm.targets import resolve
from tests.passes.bnn_ops import evaluate, parse
from tests.pipeline.run_program import run_program

CONV = "BinaryConv<strides=[1,1],dilations=[1,1],pads=[1,1,1,1],group=1,pad_value=0>"


def constants() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    def signs(*shape: int) -> np.ndarray:
        return rng.choice(np.array([-1, 1], np.int8), shape)

    return {
        "t0": np.zeros((), np.float32),
        "up": np.ones((), np.int8),
        "t6": normal(1, 6, 1, 1),
        "d6": signs(1, 6, 1, 1),
        "up6": np.ones((1, 6, 1, 1), np.int8),
        "w6": signs(6, 6, 3, 3),
        "s6": normal(6),
        "o6": normal(6),
        "border": normal(1, 6, 9, 8),
        "g": normal(6),
        "b": normal(6),
        "m": normal(6),
        "v": rng.uniform(0.5, 2.0, 6).astype(np.float32),
        "c6": normal(6, 1, 1),
        "k": normal(),
        "fw": normal(6, 6, 3, 3),
        "fb": normal(6),
        "wd": signs(96, 10),
        "w24": signs(24, 10),
        "s10": normal(10),
        "o10": normal(10),
        "row": normal(10),
        "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64),
        "channel_pads": np.array([0, 1, 0, 0, 0, 0, 0, 0], np.int64),
        "one": np.ones((), np.float32),
        "flat": np.array([2, 96], np.int64),
        "rows": np.array([36, 24], np.int64),
        "wl": signs(6, 9, 3),
        "lines": np.array([2, 9, 48], np.int64),
    }


def check(body: str, graph_pass, *, changes: bool, ops: str) -> None:  # type: ignore[no-untyped-def]
    """`graph_pass` on `body` keeps the result and leaves the operators `ops`."""
    model = parse(body, constants())
    x = np.random.default_rng(5).normal(size=(2, 6, 9, 8)).astype(np.float32)
    before = evaluate(model, {"x": x})
    graph = ir.from_proto(model)
    assert graph_pass(graph) is changes
    after_model = ir.to_proto(graph)
    assert " ".join(node.op_type for node in after_model.graph.node) == ops
    assert [o.name for o in after_model.graph.output] == ["y"]
    for a, b in zip(before, evaluate(after_model, {"x": x}), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


BATCH_NORM = "BatchNormalization<epsilon=0.001>"


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        (f"s = bnn_tvm.Binarize(x, t0, up) c = bnn_tvm.{CONV}(s, w6, s6, o6) "
         f"y = {BATCH_NORM}(c, g, b, m, v)", "Binarize BinaryConv"),
        (f"s = bnn_tvm.Binarize(x, t0, up) c = bnn_tvm.{CONV}(s, w6, s6, border) "
         f"n = {BATCH_NORM}(c, g, b, m, v) y = Mul(k, n)", "Binarize BinaryConv"),
        (f"s = bnn_tvm.Binarize(x, t0, up) c = bnn_tvm.{CONV}(s, w6, s6, o6) d = Div(c, c6) "
         "e = Sub(k, d) y = Add(e, c6)", "Binarize BinaryConv"),
        ("c = Conv<pads=[1,1,1,1]>(x, fw) "
         f"n = {BATCH_NORM}(c, g, b, m, v) y = Relu(n)", "Conv Relu"),
        ("c = Conv<pads=[1,1,1,1]>(x, fw, fb) y = Mul(c, c6)", "Conv"),
        (f"r = Relu(x) y = {BATCH_NORM}(r, g, b, m, v)", "Relu Mul Add"),
        ("p = MaxPool<kernel_shape=[3,3],strides=[2,2],pads=[0,0,0,1]>(x) "
         "s = bnn_tvm.Binarize(p, t0, up) "
         "f = Flatten(s) d = bnn_tvm.BinaryDense(f, wd, s10, o10) y = Add(d, row)",
         "MaxPool Binarize Flatten BinaryDense"),
    ],
)  # fmt: skip
def test_fold_affine(body: str, ops: str) -> None:
    check(body, fold_affine, changes=True, ops=ops)


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        # Another reader, and an operand that is no number per channel.
        (f"s = bnn_tvm.Binarize(x, t0, up) c = bnn_tvm.{CONV}(s, w6, s6, o6) d = Mul(c, c6) "
         "y = Add(c, d)", "Binarize BinaryConv Mul Add"),
        (f"s = bnn_tvm.Binarize(x, t0, up) c = bnn_tvm.{CONV}(s, w6, s6, o6) y = Add(c, x)",
         "Binarize BinaryConv Add"),
        (f"s = bnn_tvm.Binarize(x, t0, up) c = bnn_tvm.{CONV}(s, w6, s6, o6) y = Mul(c, c)",
         "Binarize BinaryConv Mul"),
        (f"s = bnn_tvm.Binarize(x, t0, up) c = bnn_tvm.{CONV}(s, w6, s6, o6) y = Div(k, c)",
         "Binarize BinaryConv Div"),
    ],
)  # fmt: skip
def test_fold_affine_leaves_what_is_not_affine(body: str, ops: str) -> None:
    check(body, fold_affine, changes=False, ops=ops)


@pytest.mark.parametrize(
    ("body", "ops", "changes"),
    [
        (f"s = bnn_tvm.Binarize(x, t6, up6) p = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(s) "
         f"y = bnn_tvm.{CONV}(p, w6, s6, o6)", "MaxPool Binarize BinaryConv", True),
        (f"s = bnn_tvm.Binarize(x, t6, d6) p = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(s) "
         f"y = bnn_tvm.{CONV}(p, w6, s6, o6)", "Binarize MaxPool BinaryConv", False),
        (f"t = Transpose<perm=[0,2,3,1]>(x) u = Relu(t) s = bnn_tvm.Binarize(u, t0, up) "
         f"a = Transpose<perm=[0,3,1,2]>(s) y = bnn_tvm.{CONV}(a, w6, s6, o6)",
         "Transpose Relu Transpose Binarize BinaryConv", True),
        ("p = MaxPool<kernel_shape=[3,3],strides=[2,2],pads=[0,0,0,1]>(x) "
         "s = bnn_tvm.Binarize(p, t6, d6) f = Flatten(s) "
         "y = bnn_tvm.BinaryDense(f, wd, s10, o10)",
         "MaxPool Flatten Binarize BinaryDense", True),
        # The signs themselves are an output or read by arithmetic: they stay where they are.
        ("s = bnn_tvm.Binarize(x, t0, up) y = Reshape(s, rows)", "Binarize Reshape", False),
        ("s = bnn_tvm.Binarize(x, t0, up) a = Mul(s, k) y = Relu(a)", "Binarize Mul Relu", False),
    ],
)  # fmt: skip
def test_sink_binarize(body: str, ops: str, changes: bool) -> None:
    check(body, sink_binarize, changes=changes, ops=ops)


@pytest.mark.parametrize(
    ("body", "ops", "changes"),
    [
        ("p = Pad(x, pads) y = Conv<strides=[2,1],pads=[1,0,0,1]>(p, fw)", "Conv", True),
        ("p = Pad(x, pads, t0) y = Conv(p, fw)", "Conv", True),
        ("p = Pad(x, pads, one) y = Conv(p, fw)", "Pad Conv", False),
        ("p = Pad<mode=\"edge\">(x, pads) y = Conv(p, fw)", "Pad Conv", False),
        ("p = Pad(x, pads) c = Conv(p, fw) q = MaxPool<kernel_shape=[3,3]>(p) y = Sub(c, q)",
         "Pad Conv MaxPool Sub", False),
    ],
)  # fmt: skip
def test_fold_pad(body: str, ops: str, changes: bool) -> None:
    check(body, fold_pad, changes=changes, ops=ops)


def test_comparison_spells_every_direction() -> None:
    """(x >= limit) xor flip is Binarize for every direction, at and around the threshold."""
    tiny = np.float32(1e-45)
    t = np.array([0, -0.0, 1.5, -2, np.inf, -np.inf, np.nan, tiny, 3.4e38], np.float32)
    near = np.concatenate([t, np.nextafter(t, np.float32(np.inf)), np.nextafter(t, -np.inf)])
    x = np.concatenate([near, [0.0, -0.0, np.inf, -np.inf]]).astype(np.float32)
    x = x[~np.isnan(x)][:, None]
    for direction in (1, -1):
        d = np.full(t.shape, direction, np.int8)
        limit, flip = comparison(t, d)
        expected = np.where(d > 0, x >= t, x <= t)
        np.testing.assert_array_equal((x >= limit) ^ flip, expected)


# Whole pipeline on bnn_tvm operators, against their definition.
PIPELINES = {
    "per-channel thresholds": f"s = bnn_tvm.Binarize(x, t6, d6) y = bnn_tvm.{CONV}(s, w6, s6, o6)",
    "border offsets": f"s = bnn_tvm.Binarize(x, t0, up) y = bnn_tvm.{CONV}(s, w6, s6, border)",
    "signs in arithmetic": f"""
        s = bnn_tvm.Binarize(x, t6, d6) c = bnn_tvm.{CONV}(s, w6, s6, o6) y = Add(c, s)""",
    "two layers": f"""
        s = bnn_tvm.Binarize(x, t0, up) c = bnn_tvm.{CONV}(s, w6, s6, o6) n = Add(c, x)
        p = PRelu(n, c6) t = bnn_tvm.Binarize(p, t6, d6) y = bnn_tvm.{CONV}(t, w6, s6, o6)""",
    "maximum of signs": f"""
        s = bnn_tvm.Binarize(x, t6, d6) p = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(s)
        y = bnn_tvm.{CONV}(p, w6, s6, o6)""",
    "flatten to dense": """
        p = MaxPool<kernel_shape=[3,3],strides=[2,2],pads=[0,0,0,1]>(x)
        s = bnn_tvm.Binarize(p, t6, d6) f = Flatten(s) y = bnn_tvm.BinaryDense(f, wd, s10, o10)""",
    "rows": """
        r = Reshape(x, rows36) s = bnn_tvm.Binarize(r, t0, up)
        y = bnn_tvm.BinaryDense(s, w24, s10, o10)""",
    "1-D": """
        r = Reshape(x, lines) s = bnn_tvm.Binarize(r, t0, up)
        y = bnn_tvm.BinaryConv<strides=[2],dilations=[3],pads=[2,1],group=1,pad_value=1>
            (s, wl, s6, o6)""",
}


@pytest.mark.parametrize("name", PIPELINES)
def test_pipeline_keeps_definition(name: str) -> None:
    arrays = constants() | {"rows36": np.array([2, 18, 24], np.int64)}
    model = parse(PIPELINES[name], arrays)
    x = np.random.default_rng(9).normal(size=(2, 6, 9, 8)).astype(np.float32)
    (expected,) = evaluate(model, {"x": x})
    spec = resolve(CompileOptions())
    program = pipeline.build(model, spec)
    (result,) = run_program(program, spec.tvm_target(), {"x": x})
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_one_binariser_is_packed_once() -> None:
    body = f"""
        s = bnn_tvm.Binarize(x, t6, d6) a = bnn_tvm.{CONV}(s, w6, s6, o6)
        b = bnn_tvm.{CONV}(s, w6, o6, s6) y = Mul(a, b)"""
    arrays = constants()
    arrays["b"] = arrays["g"]
    model = parse(body.replace("b = bnn", "q = bnn").replace("Mul(a, b)", "Mul(a, q)"), arrays)
    program = pipeline.build(model, resolve(CompileOptions()))
    assert [call.kernel for call in program.calls].count("pack") == 1
    assert isinstance(model, onnx.ModelProto)
