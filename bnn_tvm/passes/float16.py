"""Float layers and the elementwise work between layers in half precision, where that is sound.

IEEE half precision holds 11 bits, magnitudes from 2**-14 (below, bits are lost) to 65504 (above, it
is infinity). A node stays in float32, with the reason, where a constant that it multiplies by or
adds lies outside, or where its input may: then everything up to the next binarisation stays, for
values only get back into range by chance.

What moves or pools elements follows its input. Other operators (exp, softmax, means over space)
are computed in float32. Results of binary layers are float32, integer times scale plus offset, and
are rounded once where half precision reads them. Inputs and outputs of the graph keep their types.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from bnn_tvm.passes.float16_casts import BINARY_LAYERS, is_binary, set_float16
from bnn_tvm.passes.float16_range import (
    binary_problem,
    constants_problem,
    form_problem,
    weights_problem,
)
from bnn_tvm.passes.graph import BNN_DOMAIN

LAYERS = ("Conv", "Gemm", "MatMul")
_ELEMENTWISE = frozenset(
    {"Abs", "Add", "Clip", "Div", "LeakyRelu", "Max", "Min", "Mul", "Neg", "PRelu", "Relu", "Sub"}
    | {"Sum"}
)
_FOLLOWS = frozenset(
    {"AveragePool", "Concat", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape"}
    | {"Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
# Computed in float32; what comes out is no larger than what goes in, or small by itself.
_TAME = frozenset(
    {"Ceil", "DepthToSpace", "Elu", "Erf", "Expand", "Floor", "Gelu", "GlobalAveragePool"}
    | {"GlobalMaxPool", "HardSigmoid", "HardSwish", "Log", "Mean", "Mish", "ReduceMax"}
    | {"ReduceMean", "ReduceMin", "Resize", "Round", "Selu", "Sigmoid", "Sign", "Softmax"}
    | {"Softplus", "Softsign", "SpaceToDepth", "Sqrt", "Tanh", "Tile", "Upsample", "Where"}
)
_SMALL_INTEGERS = (ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16)


@dataclass
class Float16Plan:
    """Which nodes compute in half precision, by name, and which do not although they could.

    layers: Conv, Gemm, MatMul with their operator; elementwise: others. kept: the reason by node,
    for every layer and for elementwise nodes that are not merely behind another one.
    """

    layers: dict[str, str] = field(default_factory=dict)
    elementwise: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def halves(self) -> frozenset[str]:
        """Names of all nodes that compute in half precision."""
        return frozenset((*self.layers, *self.elementwise))

    def warnings(self) -> tuple[str, ...]:
        """One line for each group of nodes that is inexact, and for each node that is not."""
        convs = [name for name, op_type in self.layers.items() if op_type == "Conv"]
        dense = [name for name in self.layers if name not in convs]
        groups = {
            "convolution": convs,
            "dense layer": dense,
            "elementwise operator": self.elementwise,
        }
        return (
            *(
                f"float16: {_count(names, what)} in half precision, inexact: {_some(names)}"
                for what, names in groups.items()
                if names
            ),
            *(f"float16: {name} stays in float32: {why}" for name, why in self.kept.items()),
        )


def _count(names: list[str], what: str) -> str:
    return f"1 {what} computes" if len(names) == 1 else f"{len(names)} {what}s compute"


def _some(names: list[str]) -> str:
    shown = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]
    return ", ".join(shown)


def use_float16(model: ir.Model, only: frozenset[str] | None = None) -> Float16Plan:
    """Run the pass in place on a simplified graph.

    only: names of the nodes that may compute in half precision (default: all).
    """
    planner = _Planner(only)
    for node in model.graph:
        planner.visit(node)
    set_float16(model.graph, planner.half)
    return planner.plan


class _Planner:
    def __init__(self, only: frozenset[str] | None) -> None:
        self.only = only
        self.plan = Float16Plan()
        self.half: set[ir.Value] = set()
        self.wide: dict[ir.Value, str] = {}  # values that stay in float32, and why
        self.binary: set[ir.Value] = set()  # float32 results of binary layers, also moved or pooled

    def visit(self, node: ir.Node) -> None:
        if not any(value.dtype == ir.DataType.FLOAT for value in node.outputs):
            return
        if node.domain == BNN_DOMAIN:
            problem = binary_problem(node)
            if node.op_type in BINARY_LAYERS:
                self.binary.update(node.outputs)
            if problem is not None:
                self._set_wide(node, f"it comes from {node.name}, and {problem}")
            return
        if node.domain != "" or node.op_type in _TAME:
            self._follow_wide(node)
        elif node.op_type in LAYERS:
            self._layer(node)
        elif node.op_type in _ELEMENTWISE:
            self._elementwise(node)
        elif node.op_type in _FOLLOWS:
            self._follow_wide(node)
            problem = constants_problem(node)
            if problem is not None:
                self._set_wide(node, f"it comes from {node.name}: {problem}")
            if any(value in self.binary for value in node.inputs):
                self.binary.update(node.outputs)
            halves = any(value in self.half for value in node.inputs)
            if halves and not any(value in self.wide for value in node.outputs):
                self.half.update(v for v in node.outputs if v.dtype == ir.DataType.FLOAT)
        elif node.op_type == "Cast":
            source = node.inputs[0].dtype if node.inputs[0] is not None else None
            self._follow_wide(node)
            if source is not None and source.is_integer() and source not in _SMALL_INTEGERS:
                self._set_wide(node, f"it is cast from {source.name.lower()}")
        else:
            self._set_wide(node, f"it comes from {node.op_type} ({node.name})")

    def _layer(self, node: ir.Node) -> None:
        form = form_problem(node)
        range_ = self._wide_input(node) or (None if form else weights_problem(node))
        problem = form or range_
        if problem is None and self._allowed(node):
            self.half.update(node.outputs)
            self.plan.layers[str(node.name)] = node.op_type
        elif problem is not None:
            self.plan.kept[str(node.name)] = problem
        if range_ is not None:
            self._set_wide(node, self._reason(node) or f"it comes from {node.name}")

    def _elementwise(self, node: ir.Node) -> None:
        behind = self._wide_input(node)
        problem = behind or constants_problem(node)
        between = any(value in self.half or value in self.binary for value in node.inputs)
        if problem is None and between and self._allowed(node):
            self.half.update(node.outputs)
            self.plan.elementwise.append(str(node.name))
        elif problem is not None:
            self._set_wide(node, self._reason(node) or f"it comes from {node.name}")
            first = any(is_binary(value) and value in self.wide for value in node.inputs)
            if behind is None or first:
                self.plan.kept[str(node.name)] = problem

    def _allowed(self, node: ir.Node) -> bool:
        return self.only is None or node.name in self.only

    def _reason(self, node: ir.Node) -> str | None:
        return next((self.wide[value] for value in node.inputs if value in self.wide), None)

    def _wide_input(self, node: ir.Node) -> str | None:
        reason = self._reason(node)
        return None if reason is None else f"its input may exceed half precision's range: {reason}"

    def _follow_wide(self, node: ir.Node) -> None:
        reason = self._reason(node)
        if reason is not None:
            self._set_wide(node, reason)

    def _set_wide(self, node: ir.Node, reason: str) -> None:
        self.wide.update(dict.fromkeys(node.outputs, reason))
