"""Packing of float (or integer) NHWC activations to bits, padding included."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, te, tirx
from tvm.target import Target
from tvm.tirx import PrimFunc

from .epilogue import find_stage, leaf_blocks
from .kernels import KERNEL, PARAMS, STAGE, Kernel
from .params import ConvParams

PACK = "pack"


def pack(
    x: te.Tensor,
    threshold: te.Tensor | float,
    flip: te.Tensor | None,
    params: ConvParams,
    word_bits: int,
) -> te.Tensor:
    """Binarise, pack and pad: bit = (x >= threshold) xor flip.

    x: [n, h, w, ci] float32 (or an integer type). threshold: a number or float32 [ci]. flip: None
    or uint8 [ci], 1 where the comparison turns. Returns uint<word_bits> words [n, hp, wp,
    groups*cw]: channel c of group g in word g*cw + c // word_bits, bit c % word_bits; bits beyond
    the group's channels are 0. Padding is all 0, or +1 in the channel bits for pad_value +1.
    """
    p = params
    cw = p.words(word_bits)
    dtype = f"uint{word_bits}"
    top, left, _, _ = p.pads
    border = _border_words(p, word_bits)

    def word(n: Any, y: Any, xx: Any, k: Any) -> Any:
        g, j = k // cw, k % cw
        value = tirx.const(0, dtype)
        for bit in range(min(word_bits, p.cig)):
            c = j * word_bits + bit
            cc = tirx.min(c, p.cig - 1) if (cw * word_bits != p.cig) else c
            ch = g * p.cig + cc
            v = x[n, y - top, xx - left, ch]
            limit = threshold[ch] if isinstance(threshold, te.Tensor) else threshold
            b = v >= (limit if isinstance(threshold, te.Tensor) else tirx.const(limit, x.dtype))
            one = tirx.Select(b, tirx.const(1, dtype), tirx.const(0, dtype))
            if flip is not None:
                one = one ^ flip[ch].astype(dtype)
            if cw * word_bits != p.cig:
                one = tirx.Select(c < p.cig, one, tirx.const(0, dtype))
            value = value | (one << tirx.const(bit, dtype))
        if not p.padded:
            return value
        inside = tirx.all(y >= top, y < top + p.h, xx >= left, xx < left + p.w)
        pad = tirx.const(border[-1], dtype)
        if len(set(border)) > 1:
            pad = tirx.Select(j < cw - 1, tirx.const(border[0], dtype), pad)
        return tirx.if_then_else(inside, value, pad)

    attrs = {KERNEL: PACK, STAGE: "pack", PARAMS: str(p), "bnn.word_bits": word_bits}
    return te.compute((p.n, p.hp, p.wp, p.groups * cw), word, name="pack", attrs=attrs)


def _border_words(params: ConvParams, word_bits: int) -> list[int]:
    """The words of one padded pixel and group."""
    if params.pad_value != 1:
        return [0] * params.words(word_bits)
    full, rest = divmod(params.cig, word_bits)
    return [(1 << word_bits) - 1] * full + ([(1 << rest) - 1] if rest else [])


def schedule_generic(func: PrimFunc, target: Target) -> PrimFunc:
    """Inline what is fused before the packing; one word at a time, pixels in parallel."""
    sch = s_tir.Schedule(func)
    block = find_stage(sch, "pack")
    name = sch.get(block).name_hint
    for other in leaf_blocks(sch):
        if sch.get(other).name_hint != name:
            sch.compute_inline(other)
    n, y, *_ = sch.get_loops(sch.get_sblock(name))
    sch.parallel(sch.fuse(n, y))
    return sch.mod["main"]


KERNELS = (
    Kernel(
        name="pack_generic",
        op=PACK,
        isa="generic",
        supports=lambda params: None,
        pack_weights=lambda weights, params: (),
        compute=pack,
        schedule=schedule_generic,
    ),
)
