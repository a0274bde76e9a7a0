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

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.target import Target
from tvm.tirx import PrimFunc, Stmt

from ..emit import PARALLEL, SERIAL, channel_loops, let, local, loop, seq, splat, vload, vstore
from ..epilogue import Epilogue, divisor, extract_epilogue, holds_stage
from ..kernels import PARAMS, Kernel
from ..parallel import PARALLEL_BINARY_MACS
from ..params import ConvParams
from ..scalar import schedule_scalar
from ..threshold import WORDS, WordsEpilogue, extract_words
from ..x86.table_plan import STEP
from . import agreement, neon
from .agreement import border_table, supports
from .cores import core_of
from .tbl_plan import WORD, TblPlan, prepare, schedule_prepare

BLOCK = 16  # channels of one vector of index bytes
BLOCKS = 8  # vectors of a tile: two sums each in half of the registers
STRIP = 8  # most pixel pairs whose counters are kept while a chunk of weights is used
UNROLLED = 2  # most steps of a small tile in one copy of the loop body
NO_GROUP = 0xFF  # index byte for which TBL answers 0


def lookup_tables(bits: int) -> np.ndarray:
    """uint8 [2**(3*bits)]: with T = 2**bits entry T*(aP + T*aQ) + i is
    popcount(aP ^ i) + 16 * popcount(aQ ^ i).
    """
    size = 1 << bits
    ones = np.array([bin(v).count("1") for v in range(size)], np.uint8)
    single = ones[np.arange(size)[:, None] ^ np.arange(size)]
    return (single[None, :, :] + 16 * single[:, None, :]).reshape(-1).astype(np.uint8)


