"""Fold scales and shifts into the layer before them.

* binary conv or dense: `scale' = a * scale`, `offset' = a * offset + b`, where `y = a*x + b`
  follows the layer; exact up to the rounding of one product.
* float Conv, Gemm-like dense: the weights of an output channel times `a`, the bias
  `a * bias + b`, as every inference engine does.

Only where the layer's result has no other reader, so no tensor that the graph shows is lost.
A BatchNormalization that stays becomes Mul and Add (one of them where the other is neutral),
which fuse into whatever computes their input.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnn_tvm.passes.affine import Affine, read_affine
from bnn_tvm.passes.graph import (
    BNN_DOMAIN,
    add_initializer,
    bypass,
    constant,
    only_user,
    shape_of,
)


def fold_affine(model: ir.Model) -> bool:
    """Run the pass in place; True if something changed."""
    graph = model.graph
    changed = False
    for node in list(graph):
        if node.graph is None or not _is_layer(node):
            continue
        while (user := only_user(node.outputs[0])) is not None:
            axis = _channel_axis(node)
            affine = read_affine(user, node.outputs[0], axis)
            if affine is None or shape_of(user.outputs[0]) != shape_of(node.outputs[0]):
                break
            _absorb(graph, node, affine)
            bypass(graph, user, node)
            changed = True
    for node in list(graph):
        if node.op_type == "BatchNormalization":
            changed |= _spell_out(graph, node)
    return changed


def _is_layer(node: ir.Node) -> bool:
    if node.domain == BNN_DOMAIN:
        return node.op_type in ("BinaryConv", "BinaryDense")
    return (
        node.domain == ""
        and node.op_type == "Conv"
        and constant(node.inputs[1]) is not None
        and (len(node.inputs) < 3 or node.inputs[2] is None or constant(node.inputs[2]) is not None)
    )


def _channel_axis(node: ir.Node) -> int:
    return len(shape_of(node.outputs[0])) - 1 if node.op_type == "BinaryDense" else 1


def _absorb(graph: ir.Graph, node: ir.Node, affine: Affine) -> None:
    if node.op_type == "Conv":
        _absorb_float(graph, node, affine)
        return
    scale, offset = constant(node.inputs[2]), constant(node.inputs[3])
    assert scale is not None and offset is not None
    a, b = affine.scale, affine.shift
    if offset.ndim > 1:
        a, b = a.reshape(-1, 1, 1), b.reshape(-1, 1, 1)
        if offset.ndim == 3:
            a, b = a[:, :, 0], b[:, :, 0]
    new_scale = (affine.scale * scale.astype(np.float64)).astype(np.float32)
    new_offset = (a * offset.astype(np.float64) + b).astype(np.float32)
    name = node.outputs[0].name
    node.replace_input_with(2, add_initializer(graph, f"{name}.scale", new_scale))
    node.replace_input_with(3, add_initializer(graph, f"{name}.offset", new_offset))


def _absorb_float(graph: ir.Graph, node: ir.Node, affine: Affine) -> None:
    weight = constant(node.inputs[1])
    assert weight is not None
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    column = affine.scale.reshape(-1, *(1,) * (weight.ndim - 1))
    new_weight = (weight.astype(np.float64) * column).astype(weight.dtype)
    new_bias = affine.shift + (0.0 if bias is None else bias.astype(np.float64) * affine.scale)
    name = node.outputs[0].name
    node.replace_input_with(1, add_initializer(graph, f"{name}.weight", new_weight))
    bias_value = add_initializer(graph, f"{name}.bias", new_bias.astype(weight.dtype))
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, bias_value)


def _spell_out(graph: ir.Graph, node: ir.Node) -> bool:
    data, result = node.inputs[0], node.outputs[0]
    affine = read_affine(node, data, 1) if data is not None else None
    if affine is None or data is None:
        return False
    shape = (-1, *(1,) * (len(shape_of(data)) - 2))
    dtype = np.float32 if data.dtype is None else data.dtype.numpy()
    last: ir.Value = data
    steps = [("Mul", affine.scale, 1.0), ("Add", affine.shift, 0.0)]
    steps = [s for s in steps if not np.all(s[1] == s[2])] or steps[:1]
    for op_type, values, _ in steps:
        array = values.astype(dtype).reshape(shape)
        value = add_initializer(graph, f"{result.name}.{op_type.lower()}", array)
        step = ir.node(op_type, [last, value], name=f"{result.name}.{op_type.lower()}")
        step.outputs[0].name = f"{result.name}.{op_type.lower()}.out"
        step.outputs[0].shape, step.outputs[0].type = result.shape, result.type
        graph.insert_before(node, step)
        last = step.outputs[0]
    last_node = last.producer()
    assert last_node is not None
    bypass(graph, node, last_node)
    last_node.name = last.name
    return True
