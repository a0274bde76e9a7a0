"""Which tensors each decided layer is cut at, and what its output is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from bnn_tvm.verification.cut import INPUT_PREFIX, Branch, Graph, cut
from bnn_tvm.verification.reference import Arrays, Reference

if TYPE_CHECKING:
    from bnn_tvm.recognize import Decision

BINARY_OPS = ("BinaryConv", "BinaryDense")


@dataclass(frozen=True)
class Layer:
    """A decided layer: its branch, and how its integers are read off its output.

    channel_axis, scale, offset belong to binary layers (see `compare.same_integers`). by_design:
    the branch computes something else than the ONNX graph.
    """

    decision: Decision
    branch: Branch
    by_design: bool
    scale: np.ndarray | None = None
    offset: np.ndarray | None = None
    channel_axis: int = 1


def plan(decisions: Sequence[Decision], rewritten: Graph, clean: Graph) -> list[Layer]:
    """Cut every decided layer of `rewritten` at tensors that `clean` has too.

    A binary layer is cut in front of its binarisers, a float layer directly before it; where that
    tensor does not exist in the clean graph, at the nearest one before it that does.
    """
    shared = frozenset(name for name in rewritten.producer if clean.has(name))
    compared = {node.input[0] for node in rewritten.model.graph.node if node.op_type == "Binarize"}
    decided = {decision.output for decision in decisions}
    binary_stops = shared & (compared | decided)
    layers = []
    for decision in decisions:
        node = rewritten.producer.get(decision.output)
        if node is None:
            continue
        stops = binary_stops if node.op_type in BINARY_OPS else shared
        branch = rewritten.branch(decision.output, stops)
        scale = offset = None
        if node.op_type in BINARY_OPS:
            scale, offset = (
                numpy_helper.to_array(rewritten.constants[name]) for name in node.input[2:4]
            )
        layers.append(
            Layer(
                decision,
                branch,
                by_design=decision.by_design or not _depends_only_on(clean, branch),
                scale=scale,
                offset=offset,
                channel_axis=-1 if node.op_type == "BinaryDense" else 1,
            )
        )
    return layers


def _depends_only_on(graph: Graph, branch: Branch) -> bool:
    own = graph.branch(branch.output, frozenset(branch.inputs))
    return bool(own.inputs) and set(own.inputs) <= set(branch.inputs)


def layer_model(layers: Sequence[Layer], rewritten: Graph) -> onnx.ModelProto:
    """The model in which every layer is a branch of its own, to be compiled."""
    return cut(rewritten, [layer.branch for layer in layers])


def given(layers: Sequence[Layer], values: Arrays) -> Arrays:
    """The inputs of `layer_model`: `values` holds them under their own names."""
    names = dict.fromkeys(name for layer in layers for name in layer.branch.inputs)
    return {INPUT_PREFIX + name: values[name] for name in names}


class LayerReference:
    """What onnxruntime computes for each layer from given inputs.

    Layers that do what the ONNX graph says are cut out of the clean graph; those that differ by
    design out of the expanded one (the rewritten graph in standard operators).
    """

    def __init__(self, layers: Sequence[Layer], clean: Graph, expanded: Graph) -> None:
        self._references = []
        for graph, by_design in ((clean, False), (expanded, True)):
            branches = [layer.branch for layer in layers if layer.by_design is by_design]
            if branches:
                model = cut(graph, branches)
                self._references.append(
                    ({value.name for value in model.graph.input}, Reference(model))
                )

    def __call__(self, inputs: Arrays) -> Arrays:
        """Outputs of all layers by name, for the inputs that `given` makes."""
        results: Arrays = {}
        for names, reference in self._references:
            results.update(reference({n: a for n, a in inputs.items() if n in names}))
        return results
