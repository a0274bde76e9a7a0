"""Graphs inside graphs, made flat: model-local functions, and If nodes whose answer is known."""

from __future__ import annotations

import onnx
from onnx import helper, inliner, numpy_helper

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend.constants import constants_to_initializers
from bnn_tvm.frontend.graph import (
    MAX_NODES,
    attribute,
    listing,
    printable,
    replace,
    skeleton,
    where,
)
from bnn_tvm.frontend.structure import check_structure, first_lines


def inline_functions(model: onnx.ModelProto) -> None:
    """Replace calls of model-local functions by their bodies (onnx's own inliner).

    Raises ModelError for functions that call themselves or unfold to more than MAX_NODES nodes.
    """
    if not model.functions:
        return
    _check_growth(model)
    bare = skeleton(model)
    bare.functions.extend(model.functions)
    try:
        flat = inliner.inline_local_functions(bare, True)
    except Exception as error:  # the inliner raises RuntimeError and bare C++ errors
        raise ModelError(
            f"the functions of the model cannot be inlined: {first_lines(error)}",
            hint="run onnx.inliner.inline_local_functions on it and compile the result",
        ) from error
    replace(model.graph.node, flat.graph.node)
    replace(model.opset_import, flat.opset_import)
    held = {tensor.name for tensor in model.graph.initializer}
    model.graph.initializer.extend(t for t in flat.graph.initializer if t.name not in held)
    del model.functions[:]
    del model.graph.value_info[:]
    check_structure(model)


def inline_known_branches(model: onnx.ModelProto) -> bool:
    """Replace every If whose condition is an initializer by the branch it takes."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in graph.node:
        if node.op_type != "If" or node.input[0] not in constants:
            nodes.append(node)
            continue
        changed = True
        taken = bool(numpy_helper.to_array(constants[node.input[0]]).any())
        nodes += _inline_branch(graph, node, "then_branch" if taken else "else_branch")
    if changed:
        replace(graph.node, nodes)
        constants_to_initializers(model)
        check_structure(model)
    return changed


def _inline_branch(
    graph: onnx.GraphProto, node: onnx.NodeProto, which: str
) -> list[onnx.NodeProto]:
    """The nodes of one branch, with names that no other branch has, making the If's outputs."""
    branch = attribute(node, which)
    if not isinstance(branch, onnx.GraphProto) or len(branch.output) != len(node.output):
        raise ModelError(
            f"{where(node)} has no {which} with {len(node.output)} outputs",
            node=node.output[0],
            hint="export the model again, without control flow",
        )
    prefix = f"{node.output[0]}/"
    own = {name for child in branch.node for name in child.output if name}
    own |= {tensor.name for tensor in branch.initializer}
    names = {name: prefix + name for name in own}
    for tensor in branch.initializer:
        moved = graph.initializer.add()
        moved.CopyFrom(tensor)
        moved.name = names[tensor.name]
    nodes = []
    for child in branch.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(child)
        _rename(copy, names)
        nodes.append(copy)
    for inner, outer in zip(branch.output, node.output, strict=True):
        source = names.get(inner.name, inner.name)
        nodes.append(helper.make_node("Identity", [source], [outer]))
    return nodes


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Rename tensors in a node and in the graphs it holds, which see the names of their parents."""
    pending = [node]
    while pending:
        current = pending.pop()
        for field in (current.input, current.output):
            for index, name in enumerate(field):
                field[index] = names.get(name, name)
        for attr in current.attribute:
            for graph in ([attr.g] if attr.HasField("g") else []) + list(attr.graphs):
                for value in (*graph.output, *graph.input, *graph.initializer):
                    value.name = names.get(value.name, value.name)
                del graph.value_info[:]
                pending += graph.node


def _check_growth(model: onnx.ModelProto) -> None:
    """Count the nodes that inlining makes before it makes them."""
    bodies = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    for start in bodies:
        stack = [(start, False)]
        active: set[tuple[str, str]] = set()
        while stack:
            key, done = stack.pop()
            if key in sizes:
                continue
            calls = [c for c in _calls(bodies[key].node) if c in bodies]
            if done:
                active.discard(key)
                sizes[key] = len(bodies[key].node) + sum(sizes[call] for call in calls)
                continue
            if key in active:
                continue
            active.add(key)
            stack.append((key, True))
            for call in calls:
                if call in active:
                    raise ModelError(
                        f"the function {printable(key[1])} of the model calls itself",
                        node=printable(key[1]),
                        hint="export the model again; functions cannot be recursive",
                    )
                stack.append((call, False))
    total = sum(sizes.get(call, 0) for call in _calls(model.graph.node))
    if total > MAX_NODES:
        raise ModelError(
            f"the functions of the model unfold to {total} nodes: "
            + listing([key[1] for key in bodies], 5),
            hint=f"at most {MAX_NODES} nodes can be compiled",
        )


def _calls(nodes: object) -> list[tuple[str, str]]:
    """(domain, name) of every node, those in subgraphs too."""
    found = []
    pending = list(nodes)  # type: ignore[call-overload]
    while pending:
        node = pending.pop()
        found.append((node.domain, node.op_type))
        for attr in node.attribute:
            if attr.HasField("g"):
                pending += attr.g.node
            for graph in attr.graphs:
                pending += graph.node
    return found
