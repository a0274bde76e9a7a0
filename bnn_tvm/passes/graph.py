"""Small helpers over onnx_ir graphs that every pass needs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

BNN_DOMAIN = "bnn_tvm"


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer, or None for anything that is computed or an input."""
    if value is None or value.const_value is None or value.producer() is not None:
        return None
    if value.is_graph_input():
        return None
    return value.const_value.numpy()


def only_user(value: ir.Value) -> ir.Node | None:
    """The node that alone reads `value`, or None if there are several, none, or it is an output."""
    uses = list(value.uses())
    if value.is_graph_output() or len(uses) != 1:
        return None
    return uses[0].node


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Register `array` under a fresh name that starts with `name`."""
    fresh, count = name, 0
    while fresh in graph.initializers:
        count += 1
        fresh = f"{name}.{count}"
    value = ir.Value(
        name=fresh,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(np.ascontiguousarray(array), name=fresh),
    )
    graph.register_initializer(value)
    return value


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The static shape; the frontend made sure that there is one."""
    assert value.shape is not None, f"{value.name} has no shape"
    return tuple(int(d) for d in value.shape)


def bypass(graph: ir.Graph, node: ir.Node, producer: ir.Node) -> None:
    """Remove `node`, whose work `producer` now does: its output becomes the producer's.

    `node` reads the producer's only output and has one output; the name of the graph value that
    others read is kept.
    """
    old, new = node.outputs[0], producer.outputs[0]
    name, shape, type_ = old.name, old.shape, old.type
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new
    old.replace_all_uses_with(new)
    graph.remove(node, safe=True)
    old.name = f"{name}.replaced"
    new.name, new.shape, new.type = name, shape, type_


def per_channel(array: np.ndarray, rank: int, axis: int, channels: int) -> np.ndarray | None:
    """`array`, broadcast against a tensor of `rank`, as one number per channel of `axis`.

    Returns float64 [channels], or None where the array varies along another axis or would
    enlarge the tensor.
    """
    if array.ndim > rank:
        return None
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if any(extent != 1 for i, extent in enumerate(full.shape) if i != axis):
        return None
    if full.shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(full.reshape(-1).astype(np.float64), (channels,)).copy()
