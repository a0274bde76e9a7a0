"""Float depthwise convolutions on Arm NEON: tiles of output pixels x channels in registers.

The channel tile loads an input and a weight for every multiply-add, which two load pipes beside
two multiply-add pipes cannot keep up with for long. Here the weights of a row of taps serve all
pixels of a tile, and an input serves all taps that meet it: for 3x3 kernels of stride two and
seven pixels (3 + 15) / 21 loads per multiply-add, of stride one (3 + 9) / 21.

Tiles at the left and right border have code of their own, which leaves out the taps beyond the
input; rows of taps above and below the input are no turns of their loop. Sums begin with the bias,
loaded to each, or with products, so that nothing has to be cleared.

What limits (modelled): on Cortex-A72 the multiply-adds. On Cortex-A76 and Neoverse N1 a store takes
one of the two vector pipes as well, so that with bias and ReLU 9 of 11 slots can be multiply-adds:
82 % of the bound. Of the pairs of registers that are stored, `stp` takes more of the load pipes
than `st1`, and single stores twice as many slots.

Left alone, LLVM moves loads of all rows of taps up and the sums of a pixel down to where they are
stored, and spills: with the scheduling model of Neoverse N1, and that of Cortex-A76 in half
precision. Barriers that are no instructions keep it from that; cores that reorder instructions
need no schedule of LLVM's. Tried without gain: volatile loads of the bias (in order, so that
latencies show), one loop of tiles in steps of their pixels.

32-bit Arm has half the registers and keeps the channel tile.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.target import Target
from tvm.tirx import PrimFunc, Stmt

from .. import depthwise
from ..depthwise import channel_tile_kernel
from ..emit import PARALLEL, SERIAL, let, local, loop, seq, view, vload, vstore
from ..epilogue import Epilogue, extract_epilogue
from ..kernels import PARAMS, Kernel
from ..parallel import PARALLEL_FLOAT_MACS
from ..params import ConvParams
from . import neon
from .addends import FEW, Copies
from .cores import Core, core_of
from .depthwise_tiles import Row, Tile, runs, suits, tile_at, tile_pixels
from .results import finish

VECTORS = 2  # of channels: 14 sums, the weights of three taps and some inputs fit 32 registers
REGISTER_BYTES = 16
UNROLLED_TAPS = 9  # most in one copy of the code
COLUMNS = 8  # of inputs, between barriers
STORED = 3  # pixels together: operands of the results of all LLVM would load to too many registers
FEW_BLOCKS = 2  # of channels, which have code of their own: their addresses are constants
COPIED_BYTES = 16 * 1024  # most for copies of an addend: they share the first cache with the rows


def schedule(func: PrimFunc, target: Target) -> PrimFunc:
    """Write the loops by hand, or leave to the channel tile what does not suit them."""
    epilogue = extract_epilogue(func, bare=True)
    if epilogue is not None:
        params = ConvParams.parse(str(epilogue.annotations[PARAMS]))
        if suits(params):
            return _Writer(epilogue, params, core_of(target)).write()
    return depthwise.schedule(func, target)


class _Writer:
    """The loops of one convolution with its epilogue: rows, tiles of a row, blocks of channels.

    Channels inside: the neighbouring block finds the other half of its cache lines still there.
    """

    def __init__(self, epilogue: Epilogue, params: ConvParams, core: Core) -> None:
        """Find the buffers, and what sums begin with."""
        # In order, a sum would wait for what it begins with.
        self.reorders = not core.in_order
        self.first: TensorLoad | None = None
        self.epilogue = epilogue
        begun = epilogue.begun() if self.reorders else None
        self.loops_taps = params.kh * params.kw > UNROLLED_TAPS
        if begun is not None and not (self.loops_taps and begun[1].bare()):
            self.first, self.epilogue = begun
        self.params, self.pixels = params, tile_pixels(params)
        self.data, self.weights = epilogue.reads
        self.dtype = str(self.data.ty.dtype)
        self.copies: Copies | None = None

    def write(self) -> PrimFunc:
        """The function with all its tiles; where it pays, with copies of what is added."""
        p = self.params
        stmts: list[Stmt] = []
        kind = PARALLEL if p.macs >= PARALLEL_FLOAT_MACS else SERIAL
        size = self.pixels * p.co * np.dtype(self.dtype).itemsize
        if self.reorders and size <= COPIED_BYTES and p.pixels >= FEW * self.pixels > FEW:
            sources = self.epilogue.addends()
            if self.first is not None and self.epilogue.by_channel(self.first):
                sources.append(self.first.source)
            self.copies = Copies(sources, self.pixels, p.co, stmts)
        stmts.append(loop(p.n * p.ho, self._row, "row", kind))
        return self.epilogue.with_body(seq(stmts))

    def _row(self, row: Any) -> Stmt:
        """One row of the output: of code with all rows of taps, or with those that are inside."""
        p = self.params
        stmts: list[Stmt] = []
        n, y = (let("n", row // p.ho, stmts), let("y", row % p.ho, stmts)) if p.n > 1 else (0, row)
        top = let("top", y * p.stride[0] - p.pads[0], stmts)
        below = p.h - (p.kh - 1) * p.dilation[0]  # the first `top` with a tap below the input
        rest = (p.ho - 1) * p.stride[0] - p.pads[0]  # the last `top`
        if p.pads[0] == 0 and rest < below:
            return seq([*stmts, self._tiles(Row(n, y, top, 0, p.kh))])
        gap = p.dilation[0]
        border: list[Stmt] = []
        first = let("first", (tirx.max(-top, 0) + (gap - 1)) // gap, border)
        last = let("last", tirx.min((p.h - 1 - top) // gap + 1, p.kh), border)
        border.append(self._tiles(Row(n, y, top, first, last)))
        whole = self._tiles(Row(n, y, top, 0, p.kh))
        stmts.append(tirx.IfThenElse(tirx.all(top >= 0, top < below), whole, seq(border)))
        return seq(stmts)

    def _tiles(self, row: Row) -> Stmt:
        stmts = []
        for start, count, tiles in runs(self.params, self.pixels):

            def one(t: Any, start: int = start, count: int = count) -> Stmt:
                body: list[Stmt] = []
                x = let("x", start + t * count, body)
                return seq(body + self._channels(row, tile_at(self.params, x, start, count)))

            stmts.append(loop(tiles, one, "t"))
        return seq(stmts)

    def _channels(self, row: Row, tile: Tile) -> list[Stmt]:
        """The tile for all channels: blocks of whole vectors, then ever narrower ones."""
        stmts: list[Stmt] = []
        lanes = REGISTER_BYTES // np.dtype(self.dtype).itemsize
        widths = [(VECTORS, lanes), (1, lanes), (1, 4), (1, 1)]
        channel, channels = 0, self.params.co
        for vectors, width in dict.fromkeys(widths):
            step = vectors * width
            blocks = (channels - channel) // step

            def block(
                b: Any, at: int = channel, vectors: int = vectors, lanes: int = width
            ) -> Stmt:
                body: list[Stmt] = []
                c = let("channel", at + b * (vectors * lanes), body)
                return seq(body + self._block(row, tile, c, vectors, lanes))

            if self.reorders and blocks <= FEW_BLOCKS:
                stmts += [block(b) for b in range(blocks)]
            elif blocks:
                stmts.append(loop(blocks, block, "block"))
            channel += blocks * step
        return stmts

    def _block(self, row: Row, tile: Tile, channel: Any, vectors: int, lanes: int) -> list[Stmt]:
        """One tile of pixels x channels: reduction, then epilogue."""
        p = self.params
        stmts: list[Stmt] = []
        sums = local("sums", (tile.count * vectors * lanes,), self.dtype, stmts)

        def taps(ky: Any, begun: bool) -> Stmt:
            body: list[Stmt] = []
            line = let("line", row.top + ky * p.dilation[0], body)
            inputs = view(self.data, [row.n, line, tile.column, channel], body)
            filters = view(self.weights, [ky, 0, channel], body)
            weight: dict[tuple[int, int], Any] = {}
            known = {(i, v) for i in range(tile.count) for v in range(vectors)} if begun else set()
            for nth, (column, pairs) in enumerate(tile.taps.items(), 1):
                for v in range(vectors):
                    a = let("a", vload(inputs, [column * p.ci + v * lanes], lanes), body)
                    for pixel, kx in pairs:
                        if (kx, v) not in weight:
                            first = [kx * p.co + v * lanes]
                            weight[kx, v] = let("w", vload(filters, first, lanes), body)
                        at = [(pixel * vectors + v) * lanes]
                        total = a * weight[kx, v]
                        if (pixel, v) in known:
                            total = vload(sums, at, lanes) + total
                        elif self.first is not None:
                            place = (row.n, row.y, tile.x + pixel, channel + v * lanes)
                            total = self._start(self.first, pixel, place, lanes) + total
                        known.add((pixel, v))
                        body.append(vstore(sums, total, at, lanes))
                if self.reorders and (nth % COLUMNS == 0 or nth == len(tile.taps)):
                    body.append(neon.barrier(vload(sums, at, lanes)))
            return seq(body)

        stmts.append(taps(row.first, False))
        rest = row.last - row.first - 1
        looped = self.loops_taps or not isinstance(rest, int)
        if not looped:
            stmts += [taps(row.first + 1 + k, True) for k in range(rest)]
        elif p.kh > 1:
            stmts.append(loop(rest, lambda k: taps(k + (row.first + 1), True), "ky"))
        # Their own buffer: LLVM keeps sums in registers only if no variable index reaches them.
        done = local("done", (tile.count * vectors * lanes,), self.dtype, stmts)
        for at in range(0, tile.count * vectors * lanes, lanes):
            stmts.append(vstore(done, vload(sums, [at], lanes), [at], lanes))
        # In a loop LLVM would bind sums that are stored as they are to pairs of registers.
        paired = self.reorders and self.epilogue.aligned()
        paired = paired and not (looped and self.epilogue.bare())

        def stored(pixel: int, at: Any) -> tirx.BufferStore:
            place = (row.n, row.y, tile.x + pixel, channel + at)
            copies = self.copies.at(pixel, channel + at) if self.copies else ()
            value = tirx.BufferLoad(done, [pixel * vectors * lanes + at])
            return self.epilogue.store(place, value, copies)

        stmts += finish(tile.count, vectors * lanes, lanes, stored, paired, STORED)
        return stmts

    def _start(self, first: TensorLoad, pixel: int, place: tuple[Any, ...], lanes: int) -> Any:
        """What the sum of `lanes` channels at `place` begins with."""
        copy = self.copies.of(first.source) if self.copies else None
        if copy is not None:
            return vload(copy, [pixel * self.params.co + place[-1]], lanes)
        return vload(first.source, [self.epilogue.at(i, place) for i in first.indices], lanes)


def _kernel(dtype: str) -> Kernel:
    return replace(channel_tile_kernel("neon", dtype), schedule=schedule)


KERNELS = (_kernel("float32"), _kernel("float16"), channel_tile_kernel("neon32"))
