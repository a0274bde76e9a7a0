"""x[mask] = c as NonZero and ScatterND is elementwise; anything near it is refused."""

from __future__ import annotations

import numpy as np
import pytest

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend import prepare
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

SIGNATURE = "(float[N,3,4] x) => (float[N,3,4] y)"
CONSTANTS = "<float zero = {0}, float one = {1}, int64[1] all = {-1}>"
START = "s = Sign(x) m = Equal(s, zero) places = NonZero(m) rows = Transpose<perm = [1, 0]>(places)"


def test_updates_counted_from_the_mask() -> None:
    model = parse(
        f"{SIGNATURE} {CONSTANTS}",
        f"{START} f = Reshape(m, all) i = Cast<to = 7>(f) n = ReduceSum<keepdims = 1>(i) "
        "e = Expand(one, n) u = Reshape(e, all) y = ScatterND(s, rows, u)",
    )
    prepared = prepare_and_compare(model, batch=2)
    assert ops(prepared) == ["Sign", "Equal", "Where"]
    assert initializer(prepared, "y_value") == 1.0


def test_updates_shaped_by_the_places() -> None:
    model = parse(
        f"{SIGNATURE} {CONSTANTS[:-1]}, int64[1] first = {{0}}, int64[1] second = {{1}}>",
        f"{START} shape = Shape(rows) n = Slice(shape, first, second) "
        "u = ConstantOfShape<value = float[1] {5}>(n) y = ScatterND(s, rows, u)",
    )
    prepared = prepare_and_compare(model)
    assert ops(prepared) == ["Sign", "Equal", "Where"]
    assert initializer(prepared, "y_value") == 5.0


def test_a_mask_of_numbers_is_true_where_it_is_not_zero() -> None:
    model = with_initializers(
        parse(
            f"{SIGNATURE} {CONSTANTS}",
            "p = NonZero(x) rows = Transpose(p) shape = Shape(rows) n = Slice(shape, a, b) "
            "w = Cast<to = 1>(v) u = Expand(w, n) y = ScatterND(x, rows, u)",
        ),
        a=np.array([0]),
        b=np.array([1]),
        v=np.array(3.5),
    )
    prepared = prepare_and_compare(model)
    assert ops(prepared) == ["Cast", "Where"]
    feeds = random_feeds(prepared.model)
    (y,) = run(prepared.model, feeds)
    np.testing.assert_array_equal(y, np.where(feeds["x"] != 0, np.float32(3.5), 0))


def test_casts_of_the_constant_apply_in_order() -> None:
    model = with_initializers(
        parse(
            f"{SIGNATURE} {CONSTANTS}",
            f"{START} i = Cast<to = 7>(v) g = Cast<to = 1>(i) shape = Shape(rows) "
            "n = Slice(shape, a, b) u = Expand(g, n) y = ScatterND(s, rows, u)",
        ),
        a=np.array([0]),
        b=np.array([1]),
        v=np.array(2.75, np.float32),
    )
    assert initializer(prepare_and_compare(model), "y_value") == 2.0


def test_both_halves_of_a_constant_tensor_assigned() -> None:
    """y = zeros; y[x >= 0] = 1; y[x < 0] = -1."""
    model = with_initializers(
        parse(
            f"(float[2,3] x) => (float[2,3] y) {CONSTANTS}",
            "up = GreaterOrEqual(x, zero) down = Not(up) "
            "p = NonZero(up) pr = Transpose<perm = [1, 0]>(p) ps = Shape(pr) "
            "pn = Slice(ps, a, b) pu = Expand(one, pn) h = ScatterND(blank, pr, pu) "
            "q = NonZero(down) qr = Transpose<perm = [1, 0]>(q) qs = Shape(qr) "
            "qn = Slice(qs, a, b) qu = Expand(minus, qn) y = ScatterND(h, qr, qu)",
        ),
        a=np.array([0]),
        b=np.array([1]),
        minus=np.array(-1, np.float32),
        blank=np.zeros((2, 3), np.float32),
    )
    prepared = prepare_and_compare(model)
    assert ops(prepared) == ["GreaterOrEqual", "Not", "Where", "Where"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        # Values that differ from place to place.
        ("v = GatherND(x, rows) y = ScatterND(s, rows, v)", "NonZero -> places"),
        # Another order of the places' coordinates.
        ("t = Transpose<perm = [1, 0]>(rows) y = ScatterND(s, t, c)", "NonZero -> places"),
        # Places added up, not assigned.
        ("u = Expand(one, n) y = ScatterND<reduction = 'add'>(s, rows, u)", "ScatterND -> y"),
        # Places used otherwise.
        (
            "u = Expand(one, n) t = ScatterND(s, rows, u) f = Cast<to = 1>(n) y = Mul(t, f)",
            "NonZero -> places",
        ),
    ],
)
def test_what_is_no_assignment_of_a_constant_is_refused(body: str, named: str) -> None:
    model = with_initializers(
        parse(
            f"{SIGNATURE} {CONSTANTS}",
            f"{START} shape = Shape(rows) n = Slice(shape, a, b) {body.replace(chr(39), chr(34))}",
            opset=18,
        ),
        a=np.array([0]),
        b=np.array([1]),
        c=np.ones(2, np.float32),
    )
    with pytest.raises(ModelError, match="unsupported operators") as caught:
        prepare(model)
    assert named in caught.value.message
    assert "torch.where(mask, value, x)" in (caught.value.hint or "")


def test_a_mask_of_fewer_axes_is_refused() -> None:
    """x[mask] = c with a mask of whole rows: updates are rows, not elements."""
    model = with_initializers(
        parse(
            "(float[3,3] x) => (float[3,3] y) <float zero = {0}, float one = {1}>",
            "r = ReduceMax<axes = [1], keepdims = 0>(x) m = Greater(r, zero) p = NonZero(m) "
            "rows = Transpose<perm = [1, 0]>(p) shape = Shape(rows) n = Slice(shape, a, b) "
            "k = Concat<axis = 0>(n, three) u = Expand(one, k) y = ScatterND(x, rows, u)",
        ),
        a=np.array([0]),
        b=np.array([1]),
        three=np.array([3]),
    )
    with pytest.raises(ModelError, match=r"NonZero -> p, ScatterND -> y"):
        prepare(model)


def test_an_assignment_is_not_listed_among_unsupported_operators() -> None:
    model = with_initializers(
        parse(
            f"{SIGNATURE} {CONSTANTS}",
            f"{START} shape = Shape(rows) n = Slice(shape, a, b) u = Expand(one, n) "
            "t = ScatterND(s, rows, u) y = Det(t)",
        ),
        a=np.array([0]),
        b=np.array([1]),
    )
    with pytest.raises(ModelError, match=r"unsupported operators: Det -> y \[y\]"):
        prepare(model)


def test_the_clean_model_has_static_shapes_behind_a_mask() -> None:
    model = with_initializers(
        parse(
            f"{SIGNATURE} {CONSTANTS}",
            f"{START} shape = Shape(rows) n = Slice(shape, a, b) u = Expand(one, n) "
            "y = ScatterND(s, rows, u)",
        ),
        a=np.array([0]),
        b=np.array([1]),
    )
    assert_clean(prepare(model, batch=5).model)
