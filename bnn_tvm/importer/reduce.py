"""Reductions, in the order of storage."""

from __future__ import annotations

import onnx_ir as ir
from tvm import relax

from bnn_tvm.importer.builder import Builder
from bnn_tvm.importer.generic import generic
from bnn_tvm.importer.value import Value, natural
from bnn_tvm.passes.graph import shape_of

# ONNX operator -> the function before, the reduction, the function behind.
_PARTS = {
    "ReduceL1": (relax.op.abs, relax.op.sum, None),
    "ReduceL2": (lambda x: relax.op.multiply(x, x), relax.op.sum, relax.op.sqrt),
    "ReduceMax": (None, relax.op.max, None),
    "ReduceMean": (None, relax.op.mean, None),
    "ReduceMin": (None, relax.op.min, None),
    "ReduceProd": (None, relax.op.prod, None),
    "ReduceSum": (None, relax.op.sum, None),
    "ReduceSumSquare": (lambda x: relax.op.multiply(x, x), relax.op.sum, None),
}
REDUCTIONS = frozenset(_PARTS)


def reduce(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """ReduceMean and its like, axes as input or attribute; no axes: all, or none where so asked.

    Without axes to reduce, what surrounds the reduction still happens, as in onnxruntime.
    """
    data = inputs[0]
    attributes = node.attributes
    axes: list[int] = []
    if len(inputs) > 1 and inputs[1] is not None:
        if inputs[1].array is None:
            return generic(b, node, list(inputs))
        axes = [int(axis) for axis in inputs[1].array.reshape(-1)]
    elif "axes" in attributes:
        axes = [int(axis) for axis in attributes["axes"].as_ints()]
    noop = "noop_with_empty_axes" in attributes and attributes["noop_with_empty_axes"].as_int()
    if not axes and not noop:
        axes = list(range(data.rank))
    before, reduction, behind = _PARTS[node.op_type]
    expr = b.stored(data, data.order)
    if before is not None:
        expr = b.emit(before(expr))
    if axes:
        places = sorted(data.order.index(axis % data.rank) for axis in axes)
        expr = b.emit(reduction(expr, places, keepdims=True))
    if behind is not None:
        expr = b.emit(behind(expr))
    kept = tuple(1 if a in {x % data.rank for x in axes} else e for a, e in enumerate(data.shape))
    value = b.new(expr, kept, data.dtype, data.order)
    shape = shape_of(node.outputs[0])
    if shape == kept:
        return [value]
    flat = b.emit(relax.op.reshape(b.stored(value), shape))
    return [b.new(flat, shape, data.dtype, natural(len(shape)))]
