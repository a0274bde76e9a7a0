"""NumPy truth of every kernel: slow, plain, exact. Layout NHWC, bits LSB first, 1 is +1."""

from __future__ import annotations

import numpy as np

from .params import ConvParams


def binarize(
    x: np.ndarray, threshold: np.ndarray | float = 0.0, flip: np.ndarray | bool = False
) -> np.ndarray:
    """int8 +-1 of x [..., c]: (x >= threshold) xor flip; threshold and flip scalar or [c].

    -0.0 >= 0 holds and NaN compares false, as in IEEE 754.
    """
    return np.where((x >= threshold) ^ np.asarray(flip, bool), 1, -1).astype(np.int8)


def pack_bits(s: np.ndarray, word_bits: int, groups: int = 1) -> np.ndarray:
    """Pack int8 +-1 [..., c] to words [..., groups*cw]; every group starts on a fresh word.

    Channel c of a group sits in word c // word_bits, bit c % word_bits; missing bits are 0.
    """
    if word_bits not in (8, 16, 32, 64):
        raise ValueError(f"no word of {word_bits} bits")
    *lead, c = s.shape
    cg = c // groups
    cw = -(-cg // word_bits)
    bits = np.zeros((*lead, groups, cw * word_bits), np.uint8)
    bits[..., :cg] = s.reshape(*lead, groups, cg) > 0
    octets = np.packbits(bits, axis=-1, bitorder="little")
    words = np.ascontiguousarray(octets).view(np.dtype(f"<u{word_bits // 8}"))
    return words.reshape(*lead, groups * cw)


def unpack_bits(words: np.ndarray, channels: int, groups: int = 1) -> np.ndarray:
    """The inverse of `pack_bits`: int8 +-1 [..., channels]."""
    *lead, _words = words.shape
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(*lead, groups, -1)
    bits = np.unpackbits(octets, axis=-1, bitorder="little")[..., : channels // groups]
    return np.where(bits > 0, 1, -1).astype(np.int8).reshape(*lead, channels)


def pad_nhwc(x: np.ndarray, params: ConvParams, value: float) -> np.ndarray:
    """x [n, h, w, c] padded by params.pads with `value`."""
    top, left, bottom, right = params.pads
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def pack_padded(s: np.ndarray, params: ConvParams, word_bits: int) -> np.ndarray:
    """What the pack kernels store: +-1 [n, h, w, ci], padded and packed.

    Words of the padding hold +1 in the channel bits for pad_value +1, else 0.
    """
    value = 1 if params.pad_value == 1 else -1
    return pack_bits(pad_nhwc(s, params, value), word_bits, params.groups)


def conv2d(x: np.ndarray, w: np.ndarray, params: ConvParams, pad_value: float = 0.0) -> np.ndarray:
    """Convolution of x [n, h, w, ci] with w [co, ci/groups, kh, kw], in the inputs' common dtype.

    Returns [n, ho, wo, co]. Padded taps count as `pad_value`.
    """
    p = params
    x = pad_nhwc(x, p, pad_value)
    out = np.zeros(p.out_shape, np.result_type(x, w))
    for g in range(p.groups):
        xg = x[..., g * p.cig : (g + 1) * p.cig]
        wg = w[g * p.cog : (g + 1) * p.cog]
        for ky in range(p.kh):
            for kx in range(p.kw):
                y0, x0 = ky * p.dilation[0], kx * p.dilation[1]
                tap = xg[
                    :,
                    y0 : y0 + (p.ho - 1) * p.stride[0] + 1 : p.stride[0],
                    x0 : x0 + (p.wo - 1) * p.stride[1] + 1 : p.stride[1],
                ]
                out[..., g * p.cog : (g + 1) * p.cog] += tap @ wg[:, :, ky, kx].T
    return out


def bconv2d(s: np.ndarray, w: np.ndarray, params: ConvParams) -> np.ndarray:
    """The exact integers: int32 [n, ho, wo, co] of s int8 +-1 [n, h, w, ci] and w int8 +-1
    [co, ci/groups, kh, kw], padded taps counting as params.pad_value.
    """
    # float64 holds these integers exactly and lets NumPy use BLAS.
    y = conv2d(s.astype(np.float64), w.astype(np.float64), params, float(params.pad_value))
    return y.astype(np.int32)


def dense(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x [..., k] @ w [k, n] in the inputs' common dtype."""
    return x @ w


def bdense(s: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The exact integers int32 [..., n] of s int8 +-1 [..., k] and w int8 +-1 [k, n]."""
    return (s.astype(np.float64) @ w.astype(np.float64)).astype(np.int32)
