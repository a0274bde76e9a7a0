"""Constants that an exporter spread over whole feature maps, back at the size they say something.

TorchScript writes `bias.expand_as(x)` with Expand, which folding turns into a full tensor. Where
such a constant only meets operators that broadcast, the repeated axes shrink to 1: the same values
meet the same elements, so results stay the same to the bit, and a shift per channel is seen as one.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from bnn_tvm.frontend.graph import Shape, static_shape

# fmt: off
_BROADCASTING = frozenset((
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
    "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
))
# fmt: on


def narrow_constants(model: onnx.ModelProto, known: dict[str, onnx.ValueInfoProto]) -> None:
    """Shrink, in place, initializers that repeat along axes. `known`: types of all tensors."""
    graph = model.graph
    shapes: dict[str, Shape | None] = {n: static_shape(value) for n, value in known.items()}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {output.name for output in graph.output}
    for tensor in graph.initializer:
        if sum(extent > 1 for extent in tensor.dims) < 2 or tensor.name in outputs:
            continue
        if not all(node.op_type in _BROADCASTING for node in users.get(tensor.name, ())):
            continue
        array = _without_repetition(numpy_helper.to_array(tensor))
        if array.shape == tuple(tensor.dims):
            continue
        if all(_same_result(n, tensor.name, array.shape, shapes) for n in users[tensor.name]):
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
            shapes[tensor.name] = array.shape


def _without_repetition(array: np.ndarray) -> np.ndarray:
    """`array` with every axis of equal slices cut to extent 1; equal means equal bits."""
    if array.dtype.kind not in "fiub":
        return array
    bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
    for axis, extent in enumerate(array.shape):
        if extent > 1 and (bits == bits.take([0], axis)).all():
            bits, array = bits.take([0], axis), array.take([0], axis)
    return array


def _same_result(
    node: onnx.NodeProto, name: str, narrow: Shape, shapes: dict[str, Shape | None]
) -> bool:
    """Whether the node's result keeps its shape when its input `name` gets the shape `narrow`."""
    operands = [narrow if i == name else shapes.get(i) for i in node.input]
    result = shapes.get(node.output[0])
    if result is None or any(shape is None for shape in operands):
        return False
    try:
        return np.broadcast_shapes(*(s for s in operands if s is not None)) == result
    except ValueError:
        return False
