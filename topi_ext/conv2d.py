"""Float convolution over NHWC data with constant weights.

Padding is an operation of its own (`needs_pad`, `pad_nhwc`): a guard on every tap inside the
tile would break up its inner loop, and a padded copy inside the kernel would need workspace that
the memory plan does not see. The copy costs 1 to 4 % of a convolution's time.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from tvm import te, tirx
from tvm.target import Target

from .kernels import Kernel, short, table
from .params import ConvParams
from .register_tile import GENERIC_TILE, RegisterTile, schedule_register_tile

OP = "conv2d"


def needs_pad(params: ConvParams) -> bool:
    """Whether `pad_nhwc` must run before the convolution."""
    return params.padded


def pad_nhwc(data: te.Tensor, params: ConvParams, value: float = 0.0) -> te.Tensor:
    """data [n, h, w, c] padded by params.pads with `value`: [n, hp, wp, c], any dtype."""
    top, left, _, _ = params.pads
    n, h, w, c = (int(extent) for extent in data.shape)
    fill = tirx.const(value, data.dtype)

    def element(b, y, x, k):  # type: ignore[no-untyped-def]
        inside = tirx.all(y >= top, y < top + h, x >= left, x < left + w)
        return tirx.if_then_else(inside, data[b, y - top, x - left, k], fill)

    return te.compute((n, params.hp, params.wp, c), element, name="pad")


def pack_weights(
    w: np.ndarray, params: ConvParams, channels: int, dtype: str = "float32"
) -> tuple[np.ndarray, ...]:
    """float32 [co, ci/groups, kh, kw] to `dtype` [co/channels, kh, kw, ci/groups, channels].

    The last block of output channels is filled up with zeros.
    """
    p = params
    blocks = -(-p.co // channels)
    wide = np.zeros((blocks * channels, p.cig, p.kh, p.kw), dtype)
    wide[: p.co] = w
    packed = wide.reshape(blocks, channels, p.cig, p.kh, p.kw).transpose(0, 3, 4, 2, 1)
    return (np.ascontiguousarray(packed),)


def conv2d_nhwc(
    data: te.Tensor, *packed_weights: te.Tensor, params: ConvParams, kernel: Kernel
) -> te.Tensor:
    """Convolution of data [n, hp, wp, ci], already padded, with packed weights.

    packed_weights: what `kernel.pack_weights` returned. Returns [n, ho, wo, co]. Data, sums and
    result are of the kernel's dtype.
    Raises ValueError if data is not of the padded shape.
    """
    p = params
    if tuple(int(extent) for extent in data.shape) != (p.n, p.hp, p.wp, p.ci):
        raise ValueError(f"conv2d wants padded data for {p}, not of shape {data.shape}")
    (weights,) = packed_weights
    channels = int(weights.shape[-1])
    ky = te.reduce_axis((0, p.kh), "ky")
    kx = te.reduce_axis((0, p.kw), "kx")
    c = te.reduce_axis((0, p.cig), "c")

    def element(n, y, x, o):  # type: ignore[no-untyped-def]
        first = o // p.cog * p.cig if p.groups > 1 else 0
        row = y * p.stride[0] + ky * p.dilation[0]
        column = x * p.stride[1] + kx * p.dilation[1]
        weight = weights[o // channels, ky, kx, c, o % channels]
        return te.sum(data[n, row, column, first + c] * weight, axis=[ky, kx, c])

    return te.compute(p.out_shape, element, name="conv2d", attrs=kernel.annotations("acc", p))


def register_tile_kernel(isa: str, tile: RegisterTile, dtype: str = "float32") -> Kernel:
    """The table's row of a conv2d kernel with this register tile."""
    name = f"{OP}_{short(dtype)}_{isa}_{tile.pixels}x{tile.channels}"
    # The generic row takes whatever is left over.
    supports = tile.supports if isa != "generic" else lambda params: None

    def rank(params: ConvParams, target: Target) -> int:
        return -tile.cost(params)

    def compute(data: te.Tensor, *packed: te.Tensor, params: ConvParams) -> te.Tensor:
        return conv2d_nhwc(data, *packed, params=params, kernel=table()[name])

    return Kernel(
        name=name,
        op=OP,
        isa=isa,
        supports=supports,
        pack_weights=lambda w, params: pack_weights(w, params, tile.channels_of(params), dtype),
        compute=compute,
        schedule=partial(schedule_register_tile, tile=tile),
        dtype=dtype,
        tile={"pixels": tile.pixels, "channels": tile.channels},
        rank=rank,
    )


KERNELS = (
    register_tile_kernel("generic", GENERIC_TILE),
    register_tile_kernel("generic", GENERIC_TILE, "float16"),
)
