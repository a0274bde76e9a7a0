"""Binary convolution with output channels in vector lanes: xor, popcount, add on 32-bit words.

Weights are stored [groups * channel blocks, kh, kw*cw, lanes], so that one vector load holds one
word of `lanes` output channels, and one activation word is broadcast against it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx
from tvm.target import Target
from tvm.tirx import PrimFunc

from .bconv2d import border_correction, finish, needs_correction
from .epilogue import divisor, find_stage, inline_epilogue, tile_accumulator
from .kernels import Kernel
from .params import ConvParams
from .reference import pack_bits

WORD = 32


def pack_weights(w: np.ndarray, params: ConvParams, lanes: int) -> tuple[np.ndarray, ...]:
    """int8 +-1 [co, ci/groups, kh, kw] to uint32 [groups*blocks, kh, kw*cw, lanes], and the border
    correction table where the padding is 0.
    """
    p = params
    cw = p.words(WORD)
    blocks = -(-p.cog // lanes)
    words = pack_bits(w.transpose(0, 2, 3, 1), WORD)  # [co, kh, kw, cw]
    out = np.zeros((p.groups, blocks * lanes, p.kh, p.kw * cw), np.uint32)
    out[:, : p.cog] = words.reshape(p.groups, p.cog, p.kh, p.kw * cw)
    out = out.reshape(p.groups * blocks, lanes, p.kh, p.kw * cw).transpose(0, 2, 3, 1)
    packed = np.ascontiguousarray(out)
    return (packed, border_correction(w, p)) if needs_correction(p) else (packed,)


def compute(
    data: te.Tensor, weights: te.Tensor, *correction: te.Tensor, params: ConvParams, kernel: str
) -> te.Tensor:
    """data uint32 [n, hp, wp, groups*cw] and the arrays of `pack_weights` to int32 NHWC."""
    from .kernels import table

    p = params
    cw = p.words(WORD)
    lanes = int(weights.shape[3])
    blocks = -(-p.cog // lanes)
    ky = te.reduce_axis((0, p.kh), "ky")
    k = te.reduce_axis((0, p.kw * cw), "k")

    def count(n: Any, y: Any, x: Any, c: Any) -> Any:
        g, o = c // p.cog, c % p.cog
        a = data[
            n,
            y * p.stride[0] + ky * p.dilation[0],
            x * p.stride[1] + k // cw * p.dilation[1],
            g * cw + k % cw,
        ]
        w = weights[g * blocks + o // lanes, ky, k, o % lanes]
        return te.sum(tirx.popcount(a ^ w).astype("int32"), axis=[ky, k])

    attrs = table()[kernel].annotations("acc", p, lanes=lanes)
    acc = te.compute(p.out_shape, count, name="acc", attrs=attrs)
    return finish(acc, p, correction[0] if correction else None)


def schedule(func: PrimFunc, target: Target, pixels: int) -> PrimFunc:
    """Tile the epilogue [pixels x lanes], accumulate at the tile."""
    sch = s_tir.Schedule(func)
    acc = find_stage(sch)
    notes = sch.get(acc).annotations
    p = ConvParams.parse(str(notes["bnn.params"]))
    lanes = divisor(p.cog, int(notes["bnn.lanes"]))
    last = inline_epilogue(sch, acc)
    outer, tile_x, tile_c = tile_accumulator(sch, acc, last, divisor(p.wo, pixels), lanes)
    if p.macs >= 200_000:
        sch.parallel(outer)
    *_, x, c, ky, k = sch.get_loops(acc)
    sch.reorder(ky, k, x, c)
    if lanes > 1:
        sch.vectorize(c)
        sch.vectorize(tile_c)
    sch.unroll(x)
    sch.unroll(tile_x)
    # Last: once the initial value is apart the block is no reduction and takes no vector loop.
    sch.decompose_reduction(acc, ky)
    return sch.mod["main"]


def _row(isa: str, lanes: int, pixels: int, rank: int) -> Kernel:
    name = f"bconv2d_{isa}_popcnt_u32_{pixels}x{lanes}"
    return Kernel(
        name=name,
        op="bconv2d",
        isa=isa,
        word_bits=WORD,
        tile={"pixels": pixels, "channels": lanes},
        supports=lambda params: None,
        pack_weights=functools.partial(pack_weights, lanes=lanes),
        compute=functools.partial(compute, kernel=name),
        schedule=functools.partial(schedule, pixels=pixels),
        rank=rank,
    )


KERNELS = (_row("generic", lanes=16, pixels=2, rank=0),)
