"""What ends a classifier."""

from __future__ import annotations

import onnx_ir as ir

from bnn_tvm.importer.builder import Builder
from bnn_tvm.importer.generic import generic
from bnn_tvm.importer.value import Value, natural
from bnn_tvm.passes.graph import shape_of
from topi_ext.softmax import softmax_last_axis


def softmax(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """Softmax over the last axis in vectors; over another one as TVM does it."""
    data = inputs[0]
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    if axis % data.rank != data.rank - 1 or data.dtype != "float32":
        return generic(b, node, list(inputs))
    expr = b.emit_te("softmax", softmax_last_axis, b.stored(data))
    return [b.new(expr, shape_of(node.outputs[0]), data.dtype, natural(data.rank))]
