"""x[mask] = c, written as ScatterND at the places where a mask is not zero, becomes Where.

That is how exporters write an assignment under a mask: the number of places depends on values, so
no shape of it is static, yet the whole is elementwise. Exactly this is taken:

    ScatterND(x, Transpose(NonZero(mask)), updates)    mask of x's shape, all updates one constant c
    = Where(mask, c, x)

NonZero names every place once and ScatterND needs one update for each, so neither the order of the
places nor how the length of `updates` is computed can matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bnn_tvm.frontend.graph import attribute, drop_dead_nodes, elements, replace, static_shape

# What updates may pass through between the constant and ScatterND: same value, other shape.
_REPEATS = ("Expand", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Tile", "Identity", "Cast")
_STEPS = 16


@dataclass(frozen=True)
class Assignment:
    """One x[mask] = value. nodes: outputs of the NonZero and ScatterND that spell it."""

    data: str
    mask: str
    value: np.ndarray
    nodes: tuple[str, str]


def assignments(graph: onnx.GraphProto) -> dict[str, Assignment]:
    """The assignments under a mask in a graph by ScatterND's output, shapes not looked at."""
    producer = {name: node for node in graph.node for name in node.output if name}
    constants = {t.name: t for t in graph.initializer if elements(t.dims) == 1}
    found = {}
    for node in graph.node:
        if node.op_type != "ScatterND" or node.domain or len(node.input) != 3:
            continue
        if attribute(node, "reduction", b"none") != b"none":
            continue
        data, indices, updates = node.input
        nonzero = _nonzero(indices, producer)
        value = _only_value(updates, producer, constants)
        if nonzero is not None and value is not None:
            both = (nonzero.output[0], node.output[0])
            found[node.output[0]] = Assignment(data, nonzero.input[0], value, both)
    return found


def masked_nodes(graph: onnx.GraphProto) -> set[str]:
    """Outputs of the NonZero and ScatterND nodes that may turn out to be elementwise."""
    return {name for found in assignments(graph).values() for name in found.nodes}


def spell_masks(model: onnx.ModelProto, known: Mapping[str, onnx.ValueInfoProto]) -> bool:
    """Write every assignment under a mask of the tensor's own static shape as Where.

    known: type and shape of every tensor. A NonZero that nothing else needs goes. Returns whether
    anything changed; what does not fit stays, for `check_operators` to refuse.
    """
    graph = model.graph
    found = {name: item for name, item in assignments(graph).items() if _same_shape(item, known)}
    if not found:
        return False
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        item = found.get(node.output[0]) if node.op_type == "ScatterND" else None
        if item is None:
            nodes.append(node)
            continue
        result, mask = node.output[0], item.mask
        if known[mask].type.tensor_type.elem_type != TensorProto.BOOL:
            mask = _fresh(f"{result}_mask", taken)
            nodes.append(helper.make_node("Cast", [item.mask], [mask], to=TensorProto.BOOL))
        dtype = helper.tensor_dtype_to_np_dtype(known[item.data].type.tensor_type.elem_type)
        value = _fresh(f"{result}_value", taken)
        array = np.asarray(item.value.reshape(()), dtype)
        graph.initializer.append(numpy_helper.from_array(array, value))
        nodes.append(helper.make_node("Where", [mask, value, item.data], [result]))
    replace(graph.node, nodes)
    drop_dead_nodes(graph)
    return True


def _same_shape(item: Assignment, known: Mapping[str, onnx.ValueInfoProto]) -> bool:
    shapes = [static_shape(known[n]) if n in known else None for n in (item.data, item.mask)]
    return shapes[0] is not None and shapes[0] == shapes[1]


def _nonzero(indices: str, producer: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The NonZero whose places, one a row, `indices` holds."""
    transpose = producer.get(indices)
    if transpose is None or transpose.op_type != "Transpose":
        return None
    if list(attribute(transpose, "perm", [1, 0])) != [1, 0]:  # type: ignore[call-overload]
        return None
    node = producer.get(transpose.input[0])
    return node if node is not None and node.op_type == "NonZero" else None


def _only_value(
    name: str,
    producer: Mapping[str, onnx.NodeProto],
    constants: Mapping[str, onnx.TensorProto],
) -> np.ndarray | None:
    """The constant that every element of a tensor is, None unless that is evident."""
    casts: list[np.dtype] = []
    for _ in range(_STEPS):
        value = None
        node = producer.get(name)
        if name in constants:
            value = numpy_helper.to_array(constants[name])
        elif node is None:
            return None
        elif node.op_type == "ConstantOfShape":
            tensor = attribute(node, "value")
            zero = np.zeros(1, np.float32)
            value = zero if tensor is None else numpy_helper.to_array(tensor)  # type: ignore[arg-type]
        elif node.op_type not in _REPEATS:
            return None
        if value is not None:
            for dtype in reversed(casts):
                value = value.astype(dtype)
            return value if value.size == 1 else None
        assert node is not None
        if node.op_type == "Cast":
            casts.append(helper.tensor_dtype_to_np_dtype(attribute(node, "to")))  # type: ignore[arg-type]
        name = node.input[0]
    return None


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
