"""Binary convolution with output channels in vector lanes: xor, popcount, add on 32-bit words.

Weights are stored [groups * channel blocks, kh, kw*cw, channels of a block], so that a vector load
holds one word of as many output channels as the vector has lanes, and one activation word is
broadcast against it. A tile of pixels x channels is held in registers over the whole reduction.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.target import Target
from tvm.tirx import PrimFunc

from .bconv2d import border_correction, finish, needs_correction
from .kernels import Kernel, table
from .lanes_writer import LANES, WORD, LanesWriter, schedule_lanes
from .params import ConvParams
from .reference import pack_bits


def block_channels(params: ConvParams, channels: int) -> int:
    """Channels of one block of the packed weights: `channels`, or all of a small group's."""
    return min(channels, -(-params.cog // LANES) * LANES)


def pack_weights(w: np.ndarray, params: ConvParams, channels: int) -> tuple[np.ndarray, ...]:
    """int8 +-1 [co, ci/groups, kh, kw] to uint32 [groups*blocks, kh, kw*cw, block channels], and
    the border correction table where the padding is 0.
    """
    p = params
    cw = p.words(WORD)
    size = block_channels(p, channels)
    blocks = -(-p.cog // size)
    words = pack_bits(w.transpose(0, 2, 3, 1), WORD)  # [co, kh, kw, cw]
    out = np.zeros((p.groups, blocks * size, p.kh, p.kw * cw), np.uint32)
    out[:, : p.cog] = words.reshape(p.groups, p.cog, p.kh, p.kw * cw)
    out = out.reshape(p.groups * blocks, size, p.kh, p.kw * cw).transpose(0, 2, 3, 1)
    packed = np.ascontiguousarray(out)
    return (packed, border_correction(w, p)) if needs_correction(p) else (packed,)


def compute(
    data: te.Tensor,
    weights: te.Tensor,
    *correction: te.Tensor,
    params: ConvParams,
    counts: Callable[..., te.Tensor],
) -> te.Tensor:
    """data: uint32 [n, hp, wp, groups*cw], or what the kernel's `prepare` returns; then the arrays
    of its `pack_weights`. counts: as `Kernel.counts`. Returns int32 NHWC.
    """
    acc = counts(data, weights, params=params)
    return finish(acc, params, correction[0] if correction else None)


def counts(data: te.Tensor, weights: te.Tensor, params: ConvParams, kernel: str) -> te.Tensor:
    """The numbers of differing taps, int32 NHWC."""
    p = params
    cw = p.words(WORD)
    size = int(weights.shape[3])
    blocks = -(-p.cog // size)
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
        w = weights[g * blocks + o // size, ky, k, o % size]
        return te.sum(tirx.popcount(a ^ w).astype("int32"), axis=[ky, k])

    attrs = table()[kernel].annotations("acc", p)
    return te.compute(p.out_shape, count, name="acc", attrs=attrs)


def schedule(func: PrimFunc, target: Target, pixels: int) -> PrimFunc:
    """Write the loops: tiles of `pixels` x the channels of a block."""
    return schedule_lanes(func, pixels, LanesWriter)


def kernel_row(
    isa: str,
    method: str,
    pixels: int,
    channels: int,
    rank: int | Callable[[ConvParams, Target], int],
    pack: Callable[..., tuple[np.ndarray, ...]],
    count: Callable[..., te.Tensor],
    plan: Callable[..., PrimFunc],
    prepare: Callable[..., te.Tensor] | None = None,
) -> Kernel:
    """A row of the kernel table for tiles of `pixels` x `channels`, whatever its way to count.

    pack, count, plan, prepare: the functions of `Kernel` of similar names, which also take
    channels, kernel (the row's name), pixels and kernel.
    """
    name = f"bconv2d_{isa}_{method}_u32_{pixels}x{channels}"
    counting = functools.partial(count, kernel=name)
    return Kernel(
        name=name,
        op="bconv2d",
        isa=isa,
        word_bits=WORD,
        tile={"pixels": pixels, "channels": channels, "lanes": LANES},
        supports=lambda params: None,
        pack_weights=functools.partial(pack, channels=channels),
        compute=functools.partial(compute, counts=counting),
        schedule=functools.partial(plan, pixels=pixels),
        counts=counting,
        count_dtype="int32",
        prepare=None if prepare is None else functools.partial(prepare, kernel=name),
        rank=rank,
    )


def _popcounts(isa: str, pixels: int, channels: int, rank: int) -> Kernel:
    return kernel_row(isa, "popcnt", pixels, channels, rank, pack_weights, counts, schedule)


KERNELS = (
    _popcounts("generic", pixels=2, channels=16, rank=0),
    _popcounts("avx512_vpopcntdq", pixels=4, channels=64, rank=10),
)
