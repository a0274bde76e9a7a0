"""Float dense layers, [rows, k] x [k, n], with constant weights."""

from __future__ import annotations

from functools import partial

import numpy as np
from tvm import te
from tvm.target import Target

from . import conv2d
from .kernels import Kernel, short, table
from .params import ConvParams
from .register_tile import GENERIC_TILE, RegisterTile, schedule_register_tile

OP = "dense"


def dense(
    data: te.Tensor, *packed_weights: te.Tensor, params: ConvParams, kernel: Kernel
) -> te.Tensor:
    """Data [rows, k] of the kernel's dtype times packed weights: [rows, n] of that dtype.

    params: `ConvParams.dense(rows, k, n)`. packed_weights: what `kernel.pack_weights` made of
    float32 [n, k, 1, 1] (the transposed weight matrix as a 1x1 convolution's).
    Raises ValueError if data is not of the shape that params say.
    """
    p = params
    if tuple(int(extent) for extent in data.shape) != (p.pixels, p.ci):
        raise ValueError(f"dense wants data [{p.pixels}, {p.ci}], not of shape {data.shape}")
    (weights,) = packed_weights
    channels = int(weights.shape[-1])
    k = te.reduce_axis((0, p.ci), "k")
    return te.compute(
        (p.pixels, p.co),
        lambda row, o: te.sum(data[row, k] * weights[o // channels, 0, 0, k, o % channels], axis=k),
        name="dense",
        attrs=kernel.annotations("acc", p),
    )


def register_tile_kernel(isa: str, tile: RegisterTile, dtype: str = "float32") -> Kernel:
    """The table's row of a dense kernel with this register tile."""
    name = f"{OP}_{short(dtype)}_{isa}_{tile.pixels}x{tile.channels}"

    def rank(params: ConvParams, target: Target) -> int:
        return -tile.cost(params)

    def compute(data: te.Tensor, *packed: te.Tensor, params: ConvParams) -> te.Tensor:
        return dense(data, *packed, params=params, kernel=table()[name])

    def pack_weights(w: np.ndarray, params: ConvParams) -> tuple[np.ndarray, ...]:
        return conv2d.pack_weights(w, params, tile.channels_of(params), dtype)

    return Kernel(
        name=name,
        op=OP,
        isa=isa,
        supports=tile.supports if isa != "generic" else lambda params: None,
        pack_weights=pack_weights,
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
