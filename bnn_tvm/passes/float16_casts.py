"""Values of a graph made float16, with a Cast wherever the type changes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnn_tvm.passes.graph import BNN_DOMAIN, add_initializer, constant

BINARY_LAYERS = ("BinaryConv", "BinaryDense")
Casts = dict[tuple[ir.Value, ir.DataType], ir.Value]


def is_binary(value: ir.Value | None) -> bool:
    """Whether a binary layer computes it."""
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type in BINARY_LAYERS


def set_float16(graph: ir.Graph, half: set[ir.Value]) -> None:
    """Make the values of `half` float16, in place.

    What binarises compares halves as they are. A binary layer computes float32; where half
    precision reads its result, everybody reads that rounded once.
    """
    casts: Casts = {}
    halves: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        is_half = any(value in half for value in node.outputs)
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
                continue
            array = constant(value)
            if is_half and array is not None:
                if value not in halves:
                    with np.errstate(over="ignore"):  # bounds of Clip
                        short = array.astype(np.float16)
                    halves[value] = add_initializer(graph, f"{value.name}.float16", short)
                node.replace_input_with(index, halves[value])
            elif is_half and value.dtype == ir.DataType.FLOAT:
                made = _cast(graph, casts, value, ir.DataType.FLOAT16, node)
                node.replace_input_with(index, made)
            elif not is_half and value in half and node.domain != BNN_DOMAIN:
                node.replace_input_with(index, _cast(graph, casts, value, ir.DataType.FLOAT, node))
        if is_half:
            for output in node.outputs:
                if output in half:
                    output.type = ir.TensorType(ir.DataType.FLOAT16)
    for (value, dtype), made in list(casts.items()):
        if dtype == ir.DataType.FLOAT16 and is_binary(value):
            _read_rounded(graph, casts, value, made)
    for index, value in enumerate(graph.outputs):
        if value in half:
            graph.outputs[index] = _restored(graph, value)


def _cast(
    graph: ir.Graph, casts: Casts, value: ir.Value, dtype: ir.DataType, reader: ir.Node
) -> ir.Value:
    """`value` as `dtype`, by one Cast behind where it is made."""
    if (value, dtype) not in casts:
        node = ir.node("Cast", [value], {"to": int(dtype)}, name=str(value.name))
        made = node.outputs[0]
        made.name = f"{value.name}.{dtype.name.lower()}"
        made.shape, made.type = value.shape, ir.TensorType(dtype)
        producer = value.producer()
        if producer is None:
            graph.insert_before(reader, node)  # a graph input: its first reader
        else:
            graph.insert_after(producer, node)
        casts[value, dtype] = made
    return casts[value, dtype]


def _read_rounded(graph: ir.Graph, casts: Casts, value: ir.Value, rounded: ir.Value) -> None:
    """Everybody reads what is rounded: the layer then writes that alone."""
    cast = rounded.producer()
    for use in list(value.uses()):
        if use.node is cast:
            continue
        if use.node.domain == BNN_DOMAIN:
            use.node.replace_input_with(use.idx, rounded)
        else:
            wide = _cast(graph, casts, rounded, ir.DataType.FLOAT, use.node)
            use.node.replace_input_with(use.idx, wide)


def _restored(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A float32 value under the name of the half-precision graph output `value`."""
    name = value.name
    node = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=str(name))
    made = node.outputs[0]
    value.name = f"{name}.float16"
    made.name, made.shape, made.type = name, value.shape, ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    return made
