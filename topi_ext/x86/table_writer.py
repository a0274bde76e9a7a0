"""The loops of the look-up kernel: strips of pixel pairs x tiles of output channels."""

from __future__ import annotations

import functools
from typing import Any

from tvm import tirx
from tvm.tirx import PrimFunc, Stmt

from ..emit import PARALLEL, bitcast, channel_loops, let, local, loop, seq, splat, vload, vstore
from ..epilogue import Epilogue, divisor
from ..kernels import PARAMS
from ..parallel import PARALLEL_BINARY_MACS
from ..params import ConvParams
from ..threshold import WordsEpilogue
from .table_plan import STEP, STEPS, TablePlan

BLOCK = 32  # channels of one vector of index bytes
BLOCKS = 4  # vectors of a tile
STRIP = 16  # most pixel pairs whose 16-bit counters are kept while a chunk of weights is used


def strip_pairs(plan: TablePlan, blocks: int) -> int:
    """How many pairs keep their counters while a chunk of weights is used.

    A whole part of an output row where that is possible: the pairs of a strip then follow each
    other in memory and their addresses take no divisions.
    """
    limit = STRIP if blocks > BLOCKS // 2 else 2 * STRIP
    part = 1 if plan.gathered else divisor(plan.pairs_per_row, limit)
    if part >= 5:
        return part
    return -(-plan.pairs // -(-plan.pairs // STRIP))


class TableWriter:
    """The hand-made loops of one convolution with its epilogue."""

    def __init__(self, epilogue: Epilogue | WordsEpilogue) -> None:
        """Find the shape and the buffers."""
        notes = epilogue.annotations
        self.epilogue = epilogue
        self.params = ConvParams.parse(str(notes[PARAMS]))
        self.plan = TablePlan.of(self.params)
        self.weights, self.tables, self.pairs, *self.padded = epilogue.reads
        self.blocks = -(-self.params.cog // BLOCK)
        self.strip = strip_pairs(self.plan, self.blocks)
        self.strips = -(-self.plan.pairs // self.strip)

    def write(self) -> PrimFunc:
        """All channel blocks: tiles of BLOCKS vectors, then one tile of the rest."""
        p = self.params
        full, rest = divmod(self.blocks, BLOCKS)
        kind = PARALLEL if p.macs >= PARALLEL_BINARY_MACS else tirx.ForKind.SERIAL
        stmts: list[Stmt] = []

        def tile(index: Any, per_group: int, first: int, vectors: int) -> Stmt:
            body: list[Stmt] = []
            strip = let("strip", index % self.strips, body)
            block = let("tile", index // self.strips, body)
            group = let("group", block // per_group, body)
            start = let("block", first + block % per_group * BLOCKS, body)
            body.append(self._tile(strip, group, start, vectors))
            return seq(body)

        if full:
            fn = functools.partial(tile, per_group=full, first=0, vectors=BLOCKS)
            stmts.append(loop(p.groups * full * self.strips, fn, "t", kind))
        if rest:
            fn = functools.partial(tile, per_group=1, first=full * BLOCKS, vectors=rest)
            stmts.append(loop(p.groups * self.strips, fn, "t", kind))
        return self.epilogue.with_body(seq(stmts))

    def _tile(self, strip: Any, group: Any, block: Any, vectors: int) -> Stmt:
        """One strip of pixel pairs x `vectors` blocks of channels, from block `block` on."""
        plan = self.plan
        stmts: list[Stmt] = []
        # [pair, pixel of the pair, channel of the tile]
        counts = local("counts", (self.strip * 2 * vectors * BLOCK,), "uint16", stmts)
        first = let("first", strip * self.strip, stmts)
        size = let("size", tirx.min(self.strip, plan.pairs - first), stmts)
        zero = splat(0, "uint16x16")
        stmts.append(
            loop(size * (vectors * 4), lambda i: vstore(counts, zero, [i * 16], 16), "zero")
        )
        chunks = -(-plan.steps // STEPS)
        corner = tuple(let("corner", at, stmts) for at in plan.locate_pair(first))

        def place(slot: Any) -> tuple[Any, Any]:
            """First row and position of a pair: without divisions in a part of an output row."""
            if plan.gathered or plan.pairs_per_row % self.strip:
                return plan.locate_pair(first + slot)
            return corner[0], corner[1] + slot * plan.pair_distance

        def row(ky: Any) -> Stmt:
            body: list[Stmt] = []
            low, high = self._slots(ky, first, size, body)
            if self.padded:
                body.append(self._skipped(counts, ky, low, high, size, group, block, vectors))
            body.append(loop(chunks, lambda c: chunk(ky, c, low, high), "c"))
            return seq(body)

        def chunk(ky: Any, c: Any, low: Any, high: Any) -> Stmt:
            body: list[Stmt] = []
            begin = let("begin", c * plan.steps // chunks, body)
            end = let("end", (c + 1) * plan.steps // chunks, body)
            args = (group, block, vectors, ky, begin, end - begin)

            def some(slot: Any, count: int) -> Stmt:
                slots = [slot + i for i in range(count)]
                return self._chunk(counts, slots, [place(at) for at in slots], *args)

            if vectors > BLOCKS // 2:
                body.append(loop(high - low, lambda pair: some(low + pair, 1), "pair"))
            else:
                # Few channels: two pairs at a time share the loads of the weights.
                count = high - low
                body.append(loop(count // 2, lambda two: some(low + two * 2, 2), "two"))
                body.append(tirx.IfThenElse(tirx.NE(count % 2, 0), some(high - 1, 1), None))
            return seq(body)

        stmts.append(loop(plan.rows, row, "ky"))
        stmts.append(
            loop(
                size,
                lambda pair: seq(
                    self._finish(counts, pair, first + pair, q, group, block, vectors)
                    for q in (0, 1)
                ),
                "pair",
            )
        )
        return seq(stmts)

    def _slots(self, ky: Any, first: Any, size: Any, stmts: list[Stmt]) -> tuple[Any, Any]:
        """The first of `size` pairs, from pair `first` on, that row `ky` must run for, and the
        first behind them.
        """
        if not self.padded:
            return 0, size
        begin, behind = self.plan.pairs_to_run(ky, first, first + size - 1)
        low = let("low", tirx.min(tirx.max(begin - first, 0), size), stmts)
        return low, let("high", tirx.max(tirx.min(behind - first, size), low), stmts)

    def _skipped(
        self,
        counts: tirx.Buffer,
        ky: Any,
        low: Any,
        high: Any,
        size: Any,
        group: Any,
        block: Any,
        vectors: int,
    ) -> Stmt:
        """Row `ky` of the pairs before `low` and from `high` on: what it adds is known."""
        (sums,) = self.padded
        width = vectors * BLOCK

        def pair(i: Any) -> Stmt:
            stmts: list[Stmt] = []
            slot = let("slot", i + tirx.Select(i >= low, high - low, 0), stmts)
            for at in range(0, width, 16):
                place = [group * self.blocks + block + at // BLOCK, ky, at % BLOCK]
                before = vload(sums, place, 16)
                behind = vload(sums, [place[0], ky + 1, place[2]], 16)
                known = let("known", behind - before, stmts)
                for second in (0, 1):
                    to = [slot * (2 * width) + second * width + at]
                    stmts.append(vstore(counts, vload(counts, to, 16) + known, to, 16))
            return seq(stmts)

        return loop(size - (high - low), pair, "skipped")

    def _chunk(
        self,
        counts: tirx.Buffer,
        slots: list[Any],
        corners: list[tuple[Any, Any]],
        group: Any,
        block: Any,
        vectors: int,
        ky: Any,
        begin: Any,
        steps: Any,
    ) -> Stmt:
        """`steps` steps of some pairs, whose first rows and positions are `corners`, added to
        their counters.
        """
        plan = self.plan
        stmts: list[Stmt] = []
        # all and high of every pair and block of channels, in registers
        sums = local("sums", (len(slots) * vectors * 2 * BLOCK,), "uint8", stmts)
        for v in range(2 * vectors * len(slots)):
            stmts.append(vstore(sums, splat(0, "uint8x32"), [v * BLOCK], BLOCK))
        places = []
        for row, column in corners:
            column = let("column", column + ky * plan.column_stride + begin * STEP, stmts)
            places.append((let("row", row + ky * plan.row_stride, stmts), column))
        base = let("base", group * self.blocks + block, stmts)

        def step(s: Any) -> Stmt:
            body: list[Stmt] = []
            found = []
            for row, column in places:
                for i in range(STEP):
                    offset = self.pairs[group, row, column + s * STEP + i].astype("int32")
                    half = let("half", vload(self.tables, [offset], 16), body)
                    lanes = [tirx.const(k, "int32") for k in range(BLOCK)]
                    found.append(let("table", tirx.Shuffle([half, half], lanes), body))
            for v in range(vectors):
                indices = [
                    let("index", vload(self.weights, [base + v, ky, begin + s, i, 0], BLOCK), body)
                    for i in range(STEP)
                ]
                for q in range(len(slots)):
                    looked = [
                        tirx.call_llvm_pure_intrin(
                            "uint8x32", "llvm.x86.avx2.pshuf.b", found[q * STEP + i], indices[i]
                        )
                        for i in range(STEP)
                    ]
                    t = let("t", looked[0] + looked[1] + looked[2], body)
                    up = bitcast(bitcast(t, "uint16x16") >> splat(4, "uint16x16"), "uint8x32")
                    at = 2 * (q * vectors + v) * BLOCK
                    for place, value in ((at, t), (at + BLOCK, up)):
                        old = vload(sums, [place], BLOCK)
                        body.append(vstore(sums, old + value, [place], BLOCK))
            return seq(body)

        stmts.append(loop(steps, step, "s"))
        for q, slot in enumerate(slots):
            for v in range(vectors):
                stmts += self._widen(counts, sums, slot, 2 * (q * vectors + v) * BLOCK, vectors, v)
        return seq(stmts)

    def _widen(
        self, counts: tirx.Buffer, sums: tirx.Buffer, slot: Any, at: int, vectors: int, v: int
    ) -> list[Stmt]:
        """Solve for Q1, P1, Q0, P0 and add them to the 16-bit counters of a pair."""
        stmts: list[Stmt] = []
        width = vectors * BLOCK
        total = let("total", bitcast(vload(sums, [at], BLOCK), "uint16x16"), stmts)
        high = let("high", bitcast(vload(sums, [at + BLOCK], BLOCK), "uint16x16"), stmts)
        byte, eight, four = (splat(k, "uint16x16") for k in (255, 8, 4))
        q1 = let("q1", high >> eight, stmts)
        p1 = let("p1", ((total >> eight) - (q1 << four)) & byte, stmts)
        q0 = let("q0", (high - (p1 << four)) & byte, stmts)
        p0 = let("p0", (total - (q0 << four)) & byte, stmts)
        for offset, value in ((0, p0), (16, p1), (width, q0), (width + 16, q1)):
            place = [slot * (2 * width) + v * BLOCK + offset]
            stmts.append(vstore(counts, vload(counts, place, 16) + value, place, 16))
        return stmts

    def _finish(
        self,
        counts: tirx.Buffer,
        slot: Any,
        pair: Any,
        second: int,
        group: Any,
        block: Any,
        vectors: int,
    ) -> Stmt:
        """The epilogue of one pixel and the channels of a tile."""
        p = self.params
        width = vectors * BLOCK
        stmts: list[Stmt] = []
        n, y, x, exists = self.plan.pixel(pair, second)
        n, y, x = let("n", n, stmts), let("y", y, stmts), let("x", x, stmts)
        base = (slot * 2 + second) * width

        def whole(channels: int) -> list[Stmt]:
            epilogue, begin = self.epilogue, block * BLOCK
            if isinstance(epilogue, WordsEpilogue):
                return epilogue.store(counts, base, (n, y, x), group, begin, channels, BLOCK)

            def store(channel: Any) -> Stmt:
                value = tirx.BufferLoad(counts, [base + channel]).astype("int32")
                return epilogue.store((n, y, x, group * p.cog + begin + channel), value)

            return channel_loops(store, channels, 8)

        # The last tile of a group may be partly filler.
        last = min(width, p.cog - (self.blocks - vectors) * BLOCK)
        full = whole(width)
        if last == width:
            stmts += full
        elif self.blocks <= BLOCKS or vectors < BLOCKS:
            stmts += whole(last)
        else:
            at_end = tirx.EQ(block, self.blocks - vectors)
            stmts.append(tirx.IfThenElse(at_end, seq(whole(last)), seq(full)))
        body = seq(stmts)
        return body if exists is None else tirx.IfThenElse(exists, body, None)
