"""Regions of elementwise nodes, and the one tensor each of their results is a function of.

A tensor made by elementwise nodes alone is, per channel, a scalar function of any tensor through
which all its dynamic inputs pass. These tensors are the dominators of the result in the
elementwise part of the graph; `Elementwise.dominators` lists them, nearest first.
"""

from __future__ import annotations

import onnx

from bnn_tvm.recognize.graph import Graph, attribute, is_standard

UNARY = frozenset(
    [
        "Abs",
        "Cast",
        "Ceil",
        "Celu",
        "Clip",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Not",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sign",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Tanh",
        "ThresholdedRelu",
    ]
)
NARY = frozenset(
    [
        "Add",
        "And",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Max",
        "Mean",
        "Min",
        "Mod",
        "Mul",
        "Or",
        "PRelu",
        "Pow",
        "Sub",
        "Sum",
        "Where",
        "Xor",
    ]
)
DISCONTINUOUS = frozenset(
    [
        "And",
        "Cast",
        "Ceil",
        "Div",
        "Equal",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Mod",
        "Not",
        "Or",
        "Pow",
        "Reciprocal",
        "Round",
        "Sign",
        "ThresholdedRelu",
        "Where",
        "Xor",
        "IsInf",
        "IsNaN",
    ]
)
"""Ops without which no chain can jump from one value to another."""

INEXACT = frozenset(
    [
        "Celu",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "Log",
        "Mish",
        "Pow",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Tanh",
    ]
)
"""Ops whose last bit depends on where in the tensor an element lies (vector code and its tail
round differently), and on the library. No exact threshold exists in front of them."""

MAX_NODES = 512
"""Regions of more nodes than this are not evaluated."""

MAX_DEPTH = 256
"""Dominators further away than this are not looked for: it bounds the work on hostile graphs."""


class Elementwise:
    """Dominator tree of the elementwise part of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._parent: dict[str, str] = {}
        self._depth: dict[str, int] = {}
        for node in graph.nodes:
            if self.accepts(node):
                self._place(node)

    def accepts(self, node: onnx.NodeProto) -> bool:
        """Whether the node maps every element by itself, constants per element aside."""
        if not is_standard(node) or len(node.output) != 1:
            return False
        graph = self.graph
        if node.op_type == "BatchNormalization":
            if attribute(node, "training_mode", 0) or graph.is_constant(node.input[0]):
                return False
            if not all(graph.is_constant(i) for i in node.input[1:]):
                return False
        elif node.op_type == "Clip":
            if not all(graph.is_constant(i) for i in node.input[1:] if i):
                return False
        elif node.op_type not in UNARY and node.op_type not in NARY:
            return False
        shape = graph.shape(node.output[0])
        dynamic = self.dynamic_inputs(node)
        return bool(dynamic) and shape is not None and all(graph.shape(i) == shape for i in dynamic)

    def dynamic_inputs(self, node: onnx.NodeProto) -> list[str]:
        """Distinct inputs that are no constants."""
        return [i for i in dict.fromkeys(node.input) if i and not self.graph.is_constant(i)]

    def is_elementwise(self, name: str) -> bool:
        """Whether the tensor is an elementwise function of one other tensor."""
        return name in self._parent

    def can_jump(self, nodes: list[onnx.NodeProto]) -> bool:
        """Whether any of the nodes can make a function jump; without one there is no step."""
        return any(
            n.op_type in DISCONTINUOUS
            and not (n.op_type == "Div" and self.graph.is_constant(n.input[1]))
            for n in nodes
        )

    def dominators(self, name: str) -> list[str]:
        """Tensors of which `name` is a function per element, nearest first."""
        chain = []
        while name in self._parent:
            name = self._parent[name]
            chain.append(name)
        return chain

    def region(self, source: str, result: str) -> list[onnx.NodeProto]:
        """The nodes between a dominator and the result, producers first."""
        seen: dict[str, onnx.NodeProto] = {}
        todo = [result]
        while todo:
            name = todo.pop()
            if name == source or name in seen or self.graph.is_constant(name):
                continue
            seen[name] = self.graph.producer[name]
            todo.extend(i for i in seen[name].input if i)
        return _in_order(list(seen.values()))

    def _place(self, node: onnx.NodeProto) -> None:
        inputs = self.dynamic_inputs(node)
        parent: str | None = inputs[0]
        for other in inputs[1:]:
            parent = None if parent is None else self._common(parent, other)
        if parent is None:
            return
        depth = self._depth.get(parent, 0) + 1
        if depth <= MAX_DEPTH:
            self._parent[node.output[0]] = parent
            self._depth[node.output[0]] = depth

    def _common(self, a: str, b: str) -> str | None:
        while a != b:
            if self._depth.get(a, 0) < self._depth.get(b, 0):
                a, b = b, a
            if a not in self._parent:
                return None
            a = self._parent[a]
        return a


def _in_order(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Sort the nodes of a small acyclic region so that producers come first."""
    made = {n.output[0]: n for n in nodes}
    ordered: list[onnx.NodeProto] = []
    done: set[str] = set()
    stack = [(n.output[0], False) for n in reversed(nodes)]
    while stack:
        name, expanded = stack.pop()
        if name in done:
            continue
        if expanded:
            done.add(name)
            ordered.append(made[name])
            continue
        stack.append((name, True))
        stack.extend((i, False) for i in made[name].input if i in made and i not in done)
    return ordered
