"""Binary convolution by xor, carry-save adders and popcount on 32-bit words, for AVX512.

Three words of differing bits x1, x2, x3 are added bit by bit to a sum and a carry (a full adder):

    popcount(x1) + popcount(x2) + popcount(x3) = popcount(s) + 2 * popcount(c)
    s = x1 ^ x2 ^ x3,   c = majority(x1, x2, x3)

which saves one of three popcounts and additions, two instructions, and costs two: one for s, one
for c. But here s costs nothing: every x is a ^ w, activations with weights, hence so is every xor
of some x, with both sides known beforehand. With the prefixes

    X1 = x1 = a1 ^ w1,   X2 = x1 ^ x2 = (a1^a2) ^ (w1^w2),   Y3 = ~s = (a1^a2^a3) ^ ~(w1^w2^w3)

the carry is a choice of bits, one vpternlog: c = X2 ? Y3 : X1. For if x1 and x2 agree, they are the
majority; if not, x3 is, and then s = 1 ^ x3. So three words take 3 xor, 1 vpternlog, 2 popcounts
and 2 additions: 8 vector instructions, against 9 of plain popcounts. Longer chains of adders tend
to 7.5, but need more sums of activations and more registers.

The xor of each word of the activations with the next one and the next two in memory is made by each
thread for the rows that it is about to read (`prefixes`). Chains lie in runs of words that are
neighbours in memory (`lanes_writer.row_runs`); the one or two words left at the end of a run are
counted by themselves. Carry-save adders for popcounts: Mula, Kurz and Lemire, "Faster population
counts using AVX2 instructions" (2018); the sums known beforehand are possible because a
convolution uses each of them many times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.target import Target
from tvm.tirx import PrimFunc, Stmt

from .. import bconv2d_lanes as lanes
from ..emit import let, loop, seq, splat, vload
from ..kernels import Kernel, table
from ..lanes_writer import (
    LANES,
    WORD,
    LanesWriter,
    add_to,
    register_vectors,
    row_runs,
    schedule_lanes,
)
from ..padded_rows import or_padded
from ..params import ConvParams
from ..pixel_tiles import Chunk, chunk_tiles
from .prefixes import CHAIN, Prefixes

SHORT = 4  # steps of a run from which on a nest of loops pays
MAX_BYTES = 65536  # of a thread's sums; some systems give threads 512 KB of stack
WIDE_BYTES = 40960  # of a block's weights up to which the wide tile was the faster one on Zen 5


def pack_weights(
    w: np.ndarray, params: ConvParams, channels: int, pixels: int
) -> tuple[np.ndarray, ...]:
    """int8 +-1 [co, ci/groups, kh, kw] to what `bconv2d_lanes.pack_weights` returns, the words of
    each chain replaced by w1, w1^w2 and ~(w1^w2^w3).
    """
    packed, *rest = lanes.pack_weights(w, params, channels, pixels)
    runs, words = row_runs(params, WORD)
    view = packed.reshape(*packed.shape[:2], runs, words, packed.shape[-1])
    for k in range(0, words - words % CHAIN, CHAIN):
        view[:, :, :, k + 1] ^= view[:, :, :, k]
        view[:, :, :, k + 2] ^= ~view[:, :, :, k + 1]
    return (packed, *rest)


def counts(
    data: te.Tensor, weights: te.Tensor, *padded: te.Tensor, params: ConvParams, kernel: str
) -> te.Tensor:
    """The numbers of differing taps, int32 NHWC; each weight from it and the one before it.

    padded: the counts of padded rows, if any.
    """
    p = params
    cw = p.words(WORD)
    size = int(weights.shape[3])
    blocks = -(-p.cog // size)
    _, words = row_runs(p, WORD)
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
        place = tirx.Select(k % words < words - words % CHAIN, k % words % CHAIN, 0)
        before = weights[block, ky, tirx.max(k - 1, 0), channel]
        bits = a ^ weights[block, ky, k, channel]
        bits = tirx.Select(place > 0, bits ^ before, bits)
        bits = tirx.Select(place > 1, bits ^ tirx.const(0xFFFFFFFF, "uint32"), bits)
        value = or_padded(tirx.popcount(bits), padded, p, y, ky, k, block, channel)
        return te.sum(value.astype("int32"), axis=[ky, k])

    attrs = table()[kernel].annotations("acc", p)
    return te.compute(p.out_shape, count, name="acc", attrs=attrs)


def schedule(func: PrimFunc, target: Target, pixels: int) -> PrimFunc:
    """Write the loops: tiles of `pixels` x the channels of a block."""
    return schedule_lanes(func, pixels, _Writer)


class _Writer(LanesWriter):
    """The loops of `bconv2d_lanes` with another reduction."""

    def __init__(self, *args: Any) -> None:
        """As `LanesWriter`."""
        super().__init__(*args)
        self.prefixes = Prefixes(self.data, self.params)

    def of_thread(self) -> list[Stmt]:
        """Room for prefixes."""
        return self.prefixes.declare(chunk_pixels(self.params, self.pixels))

    def enter(self, chunk: Chunk) -> list[Stmt]:
        """The prefixes of the chunk, unless the thread has them from the tile before."""
        return self.prefixes.enter(chunk, self.pixels)

    def accumulate(
        self,
        stmts: list[Stmt],
        at: list[tuple[Any, Any, Any]],
        group: Any,
        block: Any,
        vectors: int,
    ) -> list[Any]:
        """As `LanesWriter.accumulate`: carries and the rest in two sums, added at the end."""
        p = self.params
        count = len(at) * vectors
        under = [self.prefixes.under(i, group, stmts) for i in at]
        runs, words = row_runs(p, WORD)
        chains, rest = divmod(words, CHAIN)
        begin, rows, starts = self.begin(stmts, at, group, block, vectors)
        # 32 - popcount(Y3) = popcount(s): the 32 of all chains are there from the beginning.
        each = WORD * chains * runs
        whole = tirx.const(0, "int32") if not each else let("whole", rows * each, stmts)
        whole = tirx.const(whole, "int32") if isinstance(whole, int) else whole
        down = self.start is not None
        whole = tirx.Broadcast(-whole if down else whole, LANES)
        starts = [let("start", value + whole, stmts) for value in starts]
        ones = register_vectors("ones", starts, stmts)
        twos = register_vectors("twos", [splat(0, f"int32x{LANES}")] * count, stmts)

        def forms(ky: Any, kx: Any, k: Any, length: int, body: list[Stmt]) -> list[list[Any]]:
            """The broadcast words of every pixel for a chain of `length` words."""
            return [[let("a", entry(j, ky, kx, k), body) for j in range(length)] for entry in under]

        def chain(ky: Any, kx: Any, k: Any) -> Stmt:
            body: list[Stmt] = []
            pixels = forms(ky, kx, k, CHAIN, body)
            for v in range(vectors):
                w = [
                    let("w", self.weight(group, block, ky, kx, k + j, v), body)
                    for j in range(CHAIN)
                ]
                for i, a in enumerate(pixels):
                    x1, x2, y3 = (let("x", a_j ^ w_j, body) for a_j, w_j in zip(a, w, strict=True))
                    carry = (x2 & y3) | (x1 & ~x2)
                    index = i * vectors + v
                    body.append(add_to(twos, index, tirx.popcount(carry)))
                    body.append(add_to(ones, index, tirx.popcount(y3), down=not down))
            return seq(body)

        def single(ky: Any, kx: Any, k: Any) -> Stmt:
            body: list[Stmt] = []
            pixels = forms(ky, kx, k, 1, body)
            for v in range(vectors):
                w = let("w", self.weight(group, block, ky, kx, k, v), body)
                for i, (a,) in enumerate(pixels):
                    body.append(self.count(ones, i * vectors + v, tirx.popcount(a ^ w)))
            return seq(body)

        def steps(step: Callable[[Any, Any, Any], Stmt], count: int, size: int, k: int) -> Stmt:
            """`count` steps of `size` words from word `k` on, in every row and run."""
            if count < SHORT:
                return loop(
                    rows * (runs * count),
                    lambda t: step(
                        begin + t // (runs * count), t // count % runs, t % count * size + k
                    ),
                    "t",
                )

            def row(ky: Any) -> Stmt:
                return loop(runs, lambda kx: run(ky, kx), "kx")

            def run(ky: Any, kx: Any) -> Stmt:
                return loop(count, lambda i: step(ky, kx, i * size + k), "k")

            return loop(rows, lambda i: row(begin + i), "ky")

        if chains:
            stmts.append(steps(chain, chains, CHAIN, 0))
        if rest:
            stmts.append(steps(single, rest, 1, chains * CHAIN))
        twice = -2 if down else 2
        return [
            vload(ones, [i * LANES], LANES) + vload(twos, [i * LANES], LANES) * twice
            for i in range(count)
        ]


def chunk_pixels(params: ConvParams, pixels: int) -> int:
    """Output pixels of a chunk of tiles of `pixels`."""
    pixels = min(pixels, params.pixels)
    return pixels * chunk_tiles(-(-params.pixels // pixels))


def supports(params: ConvParams, pixels: int) -> str | None:
    """The sums of a chunk must leave the stack of a thread room for more."""
    nbytes = Prefixes.nbytes(params, chunk_pixels(params, pixels))
    if nbytes > MAX_BYTES:
        return f"the sums of a chunk take {nbytes} bytes of the stack, the limit is {MAX_BYTES}"
    return None


def rank(params: ConvParams, target: Target, pixels: int, channels: int) -> int:
    """Above plain popcounts where the model says at least 3 % less, with the tile that suits."""
    p = params
    if p.pixels < 2 * pixels or vector_work(p, True) > 0.97 * vector_work(p, False):
        return 0
    block_bytes = p.kh * p.kw * p.words(WORD) * 4 * lanes.block_channels(p, 64)
    return 12 if (channels == 64) == (block_bytes <= WIDE_BYTES) else 11


def vector_work(params: ConvParams, carry_save: bool) -> int:
    """Modelled vector instructions of a layer, for carry-save adders or plain popcounts.

    Beside the reduction 3 a vector of outputs to scale and store it, 5 more for two sums and
    smaller tiles; the sums of a vector of words cost as much as 28.
    """
    p = params
    runs, words = row_runs(p, WORD)
    outputs = p.pixels * p.groups * -(-p.cog // LANES)
    if not carry_save:
        return outputs * (3 * p.kh * runs * words + 3)
    chains, rest = divmod(words, CHAIN)
    packed = p.n * p.hp * p.wp * p.groups * p.words(WORD)
    return outputs * (p.kh * runs * (8 * chains + 3 * rest) + 8) + 28 * -(-packed // LANES)


def _row(pixels: int, channels: int) -> Kernel:
    return lanes.kernel_row(
        "avx512_vpopcntdq",
        "carry_save",
        pixels,
        channels,
        rank=functools.partial(rank, pixels=pixels, channels=channels),
        pack=pack_weights,
        count=counts,
        plan=schedule,
        refuse=functools.partial(supports, pixels=pixels),
    )


# The sums of a tile fill 16 of 32 registers. Few channels let the weights of a large kernel stay in
# the first-level cache.
KERNELS = (_row(pixels=2, channels=64), _row(pixels=4, channels=32))
