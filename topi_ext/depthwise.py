"""Float depthwise convolution over NHWC data: every input channel has filters of its own."""

from __future__ import annotations

import numpy as np
from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.target import Target
from tvm.tirx import PrimFunc

from .channel_tile import schedule_channel_tile
from .epilogue import find_stage
from .kernels import PARAMS, Kernel, short, table
from .parallel import PARALLEL_FLOAT_MACS
from .params import ConvParams
from .register_tile import epilogue_of
from .scalar import schedule_scalar

OP = "depthwise"


def supports(params: ConvParams) -> str | None:
    """None for one group per input channel (any channel multiplier), else the reason why not."""
    if params.groups == params.ci:
        return None
    return f"{params.groups} groups of {params.cig} input channels are not depthwise"


def pack_weights(w: np.ndarray, dtype: str = "float32") -> tuple[np.ndarray, ...]:
    """float32 [co, 1, kh, kw] to `dtype` [kh, kw, co]."""
    return (np.ascontiguousarray(w[:, 0].transpose(1, 2, 0), dtype),)


def depthwise_conv2d_nhwc(
    data: te.Tensor, *packed_weights: te.Tensor, params: ConvParams, kernel: Kernel
) -> te.Tensor:
    """Depthwise convolution of data [n, h, w, ci], not padded, with weights [kh, kw, co].

    Output channel o reads input channel o // multiplier, multiplier = co / ci. Padded taps count
    as 0 and are skipped. Returns [n, ho, wo, co]. Data, sums and result are of the kernel's dtype.
    Raises ValueError if data is not of the shape that params say.
    """
    p = params
    if tuple(int(extent) for extent in data.shape) != (p.n, p.h, p.w, p.ci):
        raise ValueError(f"depthwise wants data for {p}, not of shape {data.shape}")
    (weights,) = packed_weights
    top, left, _, _ = p.pads
    ky = te.reduce_axis((0, p.kh), "ky")
    kx = te.reduce_axis((0, p.kw), "kx")

    def element(n, y, x, o):  # type: ignore[no-untyped-def]
        row = y * p.stride[0] + ky * p.dilation[0] - top
        column = x * p.stride[1] + kx * p.dilation[1] - left
        tap = data[n, row, column, o // p.cog]
        if p.padded:
            inside = tirx.all(row >= 0, row < p.h, column >= 0, column < p.w)
            tap = tirx.if_then_else(inside, tap, tirx.const(0, data.dtype))
        return te.sum(tap * weights[ky, kx, o], axis=[ky, kx])

    attrs = kernel.annotations("acc", p)
    return te.compute(p.out_shape, element, name="depthwise_conv2d", attrs=attrs)


def schedule(func: PrimFunc, target: Target) -> PrimFunc:
    """Schedule a function that holds a depthwise convolution and its epilogue."""
    sch = Schedule(func)
    anchor = find_stage(sch)
    params = ConvParams.parse(str(sch.get(anchor).annotations[PARAMS]))
    last, order = epilogue_of(sch, anchor)
    if order is None:
        return schedule_scalar(func)
    large = params.macs >= PARALLEL_FLOAT_MACS
    schedule_channel_tile(sch, anchor, last, target, large, order)
    return sch.mod["main"]


def channel_tile_kernel(isa: str, dtype: str = "float32") -> Kernel:
    """The table's row of the depthwise kernel for this ISA and float type."""
    name = f"{OP}_{short(dtype)}_{isa}"

    def compute(data: te.Tensor, *packed: te.Tensor, params: ConvParams) -> te.Tensor:
        return depthwise_conv2d_nhwc(data, *packed, params=params, kernel=table()[name])

    return Kernel(
        name=name,
        op=OP,
        isa=isa,
        supports=supports,
        pack_weights=lambda w, params: pack_weights(w, dtype),
        compute=compute,
        schedule=schedule,
        dtype=dtype,
    )


KERNELS = (channel_tile_kernel("generic"), channel_tile_kernel("generic", "float16"))
