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

from . import bconv2d, halves
from .bconv2d import border_correction, needs_correction
from .kernels import Kernel, table
from .lanes_writer import LANES, WORD, LanesWriter, schedule_lanes
from .padded_rows import or_padded, padded_counts, skipping_pays
from .params import ConvParams
from .reference import pack_bits


def block_channels(params: ConvParams, channels: int) -> int:
    """Channels of one block of the packed weights: `channels`, or all of a small group's."""
    return min(channels, -(-params.cog // LANES) * LANES)


def pack_weights(
    w: np.ndarray, params: ConvParams, channels: int, pixels: int, skip: bool = True
) -> tuple[np.ndarray, ...]:
    """int8 +-1 [co, ci/groups, kh, kw] to uint32 [groups*blocks, kh, kw*cw, block channels], then
    the counts of padded rows where skipping them pays (`padded_rows`), and last the border
    correction table where the padding is 0, as halves if that is possible (`halves`). skip:
    whether rows may be skipped at all.
    """
    p = params
    cw = p.words(WORD)
    size = block_channels(p, channels)
    blocks = -(-p.cog // size)
    words = pack_bits(w.transpose(0, 2, 3, 1), WORD)  # [co, kh, kw, cw]
    out = np.zeros((p.groups, blocks * size, p.kh, p.kw * cw), np.uint32)
    out[:, : p.cog] = words.reshape(p.groups, p.cog, p.kh, p.kw * cw)
    out = out.reshape(p.groups * blocks, size, p.kh, p.kw * cw).transpose(0, 2, 3, 1)
    arrays = [np.ascontiguousarray(out)]
    if skip and skipping_pays(p, pixels, WORD):
        arrays.append(padded_counts(w, p, size))
    if needs_correction(p):
        table = halves.start_table if halves.halves(p, LANES) else border_correction
        arrays.append(table(w, p))
    return tuple(arrays)


def compute(
    data: te.Tensor,
    *arrays: te.Tensor,
    params: ConvParams,
    counts: Callable[..., te.Tensor],
) -> te.Tensor:
    """data: uint32 [n, hp, wp, groups*cw]; then the arrays of `pack_weights`. counts: as
    `Kernel.counts`. Returns int32 NHWC.
    """
    *packed, correction = arrays if needs_correction(params) else (*arrays, None)
    finish = halves.finish if halves.halves(params, LANES) else bconv2d.finish
    return finish(counts(data, *packed, params=params), params, correction)


def counts(
    data: te.Tensor, weights: te.Tensor, *padded: te.Tensor, params: ConvParams, kernel: str
) -> te.Tensor:
    """The numbers of differing taps, int32 NHWC. padded: the counts of padded rows, if any."""
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
        block, channel = g * blocks + o // size, o % size
        value = tirx.popcount(a ^ weights[block, ky, k, channel])
        value = or_padded(value, padded, p, y, ky, k, block, channel)
        return te.sum(value.astype("int32"), axis=[ky, k])

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
    refuse: Callable[[ConvParams], str | None] = lambda params: None,
) -> Kernel:
    """A row of the kernel table for tiles of `pixels` x `channels`, whatever its way to count.

    pack, count, plan: the functions of `Kernel` of similar names, which also take channels and
    pixels, kernel (the row's name), pixels. refuse: its `supports`.
    """
    name = f"bconv2d_{isa}_{method}_u32_{pixels}x{channels}"
    counting = functools.partial(count, kernel=name)
    return Kernel(
        name=name,
        op="bconv2d",
        isa=isa,
        word_bits=WORD,
        tile={"pixels": pixels, "channels": channels, "lanes": LANES},
        supports=refuse,
        pack_weights=functools.partial(pack, channels=channels, pixels=pixels),
        compute=functools.partial(compute, counts=counting),
        schedule=functools.partial(plan, pixels=pixels),
        counts=counting,
        count_dtype="int32",
        beside=True,
        rank=rank,
    )


def _popcounts(isa: str, pixels: int, channels: int, rank: int, skip: bool) -> Kernel:
    pack = functools.partial(pack_weights, skip=skip)
    return kernel_row(isa, "popcnt", pixels, channels, rank, pack, counts, schedule)


KERNELS = (
    # Skipping made the small tiles 7 % slower.
    _popcounts("generic", pixels=2, channels=16, rank=0, skip=False),
    _popcounts("avx512_vpopcntdq", pixels=4, channels=64, rank=10, skip=True),
)
