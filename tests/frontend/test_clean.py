"""Nodes that do nothing go, names stay; graphs inside graphs become flat; one float type."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend import inline, prepare
from tests.frontend.models import (
    assert_clean,
    initializer,
    ops,
    parse,
    prepare_and_compare,
    random_feeds,
    run,
    with_initializers,
)


def test_identities_go_and_outputs_keep_their_names() -> None:
    model = parse(
        "(float[1,3] x) => (float[1,3] y)", "a = Neg(x) b = Identity(a) c = Abs(b) y = Identity(c)"
    )
    prepared = prepare_and_compare(model)
    assert ops(prepared) == ["Neg", "Abs"]
    assert prepared.renamed == {"c": "y"}


def test_an_identity_stays_where_nothing_else_can_carry_the_name() -> None:
    model = parse(
        "(float[1,3] x) => (float[1,3] y, float[1,3] z, float[1,3] w)",
        "y = Neg(x) z = Identity(y) w = Identity(x)",
    )
    assert ops(prepare_and_compare(model)) == ["Neg", "Identity", "Identity"]


def test_an_identity_to_an_output_that_others_read() -> None:
    model = parse(
        "(float[1,3] x) => (float[1,3] y, float[1,3] z)", "a = Neg(x) y = Identity(a) z = Abs(a)"
    )
    prepared = prepare_and_compare(model)
    assert ops(prepared) == ["Neg", "Abs"] and prepared.renamed == {"a": "y"}


def test_dropout_goes_in_every_spelling() -> None:
    for body, opset in (
        ("a = Dropout<ratio = 0.5>(x) y = Neg(a)", 7),
        ("a = Dropout(x) y = Neg(a)", 13),
        ("a = Dropout(x, r, t) y = Neg(a)", 13),
    ):
        model = parse(
            "(float[1,3] x) => (float[1,3] y) <float r = {0.5}, bool t = {0}>", body, opset=opset
        )
        assert ops(prepare_and_compare(model)) == ["Neg"]


def test_the_mask_of_a_dropout_cannot_be_used() -> None:
    model = parse(
        "(float[3] x) => (float[3] y)", "a, m = Dropout(x) c = Cast<to = 1>(m) y = Mul(a, c)"
    )
    with pytest.raises(ModelError, match="mask of a Dropout"):
        prepare(model)


# Functions and branches

CALLS = "a = local.f(x) y = local.f(a)"
FUNCTION = '<domain: "local", opset_import: ["" : 18]> f (u) => (v) { t = Sign(u) v = Add(t, u) }'


def test_model_local_functions_are_inlined() -> None:
    model = parse("(float[1,3] x) => (float[1,3] y)", CALLS, opset=18, more=FUNCTION)
    assert ops(prepare_and_compare(model)) == ["Sign", "Add", "Sign", "Add"]


def test_functions_that_call_themselves_are_refused() -> None:
    again = FUNCTION.replace("Sign(u)", "local.f(u)").replace("18]", '18, "local" : 1]')
    model = parse("(float[1,3] x) => (float[1,3] y)", CALLS, opset=18, more=again)
    with pytest.raises(ModelError, match="the function f of the model calls itself"):
        prepare(model)


def test_functions_that_unfold_without_end_are_refused_at_once() -> None:
    n = 60
    header = '<domain: "local", opset_import: ["" : 18, "local" : 1]>'
    chain = [
        f"{header} f{i} (u) => (v) {{ t = local.f{i + 1}(u) v = local.f{i + 1}(t) }}"
        for i in range(n)
    ]
    chain.append(f"{header} f{n} (u) => (v) {{ v = Neg(u) }}")
    model = parse("(float[3] x) => (float[3] y)", "y = local.f0(x)", opset=18, more=" ".join(chain))
    with pytest.raises(ModelError, match=r"unfold to \d+ nodes") as caught:
        prepare(model)
    assert str(inline.MAX_NODES) in (caught.value.hint or "")


@pytest.mark.parametrize(("taken", "expected"), [(3, ["Neg", "Mul", "Abs"]), (4, ["Neg", "Abs"])])
def test_an_if_of_a_shape_becomes_the_branch_it_takes(taken: int, expected: list[str]) -> None:
    body = """s = Shape(x) d = Gather<axis = 0>(s, one) c = Equal(d, k) r = Neg(x)
    t = If(c) <then_branch = a () => (float[A,B] o)
        { m = Constant<value = float[1] {2.0}>() o = Mul(r, m) },
      else_branch = b () => (float[A,B] p) { p = Identity(r) }> y = Abs(t)"""
    model = parse(
        f"(float[2,3] x) => (float[2,3] y) <int64 one = {{1}}, int64 k = {{{taken}}}>", body
    )
    assert ops(prepare_and_compare(model)) == expected


def test_an_unsupported_operator_in_the_branch_taken_is_found() -> None:
    body = """t = If(c) <then_branch = a () => (float o) { o = Det(x) },
      else_branch = b () => (float p) { p = Constant<value = float {1}>() }> y = Mul(x, t)"""
    signature = "(float[2,2] x) => (float[2,2] y) <bool c = {%d}>"
    with pytest.raises(ModelError, match="unsupported operators: Det -> t/o"):
        prepare(parse(signature % 1, body))
    assert ops(prepare_and_compare(parse(signature % 0, body))) == ["Mul"]


# One float type


def test_double_and_half_weights_behind_a_cast_are_folded() -> None:
    model = parse(
        "(float[3] x) => (float[3] y)",
        "a = Cast<to = 1>(d) b = Cast<to = 1>(h) c = Mul(x, a) y = Add(c, b)",
    )
    with_initializers(model, d=np.array([0.1, 2, 3]), h=np.array([0.1, 2, 3], np.float16))
    prepared = prepare_and_compare(model)
    assert ops(prepared) == ["Mul", "Add"] and not prepared.notes


@pytest.mark.parametrize(("code", "dtype"), [("float16", np.float16), ("double", np.float64)])
def test_networks_in_another_float_type_become_float32_inside(code: str, dtype: type) -> None:
    model = parse(
        f"({code}[1,3,4,4] x) => ({code}[1,3,4,4] y, float[1,3,4,4] z)",
        "y = Mul(x, w) z = Cast<to = 1>(y)",
    )
    with_initializers(model, w=np.array([1.5, 2, -3], dtype).reshape(1, 3, 1, 1))
    prepared = prepare(model)
    assert_clean(prepared.model)
    assert ops(prepared) == ["Cast", "Mul", "Cast", "Identity"] or ops(prepared) == [
        "Cast",
        "Mul",
        "Cast",
    ]
    assert initializer(prepared, "w").dtype == np.float32
    assert any("computed in float32" in note for note in prepared.notes)
    feeds = random_feeds(prepared.model)
    for ours, theirs in zip(run(prepared.model, feeds), run(model, feeds), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_a_double_detour_inside_a_float_network_becomes_float32() -> None:
    model = parse(
        "(float[3] x) => (float[3] y)",
        f"d = Cast<to = {TensorProto.DOUBLE}>(x) m = Mul(d, w) y = Cast<to = 1>(m)",
    )
    with_initializers(model, w=np.array([0.25, 2, 3]))
    prepared = prepare_and_compare(model)
    assert ops(prepared) == ["Mul"]
