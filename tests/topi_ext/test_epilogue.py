"""What an epilogue says about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tvm import te, tirx
from tvm.ir import TensorLoad
from tvm.s_tir import Schedule

from topi_ext.begun_sums import begin_sums
from topi_ext.epilogue import Epilogue, extract_epilogue, find_stage
from topi_ext.kernels import STAGE

SIZE = 4  # of every axis, so that vectors could be read along any


def epilogue_of(expression: Callable[..., Any]) -> Epilogue:
    """That of `expression(m, scale, offset, x, c)`; m: the accumulator's value."""
    data = te.placeholder((1, SIZE, SIZE, SIZE), "float32", "data")
    scale, offset = (te.placeholder((SIZE,), "float32", name) for name in ("scale", "offset"))
    k = te.reduce_axis((0, SIZE), "k")
    acc = te.compute(
        (1, SIZE, SIZE, SIZE),
        lambda n, y, x, c: te.sum(data[n, y, x, k], axis=k),
        name="acc",
        attrs={STAGE: "acc"},
    )
    out = te.compute(
        acc.shape, lambda n, y, x, c: expression(acc[n, y, x, c], scale, offset, x, c), name="out"
    )
    epilogue = extract_epilogue(te.create_prim_func([data, scale, offset, out]))
    assert epilogue is not None
    return epilogue


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (lambda m, s, o, x, c: m * s[c] + o[c], ["offset"]),
        (lambda m, s, o, x, c: o[c] + m * s[c], ["offset"]),
        (lambda m, s, o, x, c: tirx.max(m * s[c] + o[c], 0.0), ["offset"]),
        (lambda m, s, o, x, c: m + o[c], []),
        (lambda m, s, o, x, c: m * s[c] + o[x], []),
        (lambda m, s, o, x, c: (m * s[c] + o[c]) * o[x], []),
    ],
)
def test_addends_are_vectors_over_channels_behind_a_product(
    expression: Callable[..., Any], expected: list[str]
) -> None:
    assert [buffer.name for buffer in epilogue_of(expression).addends()] == expected


@pytest.mark.parametrize(
    ("expression", "rest"),
    [
        (lambda m, s, o, x, c: m + o[c], []),
        (lambda m, s, o, x, c: tirx.max(o[c] + m, 0.0), []),
        (lambda m, s, o, x, c: m + o[c] + s[x], ["scale"]),
        (lambda m, s, o, x, c: tirx.Select(m + o[c] > 0.0, m + o[c], (m + o[c]) * s[c]), ["scale"]),
    ],
)
def test_sums_begin_with_what_is_added_before_all_else(
    expression: Callable[..., Any], rest: list[str]
) -> None:
    begun = epilogue_of(expression).begun()
    assert begun is not None
    first, epilogue = begun
    assert first.source.name == "offset"
    assert epilogue.by_channel(first)
    assert sorted({load.source.name for load in epilogue.operands()}) == rest
    assert epilogue.bare() == (not rest and isinstance(epilogue.value, TensorLoad))


@pytest.mark.parametrize(
    "expression",
    [
        lambda m, s, o, x, c: m * s[c] + o[c],
        lambda m, s, o, x, c: m + o[x],  # not along the channels
        lambda m, s, o, x, c: tirx.max(m + o[c], m),  # the plain sum is needed too
        lambda m, s, o, x, c: tirx.max(m + o[c], m + s[c]),
    ],
)
def test_sums_begin_with_nothing_that_only_some_uses_add(expression: Callable[..., Any]) -> None:
    assert epilogue_of(expression).begun() is None


def test_nothing_behind_the_accumulator_is_an_epilogue_only_where_asked_for() -> None:
    data = te.placeholder((SIZE, SIZE), "float32", "data")
    k = te.reduce_axis((0, SIZE), "k")
    acc = te.compute(
        (SIZE,), lambda c: te.sum(data[c, k], axis=k), name="acc", attrs={STAGE: "acc"}
    )
    func = te.create_prim_func([data, acc])
    assert extract_epilogue(func) is None
    epilogue = extract_epilogue(func, bare=True)
    assert epilogue is not None
    assert [buffer.name for buffer in epilogue.reads] == ["data"]
    stored = epilogue.store((3,), tirx.const(2.5, "float32"))
    assert stored.buffer.same_as(epilogue.accumulator)
    assert (stored.value.value, stored.indices[0].value) == (2.5, 3)


@pytest.mark.parametrize(
    ("expression", "begins"),
    [
        (lambda m, s, o, x, c: tirx.max(m + o[c], 0.0), True),
        (lambda m, s, o, x, c: tirx.max(m * s[c], 0.0), False),
        (lambda m, s, o, x, c: tirx.Select(m + o[c] > 0.0, m + o[c], (m + o[c]) * s[c]), False),
    ],
)
def test_functions_whose_sums_begin_with_the_bias_have_no_zero_left(
    expression: Callable[..., Any], begins: bool
) -> None:
    func = epilogue_of(expression).func
    begun = begin_sums(func)
    assert (begun is not func) == begins
    sch = Schedule(begun)
    init = sch.get(find_stage(sch)).init.value
    assert isinstance(init, TensorLoad) == begins
    if begins:
        assert init.source.name == "offset"
        assert extract_epilogue(begun).begun() is None
