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

from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.target import Target
from tvm.tirx import PrimFunc

from ..bconv2d import border_correction, finish, needs_correction
from ..epilogue import extract_epilogue, holds_stage
from ..kernels import Kernel, table
from ..padded_rows import or_padded, padded_counts
from ..params import ConvParams
from ..reference import pack_bits
from ..scalar import schedule_scalar
from ..threshold import WORDS, extract_words
from .table_plan import GROUP, STEP, TablePlan
from .table_prepare import NAME, prepare, schedule_prepare
from .table_writer import BLOCK, BLOCKS, TableWriter

NO_GROUP = 0x80  # index byte for which vpshufb answers 0


def lookup_tables() -> np.ndarray:
    """uint8 [4096]: entry 16*(aP + 16*aQ) + i is popcount(aP ^ i) + 16 * popcount(aQ ^ i)."""
    ones = np.array([bin(v).count("1") for v in range(16)], np.uint8)
    single = ones[np.arange(16)[:, None] ^ np.arange(16)]
    return (single[None, :, :] + 16 * single[:, None, :]).reshape(4096).astype(np.uint8)


def pack_weights(w: np.ndarray, params: ConvParams) -> tuple[np.ndarray, ...]:
    """int8 +-1 [co, ci/groups, kh, kw] to index bytes uint8 [groups*blocks, rows, steps, 3, 32],
    the look-up tables, the counts of padded rows where skipping them pays, as uint16
    (`padded_rows`), and the border correction where the padding is 0.
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
    arrays = [np.ascontiguousarray(out), lookup_tables()]
    if plan.skips:
        arrays.append(padded_counts(w, p, BLOCK).astype(np.uint16))
    if needs_correction(p):
        arrays.append(border_correction(w, p))
    return tuple(arrays)


def compute(pairs: te.Tensor, *arrays: te.Tensor, params: ConvParams) -> te.Tensor:
    """pairs: what `prepare` returns; then the arrays of `pack_weights`. Returns int32 NHWC."""
    *packed, correction = arrays if needs_correction(params) else (*arrays, None)
    return finish(counts(pairs, *packed, params=params), params, correction)


def counts(
    pairs: te.Tensor,
    weights: te.Tensor,
    tables: te.Tensor,
    *padded: te.Tensor,
    params: ConvParams,
) -> te.Tensor:
    """The numbers of differing taps, int32 NHWC. padded: the counts of padded rows, if any."""
    p = params
    plan = TablePlan.of(p)
    blocks = -(-p.cog // BLOCK)
    ky = te.reduce_axis((0, plan.rows), "ky")
    step = te.reduce_axis((0, plan.steps), "step")
    i = te.reduce_axis((0, STEP), "i")

    def count(n: Any, y: Any, x: Any, c: Any) -> Any:
        g, o = c // p.cog, c % p.cog
        row, column, second = plan.locate(n, y, x)
        block, k, at = g * blocks + o // BLOCK, o % BLOCK, step * STEP + i
        index = weights[block, ky, step, i, k % 16 * 2 + k // 16]
        offset = pairs[g, row + ky * plan.row_stride, column + ky * plan.column_stride + at]
        entry = tables[offset.astype("int32") + (index & tirx.const(15, "uint8")).astype("int32")]
        ones = (entry.astype("int32") >> (second * 4)) & 15
        value = tirx.Select(index < NO_GROUP, ones, 0).astype("uint16")
        value = or_padded(value, padded, p, y, ky, at, block, k)
        return te.sum(value.astype("int32"), axis=[ky, step, i])

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
        return TableWriter(extract_words(func)).write()
    epilogue = extract_epilogue(func)
    if epilogue is None:
        return schedule_scalar(func)
    return TableWriter(epilogue).write()


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
