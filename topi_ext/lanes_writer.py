"""The loops of the kernels with output channels in vector lanes (`bconv2d_lanes`)."""

from __future__ import annotations

import functools
from typing import Any

from tvm import tirx
from tvm.tirx import PrimFunc, Stmt

from .emit import PARALLEL, SERIAL, channel_loops, let, local, loop, seq, splat, vload, vstore
from .epilogue import Epilogue, divisor, extract_epilogue, holds_stage
from .kernels import PARAMS
from .parallel import PARALLEL_BINARY_MACS
from .params import ConvParams
from .scalar import schedule_scalar
from .threshold import WORDS, WordsEpilogue, extract_words

WORD = 32
LANES = 16  # of the vectors written here; LLVM splits them where registers are shorter
CHUNK = 16  # tiles of pixels that all channel blocks visit before the next ones


def schedule_lanes(func: PrimFunc, pixels: int, writer: type[LanesWriter]) -> PrimFunc:
    """Replace the loops by those of `writer`, or by scalar ones where the epilogue is odd."""
    epilogue = extract_words(func) if holds_stage(func, WORDS) else extract_epilogue(func)
    return schedule_scalar(func) if epilogue is None else writer(epilogue, pixels).write()


class LanesWriter:
    """The hand-made loops of one convolution with its epilogue.

    Another way to count inherits and has its own `accumulate`.
    """

    def __init__(self, epilogue: Epilogue | WordsEpilogue, pixels: int) -> None:
        """Find the shape and the buffers."""
        self.epilogue = epilogue
        self.params = ConvParams.parse(str(epilogue.annotations[PARAMS]))
        self.data, self.weights = epilogue.reads
        self.size = int(self.weights.ty.shape[3])
        self.blocks = -(-self.params.cog // self.size)
        self.pixels = min(pixels, self.params.pixels)

    def write(self) -> PrimFunc:
        """Chunks of pixels outside, then channel blocks, whose weights stay cached over a chunk.

        Threads share the tiles out in this order, so each works on rows of its own, which it
        mostly wrote itself in the layer before.
        """
        p = self.params
        full, rest = divmod(p.pixels, self.pixels)
        tiles = full + (1 if rest else 0)
        last = p.cog - (self.blocks - 1) * self.size

        def tile(t: Any, first: int, per_group: int, channels: int) -> Stmt:
            body: list[Stmt] = []
            index, block = self._place(t, tiles, p.groups * per_group, body)
            pixel = let("pixel", index * self.pixels, body)
            group = let("group", block // per_group, body)
            block = let("of_group", first + block % per_group, body)
            whole = self._tile(pixel, group, block, self.pixels, channels)
            if rest:
                part = self._tile(pixel, group, block, rest, channels)
                fits = pixel < full * self.pixels if full else tirx.const(False, "bool")
                whole = tirx.IfThenElse(fits, whole, part)
            body.append(whole)
            return seq(body)

        kind = PARALLEL if p.macs >= PARALLEL_BINARY_MACS else SERIAL
        even = self.blocks if last == self.size else self.blocks - 1
        stmts = []
        if even:
            fn = functools.partial(tile, first=0, per_group=even, channels=self.size)
            stmts.append(loop(p.groups * even * tiles, fn, "t", kind))
        if even < self.blocks:
            fn = functools.partial(tile, first=even, per_group=1, channels=last)
            stmts.append(loop(p.groups * tiles, fn, "t", kind))
        return self.epilogue.with_body(seq(stmts))

    def _place(self, t: Any, tiles: int, blocks: int, stmts: list[Stmt]) -> tuple[Any, Any]:
        """The tile of pixels and the channel block of the `t`-th step."""
        if blocks == 1:
            return t, 0
        if tiles < 2 * CHUNK:
            return let("tile", t % tiles, stmts), let("block", t // tiles, stmts)
        # Chunks of one size, if there is a divisor: constant divisions are cheap.
        size = divisor(tiles, 2 * CHUNK)
        size = size if size >= CHUNK // 2 else CHUNK
        chunk = let("chunk", t // (size * blocks), stmts)
        step = let("step", t % (size * blocks), stmts)
        wide = let("wide", tirx.min(size, tiles - chunk * size), stmts) if tiles % size else size
        at = let("tile", chunk * size + step % wide, stmts)
        return at, let("block", step // wide, stmts)

    def _tile(self, pixel: Any, group: Any, block: Any, pixels: int, channels: int) -> Stmt:
        """`pixels` pixels x `channels` channels: reduction, then epilogue."""
        p = self.params
        vectors = -(-channels // LANES)
        width = vectors * LANES
        stmts: list[Stmt] = []
        at = []
        for i in range(pixels):
            index = let("index", pixel + i, stmts)
            n = let("n", index // (p.ho * p.wo), stmts)
            y = let("y", index // p.wo % p.ho, stmts)
            at.append((n, y, let("x", index % p.wo, stmts)))
        totals = self.accumulate(stmts, at, group, block, vectors)
        # Their own buffer: LLVM keeps sums in registers only if no variable index reaches them.
        counts = local("counts", (pixels * width,), "uint32", stmts)
        for i, total in enumerate(totals):
            stmts.append(vstore(counts, total, [i * LANES], LANES))
        for i, pixel in enumerate(at):
            stmts += self._store(counts, i * width, pixel, group, block, channels)
        return seq(stmts)

    def _store(
        self,
        counts: tirx.Buffer,
        base: int,
        pixel: tuple[Any, Any, Any],
        group: Any,
        block: Any,
        channels: int,
    ) -> list[Stmt]:
        """The epilogue of one pixel and `channels` channels, whose counts begin at `base`."""
        epilogue, begin = self.epilogue, block * self.size
        if isinstance(epilogue, WordsEpilogue):
            return epilogue.store(counts, base, pixel, group, begin, channels, LANES)
        stmts: list[Stmt] = []
        first = let("channel", group * self.params.cog + begin, stmts)

        def store(c: Any) -> Stmt:
            value = tirx.BufferLoad(counts, [base + c]).astype("int32")
            return epilogue.store((*pixel, first + c), value)

        return stmts + channel_loops(store, channels, LANES)

    def accumulate(
        self,
        stmts: list[Stmt],
        at: list[tuple[Any, Any, Any]],
        group: Any,
        block: Any,
        vectors: int,
    ) -> list[Any]:
        """Append the reduction over all taps and words for the pixels `at` (n, y, x).

        Returns the numbers of differing taps, vectors of uint32: pixel by pixel, channels inside.
        """
        count = len(at) * vectors
        sums = register_vectors("sums", count, 0, stmts)

        def step(ky: Any, kx: Any, k: Any) -> Stmt:
            body: list[Stmt] = []
            words = [let("a", self.broadcast(self.data, [], i, group, ky, kx, k), body) for i in at]
            for v in range(vectors):
                w = let("w", self.weight(group, block, ky, kx, k, v), body)
                for i, a in enumerate(words):
                    body.append(add_to(sums, i * vectors + v, tirx.popcount(a ^ w)))
            return seq(body)

        def row(ky: Any) -> Stmt:
            taps, words = row_runs(self.params, WORD)
            return loop(taps, lambda kx: loop(words, lambda k: step(ky, kx, k), "k"), "kx")

        stmts.append(loop(self.params.kh, row, "ky"))
        return [vload(sums, [i * LANES], LANES) for i in range(count)]

    def broadcast(
        self, data: tirx.Buffer, outer: list[Any], at: Any, group: Any, ky: Any, kx: Any, k: Any
    ) -> Any:
        """Word `k` of the tap (ky, kx) of output pixel `at` in all lanes.

        outer: indices of `data` before those of the packed tensor.
        """
        p = self.params
        n, y, x = at
        row = y * p.stride[0] + ky * p.dilation[0]
        column = x * p.stride[1] + kx * p.dilation[1]
        word = group * p.words(WORD) + k
        return tirx.Broadcast(tirx.BufferLoad(data, [*outer, n, row, column, word]), LANES)

    def weight(self, group: Any, block: Any, ky: Any, kx: Any, k: Any, v: int) -> Any:
        """Word `k` of the tap (ky, kx) for the channels of vector `v` of a block."""
        place = kx * self.params.words(WORD) + k
        return vload(self.weights, [group * self.blocks + block, ky, place, v * LANES], LANES)


def row_runs(params: ConvParams, word_bits: int) -> tuple[int, int]:
    """How a row of kernel taps lies in memory: number of runs, words of one.

    Neighbouring pixels are neighbours in memory: without groups and dilation the whole row is one
    run, whose last index goes beyond its dimension.
    """
    p, cw = params, params.words(word_bits)
    return (1, p.kw * cw) if p.groups == 1 and p.dilation[1] == 1 else (p.kw, cw)


def register_vectors(name: str, count: int, value: int, stmts: list[Stmt]) -> tirx.Buffer:
    """A buffer of `count` vectors filled with `value`."""
    buffer = local(name, (count * LANES,), "uint32", stmts)
    start = splat(value, f"uint32x{LANES}")
    stmts += [vstore(buffer, start, [i * LANES], LANES) for i in range(count)]
    return buffer


def add_to(buffer: tirx.Buffer, index: int, value: Any) -> Stmt:
    """buffer[vector `index`] += value."""
    place = [index * LANES]
    return vstore(buffer, vload(buffer, place, LANES) + value, place, LANES)
