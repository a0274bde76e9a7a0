"""Binary convolution with output channels in vector lanes: xor, popcount, add on 32-bit words.

Weights are stored [groups * channel blocks, kh, kw*cw, channels of a block], so that a vector load
holds one word of as many output channels as the vector has lanes, and one activation word is
broadcast against it. A tile of pixels x channels is held in registers over the whole reduction.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.target import Target
from tvm.tirx import PrimFunc, Stmt

from .bconv2d import border_correction, finish, needs_correction
from .emit import PARALLEL, SERIAL, channel_loops, let, local, loop, seq, splat, vload, vstore
from .epilogue import Epilogue, divisor, extract_epilogue, holds_stage
from .kernels import PARAMS, Kernel, table
from .parallel import PARALLEL_BINARY_MACS
from .params import ConvParams
from .reference import pack_bits
from .scalar import schedule_scalar
from .threshold import WORDS, WordsEpilogue, extract_words

WORD = 32
LANES = 16  # of the vectors written here; LLVM splits them where registers are shorter
CHUNK = 16  # tiles of pixels that all channel blocks visit before the next ones


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
    data: te.Tensor, weights: te.Tensor, *correction: te.Tensor, params: ConvParams, kernel: str
) -> te.Tensor:
    """data uint32 [n, hp, wp, groups*cw] and the arrays of `pack_weights` to int32 NHWC."""
    acc = counts(data, weights, params, kernel)
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
    epilogue = extract_words(func) if holds_stage(func, WORDS) else extract_epilogue(func)
    return schedule_scalar(func) if epilogue is None else _Writer(epilogue, pixels).write()


class _Writer:
    """The hand-made loops of one convolution with its epilogue."""

    def __init__(self, epilogue: Epilogue | WordsEpilogue, pixels: int) -> None:
        """Find the shape and the buffers."""
        self.epilogue = epilogue
        self.params = ConvParams.parse(str(epilogue.annotations[PARAMS]))
        self.data, self.weights = epilogue.reads
        self.size = int(self.weights.ty.shape[3])
        self.blocks = -(-self.params.cog // self.size)
        self.pixels = min(pixels, self.params.pixels)

    def write(self) -> PrimFunc:
        """Chunks of pixels outside, then channel blocks, whose weights stay cached over a chunk.

        Threads share the tiles out in this order, so each works on rows of its own, which it
        mostly wrote itself in the layer before.
        """
        p = self.params
        full, rest = divmod(p.pixels, self.pixels)
        tiles = full + (1 if rest else 0)
        last = p.cog - (self.blocks - 1) * self.size

        def tile(t: Any, first: int, per_group: int, channels: int) -> Stmt:
            body: list[Stmt] = []
            index, block = self._place(t, tiles, p.groups * per_group, body)
            pixel = let("pixel", index * self.pixels, body)
            group = let("group", block // per_group, body)
            block = let("of_group", first + block % per_group, body)
            whole = self._tile(pixel, group, block, self.pixels, channels)
            if rest:
                part = self._tile(pixel, group, block, rest, channels)
                fits = pixel < full * self.pixels if full else tirx.const(False, "bool")
                whole = tirx.IfThenElse(fits, whole, part)
            body.append(whole)
            return seq(body)

        kind = PARALLEL if p.macs >= PARALLEL_BINARY_MACS else SERIAL
        even = self.blocks if last == self.size else self.blocks - 1
        stmts = []
        if even:
            fn = functools.partial(tile, first=0, per_group=even, channels=self.size)
            stmts.append(loop(p.groups * even * tiles, fn, "t", kind))
        if even < self.blocks:
            fn = functools.partial(tile, first=even, per_group=1, channels=last)
            stmts.append(loop(p.groups * tiles, fn, "t", kind))
        return self.epilogue.with_body(seq(stmts))

    def _place(self, t: Any, tiles: int, blocks: int, stmts: list[Stmt]) -> tuple[Any, Any]:
        """The tile of pixels and the channel block of the `t`-th step."""
        if blocks == 1:
            return t, 0
        if tiles < 2 * CHUNK:
            return let("tile", t % tiles, stmts), let("block", t // tiles, stmts)
        # Chunks of one size, if there is a divisor: constant divisions are cheap.
        size = divisor(tiles, 2 * CHUNK)
        size = size if size >= CHUNK // 2 else CHUNK
        chunk = let("chunk", t // (size * blocks), stmts)
        step = let("step", t % (size * blocks), stmts)
        wide = let("wide", tirx.min(size, tiles - chunk * size), stmts) if tiles % size else size
        at = let("tile", chunk * size + step % wide, stmts)
        return at, let("block", step // wide, stmts)

    def _tile(self, pixel: Any, group: Any, block: Any, pixels: int, channels: int) -> Stmt:
        """`pixels` pixels x `channels` channels: reduction, then epilogue."""
        p = self.params
        vectors = -(-channels // LANES)
        width = vectors * LANES
        vector = f"uint32x{LANES}"
        stmts: list[Stmt] = []
        at = []
        for i in range(pixels):
            index = let("index", pixel + i, stmts)
            n = let("n", index // (p.ho * p.wo), stmts)
            y = let("y", index // p.wo % p.ho, stmts)
            at.append((n, y, let("x", index % p.wo, stmts)))
        # Two buffers: LLVM keeps the sums in registers only if no variable index reaches them.
        sums = local("sums", (pixels * width,), "uint32", stmts)
        counts = local("counts", (pixels * width,), "uint32", stmts)
        for i in range(pixels * vectors):
            stmts.append(vstore(sums, splat(0, vector), [i * LANES], LANES))
        stmts.append(self._reduce(sums, at, group, block, vectors))
        for i in range(pixels * vectors):
            stmts.append(vstore(counts, vload(sums, [i * LANES], LANES), [i * LANES], LANES))
        for i, pixel in enumerate(at):
            stmts += self._store(counts, i * width, pixel, group, block, channels)
        return seq(stmts)

    def _store(
        self,
        counts: tirx.Buffer,
        base: int,
        pixel: tuple[Any, Any, Any],
        group: Any,
        block: Any,
        channels: int,
    ) -> list[Stmt]:
        """The epilogue of one pixel and `channels` channels, whose counts begin at `base`."""
        epilogue, begin = self.epilogue, block * self.size
        if isinstance(epilogue, WordsEpilogue):
            return epilogue.store(counts, base, pixel, group, begin, channels, LANES)
        stmts: list[Stmt] = []
        first = let("channel", group * self.params.cog + begin, stmts)

        def store(c: Any) -> Stmt:
            value = tirx.BufferLoad(counts, [base + c]).astype("int32")
            return epilogue.store((*pixel, first + c), value)

        return stmts + channel_loops(store, channels, LANES)

    def _reduce(
        self,
        sums: tirx.Buffer,
        at: list[tuple[Any, Any, Any]],
        group: Any,
        block: Any,
        vectors: int,
    ) -> Stmt:
        """sums[pixel, channel] += popcount(a ^ w) over all taps and words."""
        p = self.params
        cw = p.words(WORD)
        base = group * self.blocks + block

        def step(ky: Any, kx: Any, k: Any) -> Stmt:
            body: list[Stmt] = []
            words = []
            for n, y, x in at:
                row, column = y * p.stride[0] + ky * p.dilation[0], x * p.stride[1]
                word = self.data[n, row, column + kx * p.dilation[1], group * cw + k]
                words.append(let("a", tirx.Broadcast(word, LANES), body))
            for v in range(vectors):
                w = let("w", vload(self.weights, [base, ky, kx * cw + k, v * LANES], LANES), body)
                for i, a in enumerate(words):
                    place = [(i * vectors + v) * LANES]
                    ones = tirx.popcount(a ^ w)
                    body.append(vstore(sums, vload(sums, place, LANES) + ones, place, LANES))
            return seq(body)

        def row(ky: Any) -> Stmt:
            if p.groups == 1 and p.dilation[1] == 1:
                # Neighbouring pixels are neighbours in memory: one long loop over kx and words,
                # whose last index runs beyond its dimension.
                return loop(p.kw * cw, lambda k: step(ky, 0, k), "k")
            return loop(p.kw, lambda kx: loop(cw, lambda k: step(ky, kx, k), "k"), "kx")

        return loop(p.kh, row, "ky")


def _row(isa: str, channels: int, pixels: int, rank: int) -> Kernel:
    name = f"bconv2d_{isa}_popcnt_u32_{pixels}x{channels}"
    return Kernel(
        name=name,
        op="bconv2d",
        isa=isa,
        word_bits=WORD,
        tile={"pixels": pixels, "channels": channels, "lanes": LANES},
        supports=lambda params: None,
        pack_weights=functools.partial(pack_weights, channels=channels),
        compute=functools.partial(compute, kernel=name),
        schedule=functools.partial(schedule, pixels=pixels),
        counts=functools.partial(counts, kernel=name),
        count_dtype="int32",
        rank=rank,
    )


KERNELS = (
    _row("generic", channels=16, pixels=2, rank=0),
    _row("avx512_vpopcntdq", channels=64, pixels=4, rank=10),
)
