"""How two arrays are compared: floats with a tolerance, binary layers as the integers they are."""

from __future__ import annotations

import numpy as np

FLOAT_TOLERANCE = 1e-4
"""Largest error of a float layer, relative to the largest value of its output."""

FLOAT16_TOLERANCE = 2e-2
"""The same of one in half precision: sums of up to 1152 halves are off by up to 1 %."""

FLOAT16_LENGTH = 0.05
"""Largest relative error (L2) of the outputs of a model in half precision without binarisers."""

FLOAT16_SIGNS_LENGTH = 0.5
"""The same where signs are taken of what half precision rounds: some fall otherwise, and then all
that follows differs. Trained networks stay far below. Untrained ones are chaotic and may lie above
(docs/float16.md); outputs that have nothing to do with each other are 1.4 apart."""

EPSILON = float(np.finfo(np.float32).eps)


def max_abs_error(got: np.ndarray, want: np.ndarray) -> float:
    """Largest absolute difference; equal infinities and NaN in the same places count as equal."""
    if got.size == 0:
        return 0.0
    wide_got, wide_want = got.astype(np.float64), want.astype(np.float64)
    same = (wide_got == wide_want) | (np.isnan(wide_got) & np.isnan(wide_want))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(wide_got - wide_want))
    return float(np.max(np.where(np.isnan(difference), np.inf, difference)))


def tolerance(want: np.ndarray, relative: float = FLOAT_TOLERANCE) -> float:
    """The error allowed for an output whose correct values are `want`."""
    finite = np.abs(want[np.isfinite(want)]) if want.dtype.kind == "f" else np.abs(want)
    return relative * max(float(finite.max(initial=0.0)), 1e-2)


def same_integers(
    got: np.ndarray, want: np.ndarray, scale: np.ndarray, offset: np.ndarray, channel_axis: int
) -> bool:
    """Whether `got` and `want` stem from the same integers by y = scale*integer + offset.

    scale: float32 [co]; offset: float32 [co] or broadcastable to `got` (border classes);
    channel_axis: where co is in `got`. Where the integer is lost in float32 (scale 0, or far
    smaller than the values' rounding), the values themselves are compared.
    """
    shape = [1] * got.ndim
    shape[channel_axis] = -1
    wide_scale = scale.astype(np.float64).reshape(shape)
    wide_offset = offset.astype(np.float64)
    if offset.ndim <= 1:
        wide_offset = wide_offset.reshape(shape)
    wide_got, wide_want = got.astype(np.float64), want.astype(np.float64)
    magnitude = np.maximum(np.abs(wide_want), np.abs(wide_offset))
    readable = np.abs(wide_scale) > 8 * EPSILON * magnitude
    safe_scale = np.where(wide_scale == 0, 1.0, wide_scale)
    integers_got = np.rint((wide_got - wide_offset) / safe_scale)
    integers_want = np.rint((wide_want - wide_offset) / safe_scale)
    close = np.abs(wide_got - wide_want) <= 8 * EPSILON * magnitude
    return bool(np.all(np.where(readable, integers_got == integers_want, close)))


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """Length of the difference over the length of `want`."""
    length = float(np.linalg.norm(want.astype(np.float64)))
    difference = float(np.linalg.norm(got.astype(np.float64) - want.astype(np.float64)))
    return difference / length if length else difference


def top1_agreement(got: np.ndarray, want: np.ndarray) -> float | None:
    """Share of rows whose largest value is at the same place; None where rows are no scores."""
    if want.ndim < 2 or want.shape[-1] < 2:
        return None
    rows = want.reshape(-1, want.shape[-1])
    same = got.reshape(rows.shape).argmax(axis=1) == rows.argmax(axis=1)
    return float(same.mean())
