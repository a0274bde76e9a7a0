"""Binary convolution for SME2 by BMOPA, the outer product of bits.

One BMOPA compares the 32-bit words of a vector of pixels with those of a vector of channels, each
with each, and adds the numbers of equal bits to a tile of ZA: at vectors of 512 bits 16 pixels x
16 channels x 32 bits, 8192 binary MACs. The same code runs at any vector length. Four tiles, two
vectors of pixels by two of channels, need one load per BMOPA. The weights hold inverted bits, so
that the equal ones are the taps that differ.

The counts go through a chunk of memory, and out of streaming mode, to the epilogue, which is NEON
as behind the other kernels. Source: Arm Architecture Reference Manual, "BMOPA"; that it counts as
told is checked under qemu. No timing of it was ever made here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc, Stmt

from ..bconv2d import border_correction, finish, needs_correction
from ..emit import PARALLEL, SERIAL, channel_loops, let, local, loop, seq
from ..epilogue import Epilogue, extract_epilogue, find_stage, holds_stage
from ..kernels import PARAMS, Kernel
from ..parallel import PARALLEL_BINARY_MACS
from ..params import ConvParams
from ..scalar import schedule_scalar
from . import sme_intrin
from .sme_plan import COLUMNS, PIXELS, SLACK, WORD, SmePlan, prepare, schedule_prepare

MIN_CHANNELS = 8  # with fewer in a group hardly any column of a tile is used


def supports(params: ConvParams) -> str | None:
    """Groups that fill some of a tile."""
    if params.cog < MIN_CHANNELS:
        return f"groups of {params.cog} output channels leave the tiles of ZA empty"
    return None


def pack_weights(weights: np.ndarray, params: ConvParams) -> tuple[np.ndarray, ...]:
    """Inverted bits uint32 [groups * kh * kw * cw + slack, channels of a group, padded], and the
    border table of zero padding. weights: int8 +-1 [co, ci/groups, kh, kw].

    Bits beyond a group's channels are 1, where activations have 0: they never agree.
    """
    p = params
    plan = SmePlan(p)
    columns, cw = _columns(p), p.words(WORD)
    bits = np.ones((p.groups, columns, p.kh, p.kw, cw * WORD), np.uint8)
    by_group = weights.reshape(p.groups, p.cog, p.cig, p.kh, p.kw).transpose(0, 1, 3, 4, 2)
    bits[:, : p.cog, :, :, : p.cig] = by_group < 0
    octets = np.packbits(bits, axis=-1, bitorder="little")
    words = np.ascontiguousarray(octets).view("<u4").reshape(p.groups, columns, plan.depth)
    rows = np.zeros((p.groups * plan.depth + -(-SLACK // columns), columns), np.uint32)
    rows[: p.groups * plan.depth] = words.transpose(0, 2, 1).reshape(-1, columns)
    return (rows, border_correction(weights, p)) if needs_correction(p) else (rows,)


def _columns(p: ConvParams) -> int:
    return -(-p.cog // COLUMNS) * COLUMNS


def _wide(index: Any) -> Any:
    """An index as 64 bits: LLVM does not know that sums with the vector length fit into 32, and
    would extend each of them again before the load.
    """
    return tirx.const(index, "int64") if isinstance(index, int) else index.astype("int64")


def compute(
    planes: te.Tensor, weights: te.Tensor, *border: te.Tensor, params: ConvParams
) -> te.Tensor:
    """planes: what `prepare` returns; then the arrays of `pack_weights`. Returns int32 NHWC."""
    p = params
    plan = SmePlan(p)
    cw, (hq, wq) = p.words(WORD), plan.map
    ky, kx = te.reduce_axis((0, p.kh), "ky"), te.reduce_axis((0, p.kw), "kx")
    word = te.reduce_axis((0, cw), "word")

    def differing(n: Any, y: Any, x: Any, o: Any) -> Any:
        group = o // p.cog
        position = (n * hq + y) * wq + x
        row = group * plan.depth + (ky * p.kw + kx) * cw + word
        equal = ~(planes[plan.offset(group, ky, kx, word) + position] ^ weights[row, o % p.cog])
        return te.sum(tirx.popcount(equal).astype("int32"), axis=[ky, kx, word])

    acc = te.compute(p.out_shape, differing, name="differing", attrs=ROW.annotations("acc", p))
    return finish(acc, p, border[0] if border else None)


def schedule(func: PrimFunc) -> PrimFunc:
    """Write the loops of the convolution, or of `prepare`, whichever the function holds."""
    if holds_stage(func, "prepare"):
        return _schedule_prepare(func)
    epilogue = extract_epilogue(func)
    return schedule_scalar(func) if epilogue is None else _Writer(epilogue).write()


def _schedule_prepare(func: PrimFunc) -> PrimFunc:
    sch = Schedule(func)
    block = sch.get(find_stage(sch, "prepare"))
    params = ConvParams.parse(str(block.annotations[PARAMS]))
    return schedule_prepare(func, block.reads[0].source, block.writes[0].source, params)


class _Writer:
    """The hand-made loops of one convolution with its epilogue."""

    def __init__(self, epilogue: Epilogue) -> None:
        """Find the shape and the buffers."""
        self.epilogue = epilogue
        self.params = ConvParams.parse(str(epilogue.annotations[PARAMS]))
        self.plan = SmePlan(self.params)
        by_rank = {len(buffer.ty.shape): buffer for buffer in epilogue.reads}
        self.planes, self.weights = by_rank[1], by_rank[2]

    def write(self) -> PrimFunc:
        """All chunks; those of the same channels follow each other and share the weights."""
        p, plan = self.params, self.plan
        down = -(-plan.positions // plan.rows)
        across = -(-p.cog // plan.width)

        def chunk(index: Any) -> Stmt:
            stmts: list[Stmt] = []
            first = let("first", index % down * plan.rows, stmts)
            block = let("block", index // down % across, stmts)
            group = let("group", index // (down * across), stmts)
            stmts += self._chunk(group, first, block, across - 1)
            return seq(stmts)

        kind = PARALLEL if p.macs >= PARALLEL_BINARY_MACS else SERIAL
        return self.epilogue.with_body(loop(p.groups * across * down, chunk, "t", kind))

    def _chunk(self, group: Any, first: Any, block: Any, last_block: int) -> list[Stmt]:
        """Count in streaming mode, then write the outputs."""
        p, plan = self.params, self.plan
        stmts: list[Stmt] = []
        counts = local("counts", (plan.rows * plan.width,), "int32", stmts)
        rows: Any = plan.rows
        if plan.positions % plan.rows:
            rows = let("rows", tirx.min(rows, plan.positions - first), stmts)
        rest = p.cog - last_block * plan.width
        channels = let("channels", tirx.min(plan.width, p.cog - block * plan.width), stmts)
        tiles = self._tiles(counts, group, first, rows, block * plan.width, channels)
        stmts += sme_intrin.streaming("count_agreeing", tiles)

        def outputs(count: int) -> Stmt:
            args = (counts, group, first, rows, block)
            return self._outputs(*args, count)

        if rest == plan.width or last_block == 0:
            stmts.append(outputs(rest))
        else:
            at_end = tirx.EQ(block, last_block)
            stmts.append(tirx.IfThenElse(at_end, outputs(rest), outputs(plan.width)))
        return stmts

    def _tiles(
        self, counts: tirx.Buffer, group: Any, first: Any, rows: Any, channel: Any, channels: Any
    ) -> list[Stmt]:
        """Streaming code: the counts of a chunk, four tiles at a time."""
        p, plan = self.params, self.plan
        stmts: list[Stmt] = []
        size = let("size", sme_intrin.words(), stmts)
        size64 = let("size64", _wide(size), stmts)

        def tiles(extent: Any) -> Any:
            return tirx.truncdiv(extent + 2 * size - 1, 2 * size)

        def four(i: Any, j: Any) -> Stmt:
            body: list[Stmt] = [sme_intrin.zero_tiles()]
            row, column = let("row", i * 2 * size, body), let("column", j * 2 * size, body)

            def step(ky: Any, kx: Any, word: Any) -> Stmt:
                inner: list[Stmt] = []
                pixel = _wide(plan.offset(group, ky, kx, word) + first + row)
                k = _wide(group * plan.depth + (ky * p.kw + kx) * p.words(WORD) + word)
                at = _wide(channel + column)
                a, b = (
                    let("a", sme_intrin.load(self.planes, [pixel + more]), inner)
                    for more in (0, size64)
                )
                c, d = (
                    let("c", sme_intrin.load(self.weights, [k, at + more]), inner)
                    for more in (0, size64)
                )
                pairs = ((a, c), (a, d), (b, c), (b, d))
                inner += [sme_intrin.count_agreeing(t, *pair) for t, pair in enumerate(pairs)]
                return seq(inner)

            body.append(
                loop(
                    p.kh,
                    lambda ky: loop(
                        p.kw,
                        lambda kx: loop(p.words(WORD), lambda w: step(ky, kx, w), "word"),
                        "kx",
                    ),
                    "ky",
                )
            )

            def store(r: Any) -> Stmt:
                both = []
                for below in (0, 1):
                    at = row + below * size + r
                    pair = [
                        sme_intrin.store_row(
                            counts,
                            at * plan.width + column + right * size,
                            2 * below + right,
                            r,
                            sme_intrin.lanes_below(column + right * size, channels),
                        )
                        for right in (0, 1)
                    ]
                    both.append(tirx.IfThenElse(at < rows, seq(pair), None))
                return seq(both)

            body.append(loop(size, store, "r"))
            return seq(body)

        stmts.append(
            loop(tiles(rows), lambda i: loop(tiles(channels), lambda j: four(i, j), "j"), "i")
        )
        return stmts

    def _outputs(
        self, counts: tirx.Buffer, group: Any, first: Any, rows: Any, block: Any, count: int
    ) -> Stmt:
        """The epilogue of a chunk's pixels and `count` channels."""
        p, plan = self.params, self.plan

        def pixel(row: Any) -> Stmt:
            stmts: list[Stmt] = []
            n, y, x = (let("at", at, stmts) for at in plan.pixel(first + row))

            def store(c: Any) -> Stmt:
                value = tirx.BufferLoad(counts, [row * plan.width + c])
                index = (n, y, x, group * p.cog + block * plan.width + c)
                return self.epilogue.store(index, value)

            stmts.append(
                tirx.IfThenElse(
                    tirx.all(y < p.ho, x < p.wo), seq(channel_loops(store, count, 8)), None
                )
            )
            return seq(stmts)

        return loop(rows, pixel, "row")


ROW: Kernel = Kernel(
    name="bconv2d_sme2_bmopa_2x2",
    op="bconv2d",
    isa="sme2",
    word_bits=WORD,
    tile={"pixels": PIXELS, "channels": COLUMNS},
    supports=supports,
    pack_weights=pack_weights,
    compute=compute,
    schedule=lambda func, target: schedule(func),
    prepare=lambda packed, params: prepare(packed, params, ROW.annotations("prepare", params)),
)
KERNELS = (ROW,)
