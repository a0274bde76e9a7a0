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

`prepare` writes the words of the activations and, as two more tensors of their shape, the xor of
each word with the next one and the next two in memory. Chains lie in runs of words that are
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
from tvm.s_tir import Schedule
from tvm.target import Target
from tvm.tirx import PrimFunc, Stmt

from .. import bconv2d_lanes as lanes
from ..emit import PARALLEL, SERIAL, let, loop, seq, splat, vload, vstore
from ..epilogue import find_stage, holds_stage
from ..kernels import KERNEL, PARAMS, STAGE, Kernel, table
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
from ..parallel import PARALLEL_ELEMENTS
from ..params import ConvParams

CHAIN = 3  # words that one adder takes
SHORT = 4  # steps of a run from which on a nest of loops pays
WIDE_BYTES = 40960  # of a block's weights up to which the wide tile was the faster one on Zen 5


def prepare(packed: te.Tensor, params: ConvParams, kernel: str) -> te.Tensor:
    """uint32 words [n, hp, wp, groups*cw] to [CHAIN, n, hp, wp, groups*cw]: entry j is the xor of a
    word and the j words behind it in memory.
    """
    shape = [int(extent) for extent in packed.shape]
    last = int(np.prod(shape)) - 1

    def sums(j: Any, n: Any, y: Any, x: Any, k: Any) -> Any:
        value = packed[n, y, x, k]
        for i in range(1, CHAIN):
            at = tirx.min(((n * shape[1] + y) * shape[2] + x) * shape[3] + k + i, last)
            pixel, line = at // shape[3], at // (shape[2] * shape[3])
            other = packed[line // shape[1], line % shape[1], pixel % shape[2], at % shape[3]]
            value = tirx.Select(j >= i, value ^ other, value)
        return value

    attrs = {KERNEL: kernel, STAGE: "prepare", PARAMS: str(params)}
    return te.compute((CHAIN, *shape), sums, name="prepare", attrs=attrs)


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
    """The numbers of differing taps, int32 NHWC; x2 and x3 from the prefixes.

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
        block, channel = g * blocks + o // size, o % size
        j = tirx.Select(k % words < words - words % CHAIN, k % words % CHAIN, 0)
        first = k - j
        row = y * p.stride[0] + ky * p.dilation[0]
        column = x * p.stride[1] + first // cw * p.dilation[1]
        before = tirx.max(j - 1, 0)

        def prefix(i: Any) -> Any:
            return (
                data[i, n, row, column, g * cw + first % cw]
                ^ weights[block, ky, first + i, channel]
            )

        own, previous = prefix(j), prefix(before)
        ones = tirx.const(0xFFFFFFFF, "uint32")
        bits = tirx.Select(j > 0, own ^ previous, own)
        bits = tirx.Select(j > 1, bits ^ ones, bits)
        value = or_padded(tirx.popcount(bits), padded, p, y, ky, k, block, channel)
        return te.sum(value.astype("int32"), axis=[ky, k])

    attrs = table()[kernel].annotations("acc", p)
    return te.compute(p.out_shape, count, name="acc", attrs=attrs)


def schedule(func: PrimFunc, target: Target, pixels: int) -> PrimFunc:
    """Write the loops of the convolution, or of `prepare`, whichever the function holds."""
    if holds_stage(func, "prepare"):
        return _schedule_prepare(func)
    return schedule_lanes(func, pixels, _Writer)


def _schedule_prepare(func: PrimFunc) -> PrimFunc:
    """One pass over the words as they lie in memory, by vectors; the last words one by one."""
    sch = Schedule(func)
    block = sch.get(find_stage(sch, "prepare"))
    packed, out = block.reads[0].source, block.writes[0].source
    total = int(np.prod([int(extent) for extent in packed.ty.shape]))

    def store(first: Any, size: int) -> Stmt:
        """The words from `first` on; what would come behind the last word is the last word."""
        stmts: list[Stmt] = []
        value: Any = None
        for i in range(CHAIN):
            at = [0, 0, 0, first + i if size > 1 else min(first + i, total - 1)]
            word = vload(packed, at, size) if size > 1 else tirx.BufferLoad(packed, at)
            value = let("sum", word if value is None else value ^ word, stmts)
            place = [i, 0, 0, 0, first]
            stmts.append(
                vstore(out, value, place, size) if size > 1 else tirx.BufferStore(out, value, place)
            )
        return seq(stmts)

    full = max(total - CHAIN + 1, 0) // LANES
    kind = PARALLEL if total >= PARALLEL_ELEMENTS else SERIAL
    body = [loop(full, lambda i: store(i * LANES, LANES), "i", kind)] if full else []
    body += [store(i, 1) for i in range(full * LANES, total)]
    return PrimFunc(func.params, seq(body), func.ret_type, func.attrs)


class _Writer(LanesWriter):
    """The loops of `bconv2d_lanes` with another reduction."""

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
            return [
                [
                    let("a", self.broadcast(self.data, [j], i, group, ky, kx, k), body)
                    for j in range(length)
                ]
                for i in at
            ]

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
    smaller tiles; a vector of words costs `prepare` as much as 28.
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
        prepare=prepare,
    )


# The sums of a tile fill 16 of 32 registers. Few channels let the weights of a large kernel stay in
# the first-level cache.
KERNELS = (_row(pixels=2, channels=64), _row(pixels=4, channels=32))
