"""Changes of layout, alone and with what is fused around them, give NumPy's elements exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import te, tirx, topi
from tvm.s_tir import Schedule
from tvm.target import Target
from tvm.target.codegen import target_has_features

from tests.topi_ext import float_case
from topi_ext.epilogue import leaf_blocks
from topi_ext.schedule import narrow_indices, schedule_primfunc
from topi_ext.transpose import write_transposed

HOST = float_case.host()
HERE = {"kind": "llvm", "mtriple": str(HOST.attrs["mtriple"])}
# The longest vectors of this machine, and shorter ones.
TARGETS = [HOST]
if target_has_features(["avx2", "fma"], HOST):
    TARGETS += [Target({**HERE, "mcpu": "haswell"}), Target({**HERE, "mcpu": "x86-64"})]

CHANNELS = [1, 2, 3, 4, 5, 8, 12, 16, 17, 64, 100]
# n, h, w: fewer than a tile, a tile, a tile and a rest, prime, several threads.
SPACES = [(1, 1, 3), (2, 1, 4), (1, 3, 5), (3, 2, 8), (1, 7, 7), (2, 5, 13), (1, 56, 57)]


def _data(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    numbers = np.random.default_rng(3).standard_normal(shape) * 50
    return numbers.astype(dtype)


def _run(build: Callable[..., te.Tensor], *arrays: np.ndarray, target: Target = HOST) -> np.ndarray:
    places = [te.placeholder(a.shape, str(a.dtype), f"in{i}") for i, a in enumerate(arrays)]
    out = build(*places)
    func = te.create_prim_func([*places, out], index_dtype_override="int64")
    shape = tuple(int(extent) for extent in out.shape)
    return float_case.build_and_run(func, list(arrays), shape, target)


@pytest.mark.parametrize("c", CHANNELS)
def test_nchw_to_nhwc_and_back(c: int) -> None:
    for n, h, w in SPACES[:: 1 if c < 64 else 2]:
        x = _data((n, c, h, w))
        there = _run(lambda t: topi.transpose(t, [0, 2, 3, 1]), x)
        np.testing.assert_array_equal(there, x.transpose(0, 2, 3, 1))
        x = _data((n, h, w, c))
        back = _run(lambda t: topi.transpose(t, [0, 3, 1, 2]), x)
        np.testing.assert_array_equal(back, x.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("c", CHANNELS)
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_padded_nhwc(c: int, value: float) -> None:
    def build(t: te.Tensor) -> te.Tensor:
        return topi.nn.pad(topi.transpose(t, [0, 2, 3, 1]), [0, 1, 2, 0], [0, 3, 0, 0], value)

    for n, h, w in [(2, 5, 13), (1, 3, 3), (1, 56, 57)][: 3 if c < 17 else 1]:
        x = _data((n, c, h, w))
        expected = np.pad(
            x.transpose(0, 2, 3, 1), ((0, 0), (1, 3), (2, 0), (0, 0)), constant_values=value
        )
        np.testing.assert_array_equal(_run(build, x), expected)


@pytest.mark.parametrize("c", [2, 3, 6, 17, 64])
def test_elementwise_operators_on_both_sides(c: int) -> None:
    def build(t: te.Tensor, mean: te.Tensor, slope: te.Tensor) -> te.Tensor:
        moved = topi.transpose(topi.subtract(t, topi.reshape(mean, (1, c, 1, 1))), [0, 2, 3, 1])
        return topi.nn.pad(topi.maximum(moved, topi.multiply(moved, slope)), [0, 1, 1, 0])

    x, mean, slope = _data((2, c, 6, 19)), _data((c,)), _data((c,))
    moved = (x - mean.reshape(1, c, 1, 1)).transpose(0, 2, 3, 1)
    expected = np.pad(np.maximum(moved, moved * slope), ((0, 0), (1, 1), (1, 1), (0, 0)))
    np.testing.assert_array_equal(_run(build, x, mean, slope), expected)


@pytest.mark.parametrize("c", [3, 17, 32])
def test_an_operand_in_either_layout(c: int) -> None:
    x, there, here = _data((2, c, 5, 7)), _data((2, 5, 7, c)), _data((2, c, 5, 7))
    order = [0, 2, 3, 1]
    actual = _run(lambda t, u: topi.add(topi.transpose(t, order), u), x, there)
    np.testing.assert_array_equal(actual, x.transpose(order) + there)
    actual = _run(lambda t, u: topi.transpose(topi.add(t, u), order), x, here)
    np.testing.assert_array_equal(actual, (x + here).transpose(order))


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "int32", "float64", "int64"])
@pytest.mark.parametrize("c", [3, 8, 18])
def test_other_types(dtype: str, c: int) -> None:
    x = _data((2, c, 5, 11), dtype)
    if dtype in ("float64", "int64"):
        assert _written(lambda t: topi.transpose(t, [0, 2, 3, 1]), HOST, x) is None
        return
    out = _run_typed(lambda t: topi.transpose(t, [0, 2, 3, 1]), x)
    np.testing.assert_array_equal(out, x.transpose(0, 2, 3, 1))


def _run_typed(build: Callable[..., te.Tensor], x: np.ndarray) -> np.ndarray:
    """`_run` for types without NaN."""
    place = te.placeholder(x.shape, str(x.dtype), "x")
    func = te.create_prim_func([place, build(place)], index_dtype_override="int64")
    library = tvm.compile(tvm.IRModule({"main": schedule_primfunc(func, HOST)}), target=HOST)
    shape = tuple(int(extent) for extent in func.params[-1].ty.shape)
    result = tvm.runtime.tensor(np.zeros(shape, str(x.dtype)))
    library.jit()["main"](tvm.runtime.tensor(x), result)
    return result.numpy()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.attrs["mcpu"]))
@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2), (2, 1, 0), (2, 0, 1), (1, 2, 0)])
def test_any_order_of_three_axes(order: tuple[int, ...], target: Target) -> None:
    x = _data((7, 18, 21))
    actual = _run(lambda t: topi.transpose(t, order), x, target=target)
    np.testing.assert_array_equal(actual, x.transpose(order))


def _written(
    build: Callable[..., te.Tensor], target: Target, x: np.ndarray
) -> tirx.PrimFunc | None:
    place = te.placeholder(x.shape, str(x.dtype), "x")
    sch = Schedule(narrow_indices(te.create_prim_func([place, build(place)])))
    return write_transposed(sch, leaf_blocks(sch)[-1], target)


def test_what_changes_no_layout_is_left_alone() -> None:
    x = _data((2, 8, 6, 16))
    assert _written(lambda t: topi.nn.relu(t), HOST, x) is None
    assert _written(lambda t: topi.transpose(t, [0, 2, 1, 3]), HOST, x) is None
    assert _written(lambda t: topi.nn.pad(t, [0, 1, 1, 0]), HOST, x) is None
    assert _written(lambda t: topi.transpose(t, [0, 2, 3, 1]), HOST, x) is not None
