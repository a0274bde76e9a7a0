"""The loops of the kernels with output channels in vector lanes (`bconv2d_lanes`)."""

from __future__ import annotations

import functools
from typing import Any

from tvm import tirx
from tvm.tirx import PrimFunc, Stmt

from .beside import extract_beside
from .emit import channel_loops, let, local, loop, seq, splat, vload, vstore
from .epilogue import Epilogue, extract_epilogue, holds_stage
from .halves import FALLEN, extract_fallen
from .kernels import PARAMS
from .padded_rows import rows_to_run
from .params import ConvParams
from .pixel_tiles import PixelTiles, Place
from .scalar import schedule_scalar
from .threshold import WORDS, WordsEpilogue, extract_words

WORD = 32
LANES = 16  # of the vectors written here; LLVM splits them where registers are shorter


def schedule_lanes(func: PrimFunc, pixels: int, writer: type[LanesWriter]) -> PrimFunc:
    """Replace the loops by those of `writer`, or by scalar ones where the epilogue is odd."""
    if holds_stage(func, FALLEN):
        fallen = extract_fallen(func)
        if fallen is None:
            return schedule_scalar(func)
        return writer(fallen[0], pixels, fallen[1]).write()
    epilogue = extract_words(func) if holds_stage(func, WORDS) else extract_epilogue(func)
    return schedule_scalar(func) if epilogue is None else writer(epilogue, pixels).write()


