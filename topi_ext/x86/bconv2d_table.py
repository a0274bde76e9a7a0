"""Binary convolution by table look-up: vpshufb serves 32 output channels, 2 pixels and 4 inputs.

For a pair of output pixels P, Q and a group of 4 input channels with bits aP, aQ the 16 bytes

    T[i] = popcount(aP ^ i) + 16 * popcount(aQ ^ i)

answer, for an output channel whose 4 weight bits are i, both pixels at once. There are only 256
such tables, so all of them sit in 4 KB of the first-level cache; activations are turned into
offsets into them (`prepare`), weights into index bytes. A step looks three groups up and adds:
3 * 4 = 12 still fits a nibble. Then, in bytes of 16-bit lanes (byte 0 and byte 1),

    all += t                 P0 + 16*Q0 mod 256,   P1 + 16*Q1 mod 256
    high += t >> 4           Q0 + 16*P1 mod 256,   Q1

where the shift of 16-bit lanes drags the low nibble of byte 1 into byte 0. After at most 21 steps
(21 * 12 < 256) Q1, P1, Q0, P0 follow one from the other, and are added to 16-bit counters.
8 vector instructions thus do 3 * 256 multiply-accumulates, against 8 for 256 of the classic
vpshufb popcount.

Byte 0 of lane k of a block of 32 channels is channel k, byte 1 channel 16 + k.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.target import Target
from tvm.tirx import PrimFunc, Stmt

from ..bconv2d import border_correction, finish, needs_correction
from ..emit import PARALLEL, bitcast, channel_loops, let, local, loop, seq, splat, vload, vstore
from ..epilogue import Epilogue, divisor, extract_epilogue, holds_stage
from ..kernels import PARAMS, Kernel, table
from ..parallel import PARALLEL_BINARY_MACS
from ..params import ConvParams
from ..reference import pack_bits
from ..scalar import schedule_scalar
from ..threshold import WORDS, WordsEpilogue, extract_words
from .table_plan import GROUP, STEP, TablePlan
from .table_prepare import NAME, prepare, schedule_prepare

BLOCK = 32  # channels of one vector of index bytes
BLOCKS = 4  # vectors of a tile
STEPS = 21  # most steps before a byte overflows
STRIP = 16  # most pixel pairs whose 16-bit counters are kept while a chunk of weights is used
NO_GROUP = 0x80  # index byte for which vpshufb answers 0


def lookup_tables() -> np.ndarray:
    """uint8 [4096]: entry 16*(aP + 16*aQ) + i is popcount(aP ^ i) + 16 * popcount(aQ ^ i)."""
    ones = np.array([bin(v).count("1") for v in range(16)], np.uint8)
    single = ones[np.arange(16)[:, None] ^ np.arange(16)]
    return (single[None, :, :] + 16 * single[:, None, :]).reshape(4096).astype(np.uint8)


def pack_weights(w: np.ndarray, params: ConvParams) -> tuple[np.ndarray, ...]:
    """int8 +-1 [co, ci/groups, kh, kw] to index bytes uint8 [groups*blocks, rows, steps, 3, 32],
    the look-up tables, and the border correction where the padding is 0.
    """
    p = params
    plan = TablePlan.of(p)
    blocks = -(-p.cog // BLOCK)
    octets = pack_bits(w.transpose(0, 2, 3, 1), 8)  # [co, kh, kw, cw]
    nibbles = np.stack([octets & 15, octets >> 4], axis=-1)
    flat = nibbles.reshape(p.groups, p.cog, plan.rows, plan.row_groups)
    out = np.full((p.groups, blocks * BLOCK, plan.rows, plan.steps * STEP), NO_GROUP, np.uint8)
    out[:, : p.cog, :, : plan.row_groups] = flat
    # Channel h*16 + k of a block goes to byte 2*k + h.
    out = out.reshape(p.groups * blocks, 2, 16, plan.rows, plan.steps, STEP)
    out = out.transpose(0, 3, 4, 5, 2, 1).reshape(-1, plan.rows, plan.steps, STEP, BLOCK)
    arrays = (np.ascontiguousarray(out), lookup_tables())
    return (*arrays, border_correction(w, p)) if needs_correction(p) else arrays


def compute(
    pairs: te.Tensor,
    weights: te.Tensor,
    tables: te.Tensor,
    *correction: te.Tensor,
    params: ConvParams,
) -> te.Tensor:
    """pairs: what `prepare` returns; then the arrays of `pack_weights`. Returns int32 NHWC."""
    acc = counts(pairs, weights, tables, params)
    return finish(acc, params, correction[0] if correction else None)


def counts(
    pairs: te.Tensor, weights: te.Tensor, tables: te.Tensor, params: ConvParams
) -> te.Tensor:
    """The numbers of differing taps, int32 NHWC."""
    p = params
    plan = TablePlan.of(p)
    blocks = -(-p.cog // BLOCK)
    ky = te.reduce_axis((0, plan.rows), "ky")
    step = te.reduce_axis((0, plan.steps), "step")
    i = te.reduce_axis((0, STEP), "i")

    def count(n: Any, y: Any, x: Any, c: Any) -> Any:
        g, o = c // p.cog, c % p.cog
        row, column, second = plan.locate(n, y, x)
        k = o % BLOCK
        index = weights[g * blocks + o // BLOCK, ky, step, i, k % 16 * 2 + k // 16]
        offset = pairs[g, row + ky * plan.row_stride, column + step * STEP + i]
        entry = tables[offset.astype("int32") + (index & tirx.const(15, "uint8")).astype("int32")]
        ones = (entry.astype("int32") >> (second * 4)) & 15
        return te.sum(tirx.Select(index < NO_GROUP, ones, 0), axis=[ky, step, i])

    attrs = table()[NAME].annotations("acc", p)
    return te.compute(p.out_shape, count, name="acc", attrs=attrs)


def supports(params: ConvParams) -> str | None:
    """16-bit counters hold up to 65535 multiply-accumulates."""
    if params.taps > 65535:
        return f"{params.taps} taps overflow a 16-bit counter"
    return None


def schedule(func: PrimFunc, target: Target) -> PrimFunc:
    """Write the loops of the convolution, or of `prepare`, whichever the function holds."""
    if holds_stage(func, "prepare"):
        return schedule_prepare(func)
    if holds_stage(func, WORDS):
        return _Writer(extract_words(func)).write()
    epilogue = extract_epilogue(func)
    if epilogue is None:
        return schedule_scalar(func)
    return _Writer(epilogue).write()


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


class _Writer:
    """The hand-made loops of one convolution with its epilogue."""

    def __init__(self, epilogue: Epilogue | WordsEpilogue) -> None:
        """Find the shape and the buffers."""
        notes = epilogue.annotations
        self.epilogue = epilogue
        self.params = ConvParams.parse(str(notes[PARAMS]))
        self.plan = TablePlan.of(self.params)
        by_rank = {len(buffer.ty.shape): buffer for buffer in epilogue.reads}
        self.pairs, self.weights, self.tables = by_rank[3], by_rank[5], by_rank[1]
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

        def chunk(ky: Any, c: Any) -> Stmt:
            body: list[Stmt] = []
            begin = let("begin", c * plan.steps // chunks, body)
            end = let("end", (c + 1) * plan.steps // chunks, body)
            args = (group, block, vectors, ky, begin, end - begin)

            def some(slot: Any, count: int) -> Stmt:
                slots = [slot + i for i in range(count)]
                return self._chunk(counts, slots, [first + at for at in slots], *args)

            if vectors > BLOCKS // 2:
                body.append(loop(size, lambda pair: some(pair, 1), "pair"))
            else:
                # Few channels: two pairs at a time share the loads of the weights.
                body.append(loop(size // 2, lambda two: some(two * 2, 2), "two"))
                body.append(tirx.IfThenElse(tirx.NE(size % 2, 0), some(size - 1, 1), None))
            return seq(body)

        stmts.append(loop(plan.rows, lambda ky: loop(chunks, lambda c: chunk(ky, c), "c"), "ky"))
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

    def _chunk(
        self,
        counts: tirx.Buffer,
        slots: list[Any],
        pairs: list[Any],
        group: Any,
        block: Any,
        vectors: int,
        ky: Any,
        begin: Any,
        steps: Any,
    ) -> Stmt:
        """`steps` steps of some pairs, added to their counters."""
        plan = self.plan
        stmts: list[Stmt] = []
        # all and high of every pair and block of channels, in registers
        sums = local("sums", (len(pairs) * vectors * 2 * BLOCK,), "uint8", stmts)
        for v in range(2 * vectors * len(pairs)):
            stmts.append(vstore(sums, splat(0, "uint8x32"), [v * BLOCK], BLOCK))
        places = []
        for pair in pairs:
            row, column = plan.locate_pair(pair)
            column = let("column", column + begin * STEP, stmts)
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
                for q in range(len(pairs)):
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


KERNELS = (
    Kernel(
        name=NAME,
        op="bconv2d",
        isa="avx2",
        word_bits=8,
        tile={"pixels": 2, "channels": BLOCK * BLOCKS, "group": GROUP},
        supports=supports,
        pack_weights=pack_weights,
        compute=compute,
        schedule=schedule,
        counts=counts,
        count_dtype="int16",
        prepare=prepare,
        rank=1,
    ),
)
