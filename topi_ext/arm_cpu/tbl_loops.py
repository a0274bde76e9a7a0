"""The loops of the table look-up kernels (see `bconv2d_tbl`).

Strips of pixel pairs x tiles of output channels; in each, chunks of steps, then the epilogue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx import PrimFunc, Stmt

from ..emit import PARALLEL, SERIAL, channel_loops, let, local, loop, seq, splat, vload, vstore
from ..epilogue import Epilogue, divisor
from ..kernels import PARAMS, Kernel
from ..parallel import PARALLEL_BINARY_MACS
from ..params import ConvParams
from ..threshold import WordsEpilogue
from ..x86.table_plan import STEP
from . import agreement, neon
from .tbl_plan import TblPlan

BLOCK = 16  # channels of one vector of index bytes
STRIP = 8  # most pixel pairs whose counters are kept while a chunk of weights is used
FEW = 4  # vectors of a small tile
UNROLLED = 2  # most steps of a small tile in one copy of the loop body


class TblLoops:
    """The hand-made loops of one convolution with its epilogue."""

    def __init__(self, epilogue: Epilogue | WordsEpilogue, kernel: Kernel) -> None:
        """Find the shape and the buffers."""
        self.epilogue = epilogue
        self.params = ConvParams.parse(str(epilogue.annotations[PARAMS]))
        self.plan = TblPlan.of(self.params, kernel.tile["group"])
        self.most = kernel.tile["channels"] // BLOCK
        by_type = {(len(b.ty.shape), str(b.ty.dtype)): b for b in epilogue.reads}
        self.pairs, self.weights = by_type[3, "uint16"], by_type[2, "uint8"]
        self.tables, self.border = by_type[1, "uint8"], by_type.get((3, "int16"))
        self.blocks = -(-self.params.cog // BLOCK)
        per_row = self.plan.pairs if self.plan.gathered else self.plan.pairs_per_row
        part = divisor(per_row, STRIP)
        self.strip = part if part > STRIP // 2 else min(STRIP, self.plan.pairs)
        self.strips = -(-self.plan.pairs // self.strip)

    def write(self) -> PrimFunc:
        """All channel blocks: whole tiles, then one tile of the rest."""
        p = self.params
        full, rest = divmod(self.blocks, self.most)
        kind = PARALLEL if p.macs >= PARALLEL_BINARY_MACS else SERIAL
        stmts = []
        for per_group, first, vectors in ((full, 0, self.most), (1 if rest else 0, full, rest)):
            if per_group:

                def tile(
                    index: Any, each: int = per_group, begin: int = first, size: int = vectors
                ) -> Stmt:
                    body: list[Stmt] = []
                    strip = let("strip", index % self.strips, body)
                    block = let("tile", index // self.strips, body)
                    group = let("group", block // each, body)
                    start = let("block", (begin + block % each) * self.most, body)
                    body.append(self._tile(strip, group, start, size))
                    return seq(body)

                stmts.append(loop(p.groups * per_group * self.strips, tile, "t", kind))
        return self.epilogue.with_body(seq(stmts))

    def _tile(self, strip: Any, group: Any, block: Any, vectors: int) -> Stmt:
        """One strip of pixel pairs x `vectors` blocks of channels, from block `block` on."""
        plan, width = self.plan, vectors * BLOCK
        stmts: list[Stmt] = []
        # [pair, pixel of the pair, channel of the tile]
        counts = local("counts", (self.strip * 2 * width,), "int16", stmts)
        first = let("first", strip * self.strip, stmts)
        size: Any = self.strip
        if plan.pairs % self.strip:
            size = let("size", tirx.min(self.strip, plan.pairs - first), stmts)
        chunks = -(-plan.steps // plan.most_steps)

        def chunk(index: Any) -> Stmt:
            body: list[Stmt] = []
            ky, c = let("ky", index // chunks, body), let("c", index % chunks, body)
            begin = let("begin", c * plan.steps // chunks, body)
            steps: Any = plan.steps // chunks
            if plan.steps % chunks:
                steps = let("steps", (c + 1) * plan.steps // chunks - begin, body)
            args = (group, block, vectors, ky, begin, steps, isinstance(index, int))
            one = lambda pair: self._chunk(counts, pair, first + pair, *args)  # noqa: E731
            body.append(loop(size, one, "pair"))
            return seq(body)

        # The first chunk sets the counters.
        stmts.append(chunk(0))
        if plan.rows * chunks > 1:
            stmts.append(
                loop(plan.rows * chunks - 1, lambda i: chunk(i + tirx.const(1, "int32")), "chunk")
            )

        def finish(pair: Any) -> Stmt:
            return self._finish(counts, pair, first + pair, group, block, vectors)

        stmts.append(loop(size, finish, "pair"))
        return seq(stmts)

    def _chunk(
        self,
        counts: tirx.Buffer,
        slot: Any,
        pair: Any,
        group: Any,
        block: Any,
        vectors: int,
        ky: Any,
        begin: Any,
        steps: Any,
        is_first: bool,
    ) -> Stmt:
        """`steps` steps of one pair, added to its counters, or to what they start from.

        Two pairs at a time would share the weights' loads, but then LLVM has too few registers in
        neighbouring couples for the tables and moves or spills them.
        """
        plan = self.plan
        stmts: list[Stmt] = []
        # all and high of every block of channels, in registers
        sums = local("sums", (vectors * 2 * BLOCK,), "uint8", stmts)
        row, column = plan.locate_pair(pair)
        column = let("column", column + begin * STEP, stmts)
        row = let("row", row + ky * plan.row_stride, stmts)
        base = (group * self.blocks + block) * (plan.rows * plan.steps * STEP)
        first = ((ky * plan.steps + begin) * STEP) * vectors
        base = let("base", base + first, stmts)

        def step(s: Any, sets: bool = False) -> Stmt:
            body: list[Stmt] = []
            found = []
            for i in range(STEP):
                at = self.pairs[group, row, column + s * STEP + i].astype("int32")
                at = let("at", at, body)
                registers = range(0, plan.table, BLOCK)
                found.append(
                    [let("t", vload(self.tables, [at + r], BLOCK), body) for r in registers]
                )
            for v in range(vectors):
                a, b, c = (
                    neon.tbl(
                        found[i],
                        vload(self.weights, [base + (s * STEP + i) * vectors + v, 0], BLOCK),
                    )
                    for i in range(STEP)
                )
                t = let("t", a + b + c, body)
                at = 2 * v * BLOCK
                for place, value in ((at, t), (at + BLOCK, t >> splat(4, "uint8x16"))):
                    if not sets:
                        value = vload(sums, [place], BLOCK) + value
                    body.append(vstore(sums, value, [place], BLOCK))
            return seq(body)

        # The first step sets the sums: neither zeros nor an addition to them.
        stmts.append(step(0, sets=True))
        copies = 1
        if isinstance(steps, int) and steps > 1:
            # More vectors fill the registers: LLVM then spills addresses across copies.
            copies = divisor(steps - 1, UNROLLED if vectors <= FEW else 1)
        turns = (steps - 1) // copies if isinstance(steps, int) else steps - 1

        def turn(s: Any) -> Stmt:
            return seq(step(s * copies + (i + 1)) for i in range(copies))

        stmts.append(loop(turns, turn, "s"))
        starts = self._starts(pair, group, block, stmts) if is_first else None
        for v in range(vectors):
            at = 2 * v * BLOCK
            high = let("high", vload(sums, [at + BLOCK], BLOCK), stmts)
            low = vload(sums, [at], BLOCK) - (high << splat(4, "uint8x16"))
            for second, value in enumerate((let("low", low, stmts), high)):
                place = [(slot * 2 + second) * (vectors * BLOCK) + v * BLOCK]
                before = vload(counts, place, BLOCK) if starts is None else starts[second](v)
                stmts.append(vstore(counts, before + value.astype("int16x16"), place, BLOCK))
        return seq(stmts)

    def _starts(
        self, pair: Any, group: Any, block: Any, stmts: list[Stmt]
    ) -> list[Callable[[int], Any]]:
        """For P and Q, what the counters of vector `v` of a tile start from."""
        p = self.params
        if isinstance(self.epilogue, WordsEpilogue):
            return [lambda v: splat(0, "int16x16")] * 2
        channel = let("channel", group * p.cog + block * BLOCK, stmts)

        def start(y: Any, x: Any) -> Callable[[int], Any]:
            return lambda v: agreement.start(self.border, p, y, x, channel + v * BLOCK, BLOCK)

        starts = []
        for second in (0, 1):
            _, y, x, exists = self.plan.pixel(pair, second)
            x = x if exists is None else tirx.min(x, p.wo - 1)
            starts.append(start(let("y", y, stmts), let("x", x, stmts)))
        return starts

    def _finish(
        self, counts: tirx.Buffer, slot: Any, pair: Any, group: Any, block: Any, vectors: int
    ) -> Stmt:
        """The epilogue of one pair and the channels of a tile."""
        p, width = self.params, vectors * BLOCK
        stmts: list[Stmt] = []
        pixels = []
        for second in (0, 1):
            n, y, x, exists = self.plan.pixel(pair, second)
            place = (let("n", n, stmts), let("y", y, stmts), let("x", x, stmts))
            pixels.append(((slot * 2 + second) * width, place, exists))

        def words(epilogue: WordsEpilogue, count: int) -> Stmt:
            body = []
            for base, place, exists in pixels:
                args = (group, block * BLOCK, count, BLOCK)
                one = seq(epilogue.store(counts, base, place, *args, join=neon.join))
                body.append(one if exists is None else tirx.IfThenElse(exists, one, None))
            return seq(body)

        def channels(epilogue: Epilogue, begin: int, count: int) -> Stmt:
            # P and Q side by side: they share scale and offset.
            body = []
            for base, place, exists in pixels:

                def store(i: Any, base: Any = base, place: Any = place) -> Stmt:
                    c = i + begin
                    value = tirx.BufferLoad(counts, [base + c])
                    index = (*place, group * p.cog + block * BLOCK + c)
                    return epilogue.store(index, value)

                one = seq(channel_loops(store, count, 8))
                body.append(one if exists is None else tirx.IfThenElse(exists, one, None))
            return seq(body)

        def run(count: int) -> Stmt:
            epilogue = self.epilogue
            if isinstance(epilogue, WordsEpilogue):
                return words(epilogue, count)
            parts = range(0, count, BLOCK)
            return seq(channels(epilogue, c, min(BLOCK, count - c)) for c in parts)

        # The last tile of a group may be partly filler.
        last = p.cog - (self.blocks - vectors) * BLOCK
        if last >= width:
            stmts.append(run(width))
        elif self.blocks <= self.most or vectors < self.most:
            stmts.append(run(last))
        else:
            at_end = tirx.EQ(block, self.blocks - vectors)
            stmts.append(tirx.IfThenElse(at_end, run(last), run(width)))
        return seq(stmts)
