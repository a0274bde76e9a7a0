"""Comparison: integers are read off floats, tolerances are relative, infinities match."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnn_tvm.verification import compare


def affine(integers: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    column = (slice(None), None, None)
    return (integers * scale[column] + offset[column]).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 0.5, 1.0, 37.0]))
def test_rounding_is_forgiven_an_integer_is_not(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    integers = rng.integers(-500, 500, (1, 4, 3, 3))
    scale = (rng.uniform(0.5, 1.5, 4) * size * rng.choice([-1, 1], 4)).astype(np.float32)
    offset = (rng.uniform(-3, 3, 4) * size).astype(np.float32)
    want = affine(integers, scale, offset)
    noise = 1 + rng.uniform(-2, 2, want.shape) * compare.EPSILON
    assert compare.same_integers((want * noise).astype(np.float32), want, scale, offset, 1)
    other = integers.copy()
    other[0, 2, 1, 1] += 1
    assert not compare.same_integers(affine(other, scale, offset), want, scale, offset, 1)


def test_lost_integers_are_compared_as_values() -> None:
    scale = np.array([0.0, 1e-9], np.float32)
    offset = np.array([2.0, 2.0], np.float32)
    want = np.full((1, 2), 2.0, np.float32)
    assert compare.same_integers(want, want, scale, offset, -1)
    assert not compare.same_integers(want + np.float32(0.1), want, scale, offset, -1)


def test_offset_per_position() -> None:
    scale = np.ones(2, np.float32)
    offset = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2) * 0.25
    want = offset + 3
    assert compare.same_integers(want, want, scale, offset, 1)
    assert not compare.same_integers(want + 1, want, scale, offset, 1)


@pytest.mark.parametrize(
    ("got", "want", "error"),
    [
        ([1.0, 2.5], [1.0, 2.0], 0.5),
        ([np.inf, np.nan], [np.inf, np.nan], 0.0),
        ([np.inf], [-np.inf], np.inf),
        ([np.nan], [1.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_max_abs_error(got: list[float], want: list[float], error: float) -> None:
    arrays = np.array(got, np.float32), np.array(want, np.float32)
    assert compare.max_abs_error(*arrays) == error


def test_top1() -> None:
    want = np.array([[1, 2, 3], [3, 2, 1]], np.float32)
    assert compare.top1_agreement(want, want) == 1.0
    assert compare.top1_agreement(np.array([[1, 2, 3], [1, 2, 3]], np.float32), want) == 0.5
    assert compare.top1_agreement(want[0], want[0]) is None
