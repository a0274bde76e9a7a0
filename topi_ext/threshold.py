"""Binarisation behind a binary layer as an integer comparison that writes packed words.

Behind the layer the graph says y = float32(scale * acc + offset), acc an exact integer in [-K, K],
and bit = (y >= threshold) or (y <= threshold). For finite scale and offset y is monotone in acc,
rounding included, so the bit is a comparison of acc with one integer per channel
(`integer_limits`). Where the bit falls with acc the layer's weights are negated, which negates acc,
so that every channel compares alike and no flip is left:

    bit = sign * acc >= limit

Kernels count differing taps d, and acc = T - 2*d, T the border table or K (`bconv2d`), hence
bit = d < (T - limit) // 2 + 1: one comparison of counters, border included (`count_limits`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc, Stmt

from .bconv2d import border_correction, edge_class, needs_correction
from .emit import bitcast, let, mask_bits, seq, vload, vstore
from .epilogue import find_stage, read_buffers
from .kernels import PARAMS, STAGE, Kernel
from .params import ConvParams

WORDS = "words"  # the stage that compares and packs
_FILL = 64  # channels of the limits are filled up to a multiple of this, and once more


def integer_limits(
    scale: np.ndarray,
    offset: np.ndarray,
    threshold: np.ndarray,
    up: np.ndarray,
    taps: int,
    fused: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The integer comparison that equals a float one: bit = sign * acc >= limit.

    scale, offset, threshold: float32 [co], scale and offset finite. up: bool [co], whether the
    bit is y >= threshold, else y <= threshold (NaN: never). taps: the largest |acc|. fused:
    whether the target rounds scale * acc + offset once (FMA) or twice.
    Returns limit int32 [co] in [-taps, taps + 1] and sign int32 +-1 [co].
    Raises ValueError if a scale or an offset is not finite.
    """
    if not (np.isfinite(scale).all() and np.isfinite(offset).all()):
        raise ValueError("scale and offset must be finite")
    sign = np.where(up == (scale >= 0), 1, -1).astype(np.int32)
    # The least a in [-taps, taps + 1] whose bit is set, by bisection in all channels at once.
    low = np.full(len(scale), -taps, np.int64)
    high = np.full(len(scale), taps + 1, np.int64)
    while np.any(low < high):
        middle = (low + high) // 2
        y = affine(scale, (sign * middle).astype(np.float32), offset, fused)
        bit = np.where(up, y >= threshold, y <= threshold)
        # Where low == high already, middle is high: it must stay.
        high = np.where(bit, middle, high)
        low = np.where(bit | (low >= high), low, middle + 1)
    return high.astype(np.int32), sign


