"""Why the constants of a node forbid half precision, as sentences; None where they do not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnn_tvm.passes.graph import constant, shape_of

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_normal)

MAX_TAPS = 1152
"""Longest sum in half precision: its rounding grows with the root of the length, to a root mean
square of 0.5 % of the results' at 1152 (3x3 over 128 channels; normally distributed operands,
measured). Summing in float32 instead would cost what half precision gains."""


def _range_problem(magnitude: np.ndarray, what: str, least: float = SMALLEST) -> str | None:
    """None, or which of the magnitudes leaves half precision's range; 0 and infinity never do."""
    inside = (magnitude >= least) & (magnitude <= LARGEST)
    wrong = magnitude[np.isfinite(magnitude) & (magnitude != 0) & ~inside]
    if wrong.size == 0:
        return None
    return (
        f"{what} of {float(wrong.flat[0]):.3g} is outside half precision's range "
        f"({SMALLEST:.2g} to {LARGEST:.0f})"
    )


def binary_problem(node: ir.Node) -> str | None:
    """Whether a binary layer's results, by their largest magnitude per channel, leave the range."""
    if node.op_type == "Binarize":
        return None
    weight, scale, offset = (constant(value) for value in node.inputs[1:4])
    assert weight is not None and scale is not None and offset is not None
    dense = node.op_type == "BinaryDense"
    taps = weight.shape[0] if dense else int(np.prod(weight.shape[1:]))
    shift = np.abs(offset.astype(np.float64))
    if shift.ndim > 1:
        shift = shift.reshape(shift.shape[0], -1).max(axis=1)
    return _range_problem(np.abs(scale.astype(np.float64)) * taps + shift, "a largest value")


def form_problem(node: ir.Node) -> str | None:
    """Why no half-precision kernel computes this Conv, Gemm or MatMul, or None."""
    data, weight = node.inputs[0], constant(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    rank = len(shape_of(data)) if data is not None else 0
    if weight is None or (bias is not None and constant(bias) is None):
        return "its weights are computed"
    if node.op_type == "Conv" and rank not in (3, 4):
        return f"its input has {rank} axes"
    if node.op_type != "Conv" and (weight.ndim != 2 or rank < 2 or _flag(node, "transA")):
        return "it is a product of another form than [..., k] x [k, n]"
    taps = _rows(node, weight).shape[1]
    if taps > MAX_TAPS:
        return f"a sum of {taps} taps is too long for half precision (at most {MAX_TAPS})"
    return None


def weights_problem(node: ir.Node) -> str | None:
    """Why the weights or the bias of a Conv, Gemm or MatMul forbid half precision, or None."""
    weight = constant(node.inputs[1])
    shift = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    assert weight is not None
    rows = _rows(node, weight).astype(np.float64) * _number(node, "alpha")
    largest = np.abs(rows).max(axis=1, initial=0.0)
    if shift is not None:
        added = np.abs(shift.astype(np.float64) * _number(node, "beta"))
        problem = _range_problem(added, "a bias", 0.0)
        if problem is not None:
            return problem
        if added.size in (1, largest.size):
            # A bias rounds to more than what small weights lose.
            largest = np.maximum(largest, added.reshape(-1))
    return _range_problem(largest, "a channel's largest weight")


def _rows(node: ir.Node, weight: np.ndarray) -> np.ndarray:
    """The weights [co, taps]."""
    if node.op_type == "Conv":
        return weight.reshape(weight.shape[0], -1)
    return weight if _flag(node, "transB") else weight.T


def constants_problem(node: ir.Node) -> str | None:
    """Why the float constants of a node that is no layer forbid half precision, or None."""
    if node.op_type == "LeakyRelu":
        alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 0.01
        return _range_problem(np.abs(np.array([alpha])), "a slope", 0.0)
    if node.op_type == "Clip":
        return None  # a bound beyond the range never applies
    if node.op_type == "Div" and constant(node.inputs[1]) is None:
        return "its divisor is computed"
    for value in node.inputs:
        array = constant(value)
        if array is None or array.dtype.kind != "f":
            continue
        magnitude = np.abs(array.astype(np.float64)).reshape(-1)
        if node.op_type == "Mul":
            problem = _range_problem(magnitude, "a factor")
        elif node.op_type == "PRelu":
            problem = _range_problem(magnitude, "a slope", 0.0)  # small beside the other side's 1
        elif node.op_type == "Div":
            with np.errstate(divide="ignore"):
                problem = _range_problem(1 / magnitude, "the reciprocal of a divisor")
            problem = problem or _range_problem(magnitude, "a divisor")
        else:
            problem = _range_problem(magnitude, "a constant", 0.0)
            problem = problem or _range_problem(magnitude.max(initial=0.0)[None], "a constant")
        if problem is not None:
            return problem
    return None


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and bool(node.attributes[name].as_int())


def _number(node: ir.Node, name: str) -> float:
    return float(node.attributes[name].as_float()) if name in node.attributes else 1.0
