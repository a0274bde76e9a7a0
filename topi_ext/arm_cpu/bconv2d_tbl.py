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

The same with four bits takes one-register tables, 4 KB in all, and 21 steps (21 * 12 = 252): seven
vector instructions for 384 MACs, 2.33 per 128. It is for cores where two registers cost more.

The table trick follows the C proof of concept that came with the performance goals; the tables as
constants indexed by offsets follow the AVX2 kernel of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.target import Target
from tvm.tirx import PrimFunc

from ..epilogue import extract_epilogue, holds_stage
from ..kernels import Kernel
from ..params import ConvParams
from ..scalar import schedule_scalar
from ..threshold import WORDS, extract_words
from ..x86.table_plan import STEP
from . import agreement
from .agreement import border_table, supports
from .cores import core_of
from .tbl_loops import BLOCK, TblLoops
from .tbl_plan import WORD, TblPlan, prepare, schedule_prepare

NO_GROUP = 0xFF  # index byte for which TBL answers 0
# A step's seven vector instructions and its loads, by the bits of a look-up. On the cores that take
# four, uadalp costs twice what it does elsewhere, so that a step is worth less.
STEP_COST = {5: 10.0, 4: 8.5}


def lookup_tables(bits: int) -> np.ndarray:
    """uint8 [2**(3*bits)]: with T = 2**bits entry T*(aP + T*aQ) + i is
    popcount(aP ^ i) + 16 * popcount(aQ ^ i).
    """
    size = 1 << bits
    ones = np.array([bin(v).count("1") for v in range(size)], np.uint8)
    single = ones[np.arange(size)[:, None] ^ np.arange(size)]
    return (single[None, :, :] + 16 * single[:, None, :]).reshape(-1).astype(np.uint8)


def pack_weights(
    weights: np.ndarray, params: ConvParams, bits: int, most: int
) -> tuple[np.ndarray, ...]:
    """Index bytes of inverted bits uint8 [.., 16], the look-up tables, and the border table of zero
    padding. weights: int8 +-1 [co, ci/groups, kh, kw].

    The index bytes lie in the order of use, [group, tile][row, step, 3, vector of the tile, 16].
    bits: of a look-up; most: vectors of a whole tile.
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
        out[g, ..., b : b + most, :].reshape(-1, BLOCK)
        for g in range(p.groups)
        for b in range(0, blocks, most)
    ]
    packed = np.concatenate(tiles)
    return (packed, lookup_tables(bits), *border_table(weights, p))


def _found(
    operands: Sequence[te.Tensor], params: ConvParams, kernel: Kernel, place: tuple[Any, ...]
) -> tuple[Any, list[Any]]:
    """What one look-up finds for one output, and the axes to sum over."""
    (pairs, weights, tables), p, (n, y, x, c) = operands, params, place
    plan = TblPlan.of(p, kernel.tile["group"])
    blocks = -(-p.cog // BLOCK)
    per_block = plan.rows * plan.steps * STEP
    ky = te.reduce_axis((0, plan.rows), "ky")
    step = te.reduce_axis((0, plan.steps), "step")
    i = te.reduce_axis((0, STEP), "i")
    g, o = c // p.cog, c % p.cog
    row, column, second = plan.locate(n, y, x)
    most = kernel.tile["channels"] // BLOCK
    tile = o // (BLOCK * most) * most
    vectors = tirx.min(most, blocks - tile)
    at = ((ky * plan.steps + step) * STEP + i) * vectors + o // BLOCK - tile
    index = weights[(g * blocks + tile) * per_block + at, o % BLOCK]
    offset = pairs[g, row + ky * plan.row_stride, column + step * STEP + i]
    low = index & tirx.const(plan.table - 1, "uint8")
    entry = tables[offset.astype("int32") + low.astype("int32")].astype("int32")
    found = tirx.Select(index < NO_GROUP, (entry >> (second * 4).astype("int32")) & 15, 0)
    return found, [ky, step, i]


def schedule(func: PrimFunc, kernel: Kernel) -> PrimFunc:
    """Write the loops of the convolution, or of `prepare`, whichever the function holds."""
    if holds_stage(func, "prepare"):
        return schedule_prepare(func, kernel.tile["group"])
    epilogue = extract_words(func) if holds_stage(func, WORDS) else extract_epilogue(func)
    return schedule_scalar(func) if epilogue is None else TblLoops(epilogue, kernel).write()


def _rank(p: ConvParams, target: Target, bits: int) -> int:
    """On the scale of the eor/cnt kernels: a million where three vector instructions and loads do
    128 MACs; -1 on cores that take another form.
    """
    if core_of(target).table_bits != bits:
        return -1
    plan = TblPlan.of(p, bits)
    blocks = p.groups * -(-p.cog // BLOCK)
    chunks = -(-plan.steps // plan.most_steps)
    step = STEP_COST[bits]
    convolve = plan.pairs * blocks * plan.rows * (step * plan.steps + 6 * chunks)
    groups, rows, offsets = plan.shape
    return int(1e6 * (3 * p.macs / 128) / (convolve + 1.2 * groups * rows * offsets))


def _row(bits: int, most: int) -> Kernel:
    kernel = Kernel(
        name=f"bconv2d_neon_tbl{bits}_2x{BLOCK * most}",
        op="bconv2d",
        isa="neon",
        word_bits=WORD,
        tile={"pixels": 2, "channels": BLOCK * most, "group": bits},
        supports=supports,
        pack_weights=lambda weights, params: pack_weights(weights, params, bits, most),
        compute=lambda *arrays, params: agreement.compute(_found, 3, arrays, params, kernel),
        schedule=lambda func, target: schedule(func, kernel),
        counts=lambda *arrays, params: agreement.counts(_found, arrays, params, kernel),
        count_dtype="int16",
        inverted=True,
        prepare=lambda packed, params: prepare(
            packed, params, bits, kernel.annotations("prepare", params)
        ),
        rank=lambda params, target: _rank(params, target, bits),
    )
    return kernel


# Eight vectors: two sums each fill half of the registers. LLVM's scheduling of the in-order cores
# that take four bits hoists so many loads that only four do not spill.
KERNELS = (_row(bits=5, most=8), _row(bits=4, most=4))
