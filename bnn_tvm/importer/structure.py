"""Operators that move elements: where storage order allows, they move nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tvm import relax

from bnn_tvm.importer.builder import Builder
from bnn_tvm.importer.generic import generic
from bnn_tvm.importer.value import Parts, Value, natural
from bnn_tvm.passes.graph import shape_of


def transpose(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """Only the bookkeeping changes: the stored tensor stays as it is."""
    data = inputs[0]
    perm = (
        tuple(node.attributes["perm"].as_ints())
        if "perm" in node.attributes
        else tuple(reversed(range(data.rank)))
    )
    shape = tuple(data.shape[axis] for axis in perm)
    if data.array is not None:
        return [b.constant(data.array.transpose(perm))]
    expr = b.stored(data, data.order)
    order = tuple(perm.index(axis) for axis in data.order)
    return [b.new(expr, shape, data.dtype, order)]


def reshape(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """Reshape, Flatten, Squeeze, Unsqueeze: a view of the tensor in ONNX's order."""
    data, shape = inputs[0], shape_of(node.outputs[0])
    expr = b.emit(relax.op.reshape(b.stored(data), shape))
    return [b.new(expr, shape, data.dtype, natural(len(shape)))]


def concat(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """Concatenation in the order of the first computed operand, when something reads it whole.

    Concatenations of concatenations are one, so that a dense block copies nothing for each of its
    layers: they read the bits of all parts.
    """
    rank = inputs[0].rank
    axis = node.attributes["axis"].as_int() % rank
    order = next((v.order for v in inputs if v.array is None), natural(rank))
    values: list[Value] = []
    for value in inputs:
        pending = value.parts if not value.stored else None
        whole = pending is None or pending.axis != axis
        values += [value] if whole or pending is None else pending.values
    parts = Parts(tuple(values), axis, b.origin)
    return [Value(shape_of(node.outputs[0]), inputs[0].dtype, order, parts=parts)]


def pad(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """Pad by a constant, in the order of storage; other modes as TVM does them."""
    data = inputs[0]
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    amounts = inputs[1].array if len(inputs) > 1 and inputs[1] is not None else None
    if mode != "constant" or amounts is None or len(inputs) > 3 or np.any(amounts < 0):
        return generic(b, node, list(inputs))
    value = 0.0
    if len(inputs) == 3 and inputs[2] is not None:
        if inputs[2].array is None:
            return generic(b, node, list(inputs))
        value = float(inputs[2].array.reshape(()))
    rank = data.rank
    width: list[int] = []
    for axis in data.order:
        width += [int(amounts[axis]), int(amounts[axis + rank])]
    expr = b.emit(relax.op.nn.pad(b.stored(data, data.order), width, pad_value=value))
    return [b.new(expr, shape_of(node.outputs[0]), data.dtype, data.order)]


def split(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """Split as slices, each a tensor of its own, in the order of storage."""
    data = inputs[0]
    axis = node.attributes["axis"].as_int() % data.rank if "axis" in node.attributes else 0
    stored = b.stored(data, data.order)
    values, begin = [], 0
    for output in node.outputs:
        shape = shape_of(output)
        end = begin + shape[axis]
        part = relax.op.strided_slice(stored, [data.order.index(axis)], [begin], [end])
        values.append(b.new(b.emit(part), shape, data.dtype, data.order))
        begin = end
    return values


def slices(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """Slice with constant bounds, in the order of storage; steps may be negative."""
    data = inputs[0]
    if any(value is not None and value.array is None for value in inputs[1:]):
        return generic(b, node, list(inputs))
    given = [None if v is None or v.array is None else v.array.reshape(-1) for v in inputs[1:]]
    starts, ends, axes, steps = (*given, None, None)[:4]
    assert starts is not None and ends is not None
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    expr = b.stored(data, data.order)
    places, begins, stops, strides = [], [], [], []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        extent = data.shape[int(axis)]
        begin, stop, stride = slice(int(start), int(end), int(step)).indices(extent)
        places.append(data.order.index(int(axis) % data.rank))
        begins.append(begin)
        # Before the first element, which TVM would take for the last one.
        stops.append(stop if stop >= 0 else -extent - 1)
        strides.append(stride)
    part = relax.op.strided_slice(expr, places, begins, stops, strides)
    return [b.new(b.emit(part), shape_of(node.outputs[0]), data.dtype, data.order)]


def gather(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """Gather along one axis. Indices that are computed stay within the axis, whatever they are."""
    data, indices = inputs[0], inputs[1]
    axis = node.attributes["axis"].as_int() % data.rank if "axis" in node.attributes else 0
    extent, array = data.shape[axis], indices.array
    chosen: relax.Expr
    if array is None:
        given = b.stored(indices)
        behind = b.emit(relax.op.add(given, relax.const(extent, indices.dtype)))
        below = b.emit(relax.op.less(given, relax.const(0, indices.dtype)))
        chosen = b.emit(relax.op.where(below, behind, given))
    elif np.any((array < -extent) | (array >= extent)):
        return generic(b, node, list(inputs))
    else:
        chosen = relax.const(np.where(array < 0, array + extent, array).astype(np.int32))
    shape = shape_of(node.outputs[0])
    if indices.rank == 1:
        place = data.order.index(axis)
        expr = relax.op.take(b.stored(data, data.order), chosen, place, mode="clip")
        return [b.new(b.emit(expr), shape, data.dtype, data.order)]
    count = int(np.prod(indices.shape, dtype=np.int64))
    if array is None:
        flat = b.emit(relax.op.reshape(chosen, (count,)))
    else:
        flat = relax.const(chosen.value.numpy().reshape(-1))
    taken = b.emit(relax.op.take(b.stored(data), flat, axis, mode="clip"))
    result = b.emit(relax.op.reshape(taken, shape))
    return [b.new(result, shape, data.dtype, natural(len(shape)))]
