"""Move binarisation towards the layer that packs its result.

Behind `Binarize` the tensor is bits; structure between it and the binary layer would have to be
run on floats of +-1. Reordering costs nothing instead:

* Transpose, Reshape, Flatten, Squeeze, Unsqueeze only move elements, so
  `T(binarize(x)) = binarize(T(x))`, with the threshold moved along when there is one per channel.
* MaxPool without padded maxima: the maximum of steps is the step of the maximum, as long as all
  channels step upwards: `max(x_i >= t) = (max x_i) >= t`. (ONNX MaxPool pads with -inf: bit -1,
  the identity of the maximum of signs.)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnn_tvm.passes.graph import BNN_DOMAIN, add_initializer, constant, only_user, shape_of

_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


def sink_binarize(model: ir.Model) -> bool:
    """Run the pass in place; True if something changed."""
    graph = model.graph
    changed = False
    for node in list(graph):
        if node.domain != BNN_DOMAIN or node.op_type != "Binarize":
            continue
        while (user := only_user(node.outputs[0])) is not None and _reaches_layer(user):
            moved = _moved_parameters(node, user)
            if moved is None:
                break
            _swap(graph, node, user, *moved)
            changed = True
    return changed


def _reaches_layer(user: ir.Node) -> bool:
    """Whether bits are packed somewhere below, through movable nodes only."""
    node: ir.Node | None = user
    while node is not None:
        if node.domain == BNN_DOMAIN:
            return node.op_type in ("BinaryConv", "BinaryDense") and node is not user
        if node.op_type not in (*_MOVES, "MaxPool") or len(node.outputs) != 1:
            return False
        readers = [use.node for use in node.outputs[0].uses()]
        if len(readers) != 1 or node.outputs[0].is_graph_output():
            return any(r.domain == BNN_DOMAIN for r in readers)
        node = readers[0]
    return False


def _moved_parameters(node: ir.Node, user: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    threshold, direction = constant(node.inputs[1]), constant(node.inputs[2])
    if threshold is None or direction is None or user.inputs[0] is not node.outputs[0]:
        return None
    if user.op_type == "MaxPool":
        upwards = bool(np.all(direction > 0)) and not np.any(np.isnan(threshold))
        return (threshold, direction) if upwards and len(user.outputs) == 1 else None
    if user.op_type not in _MOVES:
        return None
    if threshold.size == 1:
        return threshold.reshape(()), direction.reshape(())
    shape, result = shape_of(node.outputs[0]), shape_of(user.outputs[0])
    full_t = np.broadcast_to(threshold, shape)
    full_d = np.broadcast_to(direction, shape)
    if user.op_type == "Transpose":
        perm = _permutation(user, len(shape))
        return _compact(full_t.transpose(perm)), _compact(full_d.transpose(perm))
    return _compact(full_t.reshape(result)), _compact(full_d.reshape(result))


def _permutation(node: ir.Node, rank: int) -> tuple[int, ...]:
    if "perm" in node.attributes:
        return tuple(node.attributes["perm"].as_ints())
    return tuple(reversed(range(rank)))


def _compact(array: np.ndarray) -> np.ndarray:
    """Undo a broadcast: axes along which nothing changes get extent 1."""
    for axis in range(array.ndim):
        first = array.take([0], axis=axis)
        if np.array_equal(np.broadcast_to(first, array.shape), array, equal_nan=True):
            array = first
    return np.ascontiguousarray(array)


def _swap(
    graph: ir.Graph, node: ir.Node, user: ir.Node, threshold: np.ndarray, direction: np.ndarray
) -> None:
    """x -> node -> a -> user -> b  becomes  x -> user -> a' -> node -> b."""
    source, middle, result = node.inputs[0], node.outputs[0], user.outputs[0]
    assert source is not None
    user.replace_input_with(0, source)
    result.replace_all_uses_with(middle, replace_graph_outputs=True)
    node.replace_input_with(0, result)
    graph.remove(node)
    graph.insert_after(user, node)
    name = result.name
    middle_name, result.name = middle.name, f"{name}.before_binarize"
    middle.name = name
    del middle_name
    middle.shape, middle.type = result.shape, result.type
    result.type = source.type
    node.replace_input_with(1, add_initializer(graph, f"{name}.threshold", threshold))
    node.replace_input_with(2, add_initializer(graph, f"{name}.direction", direction))
