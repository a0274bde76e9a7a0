"""Packing of float (or integer) NHWC activations to bits, padding included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx
from tvm.target import Target
from tvm.tirx import PrimFunc, Stmt

from .emit import PARALLEL, SERIAL, bitcast, let, local, loop, mask_bits, seq, splat, vload, vstore
from .epilogue import find_stage, leaf_blocks
from .kernels import KERNEL, PACK, PARAMS, STAGE, Kernel
from .parallel import PARALLEL_ELEMENTS
from .params import ConvParams

UNIT = 32  # numbers compared at once


def pack(
    x: te.Tensor,
    threshold: te.Tensor | float,
    flip: te.Tensor | None,
    params: ConvParams,
    word_bits: int,
) -> te.Tensor:
    """Binarise, pack and pad: bit = (x >= threshold) xor flip.

    x: [n, h, w, ci] float32 or float16, or an integer type that is compared as float32. threshold:
    a number or [ci] of the type that is compared (`half_limits` for float16). flip: None or uint8
    [ci], 1 where the comparison turns. Returns uint<word_bits> words [n, hp, wp, groups*cw]:
    channel c of group g in word g*cw + c // word_bits, bit c % word_bits; bits beyond the group's
    channels are 0. Padding is all 0, or +1 in the channel bits for pad_value +1.
    """
    p = params
    cw = p.words(word_bits)
    dtype = f"uint{word_bits}"
    compared = compared_as(x.dtype)
    top, left, _, _ = p.pads

    def word(n: Any, y: Any, xx: Any, k: Any) -> Any:
        g, j = k // cw, k % cw
        value = tirx.const(0, dtype)
        for bit in range(min(word_bits, p.cig)):
            c = j * word_bits + bit
            cc = tirx.min(c, p.cig - 1) if (cw * word_bits != p.cig) else c
            ch = g * p.cig + cc
            v = x[n, y - top, xx - left, ch].astype(compared)
            if isinstance(threshold, te.Tensor):
                b = v >= threshold[ch]
            else:
                b = v >= tirx.const(threshold, compared)
            one = tirx.Select(b, tirx.const(1, dtype), tirx.const(0, dtype))
            if flip is not None:
                one = one ^ flip[ch].astype(dtype)
            if cw * word_bits != p.cig:
                one = tirx.Select(c < p.cig, one, tirx.const(0, dtype))
            value = value | (one << tirx.const(bit, dtype))
        if not p.padded:
            return value
        inside = tirx.all(y >= top, y < top + p.h, xx >= left, xx < left + p.w)
        return tirx.if_then_else(inside, value, border_word(p, word_bits, k))

    attrs = {KERNEL: PACK, STAGE: PACK, PARAMS: str(p), "bnn.word_bits": word_bits}
    limit = 0.0 if isinstance(threshold, te.Tensor) else float(threshold)
    attrs["bnn.threshold"] = repr(limit)
    return te.compute((p.n, p.hp, p.wp, p.groups * cw), word, name="pack", attrs=attrs)


def compared_as(dtype: str) -> str:
    """The float type in which numbers of `dtype` are compared with their thresholds."""
    return "float16" if dtype == "float16" else "float32"


def half_limits(threshold: np.ndarray) -> np.ndarray:
    """float16 limits with which halves compare as with the float32 `threshold`.

    x >= t holds for a half x exactly when x is at least the smallest half not below t.
    """
    with np.errstate(over="ignore"):
        limit = threshold.astype(np.float16)
        above = np.nextafter(limit, np.float16(np.inf))
    return np.where(limit.astype(np.float32) < threshold, above, limit)


def border_word(params: ConvParams, word_bits: int, k: Any) -> Any:
    """Word k of a padded pixel: 0, or the channel bits for pad_value +1."""
    dtype, cw = f"uint{word_bits}", params.words(word_bits)
    if params.pad_value != 1:
        return tirx.const(0, dtype)
    full, rest = divmod(params.cig, word_bits)
    ones, last = tirx.const((1 << word_bits) - 1, dtype), tirx.const((1 << rest) - 1, dtype)
    if not (full and rest):
        return ones if full else last
    return tirx.Select(k % cw < cw - 1, ones, last)


def schedule(func: PrimFunc, target: Target, kind: type[Writer] | None = None) -> PrimFunc:
    """Write the loops of a pack that stands alone; inline what is fused before any other.

    kind: who writes them, for a target with instructions of its own.
    """
    sch = s_tir.Schedule(func)
    block = sch.get(find_stage(sch, PACK))
    if len(leaf_blocks(sch)) > 1:
        return _schedule_fused(sch)
    by_type = {(len(r.source.ty.shape), str(r.source.ty.dtype)): r.source for r in block.reads}
    notes = block.annotations
    writer = (kind or Writer)(
        params=ConvParams.parse(str(notes[PARAMS])),
        word_bits=int(notes["bnn.word_bits"]),
        x=next(buffer for (rank, _), buffer in by_type.items() if rank == 4),
        threshold=threshold_of(block, by_type),
        flip=by_type.get((1, "uint8")),
        out=block.writes[0].source,
    )
    return PrimFunc(func.params, writer.write(), func.ret_type, func.attrs)


def threshold_of(block: Any, by_type: dict[tuple[int, str], tirx.Buffer]) -> Any:
    """The thresholds that a pack reads, or the number that it compares with."""
    number = float(str(block.annotations["bnn.threshold"]))
    return by_type.get((1, "float32"), by_type.get((1, "float16"), number))


def _schedule_fused(sch: s_tir.Schedule) -> PrimFunc:
    """Inline what is fused before the packing; one word at a time, rows in parallel."""
    name = sch.get(find_stage(sch, PACK)).name_hint
    for other in leaf_blocks(sch):
        if sch.get(other).name_hint != name:
            sch.compute_inline(other)
    n, y, *_ = sch.get_loops(sch.get_sblock(name))
    sch.parallel(sch.fuse(n, y))
    return sch.mod["main"]


# (at, lanes): whether the bits of `lanes` channels from `at` on are set; one condition for one.
Conditions = Callable[[Any, int], Any]


@dataclass(frozen=True)
class Writer:
    """The hand-made loops: compare a vector, take its mask as a word."""

    params: ConvParams
    word_bits: int
    x: tirx.Buffer
    threshold: tirx.Buffer | float
    flip: tirx.Buffer | None
    out: tirx.Buffer

    def write(self) -> Stmt:
        """All rows of the padded output."""
        p = self.params
        rows = p.n * p.hp
        kind = PARALLEL if p.n * p.h * p.w * p.ci >= PARALLEL_ELEMENTS else SERIAL
        top = p.pads[0]
        before: list[Stmt] = []
        turned = self._turned(before)

        def row(r: Any) -> Stmt:
            stmts: list[Stmt] = []
            n, y = let("n", r // p.hp, stmts), let("y", r % p.hp, stmts)
            inner = seq(self._row(n, y, turned))
            if p.hp != p.h:
                inside = tirx.all(y >= top, y < top + p.h)
                inner = tirx.IfThenElse(inside, inner, self._border(n, y, 0, p.wp))
            return seq([*stmts, inner])

        return seq([*before, loop(rows, row, "row", kind)])

    def _turned(self, stmts: list[Stmt]) -> tirx.Buffer | None:
        """Words of the flips of one pixel: every pixel's words are xored with them at the end."""
        p, flip = self.params, self.flip
        if flip is None:
            return None
        cw = p.words(self.word_bits)
        words = local("turned", (p.groups * cw,), f"uint{self.word_bits}", stmts)

        def group(g: Any) -> Stmt:
            def flips(at: Any, lanes: int) -> Any:
                return tirx.NE(_load(flip, [g * p.cig + at], lanes), _fill(0, "uint8", lanes))

            def store(value: Any, word: Any, count: int) -> Stmt:
                return _store(words, value, [g * cw + word], count)

            return seq(self._run(flips, store, p.cig))

        stmts.append(loop(p.groups, group, "g"))
        return words

    def _row(self, n: Any, y: Any, turned: tirx.Buffer | None) -> list[Stmt]:
        """One row with its left and right border."""
        p = self.params
        _, left, _, right = p.pads
        whole = p.cig % self.word_bits == 0
        stmts: list[Stmt] = []
        if left:
            stmts.append(self._border(n, y, 0, left))
        if whole and not isinstance(self.threshold, tirx.Var) and turned is None:
            # Every channel is compared alike and no word is filled up: the row is one run.
            stmts += self._pixel(n, y, 0, 0, p.w * p.ci, None)
        else:

            def pixel(xx: Any) -> Stmt:
                if whole:
                    return seq(self._pixel(n, y, xx, 0, p.ci, turned))
                one = lambda g: seq(self._pixel(n, y, xx, g, p.cig, turned))  # noqa: E731
                return loop(p.groups, one, "g")

            stmts.append(loop(p.w, pixel, "x"))
        if right:
            stmts.append(self._border(n, y, left + p.w, right))
        return stmts

    def _pixel(
        self, n: Any, y: Any, xx: Any, g: Any, channels: int, turned: tirx.Buffer | None
    ) -> list[Stmt]:
        """`channels` numbers from pixel `xx`, group `g` on."""
        p, threshold = self.params, self.threshold
        row, column = y - p.pads[0], xx + p.pads[1]
        channel, first = g * p.cig, g * p.words(self.word_bits)
        compared = compared_as(str(self.x.ty.dtype))

        def signs(at: Any, lanes: int) -> Any:
            x = _load(self.x, [n, row, xx, channel + at], lanes)
            if str(self.x.ty.dtype) != compared:
                x = x.astype(compared if lanes == 1 else f"{compared}x{lanes}")
            if isinstance(threshold, tirx.Var):
                return x >= _load(threshold, [channel + at], lanes)
            return x >= _fill(threshold, compared, lanes)

        def store(value: Any, word: Any, count: int) -> Stmt:
            if turned is not None:
                value = value ^ _load(turned, [first + word], count)
            return _store(self.out, value, [n, y, column, first + word], count)

        return self._run(signs, store, channels)

    def _run(
        self, conditions: Conditions, store: Callable[[Any, Any, int], Stmt], channels: int
    ) -> list[Stmt]:
        """The words of `channels` conditions: whole words, then a part of one.

        store: (value, word, count), what to do with `count` words from `word` on.
        """
        bits = self.word_bits
        unit = max(bits, UNIT)  # compared at once; its mask is one or more words
        stmts: list[Stmt] = []

        def units(first: int, count: int, size: int) -> Stmt:
            return loop(count, lambda i: whole(i * size + first, size), "unit")

        def whole(at: Any, size: int) -> Stmt:
            mask, words = self._mask(conditions, at, size), size // bits
            return store(
                mask if words == 1 else bitcast(mask, f"uint{bits}x{words}"), at // bits, words
            )

        done = 0
        while unit >= bits:
            count = (channels - done) // unit
            if count:
                stmts.append(units(done, count, unit))
                done += count * unit
            unit //= 2
        if done < channels:
            stmts.append(store(self._part(conditions, done, channels - done), done // bits, 1))
        return stmts

    def _mask(self, conditions: Conditions, at: Any, size: int) -> Any:
        """`size` conditions from `at` on as an unsigned integer of `size` bits."""
        return mask_bits(conditions(at, size), size)

    def _part(self, conditions: Conditions, first: int, channels: int) -> Any:
        """A word of fewer channels than bits: by eights, then one by one."""
        dtype = f"uint{self.word_bits}"
        value: Any = tirx.const(0, dtype)
        at = 0
        while channels - at >= 8:
            part = self._mask(conditions, first + at, 8).astype(dtype)
            value = value | (part << tirx.const(at, dtype))
            at += 8
        for bit in range(at, channels):
            one = tirx.const(1 << bit, dtype)
            value = value | tirx.Select(conditions(first + bit, 1), one, tirx.const(0, dtype))
        return value

    def _border(self, n: Any, y: Any, first: Any, pixels: int) -> Stmt:
        """The words of `pixels` padded pixels from column `first` on."""
        p, bits = self.params, self.word_bits

        def word(i: Any) -> Stmt:
            return tirx.BufferStore(self.out, border_word(p, bits, i), [n, y, first, i])

        return loop(pixels * p.groups * p.words(bits), word, "i")


def _load(buffer: tirx.Buffer, place: list[Any], lanes: int) -> Any:
    return tirx.BufferLoad(buffer, place) if lanes == 1 else vload(buffer, place, lanes)


def _store(buffer: tirx.Buffer, value: Any, place: list[Any], lanes: int) -> Stmt:
    if lanes == 1:
        return tirx.BufferStore(buffer, value, place)
    return vstore(buffer, value, place, lanes)


def _fill(value: float, dtype: str, lanes: int) -> Any:
    return tirx.const(value, dtype) if lanes == 1 else splat(value, f"{dtype}x{lanes}")


KERNELS = (
    Kernel(
        name="pack_movmsk",
        op=PACK,
        isa="generic",
        supports=lambda params: None,
        pack_weights=lambda weights, params: (),
        compute=pack,
        schedule=schedule,
    ),
)
