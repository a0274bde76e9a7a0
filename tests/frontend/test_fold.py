"""Constant folding: exact, complete, remembered, bounded."""

from __future__ import annotations

import time

import numpy as np
import pytest

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend import fold, prepare
from tests.frontend.models import (
    assert_same_bits,
    initializer,
    ops,
    parse,
    prepare_and_compare,
    run,
    with_initializers,
)

CONV = "(float[1,3,8,8] x) => (float[1,4,A,B] y)"


def weights(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    w[0, 0] = [[0.0, -0.0, np.nan], [1e-45, -1e-45, 1.0], [-1.0, 2.0, -2.0]]
    return w


def test_sign_of_a_weight_is_folded_and_remembered() -> None:
    model = with_initializers(parse(CONV, "b = Sign(w) y = Conv(x, b)"), w=weights())
    prepared = prepare(model)
    assert ops(prepared) == ["Conv"] and prepared.folded == {"b": ("Sign",)}
    assert_same_bits([initializer(prepared, "b")], [np.sign(weights())])


def test_every_op_behind_a_weight_is_remembered_nearest_first() -> None:
    body = "a = Abs(w) m = ReduceMean<axes = [1, 2, 3]>(a) s = Sign(w) b = Mul(m, s) y = Conv(x, b)"
    prepared = prepare(with_initializers(parse(CONV, body), w=weights()))
    assert prepared.folded["b"] == ("Mul", "ReduceMean", "Sign", "Abs")


def test_weights_that_nothing_computed_are_not_called_folded() -> None:
    prepared = prepare(with_initializers(parse(CONV, "y = Conv(x, w)"), w=weights()))
    assert prepared.folded == {}


def test_constant_nodes_of_every_form_become_initializers() -> None:
    body = """f = Constant<value_float = 2.5>() g = Constant<value_floats = [1.0, 2.0, 3.0]>()
    i = Constant<value_int = 1>() j = Constant<value_ints = [1, 3]>()
    t = Constant<value = float[3] {4, 5, 6}>() a = Mul(x, f) b = Add(a, g) c = Mul(b, t)
    d = Reshape(c, j) k = Cast<to = 1>(i) y = Add(d, k)"""
    prepared = prepare_and_compare(parse("(float[3] x) => (float[1,3] y)", body))
    assert ops(prepared) == ["Mul", "Add", "Mul", "Reshape", "Add"]
    assert set(prepared.folded) == {"k"}


def test_constants_that_are_no_numbers_are_refused() -> None:
    model = parse("(float[3] x) => (float[3] y)", 's = Constant<value_string = "a">() y = Neg(x)')
    with pytest.raises(ModelError, match="Constant -> s holds value_string"):
        prepare(model)


def test_pads_computed_by_a_subgraph_are_folded() -> None:
    body = """n = Constant<value_ints = [4]>() z = ConstantOfShape<value = int64[1] {0}>(n)
    p = Concat<axis = 0>(one, one, z) q = Cast<to = 7>(p)  r = Reshape(q, m)
    t = Transpose<perm = [1, 0]>(r) u = Reshape(t, flat) y = Pad(x, u)"""
    model = parse(
        "(float[1,1,4,4] x) => (float[A,B,C,D] y) <int64[2] one = {1, 1}, int64[2] m = {-1, 2},"
        " int64[1] flat = {-1}>",
        body,
    )
    assert ops(prepare_and_compare(model)) == ["Pad"]


def test_folding_rounds_like_the_running_model() -> None:
    rng = np.random.default_rng(1)
    w = rng.normal(size=(64, 200)).astype(np.float32)
    body = "m = ReduceMean<axes = [1]>(w) c = Sub(w, m) v = MatMul(c, u) t = Tanh(v) y = Add(x, t)"
    model = with_initializers(parse("(float[64,8] x) => (float[64,8] y)", body), w=w)
    with_initializers(model, u=rng.normal(size=(200, 8)).astype(np.float32))
    prepared = prepare_and_compare(model)
    assert ops(prepared) == ["Add"]
    zeros = {"x": np.zeros((64, 8), np.float32)}
    assert_same_bits(run(prepared.model, zeros), run(model, zeros))


def test_large_weights_fold_as_well_as_small_ones() -> None:
    w = np.random.default_rng(2).normal(size=(300, 300)).astype(np.float32)
    model = with_initializers(
        parse("(float[1,300] x) => (float[1,300] y)", "b = Sign(w) y = MatMul(x, b)"), w=w
    )
    prepared = prepare_and_compare(model)
    assert_same_bits([initializer(prepared, "b")], [np.sign(w)])


def test_results_whose_size_depends_on_constants_are_folded() -> None:
    body = (
        "i = NonZero(w) n = Shape(i) k = Gather<axis = 0>(n, at) f = Cast<to = 1>(k) y = Mul(x, f)"
    )
    model = parse(
        "(float[2] x) => (float[1,2] y) <float[5] w = {1,0,2,0,3}, int64[1] at = {1}>", body
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    prepared = prepare_and_compare(model)
    assert_same_bits([initializer(prepared, "f")], [np.array([3], np.float32)])


def test_an_output_that_is_constant_keeps_its_name_and_value() -> None:
    model = parse(
        "(float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}>", "y = Neg(w) z = Neg(x)"
    )
    prepared = prepare_and_compare(model)
    assert ops(prepared) == ["Neg"]


def test_dead_nodes_and_unused_weights_go() -> None:
    model = parse(
        "(float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] unused = {1, 2}>",
        "d = Add(x, w) e = Neg(d) y = Neg(x)",
    )
    prepared = prepare_and_compare(model)
    assert ops(prepared) == ["Neg"] and not prepared.model.graph.initializer


@pytest.mark.parametrize(
    "body",
    ["c = ConstantOfShape(s) r = ReduceSum(c) y = Add(x, r)", "c = Expand(one, s) y = Add(x, c)"],
)
def test_constants_that_are_too_large_are_not_made(body: str) -> None:
    model = parse(
        "(float[1,1] x) => (float[A,B] y) <int64[2] s = {1000000, 1000000}, float[1] one = {1}>",
        body,
    )
    with pytest.raises(ModelError, match="unknown or excessive size") as caught:
        prepare(model)
    assert caught.value.node == "c"


def test_many_large_constants_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "MAX_GROWTH_BYTES", 10_000_000)
    made = " ".join(f"c{i} = ConstantOfShape(s)" for i in range(20))
    body = f"{made} c = Sum({','.join(f'c{i}' for i in range(20))}) r = ReduceMax(c) y = Add(x, r)"
    model = parse("(float[1,3] x) => (float[1,3] y) <int64[1] s = {1000000}>", body)
    with pytest.raises(ModelError, match="unknown or excessive size"):
        prepare(model)


def test_constants_that_take_too_long_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "MAX_SECONDS", 0.3)
    n = 4000
    body = " ".join(f"c{i + 1} = MatMul(c{i}, c{i})" for i in range(n))
    model = parse(
        "(float[1] x) => (float[1] y) <int64[2] s = {700, 700}>",
        f"c0 = ConstantOfShape(s) {body} r = ReduceMax<keepdims = 0>(c{n}) y = Add(x, r)",
    )
    start = time.monotonic()
    with pytest.raises(ModelError, match="onnxruntime cannot compute the constant part"):
        prepare(model)
    assert time.monotonic() - start < 60  # computing it all takes longer


