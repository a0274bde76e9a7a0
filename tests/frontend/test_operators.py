"""What cannot be compiled is refused: everything at once, with nodes and the way out."""

from __future__ import annotations

import pytest

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend import prepare
from bnn_tvm.frontend.operators import OPERATORS, TRANSPARENT
from tests.frontend.models import ops, parse, prepare_and_compare


def test_all_unsupported_operators_are_listed_at_once() -> None:
    model = parse(
        "(float[2,2] x) => (float[2,2] y)",
        "d = Det(x) n = NonZero(x) c = Cast<to = 1>(n) m = Mul(d, x) y = Add(m, x) e = Det(y)",
    )
    with pytest.raises(ModelError) as caught:
        prepare(model)
    assert "unsupported operators: Det -> d, NonZero -> n, Det -> e" in str(caught.value)
    assert caught.value.node == "d"
    assert "supported operators: Abs Add" in (caught.value.hint or "")


def test_foreign_and_unsupported_operators_are_told_together() -> None:
    model = parse("(float[2,2] x) => (float[2,2] y)", "a = bnn.SignGE(x) b = Det(a) y = Add(a, b)")
    with pytest.raises(ModelError) as caught:
        prepare(model)
    message, hint = caught.value.message, caught.value.hint or ""
    assert "custom operators" in message and "bnn::SignGE -> a" in message
    assert "unsupported operators: Det -> b" in message
    assert "export without SignGE of domain bnn" in hint and "symbolic" in hint


def test_an_unsupported_operator_of_a_constant_is_no_problem() -> None:
    model = parse(
        "(float[2,2] x) => (float[2,2] y) <float[2,2] w = {1, 2, 3, 4}>", "d = Det(w) y = Mul(x, d)"
    )
    assert ops(prepare_and_compare(model)) == ["Mul"]


def test_an_unsupported_operator_of_a_shape_is_no_problem() -> None:
    model = parse(
        "(float[2,5] x) => (float[2,5] y) <int64 a = {0}, int64 b = {1}, int64 one = {1}>",
        """s = Shape(x) n = Gather<axis = 0>(s, one) r = Range(a, n, b) f = Cast<to = 1>(r)
        y = Add(x, f)""",
    )
    assert ops(prepare_and_compare(model)) == ["Add"]


@pytest.mark.parametrize("op", ["Loop", "If"])
def test_control_flow_over_inputs_is_refused(op: str) -> None:
    branch = "() => (float[3] o) { o = Neg(x) }"
    body = (
        f"y = If(c) <then_branch = t {branch}, else_branch = e () => (float[3] p) {{ p = Abs(x) }}>"
    )
    if op == "Loop":
        body = """y = Loop(n, c, x) <body = b (int64 i, bool k, float[3] v) => (bool l, float[3] w)
        { l = Identity(k) w = Neg(v) }>"""
    model = parse("(float[3] x, bool c, int64 n) => (float[3] y)", body)
    with pytest.raises(ModelError, match=f"unsupported operators: {op} -> y") as caught:
        prepare(model)
    assert "control flow" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "body",
    [
        "y, m, v = BatchNormalization<training_mode = 1>(x, s, s, s, s)",
        "y = Dropout(x, r, t)",
    ],
)
def test_training_mode_is_refused(body: str) -> None:
    model = parse(
        "(float[1,3,2,2] x) => (float[1,3,2,2] y)"
        " <float[3] s = {1, 1, 1}, float r = {0.5}, bool t = {1}>",
        body,
        opset=14,
    )
    with pytest.raises(ModelError, match="training mode") as caught:
        prepare(model)
    assert "model.eval()" in (caught.value.hint or "")


@pytest.mark.slow
def test_tvm_knows_every_operator_of_the_table() -> None:
    pytest.importorskip("tvm")
    from tvm.relax.frontend.onnx import onnx_frontend

    known = onnx_frontend._get_convert_map()
    assert not set(OPERATORS) - set(known)
    assert not set(OPERATORS) & set(TRANSPARENT)