class LanesWriter(PixelTiles):
    """Tiles whose sums stay in vectors over the whole reduction.

    Another way to count inherits and has its own `accumulate`.
    """

    def __init__(self, epilogue: Epilogue | WordsEpilogue, pixels: int, start: Any = None) -> None:
        """Find the shape and the buffers. start: of `extract_fallen`."""
        self.start = start
        self.data, self.weights, *self.padded = epilogue.reads
        self.beside = extract_beside(epilogue.func)
        params = ConvParams.parse(str(epilogue.annotations[PARAMS]))
        super().__init__(epilogue, params, pixels, int(self.weights.ty.shape[3]))

    def before(self) -> list[Stmt]:
        """The borders of words beside floats."""
        return self.beside.border() if self.beside else []

    def tile(self, at: list[Place], group: Any, block: Any, channels: int) -> Stmt:
        """Reduction, then epilogue."""
        vectors = -(-channels // LANES)
        width = vectors * LANES
        stmts: list[Stmt] = []
        totals = self.accumulate(stmts, at, group, block, vectors)
        # Their own buffer: LLVM keeps sums in registers only if no variable index reaches them.
        counts = local("counts", (len(at) * width,), "int32", stmts)
        for i, total in enumerate(totals):
            stmts.append(vstore(counts, total, [i * LANES], LANES))
        for i, pixel in enumerate(at):
            stmts += self._store(counts, i * width, pixel, group, block, channels)
        return seq(stmts)

    def _store(
        self,
        counts: tirx.Buffer,
        base: int,
        pixel: Place,
        group: Any,
        block: Any,
        channels: int,
    ) -> list[Stmt]:
        """The epilogue of one pixel and `channels` channels, whose counts begin at `base`."""
        epilogue, begin = self.epilogue, block * self.channels
        if isinstance(epilogue, WordsEpilogue):
            return epilogue.store(counts, base, pixel, group, begin, channels, LANES)
        stmts: list[Stmt] = []
        first = let("channel", group * self.params.cog + begin, stmts)

        def store(c: Any) -> Stmt:
            return epilogue.store((*pixel, first + c), tirx.BufferLoad(counts, [base + c]))

        if self.beside is not None:
            return stmts + self.beside.store(store, pixel, first, channels)
        return stmts + channel_loops(store, channels, LANES)

    def accumulate(
        self,
        stmts: list[Stmt],
        at: list[Place],
        group: Any,
        block: Any,
        vectors: int,
    ) -> list[Any]:
        """Append the reduction over all taps and words for the pixels `at` (n, y, x).

        Returns the numbers of differing taps, or what is left of the start less them: vectors of
        int32, pixel by pixel, channels inside.
        """
        begin, rows, starts = self.begin(stmts, at, group, block, vectors)
        sums = register_vectors("sums", starts, stmts)

        def step(ky: Any, kx: Any, k: Any) -> Stmt:
            body: list[Stmt] = []
            words = [let("a", self.broadcast(self.data, [], i, group, ky, kx, k), body) for i in at]
            for v in range(vectors):
                w = let("w", self.weight(group, block, ky, kx, k, v), body)
                for i, a in enumerate(words):
                    body.append(self.count(sums, i * vectors + v, tirx.popcount(a ^ w)))
            return seq(body)

        def row(ky: Any) -> Stmt:
            taps, words = row_runs(self.params, WORD)
            return loop(taps, lambda kx: loop(words, lambda k: step(ky, kx, k), "k"), "kx")

        stmts.append(loop(rows, lambda i: row(begin + i), "ky"))
        return [vload(sums, [i * LANES], LANES) for i in range(len(starts))]

    def begin(
        self, stmts: list[Stmt], at: list[Place], group: Any, block: Any, vectors: int
    ) -> tuple[Any, Any, list[Any]]:
        """The kernel rows to run for the pixels `at`: the first, how many; and what the counts
        begin at, vectors of int32, pixel by pixel.
        """
        first, rows, known = self._rows(stmts, at, group, block, vectors)
        channel = let("channel", group * self.params.cog + block * self.channels, stmts)
        starts = []
        for pixel in at:
            for v, value in enumerate(known):
                start = self._start((*pixel, channel + v * LANES))
                if start is not None:
                    value = start if value is None else let("start", start - value, stmts)
                starts.append(splat(0, f"int32x{LANES}") if value is None else value)
        return first, rows, starts

    def count(self, sums: tirx.Buffer, index: int, bits: Any) -> Stmt:
        """Count `bits`, a vector of numbers of differing taps: up, or down from the start."""
        return add_to(sums, index, bits, down=self.start is not None)

    def _start(self, place: tuple[Any, ...]) -> Any:
        """What the epilogue wants the counters of a vector to fall from."""
        if self.start is None:
            return None
        if isinstance(self.start, tirx.IntImm):
            return splat(int(self.start), f"int32x{LANES}")
        assert isinstance(self.epilogue, Epilogue)
        indices = [self.epilogue.at(index, place) for index in self.start.indices]
        return vload(self.start.source, indices, LANES)

    def _rows(
        self, stmts: list[Stmt], at: list[Place], group: Any, block: Any, vectors: int
    ) -> tuple[Any, Any, list[Any]]:
        """The kernel rows to run for the pixels `at`: the first, how many, and what the others add
        to the counts, vectors of int32 or None for nothing.
        """
        p = self.params
        if not self.padded:
            return 0, p.kh, [None] * vectors
        (sums,) = self.padded
        lines = [y for _, y, _ in at]
        low, high = functools.reduce(tirx.min, lines), functools.reduce(tirx.max, lines)
        bounds = rows_to_run(p, low, high)
        begin, end = (let(name, e, stmts) for name, e in zip(("begin", "end"), bounds, strict=True))

        def first_rows(count: Any, v: int) -> Any:
            row = vload(sums, [group * self.blocks + block, count, v * LANES], LANES)
            return row.astype(f"int32x{LANES}")

        known = [
            let("known", first_rows(begin, v) + first_rows(p.kh, v) - first_rows(end, v), stmts)
            for v in range(vectors)
        ]
        return begin, let("rows", end - begin, stmts), known

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


def register_vectors(name: str, values: list[Any], stmts: list[Stmt]) -> tirx.Buffer:
    """A buffer of vectors of int32 that begin as `values`.

    Signed, because counters may begin below zero: LLVM is told that unsigned sums never wrap.
    """
    buffer = local(name, (len(values) * LANES,), "int32", stmts)
    stmts += [vstore(buffer, value, [i * LANES], LANES) for i, value in enumerate(values)]
    return buffer


def add_to(buffer: tirx.Buffer, index: int, value: Any, down: bool = False) -> Stmt:
    """buffer[vector `index`] += value, a vector of 32-bit integers; `down`: -= value."""
    place = [index * LANES]
    total, value = vload(buffer, place, LANES), value.astype(f"int32x{LANES}")
    return vstore(buffer, total - value if down else total + value, place, LANES)
