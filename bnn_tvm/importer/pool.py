"""Pools over NHWC activations."""

from __future__ import annotations

import onnx_ir as ir
from tvm import relax

from bnn_tvm.importer.builder import Builder
from bnn_tvm.importer.generic import generic
from bnn_tvm.importer.value import Value, channels_last
from bnn_tvm.passes.graph import shape_of
from topi_ext.pool import avg_pool2d_nhwc, max_pool2d_nhwc


def pool(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """MaxPool and AveragePool with two spatial axes."""
    data = inputs[0]
    attributes = node.attributes

    def ints(name: str, default: int, count: int) -> list[int]:
        if name not in attributes:
            return [default] * count
        return [int(v) for v in attributes[name].as_ints()]

    def flag(name: str) -> bool:
        return name in attributes and bool(attributes[name].as_int())

    auto_pad = attributes["auto_pad"].as_string() if "auto_pad" in attributes else "NOTSET"
    plain = data.rank == 4 and len(node.outputs) == 1 and auto_pad in ("NOTSET", "VALID")
    if not plain or data.dtype != "float32":
        return generic(b, node, list(inputs))
    x = b.stored(data, channels_last(4))
    kernel, strides = ints("kernel_shape", 1, 2), ints("strides", 1, 2)
    dilations, pads = ints("dilations", 1, 2), ints("pads", 0, 4)
    ceil_mode = flag("ceil_mode")
    if node.op_type == "MaxPool":
        expr = b.emit_te(
            "max_pool",
            lambda t: max_pool2d_nhwc(t, kernel, strides, pads, dilations, ceil_mode),
            x,
        )
    else:
        include = flag("count_include_pad")
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
