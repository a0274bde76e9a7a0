"""The shape of a convolution node in the letters of the kernels."""

from __future__ import annotations

import onnx_ir as ir

from topi_ext.params import ConvParams


def conv_params(node: ir.Node, shape: tuple[int, ...], weight: tuple[int, ...]) -> ConvParams:
    """The shape of a (Binary)Conv over logical `shape` [n, c, (h,) w]; 1-D ones get h = 1."""
    spatial = len(shape) - 2

    def ints(name: str, default: int, count: int) -> list[int]:
        if name not in node.attributes:
            return [default] * count
        return [int(v) for v in node.attributes[name].as_ints()]

    strides, dilations = ints("strides", 1, spatial), ints("dilations", 1, spatial)
    pads = ints("pads", 0, 2 * spatial)
    kernel = list(weight[2:])
    size = list(shape[2:])
    if spatial == 1:
        strides, dilations, kernel, size = [1, *strides], [1, *dilations], [1, *kernel], [1, *size]
        pads = [0, pads[0], 0, pads[1]]
    attributes = node.attributes
    return ConvParams(
        n=shape[0],
        h=size[0],
        w=size[1],
        ci=shape[1],
        co=weight[0],
        kh=kernel[0],
        kw=kernel[1],
        stride=(strides[0], strides[1]),
        dilation=(dilations[0], dilations[1]),
        pads=(pads[0], pads[1], pads[2], pads[3]),
        groups=attributes["group"].as_int() if "group" in attributes else 1,
        pad_value=attributes["pad_value"].as_int() if "pad_value" in attributes else 0,
    )
