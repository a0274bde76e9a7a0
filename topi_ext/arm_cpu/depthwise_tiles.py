"""Where the tiles of float depthwise convolutions on Arm NEON lie, and which taps each has.

Tiles at the left and right border have code of their own, which leaves out the taps beyond the
input; the others share theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..params import ConvParams

PIXELS = 7  # most of a tile; divides the rows of most networks
MOST_TAPS = 7  # of a row, whose code is unrolled
MOST_BORDERS = 6  # tiles with code of their own


@dataclass(frozen=True)
class Row:
    """Row `y` of image `n`, whose taps begin at input row `top`; those from `first` to before
    `last` are inside of the input.
    """

    n: Any
    y: Any
    top: Any
    first: Any
    last: Any


@dataclass(frozen=True)
class Tile:
    """Output pixels of a row: `count` of them from `x` on, which is a number at a border.

    taps: the input columns, counted from `column`, that are inside of the input, and for each the
    pairs of (pixel, tap) that meet it.
    """

    x: Any
    count: int
    column: Any
    taps: dict[int, list[tuple[int, int]]]


def suits(params: ConvParams) -> bool:
    """Whether the tiles are for this shape.

    One filter per channel, kernels that are not wide, few tiles at the borders, and no pixel whose
    taps are all beyond the input.
    """
    p = params
    if p.co != p.ci or p.kw > MOST_TAPS:
        return False
    rows = (inside(y, p.kh, p.h, p.stride[0], p.dilation[0], p.pads[0]) for y in range(p.ho))
    columns = [inside(x, p.kw, p.w, p.stride[1], p.dilation[1], p.pads[1]) for x in range(p.wo)]
    if not all(rows) or not all(columns):
        return False
    height = tile_pixels(p)
    borders = [x for x in range(0, p.wo, height) if at_border(p, x, min(height, p.wo - x))]
    return len(borders) <= MOST_BORDERS


def tile_pixels(params: ConvParams) -> int:
    """Pixels of a tile: a row in as few tiles as possible, all of about one size."""
    return -(-params.wo // -(-params.wo // PIXELS))


def inside(at: int, taps: int, size: int, stride: int, dilation: int, pad: int) -> list[int]:
    """The taps of an output row or column that are inside of the input."""
    return [k for k in range(taps) if 0 <= at * stride + k * dilation - pad < size]


def at_border(params: ConvParams, x: int, count: int) -> bool:
    """Whether `count` pixels of a row from `x` on have taps left or right of the input."""
    p = params
    first = x * p.stride[1] - p.pads[1]
    last = (x + count - 1) * p.stride[1] + (p.kw - 1) * p.dilation[1] - p.pads[1]
    return first < 0 or last >= p.w


def runs(params: ConvParams, height: int) -> Iterator[tuple[int, int, int]]:
    """(first pixel, pixels of a tile, tiles) of neighbouring tiles of at most `height` pixels that
    share their code.
    """
    p = params
    run: tuple[int, int, int] | None = None
    for x in range(0, p.wo, height):
        count = min(height, p.wo - x)
        alone = at_border(p, x, count)
        if run and not alone and run[1] == count:
            run = (run[0], count, run[2] + 1)
            continue
        if run:
            yield run
        run = None if alone else (x, count, 1)
        if alone:
            yield x, count, 1
    if run:
        yield run


def tile_at(params: ConvParams, x: Any, start: int, count: int) -> Tile:
    """The tile of `count` pixels at `x`, whose code is that of the one at `start`."""
    p = params
    left = start * p.stride[1] - p.pads[1]
    taps: dict[int, list[tuple[int, int]]] = {}
    for pixel in range(count):
        for kx in range(p.kw):
            column = pixel * p.stride[1] + kx * p.dilation[1]
            if 0 <= left + column < p.w:
                taps.setdefault(column, []).append((pixel, kx))
    # No address may lie before the input.
    base = min(taps)
    column = x * p.stride[1] + (base - p.pads[1])
    return Tile(x, count, column, {at - base: taps[at] for at in sorted(taps)})
