"""Cutting layers out of a graph, so that each runs on given values of its inputs.

A branch is the part of a graph between some tensors and one layer's output. All branches of a
model become one model: its inputs are the cut tensors, its outputs the layers' outputs. Branches
share inputs and constants but no computed tensor, so no layer sees another's rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from bnn_tvm.errors import BnnError

INPUT_PREFIX = "given:"


@dataclass(frozen=True)
class Branch:
    """The nodes between the tensors `inputs` and the tensor `output`."""

    output: str
    inputs: tuple[str, ...]


class Graph:
    """Look-ups over the graph of a clean or rewritten model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = model.graph
        self.producer = {name: node for node in graph.node for name in node.output if name}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {value.name for value in graph.input} - set(self.constants)
        values = (*graph.input, *graph.output, *graph.value_info)
        self.value_info = {value.name: value for value in values}

    def has(self, tensor: str) -> bool:
        """Whether a computed tensor or input of this name exists."""
        return tensor in self.producer or tensor in self.inputs

    def branch(self, output: str, stops: frozenset[str]) -> Branch:
        """Walk back from the node that makes `output` to `stops` and the graph's inputs."""
        return Branch(output, tuple(self._walk(output, stops)[1]))

    def nodes_of(self, branch: Branch) -> list[onnx.NodeProto]:
        """The nodes of a branch in graph order.

        Raises
        ------
        BnnError: `branch.output` depends on an input of the graph other than through its inputs.
        """
        nodes, reached = self._walk(branch.output, frozenset(branch.inputs))
        if not set(reached) <= set(branch.inputs):
            raise BnnError(
                f"layer depends on {reached}, not on {branch.inputs} alone", node=branch.output
            )
        wanted = {node.output[0] for node in nodes}
        return [node for node in self.model.graph.node if node.output[0] in wanted]

    def _walk(self, output: str, stops: frozenset[str]) -> tuple[list[onnx.NodeProto], list[str]]:
        """Nodes that `output` needs, and the stops and graph inputs at which the walk ended."""
        nodes: dict[str, onnx.NodeProto] = {}
        reached: dict[str, None] = {}
        todo = [output]
        while todo:
            name = todo.pop()
            if name != output and (name in stops or name in self.inputs):
                reached[name] = None
                continue
            node = self.producer.get(name)
            if node is None or node.output[0] in nodes:
                continue
            nodes[node.output[0]] = node
            todo.extend(reversed([n for n in node.input if n and n not in self.constants]))
        return list(nodes.values()), list(reached)


def cut(
    graph: Graph, branches: Sequence[Branch], value_info: Graph | None = None
) -> onnx.ModelProto:
    """One model of all `branches`; the input for a tensor is called `given:` and its name.

    `value_info` is where shapes of the inputs are known, `graph` itself by default.
    """
    shapes = value_info or graph
    nodes: list[onnx.NodeProto] = []
    inputs: dict[str, onnx.ValueInfoProto] = {}
    outputs: list[onnx.ValueInfoProto] = []
    infos: list[onnx.ValueInfoProto] = []
    used: dict[str, onnx.TensorProto] = {}
    for index, branch in enumerate(branches):
        names = {name: INPUT_PREFIX + name for name in branch.inputs}
        for name in branch.inputs:
            inputs.setdefault(name, _renamed(shapes.value_info[name], INPUT_PREFIX + name))
        for node in graph.nodes_of(branch):
            for name in node.output:
                if name:
                    names[name] = name if name == branch.output else f"{index}:{name}"
                    if name in graph.value_info and name != branch.output:
                        infos.append(_renamed(graph.value_info[name], names[name]))
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            used.update({n: graph.constants[n] for n in node.input if n in graph.constants})
            del copy.input[:], copy.output[:]
            copy.input.extend(names.get(name, name) for name in node.input)
            copy.output.extend(names.get(name, name) for name in node.output)
            copy.name = copy.output[0]
            nodes.append(copy)
        outputs.append(_renamed(graph.value_info[branch.output], branch.output))
    result = helper.make_model(
        helper.make_graph(
            nodes, "layers", list(inputs.values()), outputs, list(used.values()), value_info=infos
        ),
        opset_imports=list(graph.model.opset_import),
    )
    result.ir_version = graph.model.ir_version
    return result


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    result = onnx.ValueInfoProto()
    result.CopyFrom(value)
    result.name = name
    return result
