"""Fold a zero Pad of the spatial axes into the float Conv that alone reads it."""

from __future__ import annotations

import onnx_ir as ir

from bnn_tvm.passes.graph import constant, only_user, shape_of


def fold_pad(model: ir.Model) -> bool:
    """Run the pass in place; True if something changed."""
    graph = model.graph
    changed = False
    for node in list(graph):
        if node.domain != "" or node.op_type != "Pad":
            continue
        user = only_user(node.outputs[0])
        amounts = _zero_pads(node)
        if user is None or amounts is None or user.domain != "" or user.op_type != "Conv":
            continue
        if user.inputs[0] is not node.outputs[0] or "auto_pad" in user.attributes:
            continue
        spatial = len(amounts) // 2 - 2
        old = (
            list(user.attributes["pads"].as_ints())
            if "pads" in user.attributes
            else [0] * (2 * spatial)
        )
        begin, end = amounts[2 : 2 + spatial], amounts[4 + spatial :]
        new = [a + b for a, b in zip(old, [*begin, *end], strict=True)]
        user.attributes["pads"] = ir.AttrInt64s("pads", new)
        user.replace_input_with(0, node.inputs[0])
        graph.remove(node, safe=True)
        changed = True
    return changed


def _zero_pads(node: ir.Node) -> list[int] | None:
    """The pads if they are zeros around spatial axes only, else None."""
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    amounts = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    data = node.inputs[0]
    if mode != "constant" or amounts is None or data is None or len(node.inputs) > 3:
        return None
    if len(node.inputs) == 3 and node.inputs[2] is not None:
        value = constant(node.inputs[2])
        if value is None or float(value.reshape(())) != 0.0:
            return None
    pads = [int(v) for v in amounts]
    rank = len(shape_of(data))
    if min(pads) < 0 or any(pads[axis] or pads[axis + rank] for axis in (0, 1)):
        return None
    return pads
