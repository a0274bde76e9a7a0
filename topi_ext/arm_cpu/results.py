"""The end of a tile of float sums: the epilogue, and stores of pairs of registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx import Stmt

from ..emit import VECTORIZED, channel_loops, local, loop, vload
from . import neon


def finish(
    pixels: int,
    channels: int,
    lanes: int,
    stored: Callable[[int, Any], tirx.BufferStore],
    paired: bool,
    together: int,
) -> list[Stmt]:
    """The epilogue of `pixels` x `channels` sums, in vectors of `lanes`, and the stores.

    stored: the store of one result, by pixel and channel of the tile. paired: two registers are
    stored at once; then `lanes` results fill one. together: pixels whose pairs are computed before
    the first of them is stored, since LLVM moves no load of an epilogue's operands before a store.
    """
    stmts: list[Stmt] = []
    size = 2 * lanes
    whole = channels - channels % lanes

    def keep(i: Any, results: tirx.Buffer, pixel: int, at: int, to: int) -> Stmt:
        return tirx.BufferStore(results, stored(pixel, at + i).value, [to + i])

    for begin in range(0, pixels, together):
        stores: list[Stmt] = []
        for pixel in range(begin, min(begin + together, pixels)):
            pairs = whole - whole % size if paired else 0
            for first in range(0, pairs, size):
                output = stored(pixel, first)
                results = local("results", (size,), str(output.buffer.ty.dtype), stmts)
                for to in (0, lanes):
                    vector = partial(keep, results=results, pixel=pixel, at=first + to, to=to)
                    stmts.append(loop(lanes, vector, "i", VECTORIZED))
                low, high = (vload(results, [to], lanes) for to in (0, lanes))
                stores.append(neon.store_pair(low, high, output.buffer, list(output.indices)))
            for first in range(pairs, whole, lanes):
                vector = partial(lambda i, pixel, at: stored(pixel, at + i), pixel=pixel, at=first)
                stores.append(loop(lanes, vector, "i", VECTORIZED))
            if whole < channels:
                rest = partial(lambda i, pixel: stored(pixel, whole + i), pixel=pixel)
                stores += channel_loops(rest, channels - whole, lanes)
        stmts += stores
    return stmts