def test_constants_that_fail_name_the_node() -> None:
    model = parse(
        "(float[1] x) => (float[1] y) <float a = {0}, float b = {9}, float d = {0}>",
        "c = Range(a, b, d) r = ReduceSum(c) y = Add(x, r)",
    )
    with pytest.raises(ModelError, match=r"constant part.*Range") as caught:
        prepare(model)
    assert caught.value.hint


def test_random_constants_are_refused() -> None:
    model = parse("(float[3] x) => (float[3] y)", "r = RandomNormal<shape = [3]>() y = Add(x, r)")
    with pytest.raises(ModelError, match="unsupported operators: RandomNormal -> r"):
        prepare(model)


# Constants spread over feature maps


def test_an_expanded_bias_shrinks_to_what_it_says() -> None:
    model = parse(
        "(float[1,3,6,5] x) => (float[1,3,6,5] y) <float[3,1,1] w = {1, 2, 3}>",
        "s = Shape(x) e = Expand(w, s) a = Add(x, e) b = Sub(e, a) y = Sign(b)",
    )
    prepared = prepare_and_compare(model)
    assert initializer(prepared, "e").shape == (1, 3, 1, 1)
    assert prepared.folded["e"] == ("Expand", "Shape")


def test_a_constant_stays_as_it_is_where_its_shape_matters() -> None:
    full = np.ones((2, 3), np.float32)
    signature = "(float[2,3] x, float[1,3] r) => (float[A,B] y, float[2,3] z)"
    body = "y = Concat<axis = 0>(x, w) z = Add(r, v)"
    model = with_initializers(parse(signature, body), w=full, v=full)
    prepared = prepare_and_compare(model)
    assert initializer(prepared, "w").shape == initializer(prepared, "v").shape == (2, 3)


def test_zeros_of_different_sign_are_different() -> None:
    w = np.zeros((2, 3), np.float32)
    w[1] = -0.0
    model = with_initializers(parse("(float[2,3] x) => (float[2,3] y)", "y = Div(x, w)"), w=w)
    assert initializer(prepare_and_compare(model), "w").shape == (2, 1)
