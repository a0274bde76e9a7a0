"""Pools over NHWC activations."""

from __future__ import annotations

import onnx_ir as ir
from tvm import relax

from bnn_tvm.importer.builder import Builder
from bnn_tvm.importer.generic import generic
from bnn_tvm.importer.value import FLOATS, Value, channels_last
from bnn_tvm.passes.graph import shape_of
from topi_ext.pool import avg_pool2d_nhwc, max_pool2d_nhwc

Window = tuple[list[int], list[int], list[int], list[int], bool]


def read_pool(node: ir.Node) -> Window | None:
    """Kernel, strides, pads, dilations and ceil_mode of a pool with two spatial axes, or None."""
    attributes = node.attributes

    def ints(name: str, default: int, count: int) -> list[int]:
        if name not in attributes:
            return [default] * count
        return [int(v) for v in attributes[name].as_ints()]

    auto_pad = attributes["auto_pad"].as_string() if "auto_pad" in attributes else "NOTSET"
    rank = len(shape_of(node.outputs[0]))
    if rank != 4 or len(node.outputs) != 1 or auto_pad not in ("NOTSET", "VALID"):
        return None
    ceil_mode = "ceil_mode" in attributes and bool(attributes["ceil_mode"].as_int())
    return (
        ints("kernel_shape", 1, 2),
        ints("strides", 1, 2),
        ints("pads", 0, 4),
        ints("dilations", 1, 2),
        ceil_mode,
    )


def pool(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """MaxPool and AveragePool with two spatial axes."""
    data, attributes = inputs[0], node.attributes
    window = read_pool(node)
    if window is None or data.dtype not in FLOATS:
        return generic(b, node, list(inputs))
    x = b.stored(data, channels_last(4))
    if node.op_type == "MaxPool":
        expr = b.emit_te("max_pool", lambda t: max_pool2d_nhwc(t, *window), x)
    else:
        kernel, strides, pads, dilations, ceil_mode = window
        counting = "count_include_pad"
        include = counting in attributes and bool(attributes[counting].as_int())
        expr = b.emit_te(
            "avg_pool",
            lambda t: avg_pool2d_nhwc(t, kernel, strides, pads, dilations, include, ceil_mode),
            x,
        )
    return [b.new(expr, shape_of(node.outputs[0]), data.dtype, channels_last(4))]


def global_pool(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """GlobalAveragePool, GlobalMaxPool: reductions over the spatial axes."""
    data = inputs[0]
    order = channels_last(data.rank)
    axes = list(range(1, data.rank - 1))
    reduce = relax.op.mean if node.op_type == "GlobalAveragePool" else relax.op.max
    expr = b.emit(reduce(b.stored(data, order), axes, keepdims=True))
    return [b.new(expr, shape_of(node.outputs[0]), data.dtype, order)]
