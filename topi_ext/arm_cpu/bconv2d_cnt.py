"""Binary convolution for 64-bit Arm by eor, cnt and add: 3.0 vector instructions per 128 MACs.

Vector lanes are (output channel, word): 128 / word channels of `word` bits. Every activation word
is stored 128 / word times in a row (`prepare`), so that a plain load broadcasts it. What is counted
and how it becomes the integers is told in `agreement`.

Output pixels are counted through the batch and the map, n*ho*wo, and tiled regardless of rows; the
last tile repeats the last pixel. Channels are padded to eight per group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import s_tir, te, tirx
from tvm.s_tir.schedule import SBlockRV
from tvm.target import Target
from tvm.tirx import PrimFunc

from ..epilogue import divisor, find_stage, holds_stage, inline_epilogue
from ..kernels import PARAMS, Kernel
from ..parallel import PARALLEL_BINARY_MACS
from ..params import ConvParams
from .agreement import border_table, first_count, integer, supports
from .cnt_intrin import CHANNELS, cnt_intrin
from .cores import core_of

UNROLLED_PRODUCTS = 64  # most 128-bit products in one copy of the loop body


def blocks_per_group(params: ConvParams) -> int:
    """Blocks of eight output channels in one group."""
    return -(-params.cog // CHANNELS)


def pack_weights(weights: np.ndarray, params: ConvParams, word: int) -> tuple[np.ndarray, ...]:
    """Inverted bits [groups * co blocks, kh, kw * cw, 8] and, for zero padding, the border table.

    weights: int8 +-1 [co, ci/groups, kh, kw].
    """
    p = params
    cw, blocks = p.words(word), blocks_per_group(p)
    bits = np.zeros((p.groups, blocks * CHANNELS, p.kh, p.kw, cw * word), np.uint8)
    by_group = weights.reshape(p.groups, p.cog, p.cig, p.kh, p.kw).transpose(0, 1, 3, 4, 2)
    bits[:, : p.cog, :, :, : p.cig] = by_group < 0
    octets = np.packbits(bits, axis=-1, bitorder="little")
    words = np.ascontiguousarray(octets).view(f"<u{word // 8}")
    words = words.reshape(p.groups * blocks, CHANNELS, p.kh, p.kw * cw)
    packed = np.ascontiguousarray(words.transpose(0, 2, 3, 1))
    return (packed, *border_table(weights, p))


def prepare(packed: te.Tensor, params: ConvParams, kernel: Kernel) -> te.Tensor:
    """Repeat every word 128 / word times along the last axis of [n, hp, wp, groups*cw]."""
    lanes = 128 // kernel.word_bits
    n, h, w, words = (int(extent) for extent in packed.shape)
    return te.compute(
        (n, h, w, words * lanes),
        lambda i, y, x, k: packed[i, y, x, k // lanes],
        name="repeat_words",
        attrs=kernel.annotations("repeat", params),
    )


def compute(
    data: te.Tensor,
    weights: te.Tensor,
    table: te.Tensor | None,
    params: ConvParams,
    kernel: Kernel,
) -> te.Tensor:
    """The integers int32 [n, ho, wo, co] of what `prepare` and `pack_weights` return."""
    p = params
    word, pixels = kernel.word_bits, kernel.tile["pixels"]
    lanes, cw, blocks = 128 // word, p.words(word), blocks_per_group(p)
    ky = te.reduce_axis((0, p.kh), "ky")
    step = te.reduce_axis((0, p.kw * cw), "step")
    start = first_count(p)
    add = te.comm_reducer(lambda x, y: x + y, lambda t: tirx.const(start, t), name="add")

    def agreeing(tile: Any, block: Any, i: Any, c: Any) -> Any:
        q = tile * pixels + i
        if p.pixels % pixels:
            q = tirx.min(q, p.pixels - 1)
        n, r = q // (p.ho * p.wo), q % (p.ho * p.wo)
        y = r // p.wo * p.stride[0] + ky * p.dilation[0]
        x = r % p.wo * p.stride[1] + step // cw * p.dilation[1]
        bits = data[n, y, x, (block // blocks * cw + step % cw) * lanes + c % lanes]
        product = tirx.popcount(bits ^ weights[block, ky, step, c])
        return add(product.astype("int16"), axis=[ky, step])

    acc = te.compute(
        (-(-p.pixels // pixels), p.groups * blocks, pixels, CHANNELS),
        agreeing,
        name="agreeing",
        attrs=kernel.annotations("acc", p),
    )

    def integers(n: Any, y: Any, x: Any, o: Any) -> Any:
        q = (n * p.ho + y) * p.wo + x
        oc = o % p.cog
        m = acc[q // pixels, o // p.cog * blocks + oc // CHANNELS, q % pixels, oc % CHANNELS]
        return integer(m, table, p, y, x, o)

    return te.compute(
        p.out_shape, integers, name="integers", attrs=kernel.annotations("integers", p)
    )


def schedule(func: PrimFunc, kernel: Kernel) -> PrimFunc:
    """Tile the last block [pixels x 8], compute the counts at the tile, use the intrinsic."""
    sch = s_tir.Schedule(func)
    if holds_stage(func, "repeat"):
        return _schedule_repeat(sch, kernel)
    acc = find_stage(sch)
    p = ConvParams.parse(str(sch.get(acc).annotations[PARAMS]))
    last = inline_epilogue(sch, acc)
    extents = [int(sch.get(loop).extent) for loop in sch.get_loops(last)]
    if extents[-1] != p.co or int(np.prod(extents)) != p.pixels * p.co:
        raise ValueError(f"{kernel.name}: cannot tile an output of {extents} for {p}")
    flat = tirx.IndexMap.from_func(
        lambda *index: _pixel_group_channel(index, extents, p),
        ndim=len(extents),
        index_dtype=str(sch.get(last).iter_vars[0].dom.extent.ty),
    )
    sch.transform_block_layout(last, flat)
    # Only a simplified index lets the accumulators shrink to a tile.
    name = sch.get(last).name_hint
    sch = s_tir.Schedule(s_tir.transform.StmtSimplify()(sch.mod))
    acc, last = find_stage(sch), sch.get_sblock(name)
    q, g, o = sch.get_loops(last)
    pixels = kernel.tile["pixels"]
    tile, i = sch.split(q, [None, pixels])
    block, c = sch.split(o, [None, CHANNELS])
    # The smaller of the two operands is streamed, the larger one stays in the cache by panels.
    weight_bytes = p.co * p.taps // 8
    input_bytes = p.n * p.hp * p.wp * p.groups * p.words(kernel.word_bits) * 16
    order = [g, block, tile] if weight_bytes > input_bytes else [tile, g, block]
    sch.reorder(*order, i, c)
    outer, at = order[0], order[-1]
    if order[0] is g:
        outer = sch.fuse(g, block)
    else:
        at = sch.fuse(g, block)
    sch.compute_at(acc, at, preserve_unit_loops=True)
    if p.macs >= PARALLEL_BINARY_MACS:
        sch.parallel(outer)
    sch.unroll(i)
    if p.cog % CHANNELS == 0:
        sch.vectorize(c)
    _schedule_counts(sch, acc, p, kernel)
    return sch.mod["main"]


def _schedule_counts(sch: s_tir.Schedule, acc: SBlockRV, p: ConvParams, kernel: Kernel) -> None:
    *_, i, c, ky, step = sch.get_loops(acc)
    sch.reorder(ky, step, i, c)
    init = sch.decompose_reduction(acc, ky)
    *_, init_i, init_c = sch.get_loops(init)
    sch.vectorize(init_c)
    sch.unroll(init_i)
    if p.cog > 1:
        sch.tensorize(c, cnt_intrin(kernel.word_bits))
    # else the tile has one channel only (depthwise): LLVM's scalar popcount does.
    sch.unroll(i)
    steps = p.kw * p.words(kernel.word_bits)
    products = kernel.tile["pixels"] * kernel.word_bits // 16
    copies = divisor(steps, max(1, UNROLLED_PRODUCTS // products))
    if copies > 1:
        _, inner = sch.split(step, [None, copies])
        sch.unroll(inner)


def _pixel_group_channel(
    index: tuple[Any, ...], extents: list[int], p: ConvParams
) -> tuple[Any, ...]:
    q: Any = 0
    for value, extent in zip(index[:-1], extents[:-1], strict=True):
        q = q * extent + value
    return q, index[-1] // p.cog, index[-1] % p.cog


def _schedule_repeat(sch: s_tir.Schedule, kernel: Kernel) -> PrimFunc:
    lanes = 128 // kernel.word_bits
    fused = sch.fuse(*sch.get_loops(find_stage(sch, "repeat")))
    _, inner = sch.split(fused, [None, lanes])
    sch.vectorize(inner)
    return sch.mod["main"]


def _row(word: int, pixels: int) -> Kernel:
    kernel = Kernel(
        name=f"bconv2d_neon_cnt_w{word}_{pixels}x{CHANNELS}",
        op="bconv2d",
        isa="neon",
        word_bits=word,
        tile={"pixels": pixels, "channels": CHANNELS},
        supports=supports,
        pack_weights=lambda weights, params: pack_weights(weights, params, word),
        compute=lambda data, *args, params: compute(
            data, args[0], args[1] if len(args) > 1 else None, params, kernel
        ),
        schedule=lambda func, target: schedule(func, kernel),
        prepare=lambda packed, params: prepare(packed, params, kernel),
        rank=lambda params, target: _rank(params, target, word, pixels),
    )
    return kernel


def _rank(p: ConvParams, target: Target, word: int, pixels: int) -> int:
    """Useful vector instructions per million; 0 where the tile would spill on the core."""
    if pixels not in core_of(target).cnt_pixels:
        return 0
    bits = p.cig / (p.words(word) * word)
    tiles = p.pixels / (-(-p.pixels // pixels) * pixels)
    loads = 3 / (3 + 1 / pixels + 16 / word)
    # A last tile that is not full makes every store conditional.
    whole = 1 if p.pixels % pixels == 0 else 0.96
    channels = p.cog / (blocks_per_group(p) * CHANNELS)
    return int(1e6 * bits * tiles * loads * whole * channels)


KERNELS = tuple(_row(word, pixels) for word in (64, 32, 16) for pixels in (1, 4, 5, 7))