def affine(scale: np.ndarray, x: np.ndarray, offset: np.ndarray, fused: bool) -> np.ndarray:
    """float32 scale * x + offset as a processor rounds it, once (`fused`) or twice."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if not fused:
            return scale * x + offset
        # 48 bits of the product fit float64. Their sum is rounded to odd there (Boldo and
        # Melquiond, 2008), so that rounding it to float32 cannot round twice.
        product, shift = scale.astype(np.float64) * x.astype(np.float64), offset.astype(np.float64)
        total = product + shift
        other = total - product
        error = (product - (total - other)) + (shift - other)  # Knuth's TwoSum
        bits = total.view(np.int64)
        even = (bits & 1) == 0
        away = (error > 0) == (total > 0)
        odd = np.where((error != 0) & even, np.where(away, bits + 1, bits - 1), bits)
        return odd.view(np.float64).astype(np.float32)


def refusal(kernel: Kernel, params: ConvParams, word_bits: int) -> str | None:
    """None, or why `kernel` cannot write words of `word_bits` bits for this shape."""
    p, tile = params, kernel.tile.get("channels", 0)
    if kernel.counts is None:
        return "the kernel has no such epilogue"
    if p.taps >= np.iinfo(kernel.count_dtype).max:
        return f"{p.taps} taps overflow a signed counter"
    if p.groups > 1 and p.cog % word_bits:
        return f"groups of {p.cog} channels do not fill words of {word_bits} bits"
    if tile % (kernel.fills or word_bits) and p.cog > tile:
        return f"a tile of {tile} channels does not fill words of {word_bits} bits"
    return None


def count_limits(
    limit: np.ndarray, weights: np.ndarray, params: ConvParams, dtype: str
) -> np.ndarray:
    """The limits of counters of differing taps: bit = count < limits[row class, column class, c].

    limit: of `integer_limits`; weights: int8 +-1 [co, ci/groups, kh, kw], signs applied already.
    Returns `dtype` [row classes, column classes, co filled up]: filler channels give 0.
    """
    p = params
    total = border_correction(weights, p) if needs_correction(p) else np.full((1, 1, 1), p.taps)
    most = np.clip((total.astype(np.int64) - limit) // 2 + 1, 0, p.taps + 1)
    filled = -(-p.co // _FILL) * _FILL + _FILL
    out = np.zeros((*most.shape[:2], filled), dtype)
    out[..., : p.co] = most
    return out


def pack_weights(
    kernel: Kernel, weights: np.ndarray, limit: np.ndarray, sign: np.ndarray, params: ConvParams
) -> tuple[np.ndarray, ...]:
    """The arrays that `threshold_words` takes: the kernel's own, the border table left out, and
    the limits of its counters. weights: int8 +-1 [co, ci/groups, kh, kw].
    """
    turned = (weights * sign.reshape(-1, 1, 1, 1)).astype(np.int8)
    arrays = kernel.pack_weights(-turned if kernel.inverted else turned, params)
    if needs_correction(params):
        arrays = arrays[:-1]
    return (*arrays, count_limits(limit, turned, params, kernel.count_dtype))


def threshold_words(
    data: te.Tensor, *arrays: te.Tensor, params: ConvParams, kernel: Kernel, word_bits: int
) -> te.Tensor:
    """The layer and its binarisation: uint<word_bits> words [n, ho, wo, co words], no padding.

    data: as for `bconv2d`; arrays: of `pack_weights`. Channel c is bit c % word_bits of word
    c // word_bits; bits beyond co are 0. Raises ValueError where `refusal` says why.
    """
    reason = refusal(kernel, params, word_bits)
    if reason is not None or kernel.counts is None:
        raise ValueError(f"{kernel.name}: {reason}")
    p, dtype = params, f"uint{word_bits}"
    *packed, limits = arrays
    count = kernel.counts(data, *packed, params=p)

    def word(n: Any, y: Any, x: Any, k: Any) -> Any:
        row, column = _classes(p, y, x)
        value = tirx.const(0, dtype)
        for bit in range(min(word_bits, p.co)):
            c = k * word_bits + bit
            differ = count[n, y, x, tirx.min(c, p.co - 1)].astype("int32")
            below = differ < limits[row, column, c].astype("int32")
            value = value | tirx.Select(below, tirx.const(1 << bit, dtype), tirx.const(0, dtype))
        return value

    shape = (p.n, p.ho, p.wo, -(-p.co // word_bits))
    attrs = {STAGE: WORDS, "bnn.word_bits": word_bits}
    return te.compute(shape, word, name="words", attrs=attrs)


def _classes(params: ConvParams, y: Any, x: Any) -> tuple[Any, Any]:
    if not needs_correction(params):
        return 0, 0
    return edge_class(params, 0, y), edge_class(params, 1, x)


@dataclass(frozen=True)
class WordsEpilogue:
    """What a function of `threshold_words` needs besides the counters, for hand-made loops.

    func, reads, annotations: as in `epilogue.Epilogue`.
    """

    func: PrimFunc
    reads: tuple[tirx.Buffer, ...]
    annotations: dict[str, Any]
    limits: tirx.Buffer
    out: tirx.Buffer
    word_bits: int

    def with_body(self, body: Stmt) -> PrimFunc:
        """The function with its body replaced by hand-made loops."""
        return PrimFunc(self.func.params, body, self.func.ret_type, self.func.attrs)

    def store(
        self,
        counts: tirx.Buffer,
        base: Any,
        pixel: tuple[Any, Any, Any],
        group: Any,
        first: Any,
        channels: int,
        lanes: int,
        join: Callable[[list[Any], int, int], Any] | None = None,
    ) -> list[Stmt]:
        """Compare and store the words of one pixel's channels first .. first+channels-1 of `group`.

        counts: the counters, of which those of the channels lie from `base` on, filled up to
        whole vectors of `lanes`. pixel: n, y, x of the output. `first` is a multiple of the word.
        join: (conditions, lanes, unit), the bits of some vectors of conditions as an unsigned
        integer of `unit` bits; LLVM's masks without.
        """
        p, bits = ConvParams.parse(str(self.annotations[PARAMS])), self.word_bits
        dtype = str(self.limits.ty.dtype)
        stmts: list[Stmt] = []
        channel = let("channel", group * p.cog + first, stmts)
        limit = self.limit(pixel, channel, stmts)
        word = let("word", channel // bits, stmts)
        unit = max(bits, lanes)
        for begin in range(0, channels, unit):
            conditions = [
                bitcast(vload(counts, [base + at], lanes), f"{dtype}x{lanes}") < limit(at, lanes)
                for at in range(begin, min(begin + unit, channels), lanes)
            ]
            mask = let("mask", (join or _join_masks)(conditions, lanes, unit), stmts)
            stmts += self._words(mask, unit, pixel, word + begin // bits, channels - begin)
        return stmts

    def limit(
        self, pixel: tuple[Any, Any, Any], channel: Any, stmts: list[Stmt]
    ) -> Callable[[int, int], Any]:
        """A function of (at, lanes): the limits of a pixel's channels from `channel` + at on."""
        p = ConvParams.parse(str(self.annotations[PARAMS]))
        classes = [let("border", at, stmts) for at in _classes(p, *pixel[1:])]
        return lambda at, lanes: vload(self.limits, [*classes, channel + at], lanes)

    def octets(self, stmts: list[Stmt]) -> Callable[[Any, tuple[Any, Any, Any], Any], Stmt]:
        """A function of (octet, pixel, channel), the statement that stores the eight bits from
        `channel` on, a multiple of eight. With the last channels the word is filled up with 0.
        """
        p = ConvParams.parse(str(self.annotations[PARAMS]))
        used, size = -(-p.co // 8), -(-p.co // self.word_bits) * self.word_bits // 8
        view = tirx.decl_buffer((p.n, p.ho, p.wo, size), "uint8", "octets")
        first = tirx.BufferLoad(self.out, [0, 0, 0, 0])
        stmts.append(tirx.DeclBuffer(view, data=tirx.address_of(first)))

        def store(octet: Any, pixel: tuple[Any, Any, Any], channel: Any) -> Stmt:
            one = tirx.BufferStore(view, octet, [*pixel, channel // 8])
            if used == size:
                return one
            zero = tirx.const(0, "uint8")
            rest = [tirx.BufferStore(view, zero, [*pixel, at]) for at in range(used, size)]
            at_end = tirx.EQ(channel // 8, used - 1)
            return seq([one, tirx.IfThenElse(at_end, seq(rest), None)])

        return store

    def _words(
        self, mask: Any, unit: int, pixel: tuple[Any, Any, Any], word: Any, channels: int
    ) -> list[Stmt]:
        """Store as many words of `mask` as `channels` fill or begin."""
        bits = self.word_bits
        count = min(unit // bits, -(-channels // bits))
        if unit == bits:
            return [tirx.BufferStore(self.out, mask, [*pixel, word])]
        if count == unit // bits:
            value = bitcast(mask, f"uint{bits}x{count}")
            return [vstore(self.out, value, [*pixel, word], count)]
        parts = [(mask >> tirx.const(i * bits, f"uint{unit}")) for i in range(count)]
        return [
            tirx.BufferStore(self.out, part.astype(f"uint{bits}"), [*pixel, word + i])
            for i, part in enumerate(parts)
        ]


def _join_masks(conditions: list[Any], lanes: int, unit: int) -> Any:
    """LLVM's masks of vectors of conditions side by side, as an unsigned integer."""
    if unit == lanes:
        return mask_bits(conditions[0], lanes)
    # Joined as conditions: LLVM turns shifted integers of several pixels into one vector, mask by
    # mask through general registers.
    none = tirx.Broadcast(tirx.const(False, "bool"), lanes)
    whole = [*conditions, *[none] * (unit // lanes - len(conditions))]
    return mask_bits(tirx.Shuffle(whole, list(range(unit))), unit)


def extract_words(func: PrimFunc) -> WordsEpilogue:
    """Find the buffers of a function made of `threshold_words`.

    Raises LookupError if `func` is no such function.
    """
    sch = Schedule(func)
    acc, words = sch.get(find_stage(sch)), sch.get(find_stage(sch, WORDS))
    counts = acc.writes[0].source
    limits = next(r.source for r in words.reads if not r.source.same_as(counts))
    return WordsEpilogue(
        func=func,
        reads=read_buffers(acc),
        annotations=dict(acc.annotations),
        limits=limits,
        out=words.writes[0].source,
        word_bits=int(words.annotations["bnn.word_bits"]),
    )
