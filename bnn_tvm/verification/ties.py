"""Values so close to a binariser's threshold that float rounding decides their sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import numpy_helper

from bnn_tvm.verification.cut import Graph

TIE = 1e-5
"""A value this close to a threshold, relative to the tensor's largest, may fall on either side."""


@dataclass(frozen=True)
class Threshold:
    """A binariser: it compares `tensor` with `values`, broadcastable to it."""

    tensor: str
    values: np.ndarray


def thresholds(rewritten: Graph) -> list[Threshold]:
    """All binarisers of a rewritten graph."""
    return [
        Threshold(node.input[0], numpy_helper.to_array(rewritten.constants[node.input[1]]))
        for node in rewritten.model.graph.node
        if node.op_type == "Binarize"
    ]


def margin(binarisers: Sequence[Threshold], values: Mapping[str, np.ndarray]) -> float:
    """Smallest distance of any compared value from its threshold, relative to its tensor's largest.

    Tensors that `values` lacks are left out; infinity where nothing is compared. 0 is common and
    harmless where values are integers: both sides compute the same.
    """
    smallest = np.inf
    for binariser in binarisers:
        value = values.get(binariser.tensor)
        if value is None or value.size == 0:
            continue
        finite = np.where(np.isfinite(binariser.values), binariser.values, np.inf)
        distance = np.abs(value - finite)
        largest = float(np.abs(value).max())
        if largest > 0:
            smallest = min(smallest, float(distance.min()) / largest)
    return smallest
