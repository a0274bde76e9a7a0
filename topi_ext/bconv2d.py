"""Binary convolution on packed words: the exact integers, with the border correction inside.

    conv(s, w) = K - 2 * popcount(bits(s) xor bits(w)),   K = kh * kw * ci / groups

counts padded taps as -1 or +1, whatever bits the padding holds. For pad_value 0 the padding is
stored as -1 and every padded tap t has added -w[t] too much, so that

    conv = (K + sum of w over the padded taps) - 2 * popcount(...)

where the bracket depends on the output channel and on which taps are padded: a small table by
row class, column class and channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from .kernels import Kernel
from .params import ConvParams


def bconv2d(
    data: te.Tensor, *packed_weights: te.Tensor, params: ConvParams, kernel: Kernel
) -> te.Tensor:
    """The integers of the binary convolution, int32 [n, ho, wo, co].

    data: what `kernel.prepare` returned where the kernel has one, else the padded packed words of
    `bitpack.pack`. packed_weights: the arrays of `kernel.pack_weights`, in order.
    """
    return kernel.compute(data, *packed_weights, params=params)


def edge_rows(params: ConvParams, axis: int) -> tuple[int, int]:
    """How many output rows (axis 0) or columns (axis 1) touch the padding before and after.

    Where the two ranges meet, every row counts as a row before.
    """
    size = (params.h, params.w)[axis]
    kernel = (params.kh, params.kw)[axis]
    out = (params.ho, params.wo)[axis]
    stride, reach = params.stride[axis], params.dilation[axis] * (kernel - 1)
    before = min(out, -(-params.pads[axis] // stride))
    # Row i is clear of the padding behind when i*stride + reach < pad_before + size.
    clear = (params.pads[axis] + size - 1 - reach) // stride + 1
    after = out - min(out, max(clear, 0))
    return (before, after) if before + after <= out else (out, 0)


def edge_classes(params: ConvParams, axis: int) -> int:
    """Number of row (axis 0) or column (axis 1) classes of the border correction."""
    before, after = edge_rows(params, axis)
    out = (params.ho, params.wo)[axis]
    return before + after + (1 if before + after < out else 0)


def edge_class(params: ConvParams, axis: int, index: Any) -> Any:
    """The class of output row or column `index` (an int or a TIR expression)."""
    before, after = edge_rows(params, axis)
    out = (params.ho, params.wo)[axis]
    if before + after >= out:
        return index
    if isinstance(index, int):
        return min(index, before) + max(index - (out - after) + 1, 0)
    late = tirx.max(index - (out - after - 1), 0) if after else tirx.const(0, "int32")
    return (tirx.min(index, before) if before else 0) + late


def border_correction(weights: np.ndarray, params: ConvParams) -> np.ndarray:
    """K plus the sum of w over the padded taps: int32 [row classes, column classes, co].

    weights: int8 +-1 [co, ci/groups, kh, kw].
    """
    sums = weights.astype(np.int32).sum(axis=1)  # [co, kh, kw]
    padded_y = _padded_taps(params, 0)  # [row classes, kh]
    padded_x = _padded_taps(params, 1)
    padded = padded_y[:, None, :, None] | padded_x[None, :, None, :]  # [rc, cc, kh, kw]
    table = np.einsum("rcyx,oyx->rco", padded.astype(np.int32), sums)
    return (table + params.taps).astype(np.int32)


def _padded_taps(params: ConvParams, axis: int) -> np.ndarray:
    """bool [classes, taps]: which kernel rows (columns) of a class fall on padding."""
    size = (params.h, params.w)[axis]
    taps = np.arange((params.kh, params.kw)[axis]) * params.dilation[axis]
    out = np.arange((params.ho, params.wo)[axis])
    position = out[:, None] * params.stride[axis] + taps - params.pads[axis]
    outside = (position < 0) | (position >= size)
    classes = np.zeros((edge_classes(params, axis), len(taps)), bool)
    classes[[int(edge_class(params, axis, int(i))) for i in out]] = outside
    return classes


def needs_correction(params: ConvParams) -> bool:
    """Whether the border needs the correction table (zero padding)."""
    return params.padded and params.pad_value == 0


def finish(count: te.Tensor, params: ConvParams, correction: te.Tensor | None) -> te.Tensor:
    """K - 2*count, or the border table - 2*count: the stage "integers" of every binary kernel.

    count: the popcounts [n, ho, wo, co]. Returns int32 of the same shape.
    """

    def integers(n: Any, y: Any, x: Any, c: Any) -> Any:
        total: Any = params.taps
        if correction is not None:
            total = correction[edge_class(params, 0, y), edge_class(params, 1, x), c]
        return total - count[n, y, x, c].astype("int32") * 2

    return te.compute(
        params.out_shape,
        integers,
        name="integers",
        attrs={"bnn.stage": "integers"},
    )
