"""Nodes that do nothing go, names settle: graph outputs keep theirs, nodes take their output's."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend.graph import drop_dead_nodes, first_output, replace, where


def remove_transparent(model: onnx.ModelProto) -> dict[str, str]:
    """Remove Identity and Dropout (inference leaves its input as it is).

    Where such a node made a graph output, its source takes the output's name. An Identity stays
    only where it is the sole spelling: an output that is an input, a constant or another output.
    Returns the tensors that got another name: old -> new. Raises ModelError for a Dropout in
    training mode or whose mask is used.
    """
    graph = model.graph
    outputs = {output.name for output in graph.output}
    fixed = {value.name for value in graph.input} | {t.name for t in graph.initializer} | outputs
    constants = {tensor.name: tensor for tensor in graph.initializer}
    source_of: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = source_of.get(name, name)
        if node.op_type not in ("Identity", "Dropout"):
            kept.append(node)
            continue
        _check_dropout(node, constants)
        source, result = node.input[0], node.output[0]
        if result not in outputs:
            source_of[result] = source
            continue
        kept.append(onnx.helper.make_node("Identity", [source], [result]))
    _check_masks(graph, kept)
    renamed, nodes = _rename_sources(kept, outputs, fixed)
    replace(graph.node, nodes)
    return renamed


def name_nodes(model: onnx.ModelProto) -> None:
    """Drop what no output needs, then name every node after its first output."""
    drop_dead_nodes(model.graph)
    model.graph.name = model.graph.name or "graph"
    for field in ("metadata_props", "training_info"):
        model.ClearField(field)
    for field in ("metadata_props", "quantization_annotation"):
        model.graph.ClearField(field)
    for node in model.graph.node:
        node.name = first_output(node)
        node.doc_string = ""


def _rename_sources(
    nodes: list[onnx.NodeProto], outputs: set[str], fixed: set[str]
) -> tuple[dict[str, str], list[onnx.NodeProto]]:
    """Give the source of each `output = Identity(source)` the output's name, where it is free."""
    renamed: dict[str, str] = {}
    gone = set()
    for node in nodes:
        if node.op_type == "Identity":
            source, result = node.input[0], node.output[0]
            if source not in fixed and source not in renamed:
                renamed[source] = result
                gone.add(result)
    kept = [n for n in nodes if not (n.op_type == "Identity" and n.output[0] in gone)]
    for node in kept:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = renamed.get(name, name)
    return renamed, kept


def _check_dropout(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return
    mode = constants.get(node.input[2])
    if mode is None or numpy_helper.to_array(mode).any():
        raise ModelError(
            f"{where(node)} is in training mode",
            node=node.output[0],
            hint="export the network in inference mode: model.eval()",
        )


def _check_masks(graph: onnx.GraphProto, kept: list[onnx.NodeProto]) -> None:
    made = {name for node in kept for name in node.output} | {v.name for v in graph.input}
    made |= {tensor.name for tensor in graph.initializer}
    used = [(name, node) for node in kept for name in node.input if name and name not in made]
    used_outputs = [output.name for output in graph.output if output.name not in made]
    if used or used_outputs:
        raise ModelError(
            "the mask of a Dropout is used, which inference does not have",
            node=used[0][0] if used else used_outputs[0],
            hint="export the network in inference mode: model.eval()",
        )