def pack_weights(weights: np.ndarray, params: ConvParams, bits: int) -> tuple[np.ndarray, ...]:
    """Index bytes of inverted bits uint8 [.., 16], the look-up tables, and the border table of zero
    padding. weights: int8 +-1 [co, ci/groups, kh, kw].

    The index bytes lie in the order of use, [group, tile][row, step, 3, vector of the tile, 16].
    """
    p = params
    plan = TblPlan.of(p, bits)
    blocks, cw, per_word = -(-p.cog // BLOCK), p.words(WORD), plan.per_word
    filled = np.zeros((p.co, p.kh, p.kw, cw, per_word * bits), np.uint8)
    flat = np.zeros((p.co, p.kh, p.kw, cw * WORD), np.uint8)
    flat[..., : p.cig] = weights.transpose(0, 2, 3, 1) < 0
    filled[..., :WORD] = flat.reshape(p.co, p.kh, p.kw, cw, WORD)
    fields = filled.reshape(p.co, p.kh, p.kw, cw * per_word, bits)[..., : plan.groups_per_pixel, :]
    index = (fields << np.arange(bits, dtype=np.uint8)).sum(axis=-1).astype(np.uint8)
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
    return (packed, lookup_tables(bits), *border_table(weights, p))


def compute(
    pairs: te.Tensor,
    weights: te.Tensor,
    tables: te.Tensor,
    *border: te.Tensor,
    params: ConvParams,
    kernel: Kernel,
) -> te.Tensor:
    """pairs: what `prepare` returns; then the arrays of `pack_weights`. Returns int32 NHWC."""
    p = params
    table = border[0] if border else None

    def agreeing(*place: Any) -> Any:
        found, axes = _found((pairs, weights, tables), p, kernel, place)
        return agreement.count(found, axes, table, p, place)

    acc = te.compute(p.out_shape, agreeing, name="agreeing", attrs=kernel.annotations("acc", p))
    return te.compute(
        p.out_shape,
        lambda n, y, x, o: agreement.integer(acc[n, y, x, o], table, p, y, x, o),
        name="integers",
        attrs=kernel.annotations("integers", p),
    )


def counts(
    pairs: te.Tensor,
    weights: te.Tensor,
    tables: te.Tensor,
    *,
    params: ConvParams,
    kernel: Kernel,
) -> te.Tensor:
    """The numbers of differing taps int16 [n, ho, wo, co], of negated weights."""
    return te.compute(
        params.out_shape,
        lambda *place: agreement.differing(
            *_found((pairs, weights, tables), params, kernel, place)
        ),
        name="differing",
        attrs=kernel.annotations("acc", params),
    )


def _found(
    data: tuple[te.Tensor, ...], params: ConvParams, kernel: Kernel, place: tuple[Any, ...]
) -> tuple[Any, list[Any]]:
    """What one look-up finds for one output, and the axes to sum over."""
    (pairs, weights, tables), p, (n, y, x, c) = data, params, place
    plan = TblPlan.of(p, kernel.tile["group"])
    blocks = -(-p.cog // BLOCK)
    per_block = plan.rows * plan.steps * STEP
    ky = te.reduce_axis((0, plan.rows), "ky")
    step = te.reduce_axis((0, plan.steps), "step")
    i = te.reduce_axis((0, STEP), "i")
    g, o = c // p.cog, c % p.cog
    row, column, second = plan.locate(n, y, x)
    tile = o // (BLOCK * BLOCKS) * BLOCKS
    vectors = tirx.min(BLOCKS, blocks - tile)
    at = ((ky * plan.steps + step) * STEP + i) * vectors + o // BLOCK - tile
    index = weights[(g * blocks + tile) * per_block + at, o % BLOCK]
    offset = pairs[g, row + ky * plan.row_stride, column + step * STEP + i]
    low = index & tirx.const(plan.table - 1, "uint8")
    entry = tables[offset.astype("int32") + low.astype("int32")].astype("int32")
    found = tirx.Select(index < NO_GROUP, (entry >> (second * 4).astype("int32")) & 15, 0)
    return found, [ky, step, i]


def schedule(func: PrimFunc, kernel: Kernel) -> PrimFunc:
    """Write the loops of the convolution, or of `prepare`, whichever the function holds."""
    bits = kernel.tile["group"]
    if holds_stage(func, "prepare"):
        return schedule_prepare(func, bits)
    epilogue = extract_words(func) if holds_stage(func, WORDS) else extract_epilogue(func)
    return schedule_scalar(func) if epilogue is None else _Writer(epilogue, bits).write()


class _Writer:
    """The hand-made loops of one convolution with its epilogue."""

    def __init__(self, epilogue: Epilogue | WordsEpilogue, bits: int) -> None:
        """Find the shape and the buffers."""
        self.epilogue = epilogue
        self.params = ConvParams.parse(str(epilogue.annotations[PARAMS]))
        self.plan = TblPlan.of(self.params, bits)
        by_type = {(len(b.ty.shape), str(b.ty.dtype)): b for b in epilogue.reads}
        self.pairs, self.weights = by_type[3, "uint16"], by_type[2, "uint8"]
        self.tables, self.border = by_type[1, "uint8"], by_type.get((3, "int16"))
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
            copies = divisor(steps - 1, UNROLLED if vectors <= BLOCKS // 2 else 1)
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
        elif self.blocks <= BLOCKS or vectors < BLOCKS:
            stmts.append(run(last))
        else:
            at_end = tirx.EQ(block, self.blocks - vectors)
            stmts.append(tirx.IfThenElse(at_end, run(last), run(width)))
        return seq(stmts)


def _rank(p: ConvParams, target: Target, bits: int) -> int:
    """On the scale of the eor/cnt kernels: a million where three vector instructions and loads do
    128 MACs; -1 on cores that take another form.
    """
    if core_of(target).table_bits != bits:
        return -1
    plan = TblPlan.of(p, bits)
    blocks = p.groups * -(-p.cog // BLOCK)
    chunks = -(-plan.steps // plan.most_steps)
    convolve = plan.pairs * blocks * plan.rows * (10 * plan.steps + 6 * chunks)
    groups, rows, offsets = plan.shape
    return int(1e6 * (3 * p.macs / 128) / (convolve + 1.2 * groups * rows * offsets))


def _row(bits: int) -> Kernel:
    kernel = Kernel(
        name=f"bconv2d_neon_tbl{bits}_2x{BLOCK * BLOCKS}",
        op="bconv2d",
        isa="neon",
        word_bits=WORD,
        tile={"pixels": 2, "channels": BLOCK * BLOCKS, "group": bits},
        supports=supports,
        pack_weights=lambda weights, params: pack_weights(weights, params, bits),
        compute=lambda *arrays, params: compute(*arrays, params=params, kernel=kernel),
        schedule=lambda func, target: schedule(func, kernel),
        counts=lambda *arrays, params: counts(*arrays, params=params, kernel=kernel),
        count_dtype="int16",
        inverted=True,
        prepare=lambda packed, params: prepare(
            packed, params, bits, kernel.annotations("prepare", params)
        ),
        rank=lambda params, target: _rank(params, target, bits),
    )
    return kernel


KERNELS = tuple(_row(bits) for bits in (5, 4))
