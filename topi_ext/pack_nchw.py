"""Packing of NCHW activations straight to NHWC words: no float tensor with channels last between.

Along a row of the input lie the pixels of one channel. A vector of pixels is compared at once and
its answers become bit c of as many words: with AVX512 a compare and an `or` under its mask. A
tile's words, 1/32 of the numbers, are then turned as any change of layout is (`transpose`).
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx
from tvm.target import Target

from .bitpack import border_word, compared_as
from .isa import RUNS_ON, isa_of
from .params import ConvParams
from .transpose_tiles import QUAD


def packs_nchw(params: ConvParams, word_bits: int, target: Target) -> bool:
    """Whether `pack_nchw` is faster than a change of layout before `pack`."""
    words = params.groups * params.words(word_bits)
    whole = params.cig % word_bits == 0
    return (
        "avx512_vpopcntdq" in RUNS_ON[isa_of(target)]
        and word_bits == 32
        and whole
        and params.w >= QUAD
        and words in (2, 4)  # more of them with as many limits are no faster
    )


def pack_nchw(
    x: te.Tensor,
    threshold: te.Tensor | float,
    turned: te.Tensor | None,
    params: ConvParams,
    word_bits: int,
) -> te.Tensor:
    """`bitpack.pack` of x [n, ci, h, w]; turned: None or the words of the flips [groups*cw].

    Returns the same words [n, hp, wp, groups*cw]. Every word must be whole: ci/groups a multiple of
    word_bits. Raises ValueError if it is not.
    """
    p = params
    if p.cig % word_bits:
        raise ValueError(f"{p.cig} channels of a group are no multiple of {word_bits} bits")
    dtype, compared = f"uint{word_bits}", compared_as(x.dtype)
    top, left, _, _ = p.pads

    def word(n: Any, y: Any, xx: Any, k: Any) -> Any:
        value = tirx.const(0, dtype)
        for bit in range(word_bits):
            c = k * word_bits + bit
            limit = (
                threshold[c]
                if isinstance(threshold, te.Tensor)
                else tirx.const(threshold, compared)
            )
            above = x[n, c, y - top, xx - left].astype(compared) >= limit
            one = tirx.Select(above, tirx.const(1 << bit, dtype), tirx.const(0, dtype))
            value = value | one
        if turned is not None:
            value = value ^ turned[k]
        if not p.padded:
            return value
        inside = tirx.all(y >= top, y < top + p.h, xx >= left, xx < left + p.w)
        return tirx.if_then_else(inside, value, border_word(p, word_bits, k))

    return te.compute((p.n, p.hp, p.wp, p.groups * p.words(word_bits)), word, name="pack_nchw")
