"""Kernel rows that lie in the padding for every pixel of a tile, counted beforehand.

What such a row adds to the numbers of differing taps depends on the output channel and the row of
taps alone, as the bits of the padding are known. So a tile runs the other rows only and begins with
what these add. They are the first rows of the kernel where the tile lies at the top of the map, the
last where it lies at the bottom: sums over the first rows are all that a tile needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

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
        """How many kernel rows of output row `y` begin above row `limit` of the padded input."""
        left = most(limit - y * p.stride[0], 0)
        return least((left + p.dilation[0] - 1) // p.dilation[0], p.kh)

    return above(p.pads[0], high), above(p.pads[0] + p.h, low)


def skipping_pays(params: ConvParams, pixels: int, word_bits: int) -> bool:
    """Whether tiles of `pixels` pixels skip enough, by the share and by the length of their rows.

    A tile pays for the bounds and for what it begins with, skipped rows or not.
    """
    p = params
    each, rows, skipped = min(pixels, p.pixels), 0, 0
    lines = {y * p.stride[0] + k * p.dilation[0] for y in range(p.ho) for k in range(p.kh)}
    map_lines = range(p.pads[0], p.pads[0] + p.h)
    # All in the padding: TVM would simplify the words away that the writer looks for.
    if all(line in map_lines for line in lines) or not any(line in map_lines for line in lines):
        return False
    for first in range(0, p.pixels, each):
        tile = [q // p.wo % p.ho for q in range(first, min(first + each, p.pixels))]
        begin, end = rows_to_run(p, min(tile), max(tile), min, max)
        rows += p.kh
        skipped += p.kh - (end - begin)
    share = skipped / rows
    return share >= LEAST_SHARE and share * p.kh * p.kw * p.words(word_bits) >= LEAST_WORDS
