"""Kernel rows that lie in the padding for every pixel of a tile, counted beforehand.

What such a row adds to the numbers of differing taps depends on the output channel and the row of
taps alone, as the bits of the padding are known. So a tile runs the other rows only and begins with
what these add. They are the first rows of the kernel where the tile lies at the top of the map, the
last where it lies at the bottom: sums over the first rows are all that a tile needs.

A kernel that keeps the counts of many tiles while it runs one kernel row asks the other way round,
for the output rows that this kernel row must run for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te, tirx

from .params import ConvParams

# Measured on Zen 5: the bounds of a tile cost about what 2 words of each of its pixels do.
LEAST_SHARE = 0.05  # of the rows of all tiles that must be skipped
LEAST_WORDS = 4.0  # of a pixel that must be skipped in the mean


def padded_counts(w: np.ndarray, params: ConvParams, size: int) -> np.ndarray:
    """The taps of the first kernel rows that differ from the padding.

    w: int8 +-1 [co, ci/groups, kh, kw]; size: channels of a block. Returns uint32
    [groups*blocks, kh+1, size]: entry i holds the sums over rows 0 .. i-1; filler channels hold 0.
    """
    p = params
    blocks = -(-p.cog // size)
    differ = (w != (1 if p.pad_value == 1 else -1)).sum(axis=(1, 3))  # [co, kh]
    out = np.zeros((p.groups, blocks * size, p.kh + 1), np.uint32)
    out[:, : p.cog, 1:] = differ.cumsum(axis=1).reshape(p.groups, p.cog, p.kh)
    out = out.reshape(p.groups * blocks, size, p.kh + 1).transpose(0, 2, 1)
    return np.ascontiguousarray(out)


def inside(params: ConvParams, y: Any, ky: Any) -> Any:
    """The condition that kernel row `ky` of output row `y` lies in the map."""
    row = y * params.stride[0] + ky * params.dilation[0]
    return tirx.all(row >= params.pads[0], row < params.pads[0] + params.h)


def rows_to_run(
    params: ConvParams,
    low: Any,
    high: Any,
    least: Callable[[Any, Any], Any] = tirx.min,
    most: Callable[[Any, Any], Any] = tirx.max,
) -> tuple[Any, Any]:
    """The first kernel row to run, and the first behind it not to, of a tile of pixels.

    low, high: the least and the greatest output row of its pixels. least, most: how to compare; for
    integers the built-in functions.
    """
    p = params

    def above(limit: int, y: Any) -> Any:
        return _above(limit, y * p.stride[0], p.dilation[0], p.kh, least, most)

    return above(p.pads[0], high), above(p.pads[0] + p.h, low)


def outputs_to_run(
    params: ConvParams,
    ky: Any,
    least: Callable[[Any, Any], Any] = tirx.min,
    most: Callable[[Any, Any], Any] = tirx.max,
) -> tuple[Any, Any]:
    """The first output row whose kernel row `ky` lies in the map, and the first behind the last.

    least, most: as for `rows_to_run`. Where there is none, both are the same.
    """
    p = params

    def above(limit: int) -> Any:
        return _above(limit, ky * p.dilation[0], p.stride[0], p.ho, least, most)

    return above(p.pads[0]), above(p.pads[0] + p.h)


def _above(limit: int, first: Any, step: int, count: int, least: Any, most: Any) -> Any:
    """How many of `count` rows of the padded input, `step` apart from `first` on, lie above row
    `limit`.
    """
    return least((most(limit - first, 0) + step - 1) // step, count)


def or_padded(
    value: Any,
    padded: tuple[te.Tensor, ...],
    params: ConvParams,
    y: Any,
    ky: Any,
    k: Any,
    block: Any,
    channel: Any,
) -> Any:
    """`value`, what word `k` of kernel row `ky` adds; outside, from the counts of padded rows.

    padded: nothing, or the tensor of `padded_counts`, of the type of `value`.
    """
    if not padded:
        return value
    (sums,) = padded
    row = sums[block, ky + 1, channel] - sums[block, ky, channel]
    once = tirx.Select(tirx.EQ(k, 0), row, tirx.const(0, row.ty.dtype))
    return tirx.Select(inside(params, y, ky), value, once)


def some_padded(params: ConvParams) -> bool:
    """Whether some kernel rows of some pixels lie in the padding, but not all of all.

    Were it all, TVM would simplify the words away that the writers of loops look for.
    """
    p = params
    lines = {y * p.stride[0] + k * p.dilation[0] for y in range(p.ho) for k in range(p.kh)}
    inside_map = [p.pads[0] <= line < p.pads[0] + p.h for line in lines]
    return any(inside_map) and not all(inside_map)


@functools.cache
def skipped_share(params: ConvParams, pixels: int) -> float:
    """The part of all kernel rows that tiles of `pixels` pixels in scan order can skip."""
    p = params
    image = p.ho * p.wo
    first = np.arange(0, p.pixels, pixels)
    last = np.minimum(first + pixels, p.pixels) - 1
    one = first // image == last // image  # else the tile has the last row of one and the first
    low = np.where(one, first // p.wo % p.ho, 0)
    high = np.where(one, last // p.wo % p.ho, p.ho - 1)
    begin, end = rows_to_run(p, low, high, np.minimum, np.maximum)
    rows = p.kh * len(first)
    return (rows - int((end - begin).sum())) / rows


def skipping_pays(params: ConvParams, pixels: int, word_bits: int) -> bool:
    """Whether tiles of `pixels` pixels skip enough, by the share and by the length of their rows.

    A tile pays for the bounds and for what it begins with, skipped rows or not.
    """
    p = params
    if not some_padded(p):
        return False
    share = skipped_share(p, pixels)
    return share >= LEAST_SHARE and share * p.kh * p.kw * p.words(word_bits) >= LEAST_WORDS
