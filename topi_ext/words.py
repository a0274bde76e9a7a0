"""Operations on packed words (see `bitpack`) between two binary layers: padding and negation.

A MaxPool of such words is `pool.or_pool2d_nhwc`. The default schedule serves them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from .bitpack import border_word
from .params import ConvParams
from .reference import pack_bits


def pad_words(words: te.Tensor, params: ConvParams, word_bits: int) -> te.Tensor:
    """Words [n, h, w, groups*cw] padded as `bitpack.pack` pads: [n, hp, wp, groups*cw]."""
    p = params
    top, left, _, _ = p.pads

    def padded(n: Any, y: Any, x: Any, k: Any) -> Any:
        inside = tirx.all(y >= top, y < top + p.h, x >= left, x < left + p.w)
        pad = border_word(p, word_bits, k)
        return tirx.if_then_else(inside, words[n, y - top, x - left, k], pad)

    return te.compute((p.n, p.hp, p.wp, int(words.shape[3])), padded, name="pad_words")


def negate_channels(words: te.Tensor, channels: np.ndarray, word_bits: int) -> te.Tensor:
    """Turn the bits of the channels that are True in bool [c]; words [n, h, w, cw]."""
    mask = pack_bits(np.where(channels, 1, -1).astype(np.int8), word_bits)
    dtype = f"uint{word_bits}"

    def turned(n: Any, y: Any, x: Any, k: Any) -> Any:
        value = tirx.const(int(mask[0]), dtype)
        for i, word in enumerate(mask[1:], 1):
            value = tirx.Select(k < i, value, tirx.const(int(word), dtype))
        return words[n, y, x, k] ^ value

    return te.compute(words.shape, turned, name="negate_channels")
