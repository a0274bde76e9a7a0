"""Float convolutions with short reductions on Arm NEON: sums in registers, nothing spilled.

Of a reduction of few steps (3x3 over 3 channels, 1x1 over 16) LLVM writes out all whatever the
loops say, then moves the loads of the weights, which are the same for all tiles, before the loop
over them: there are more than registers, so they go to the stack, and inputs and sums with them.
And what comes once for each result (clearing the sum, adding the bias, an epilogue) weighs as much
as several of the few multiply-adds.

Here the loops are written by hand. LLVM cannot tell where what is the same for all tiles lies
(`emit.view`), so that every tile loads it from there, and cannot mix rows of taps
(`neon.barrier`): without, it finishes one pixel before the next and spills the weights of all taps
meanwhile. Inputs of all pixels of a tile that are neighbours in memory are loaded once, in whole
vectors, whichever pixels and taps they are for. Sums begin with the bias, loaded to each
(`addends.Copies`), or with a product, so that nothing has to be cleared or added. Pairs of
registers are stored at once.

Tried without gain: a loop over the rows of taps, whose extent LLVM cannot tell. It is as safe, but
what begins and ends a sum then shares no block of code with multiply-adds: 7 % more on Cortex-A72.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.tirx import PrimFunc, Stmt

from ..emit import (
    PARALLEL,
    SERIAL,
    let,
    local,
    loop,
    publish,
    seq,
    view,
    vload,
    vstore,
)
from ..epilogue import Epilogue, extract_epilogue
from ..kernels import PARAMS
from ..parallel import PARALLEL_FLOAT_MACS
from ..params import ConvParams
from ..register_tile import flattens
from . import neon
from .addends import FEW, Copies
from .results import finish

MOST_TAPS = 36  # of a short reduction
MOST_PIXELS = 8  # of a tile
REGISTERS = 31  # of 32, for sums, the inputs that are in use at a time and the weights of one tap
REGISTER_BYTES = 16


def is_short(params: ConvParams) -> bool:
    """Whether the loops are for this shape: one group and a short reduction."""
    return params.groups == 1 and params.taps <= MOST_TAPS


def schedule_short(func: PrimFunc, in_order: bool) -> PrimFunc | None:
    """The loops of a function that holds a short `conv2d_nhwc` with its epilogue.

    None if it is another one, or if the epilogue moves elements.
    """
    epilogue = extract_epilogue(func, bare=True)
    if epilogue is None or not epilogue.aligned() or len(epilogue.accumulator.ty.shape) != 4:
        return None
    params = ConvParams.parse(str(epilogue.annotations[PARAMS]))
    return _Writer(epilogue, params, in_order).write() if is_short(params) else None


@dataclass(frozen=True)
class _Tile:
    """`count` pixels of row y of image n from pixel x on, and `channels` from `channel` on."""

    n: Any
    y: Any
    x: Any
    count: int
    channel: Any = 0
    channels: int = 0


class _Writer:
    """The loops of one convolution with its epilogue: rows, tiles of a row, channels."""

    def __init__(self, epilogue: Epilogue, params: ConvParams, in_order: bool) -> None:
        """Find the buffers, the height of tiles, and what sums begin with."""
        p = self.params = params
        self.in_order = in_order
        self.data, self.weights = epilogue.reads
        self.dtype = str(self.data.ty.dtype)
        self.lanes = REGISTER_BYTES // np.dtype(self.dtype).itemsize
        self.width = int(self.weights.ty.shape[-1])
        # All pixels of a 1x1 convolution are one row: a last index may reach beyond its dimension.
        self.flat = flattens(p) and epilogue.linear()
        self.row_pixels = p.pixels if self.flat else p.wo
        self.step = p.stride[1] * p.ci  # numbers from one pixel's inputs to the next's
        # A turn of the reduction: a row of taps, or a vector of the only row's.
        self.turns, self.taps = p.kh, p.kw * p.ci
        if p.kh == 1 and p.dilation[1] == 1 and self.taps % self.lanes == 0:
            self.turns, self.taps = self.taps // self.lanes, self.lanes
        self.gap = p.dilation[1] * p.ci if p.kh > 1 or self.turns == 1 else 0
        # Of channels in a tile: few, so that it is high and pixels share more inputs.
        self.vectors = next(v for v in (2, 3, 1) if self.width % (v * self.lanes) == 0)
        self.pixels = self._pixels()
        # For channels that fill no vector: what sums begin with would reach beyond.
        self.whole = self.epilogue = epilogue
        self.first: TensorLoad | None = None
        begun = epilogue.begun()
        # Sums stored as they are would be bound to pairs of registers from the start.
        if begun is not None and epilogue.by_channel(begun[0]):
            self.first, self.epilogue = begun
        self.copies: Copies | None = None

    def _pixels(self) -> int:
        """The height of a tile: rows in as few as fit the registers, all of about one size."""
        most = 1
        for height in range(1, MOST_PIXELS + 1):
            shared = self.step % self.lanes != 0
            inputs = -(-self._span(height) // self.lanes) if shared else height
            if (height + 1) * self.vectors + inputs <= REGISTERS:
                most = height
        return -(-self.row_pixels // -(-self.row_pixels // most))

    def _span(self, pixels: int) -> int:
        """Numbers from the first input of a turn of a tile to its last."""
        return (pixels - 1) * self.step + self._offset(self.taps - 1) + 1

    def _offset(self, tap: int) -> int:
        """Where the input of a tap of a turn lies behind that of the first."""
        ci = self.params.ci
        return tap // ci * self.gap + tap % ci if self.gap else tap

    def write(self) -> PrimFunc:
        """The function with all its tiles."""
        p = self.params
        stmts: list[Stmt] = []
        # In order, the many loads cost more than the moves they save.
        if not self.in_order and p.pixels >= FEW * self.pixels > FEW:
            sources = self.epilogue.addends()
            if self.first is not None:
                sources.append(self.first.source)
            self.copies = Copies(sources, self.pixels, p.co, stmts)
            stmts += [publish(copy) for _, copy in self.copies.pairs]
        kind = PARALLEL if p.macs >= PARALLEL_FLOAT_MACS else SERIAL
        if self.flat:
            return self.whole.with_body(seq([*stmts, *self._tiles(0, 0, kind)]))

        def row(index: Any) -> Stmt:
            body: list[Stmt] = []
            n = let("n", index // p.ho, body) if p.n > 1 else 0
            y = let("y", index % p.ho, body) if p.n > 1 else index
            return seq([*body, *self._tiles(n, y, SERIAL)])

        stmts.append(loop(p.n * p.ho, row, "row", kind))
        return self.whole.with_body(seq(stmts))

    def _tiles(self, n: Any, y: Any, kind: tirx.ForKind) -> list[Stmt]:
        """A row of pixels: tiles of one height, then one of what is left."""
        full, rest = divmod(self.row_pixels, self.pixels)

        def tile(t: Any, count: int = self.pixels) -> Stmt:
            body: list[Stmt] = []
            x = let("x", t * self.pixels, body)
            return seq([*body, *self._channels(_Tile(n, y, x, count))])

        done = [loop(full, tile, "tile", kind)] if full else []
        return [*done, tile(full, rest)] if rest else done

    def _channels(self, tile: _Tile) -> list[Stmt]:
        """A tile for all output channels: whole vectors of them at a time, then the rest."""
        step = self.vectors * self.lanes
        full, rest = divmod(self.params.co, step)

        def block(b: Any, channels: int = step) -> Stmt:
            body: list[Stmt] = []
            channel = let("channel", b * step, body)
            some = replace(tile, channel=channel, channels=channels)
            return seq([*body, *self._block(some)])

        done = [loop(full, block, "block")] if full else []
        return [*done, block(full, rest)] if rest else done

    def _block(self, tile: _Tile) -> list[Stmt]:
        """One tile of pixels x channels: reduction, then epilogue."""
        lanes = self.lanes
        vectors = -(-tile.channels // lanes)
        whole = tile.channels % lanes == 0
        epilogue = self.epilogue if whole else self.whole
        stmts: list[Stmt] = []
        known = self._operands(epilogue, stmts)
        size = tile.count * vectors * lanes
        sums = local("sums", (size,), self.dtype, stmts)
        first = self.first.source if whole and self.first is not None else None
        begun = first is not None
        for at in range(0, size if begun else 0, lanes):
            pixel, v = divmod(at // lanes, vectors)
            place = self._at(first, pixel, tile.channel + v * lanes)
            stmts.append(vstore(sums, vload(known[first], [place], lanes), [at], lanes))
        for turn in range(self.turns):
            stmts += self._turn(tile, turn, sums, begun or turn > 0)
            stmts.append(neon.barrier(vload(sums, [0], lanes)))
        # Their own buffer: LLVM keeps sums in registers only if no variable index reaches them.
        done = local("done", (size,), self.dtype, stmts)
        for at in range(0, size, lanes):
            stmts.append(vstore(done, vload(sums, [at], lanes), [at], lanes))

        def stored(pixel: int, at: Any) -> tirx.BufferStore:
            channel = tile.channel + at
            loads = [
                (source, tirx.BufferLoad(buffer, [self._at(source, pixel, channel)]))
                for source, buffer in known.items()
            ]
            value = tirx.BufferLoad(done, [pixel * vectors * lanes + at])
            return epilogue.store((tile.n, tile.y, tile.x + pixel, channel), value, loads)

        # What is stored may be wider: halves to the float32 of a graph's output.
        alike = epilogue.output.ty.dtype == self.dtype
        # In order, a core would wait for the operands of each pixel.
        together = tile.count if self.in_order else 1
        stmts += finish(tile.count, tile.channels, lanes, stored, alike, together)
        return stmts

    def _turn(self, tile: _Tile, turn: Any, sums: tirx.Buffer, begun: bool) -> list[Stmt]:
        """One turn of the reduction."""
        p, lanes = self.params, self.lanes
        vectors = -(-tile.channels // lanes)
        body: list[Stmt] = []
        ky, along = (turn, 0) if p.kh > 1 else (0, turn * self.taps)
        line = tile.y * p.stride[0] + ky * p.dilation[0]
        inputs = view(self.data, [tile.n, line, tile.x * p.stride[1], along], body)
        where = [tile.channel // self.width, ky, 0, along, tile.channel % self.width]
        filters = view(self.weights, where, body, hidden=True)
        span = self._span(tile.count)
        loaded: dict[int, Any] = {}

        def number(at: int) -> Any:
            """The input at a place of the span, in all lanes."""
            if span < lanes:
                return tirx.Broadcast(tirx.BufferLoad(inputs, [at]), lanes)
            first = min(at // lanes * lanes, span - lanes)
            if first not in loaded:
                loaded[first] = let("a", vload(inputs, [first], lanes), body)
            return tirx.Shuffle([loaded[first]], [tirx.const(at - first, "int32")] * lanes)

        for tap in range(self.taps):
            weights = [
                let("w", vload(filters, [tap * self.width + v * lanes], lanes), body)
                for v in range(vectors)
            ]
            for pixel in range(tile.count):
                value = number(pixel * self.step + self._offset(tap))
                for v in range(vectors):
                    place = [(pixel * vectors + v) * lanes]
                    total = value * weights[v]
                    if begun or tap > 0:
                        total = vload(sums, place, lanes) + total
                    body.append(vstore(sums, total, place, lanes))
        return body

    def _operands(self, epilogue: Epilogue, stmts: list[Stmt]) -> dict[Any, tirx.Buffer]:
        """Hidden views of what the epilogue, or the beginning of sums, reads by channel."""
        found: dict[Any, tirx.Buffer] = {}
        operands = epilogue.operands()
        others = [load.source for load in operands if not epilogue.by_channel(load)]
        loads = [
            load for load in operands if not any(load.source.same_as(other) for other in others)
        ]
        if self.first is not None and epilogue is self.epilogue:
            loads.append(self.first)
        for load in loads:
            if load.source not in found:
                copy = self.copies.of(load.source) if self.copies else None
                source = load.source if copy is None else copy
                found[load.source] = view(source, [0] * len(source.ty.shape), stmts, hidden=True)
        return found

    def _at(self, source: Any, pixel: int, channel: Any) -> Any:
        """Where `channel` of a vector over channels, or of its copies, lies for a pixel."""
        copied = self.copies is not None and self.copies.of(source) is not None
        return channel + pixel * self.params.co if copied else channel
