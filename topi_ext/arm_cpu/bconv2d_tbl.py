"""Binary convolution for arm64 by table look-up: 1.87 vector instructions per 128 MACs in the loop.

For two output pixels P, Q and five input bits aP, aQ the 32 bytes

    T[i] = popcount(aP ^ i) + 16 * popcount(aQ ^ i)

answer both pixels for an output channel whose five weight bits are i: one two-register TBL serves
16 channels x 2 pixels x 5 bits, 160 MACs. There are only 1024 such tables, 32 KB, which are
constants; activations become offsets into them (`prepare`), weights index bytes. Three look-ups
fit the nibbles (3 * 5 = 15): t; then

    all += t          P + 16*Q mod 256
    high += t >> 4    Q                      (usra)

and P = all - 16*high. After at most 17 steps (17 * 15 = 255) both go to 16-bit counters.
Seven vector instructions do 480 MACs.

The table trick follows the C proof of concept that came with the performance goals; the tables as
constants indexed by offsets follow the AVX2 kernel of this package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import PrimFunc, Stmt

from ..emit import PARALLEL, SERIAL, channel_loops, let, local, loop, seq, splat, vload, vstore
from ..epilogue import Epilogue, divisor, extract_epilogue, holds_stage
from ..kernels import PARAMS, Kernel
from ..parallel import PARALLEL_BINARY_MACS
from ..params import ConvParams
from ..scalar import schedule_scalar
from ..schedule import kernel_annotations
from ..x86.table_plan import STEP
from .agreement import border_table, first_count, integer, supports
from .cores import core_of
from .tbl_plan import GROUP, PER_WORD, TABLE, WORD, TblPlan, prepare, schedule_prepare

BLOCK = 16  # channels of one vector of index bytes
BLOCKS = 8  # vectors of a tile: two sums each in half of the registers
STEPS = 17  # most steps before a byte overflows
STRIP = 8  # most pixel pairs whose counters are kept while a chunk of weights is used
UNROLLED = 2  # most steps of a small tile in one copy of the loop body
NO_GROUP = 0xFF  # index byte for which TBL answers 0


def lookup_tables() -> np.ndarray:
    """uint8 [32768]: entry 32*(aP + 32*aQ) + i is popcount(aP ^ i) + 16 * popcount(aQ ^ i)."""
    ones = np.array([bin(v).count("1") for v in range(TABLE)], np.uint8)
    single = ones[np.arange(TABLE)[:, None] ^ np.arange(TABLE)]
    return (single[None, :, :] + 16 * single[:, None, :]).reshape(-1).astype(np.uint8)


def pack_weights(weights: np.ndarray, params: ConvParams) -> tuple[np.ndarray, ...]:
    """Index bytes of inverted bits uint8 [.., 16], the look-up tables, and the border table of zero
    padding. weights: int8 +-1 [co, ci/groups, kh, kw].

    The index bytes lie in the order of use, [group, tile][row, step, 3, vector of the tile, 16].
    """
    p = params
    plan = TblPlan.of(p)
    blocks, cw = -(-p.cog // BLOCK), p.words(WORD)
    bits = np.zeros((p.co, p.kh, p.kw, cw, PER_WORD * GROUP), np.uint8)
    flat = np.zeros((p.co, p.kh, p.kw, cw * WORD), np.uint8)
    flat[..., : p.cig] = weights.transpose(0, 2, 3, 1) < 0
    bits[..., :WORD] = flat.reshape(p.co, p.kh, p.kw, cw, WORD)
    fives = bits.reshape(p.co, p.kh, p.kw, cw * PER_WORD, GROUP)[..., : plan.groups_per_pixel, :]
    index = (fives << np.arange(GROUP, dtype=np.uint8)).sum(axis=-1).astype(np.uint8)
    index = index.reshape(p.groups, p.cog, plan.rows, plan.row_groups)
    out = np.full((p.groups, blocks * BLOCK, plan.rows, plan.steps * STEP), NO_GROUP, np.uint8)
    out[:, : p.cog, :, : plan.row_groups] = index
    out = out.reshape(p.groups, blocks, BLOCK, plan.rows, plan.steps, STEP)
    out = out.transpose(0, 3, 4, 5, 1, 2)
    tiles = [
        out[g, ..., b : b + BLOCKS, :].reshape(-1, BLOCK)
        for g in range(p.groups)
        for b in range(0, blocks, BLOCKS)
    ]
    packed = np.concatenate(tiles)
    return (packed, lookup_tables(), *border_table(weights, p))


def compute(
    pairs: te.Tensor,
    weights: te.Tensor,
    tables: te.Tensor,
    *border: te.Tensor,
    params: ConvParams,
) -> te.Tensor:
    """pairs: what `prepare` returns; then the arrays of `pack_weights`. Returns int32 NHWC."""
    p = params
    plan = TblPlan.of(p)
    blocks = -(-p.cog // BLOCK)
    per_block = plan.rows * plan.steps * STEP
    ky = te.reduce_axis((0, plan.rows), "ky")
    step = te.reduce_axis((0, plan.steps), "step")
    i = te.reduce_axis((0, STEP), "i")
    start = first_count(p)
    add = te.comm_reducer(lambda x, y: x + y, lambda t: tirx.const(start, t), name="add")

    def agreeing(n: Any, y: Any, x: Any, c: Any) -> Any:
        g, o = c // p.cog, c % p.cog
        row, column, second = plan.locate(n, y, x)
        tile = o // (BLOCK * BLOCKS) * BLOCKS
        vectors = tirx.min(BLOCKS, blocks - tile)
        place = ((ky * plan.steps + step) * STEP + i) * vectors + o // BLOCK - tile
        index = weights[(g * blocks + tile) * per_block + place, o % BLOCK]
        offset = pairs[g, row + ky * plan.row_stride, column + step * STEP + i]
        low = index & tirx.const(TABLE - 1, "uint8")
        entry = tables[offset.astype("int32") + low.astype("int32")].astype("int32")
        found = tirx.Select(index < NO_GROUP, (entry >> (second * 4).astype("int32")) & 15, 0)
        return add(found.astype("int16"), axis=[ky, step, i])

    acc = te.compute(p.out_shape, agreeing, name="agreeing", attrs=ROW.annotations("acc", p))
    table = border[0] if border else None
    return te.compute(
        p.out_shape,
        lambda n, y, x, o: integer(acc[n, y, x, o], table, p, y, x, o),
        name="integers",
        attrs=ROW.annotations("integers", p),
    )


def schedule(func: PrimFunc) -> PrimFunc:
    """Write the loops of the convolution, or schedule `prepare`, whichever the function holds."""
    if holds_stage(func, "prepare"):
        notes = kernel_annotations(func)
        assert notes is not None
        return schedule_prepare(func, ConvParams.parse(str(notes[PARAMS])))
    epilogue = extract_epilogue(func)
    return schedule_scalar(func) if epilogue is None else _Writer(epilogue).write()


class _Writer:
    """The hand-made loops of one convolution with its epilogue."""

    def __init__(self, epilogue: Epilogue) -> None:
        """Find the shape and the buffers."""
        self.epilogue = epilogue
        self.params = ConvParams.parse(str(epilogue.annotations[PARAMS]))
        self.plan = TblPlan.of(self.params)
        by_rank = {len(buffer.ty.shape): buffer for buffer in epilogue.reads}
        self.pairs, self.weights, self.tables = by_rank[3], by_rank[2], by_rank[1]
        self.blocks = -(-self.params.cog // BLOCK)
        per_row = self.plan.pairs if self.plan.gathered else self.plan.pairs_per_row
        part = divisor(per_row, STRIP)
        self.strip = part if part > STRIP // 2 else min(STRIP, self.plan.pairs)
        self.strips = -(-self.plan.pairs // self.strip)

    def write(self) -> PrimFunc:
        """All channel blocks: tiles of BLOCKS vectors, then one tile of the rest."""
        p = self.params
        full, rest = divmod(self.blocks, BLOCKS)
        kind = PARALLEL if p.macs >= PARALLEL_BINARY_MACS else SERIAL
        stmts = []
        for per_group, first, vectors in ((full, 0, BLOCKS), (1 if rest else 0, full, rest)):
            if per_group:

                def tile(
                    index: Any, each: int = per_group, begin: int = first, size: int = vectors
                ) -> Stmt:
                    body: list[Stmt] = []
                    strip = let("strip", index % self.strips, body)
                    block = let("tile", index // self.strips, body)
                    group = let("group", block // each, body)
                    start = let("block", begin * BLOCKS + block % each * BLOCKS, body)
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
        start = splat(first_count(self.params), "int16x8")
        stmts.append(loop(size * (width // 4), lambda i: vstore(counts, start, [i * 8], 8), "z"))
        chunks = -(-plan.steps // STEPS)

        def chunk(ky: Any, c: Any) -> Stmt:
            body: list[Stmt] = []
            begin = let("begin", c * plan.steps // chunks, body)
            steps: Any = plan.steps // chunks
            if plan.steps % chunks:
                steps = let("steps", (c + 1) * plan.steps // chunks - begin, body)
            args = (group, block, vectors, ky, begin, steps)
            one = lambda pair: self._chunk(counts, pair, first + pair, *args)  # noqa: E731
            body.append(loop(size, one, "pair"))
            return seq(body)

        stmts.append(loop(plan.rows, lambda ky: loop(chunks, lambda c: chunk(ky, c), "c"), "ky"))

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
    ) -> Stmt:
        """`steps` steps of one pair, added to its counters.

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

        def step(s: Any, is_first: bool = False) -> Stmt:
            body: list[Stmt] = []
            found = []
            for i in range(STEP):
                at = self.pairs[group, row, column + s * STEP + i].astype("int32")
                at = let("at", at, body)
                low = let("low", vload(self.tables, [at], 16), body)
                high = let("high", vload(self.tables, [at + 16], 16), body)
                found.append((low, high))
            for v in range(vectors):
                a, b, c = (
                    _tbl(
                        *found[i],
                        vload(self.weights, [base + (s * STEP + i) * vectors + v, 0], BLOCK),
                    )
                    for i in range(STEP)
                )
                t = let("t", a + b + c, body)
                at = 2 * v * BLOCK
                for place, value in ((at, t), (at + BLOCK, t >> splat(4, "uint8x16"))):
                    if not is_first:
                        value = vload(sums, [place], BLOCK) + value
                    body.append(vstore(sums, value, [place], BLOCK))
            return seq(body)

        # The first step sets the sums: neither zeros nor an addition to them.
        stmts.append(step(0, is_first=True))
        copies = 1
        if isinstance(steps, int) and steps > 1:
            # More vectors fill the registers: LLVM then spills addresses across copies.
            copies = divisor(steps - 1, UNROLLED if vectors <= BLOCKS // 2 else 1)
        turns = (steps - 1) // copies if isinstance(steps, int) else steps - 1

        def turn(s: Any) -> Stmt:
            return seq(step(s * copies + (i + 1)) for i in range(copies))

        stmts.append(loop(turns, turn, "s"))
        for v in range(vectors):
            at = 2 * v * BLOCK
            high = let("high", vload(sums, [at + BLOCK], BLOCK), stmts)
            low = vload(sums, [at], BLOCK) - (high << splat(4, "uint8x16"))
            for second, value in enumerate((let("low", low, stmts), high)):
                place = [(slot * 2 + second) * (vectors * BLOCK) + v * BLOCK]
                total = vload(counts, place, BLOCK) + value.astype("int16x16")
                stmts.append(vstore(counts, total, place, BLOCK))
        return seq(stmts)

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

        def channels(begin: int, count: int) -> Stmt:
            # P and Q side by side: they share scale and offset.
            body = []
            for base, place, exists in pixels:

                def store(i: Any, base: Any = base, place: Any = place) -> Stmt:
                    c = i + begin
                    value = tirx.BufferLoad(counts, [base + c])
                    index = (*place, group * p.cog + block * BLOCK + c)
                    return self.epilogue.store(index, value)

                one = seq(channel_loops(store, count, 8))
                body.append(one if exists is None else tirx.IfThenElse(exists, one, None))
            return seq(body)

        def run(count: int) -> Stmt:
            return seq(channels(c, min(BLOCK, count - c)) for c in range(0, count, BLOCK))

        # The last tile of a group may be partly filler.
        last = p.cog - (self.blocks - vectors) * BLOCK
        if last >= width:
            stmts.append(run(width))
        elif self.blocks <= BLOCKS or vectors < BLOCKS:
            stmts.append(run(last))
        else:
            at_end = tirx.EQ(block, self.blocks - vectors)
            stmts.append(tirx.IfThenElse(at_end, run(last), run(width)))
        return seq(stmts)


def _rank(p: ConvParams, target: Target) -> int:
    """On the scale of the eor/cnt kernels: a million where three vector instructions and loads do
    128 MACs; -1 on cores that look tables up slowly.
    """
    if core_of(target).family != "tbl":
        return -1
    plan = TblPlan.of(p)
    blocks = p.groups * -(-p.cog // BLOCK)
    chunks = -(-plan.steps // STEPS)
    convolve = plan.pairs * blocks * plan.rows * (10 * plan.steps + 6 * chunks)
    groups, rows, offsets = plan.shape
    return int(1e6 * (3 * p.macs / 128) / (convolve + 1.2 * groups * rows * offsets))


def _tbl(low: Any, high: Any, index: Any) -> Any:
    """Look 16 indices up in a table of two registers; 0 for an index of 32 or more."""
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.tbl2.v16i8")
    return T.call_llvm_pure_intrin(intrinsic, low, high, index, dtype="uint8x16")


ROW: Kernel = Kernel(
    name="bconv2d_neon_tbl5_2x128",
    op="bconv2d",
    isa="neon",
    word_bits=WORD,
    tile={"pixels": 2, "channels": BLOCK * BLOCKS, "group": GROUP},
    supports=supports,
    pack_weights=pack_weights,
    compute=compute,
    schedule=lambda func, target: schedule(func),
    prepare=lambda packed, params: prepare(packed, params, ROW.annotations("prepare", params)),
    rank=lambda params, target: _rank(params, target),
)
KERNELS = (ROW,)
