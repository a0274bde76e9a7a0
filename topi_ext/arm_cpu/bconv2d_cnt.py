"""Binary convolution for 64-bit Arm by eor, cnt and add: 3.0 vector instructions per 128 MACs.

Vector lanes are (output channel, word): 128 / word channels of `word` bits. Every activation word
is stored 128 / word times in a row (`prepare`), so that a plain load broadcasts it. What is counted
and how it becomes the integers is told in `agreement`.

A byte of the xor has 8 bits set at most, four registers of such counts are added pairwise (`addp`)
within a byte, and `uadalp` adds the pairs that are left to eight 16-bit counters: with word / 16
products that is word / 16 - 1 `addp` and one `uadalp`, so exactly one addition per product, three
vector instructions per 128 binary MACs, and no overflow before 65535 counts.

Channels are padded to eight per group. A threshold behind the layer writes one byte per pixel and
tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx
from tvm.target import Target
from tvm.tirx import PrimFunc, Stmt

from ..emit import bitcast, channel_loops, let, local, seq, splat, view, vload, vstore
from ..epilogue import Epilogue, extract_epilogue, find_stage, holds_stage
from ..kernels import PARAMS, Kernel
from ..params import ConvParams
from ..pixel_tiles import PixelTiles, Place
from ..scalar import schedule_scalar
from ..threshold import WORDS, WordsEpilogue, extract_words
from . import agreement, neon
from .addends import FEW, Copies
from .agreement import border_table, supports
from .cores import core_of

CHANNELS = 8  # 16-bit counters of one register
UNROLLED_PRODUCTS = 64  # most 128-bit products in one copy of the loop body
COPIED_BYTES = 2048  # most for copies of an addend: few channels, where a move per output shows


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


def _found(
    operands: Sequence[te.Tensor], params: ConvParams, kernel: Kernel, place: tuple[Any, ...]
) -> tuple[Any, list[Any]]:
    """The bits counted for one output and one word of a tap, and the axes to sum over."""
    (data, weights), p, (n, y, x, c) = operands, params, place
    cw, lanes = p.words(kernel.word_bits), 128 // kernel.word_bits
    ky = te.reduce_axis((0, p.kh), "ky")
    step = te.reduce_axis((0, p.kw * cw), "step")
    g, o = c // p.cog, c % p.cog
    row = y * p.stride[0] + ky * p.dilation[0]
    column = x * p.stride[1] + step // cw * p.dilation[1]
    bits = data[n, row, column, (g * cw + step % cw) * lanes]
    word = weights[g * blocks_per_group(p) + o // CHANNELS, ky, step, o % CHANNELS]
    return tirx.popcount(bits ^ word), [ky, step]


def schedule(func: PrimFunc, kernel: Kernel) -> PrimFunc:
    """Write the loops of the convolution, or of `prepare`, whichever the function holds."""
    if holds_stage(func, "repeat"):
        return _schedule_repeat(s_tir.Schedule(func), kernel)
    epilogue = extract_words(func) if holds_stage(func, WORDS) else extract_epilogue(func)
    return schedule_scalar(func) if epilogue is None else _Writer(epilogue, kernel).write()


class _Writer(PixelTiles):
    """Tiles whose 16-bit counters stay in registers, eight channels in each."""

    def __init__(self, epilogue: Epilogue | WordsEpilogue, kernel: Kernel) -> None:
        """Find the shape and the buffers."""
        p = ConvParams.parse(str(epilogue.annotations[PARAMS]))
        self.word = kernel.word_bits
        self.data, self.weights, *border = epilogue.reads
        self.border = border[0] if border else None
        # The smaller of the two operands is streamed, the larger one stays in the cache by panels.
        weight_bytes = p.co * p.taps // 8
        input_bytes = p.n * p.hp * p.wp * p.groups * p.words(self.word) * 16
        outside = weight_bytes <= input_bytes
        super().__init__(epilogue, p, kernel.tile["pixels"], CHANNELS, pixels_outside=outside)
        self.copies: Copies | None = None

    def write(self) -> PrimFunc:
        """The function. Where it pays, every pixel of a tile has a copy of what is added to a
        product.
        """
        epilogue, p, each = self.epilogue, self.params, self.pixels
        too_few = each == 1 or p.pixels < FEW * each
        if isinstance(epilogue, WordsEpilogue) or too_few or each * p.co * 4 > COPIED_BYTES:
            return super().write()
        stmts: list[Stmt] = []
        self.copies = Copies(epilogue.addends(), each, p.co, stmts)
        return epilogue.with_body(seq([*stmts, super().write().body]))

    def tile(self, at: list[Place], group: Any, block: Any, channels: int) -> Stmt:
        """Reduction, then epilogue."""
        p = self.params
        stmts: list[Stmt] = []
        sums = local("sums", (len(at) * CHANNELS,), "int16", stmts)
        first = let("channel", group * p.cog + block * CHANNELS, stmts)
        for i, (_, y, x) in enumerate(at):
            begin = splat(0, "int16x8")
            if isinstance(self.epilogue, Epilogue):
                begin = agreement.start(self.border, p, y, x, first, CHANNELS)
            stmts.append(vstore(sums, begin, [i * CHANNELS], CHANNELS))
        stmts.append(self._reduce(sums, at, group, block))
        epilogue = self.epilogue
        if isinstance(epilogue, WordsEpilogue):
            return seq(stmts + self._words(epilogue, sums, at, first))
        # Two buffers: LLVM keeps the sums in registers only if no variable index reaches them.
        counts = local("counts", (len(at) * CHANNELS,), "int16", stmts)
        for i in range(0, len(at) * CHANNELS, CHANNELS):
            stmts.append(vstore(counts, vload(sums, [i], CHANNELS), [i], CHANNELS))

        def store(i: int) -> Callable[[Any], Stmt]:
            def one(c: Any) -> Stmt:
                value = tirx.BufferLoad(counts, [i * CHANNELS + c])
                copies = self.copies.at(i, first + c) if self.copies else ()
                return epilogue.store((*at[i], first + c), value, copies)

            return one

        for i in range(len(at)):
            stmts += channel_loops(store(i), channels, CHANNELS)
        return seq(stmts)

    def _words(
        self, epilogue: WordsEpilogue, sums: tirx.Buffer, at: list[Place], first: Any
    ) -> list[Stmt]:
        """Compare the eight counters of every pixel and store a byte for each."""
        stmts: list[Stmt] = []
        store = epilogue.octets(stmts)
        limits = [epilogue.limit(pixel, first, stmts)(0, CHANNELS) for pixel in at]
        counters = [vload(sums, [i * CHANNELS], CHANNELS) for i in range(len(at))]
        bits = []
        for i in range(0, len(at), 2):
            j = min(i + 1, len(at) - 1)
            count = neon.concat(counters[i], counters[j], CHANNELS)
            below = count < neon.concat(limits[i], limits[j], CHANNELS)
            bits.append(let("bits", neon.bit_of_byte(below), stmts))
        octets = let("octets", neon.gather(bits), stmts)
        for i, pixel in enumerate(at):
            octet = (octets >> tirx.const(8 * i, octets.ty.dtype)).astype("uint8")
            stmts.append(store(octet, pixel, first))
        return stmts

    def _reduce(self, sums: tirx.Buffer, at: list[Place], group: Any, block: Any) -> Stmt:
        """sums[pixel, channel] += popcount(a ^ w) over all taps and words."""
        p, word = self.params, self.word
        lanes, cw = 128 // word, p.words(word)
        stmts: list[Stmt] = []
        # A pointer for each pixel, a distance for all: of indices LLVM would make vectors.
        panel = view(self.weights, [group * self.blocks + block, 0, 0, 0], stmts)
        pixels = [
            view(self.data, [n, y * p.stride[0], x * p.stride[1], group * cw * lanes], stmts)
            for n, y, x in at
        ]

        def row_of(ky: Any, kx: Any, before: list[Stmt]) -> Callable[[Any], Stmt]:
            tap = ky * p.dilation[0] * p.wp + kx * p.dilation[1]
            first = view(panel, [(ky * p.kw + kx) * cw * CHANNELS], before)
            rows = [view(pixel, [tap * p.groups * cw * lanes], before) for pixel in pixels]

            def step(k: Any) -> Stmt:
                body: list[Stmt] = []
                weights = [
                    let("w", bitcast(vload(first, [k * CHANNELS + v], lanes), "uint8x16"), body)
                    for v in range(0, CHANNELS, lanes)
                ]
                for i, row in enumerate(rows):
                    a = let("a", bitcast(vload(row, [k * lanes], lanes), "uint8x16"), body)
                    total = vload(sums, [i * CHANNELS], CHANNELS) + _count_bits(a, weights)
                    body.append(vstore(sums, total, [i * CHANNELS], CHANNELS))
                return seq(body)

            return step

        products = len(at) * word // 16
        return seq([*stmts, self.taps(cw, row_of, copies=UNROLLED_PRODUCTS // products)])


def _count_bits(a: Any, weights: list[Any]) -> Any:
    """int16x8: for eight channels the bits in which `a` and their words differ.

    a, weights: uint8x16; the words of the channels in order, 128 / word channels in each.
    """
    parts = [tirx.popcount(a ^ w) for w in weights]
    while len(parts) > 1:
        parts = [neon.addp(x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return neon.uaddlp(parts[0])


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
        compute=lambda *arrays, params: agreement.compute(_found, 2, arrays, params, kernel),
        schedule=lambda func, target: schedule(func, kernel),
        counts=lambda *arrays, params: agreement.counts(_found, arrays, params, kernel),
        count_dtype="int16",
        inverted=True,
        fills=8,
        prepare=lambda packed, params: prepare(packed, params, kernel),
        rank=lambda params, target: _rank(params, target, word, pixels),
    )
    return kernel


def _rank(p: ConvParams, target: Target, word: int, pixels: int) -> int:
    """Useful vector instructions per million; 0 where the tile would spill on the core."""
    if pixels not in core_of(target).cnt_pixels:
        return 0
    bits = p.cig / (p.words(word) * word)
    tiles = -(-p.pixels // pixels)
    loads = 3 / (3 + tiles / p.pixels + 16 / word)
    channels = p.cog / (blocks_per_group(p) * CHANNELS)
    return int(1e6 * bits * loads * channels)


KERNELS = tuple(_row(word, pixels) for word in (64, 32, 16) for pixels in (1, 4, 5, 7))
