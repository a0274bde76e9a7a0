"""The small test vector in every `.dab`, with which a deployment checks itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bnn_tvm.export.test_vector import make_inputs, make_test_vector
from bnn_tvm.verification.cut import Graph
from bnn_tvm.verification.reference import Arrays, Reference
from bnn_tvm.verification.ties import TIE, margin, thresholds

if TYPE_CHECKING:
    import onnx

    from bnn_tvm.export.metadata import TensorInfo, TestVector

SEEDS = range(1, 9)
CLEAR = 100 * TIE
"""A margin that no device's rounding reaches."""

RELATIVE = 1e-3
TIED_RELATIVE = 0.25
INEXACT_RELATIVE = 0.05
INEXACT_SIGNS_RELATIVE = 0.75


def deployment_test(
    rewritten: onnx.ModelProto,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
    inexact: bool = False,
) -> TestVector:
    """Reference outputs of onnxruntime for seeded inputs.

    A device rounds floats in its own way, and a sign that hangs on rounding may fall on either
    side there. So the seed is taken whose values stay farthest from all thresholds; where even
    that one comes close, the tolerance is as wide as a few such signs make it. A model in half
    precision (`inexact`) turns more of them. Raises `ModelError` if onnxruntime fails on such
    inputs.
    """
    from bnn_tvm.recognize.expand import expand

    expanded = Graph(expand(rewritten))
    binarisers = thresholds(Graph(rewritten))
    names = [info.name for info in outputs]
    compared = [b.tensor for b in binarisers if expanded.has(b.tensor)]
    reference = Reference(expanded.model, dict.fromkeys((*names, *compared)))
    best: tuple[float, int, Arrays] = (-1.0, 0, {})
    for seed in SEEDS:
        values = reference(make_inputs(inputs, seed))
        distance = margin(binarisers, values)
        if distance > best[0]:
            best = distance, seed, {name: values[name] for name in names}
        if distance > CLEAR:
            break
    distance, seed, expected = best
    largest = max(float(np.abs(array).max(initial=0.0)) for array in expected.values())
    relative = RELATIVE if distance > TIE else TIED_RELATIVE
    if inexact:
        relative = INEXACT_SIGNS_RELATIVE if binarisers else INEXACT_RELATIVE
    return make_test_vector(
        outputs, expected, seed, atol=max(relative * largest, 1e-6), rtol=RELATIVE
    )
