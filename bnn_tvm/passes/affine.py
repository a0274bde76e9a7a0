"""Scale and shift per channel, read from whichever node spells them.

BatchNormalization in inference is `y = gamma / sqrt(var + eps) * (x - mean) + beta`; Mul, Div,
Add and Sub by a constant are the same with one half missing. All of them compose to
`y = scale * x + shift`, which is computed here in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnn_tvm.passes.graph import constant, per_channel, shape_of


@dataclass(frozen=True)
class Affine:
    """`y = scale * x + shift`, float64 [channels] each, along one axis of x."""

    scale: np.ndarray
    shift: np.ndarray


def read_affine(node: ir.Node, data: ir.Value, axis: int) -> Affine | None:
    """`node` as a function of `data` alone, or None if it is not an affine map per channel.

    `axis` is the channel axis of `data`.
    """
    shape = shape_of(data)
    channels = shape[axis]
    if node.op_type == "BatchNormalization":
        return _batch_norm(node, data, axis)
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    data_is_left = left is data
    array = constant(right if data_is_left else left)
    if array is None or array.dtype.kind != "f" or left is right:
        return None
    other = per_channel(array, len(shape), axis, channels)
    if other is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "Mul":
        return Affine(other, zero)
    if node.op_type == "Add":
        return Affine(one, other)
    if node.op_type == "Sub":
        return Affine(one, -other) if data_is_left else Affine(-one, other)
    if data_is_left and np.all(other != 0):
        return Affine(1.0 / other, zero)
    return None


def _batch_norm(node: ir.Node, data: ir.Value, axis: int) -> Affine | None:
    if axis != 1 or node.inputs[0] is not data or len(node.outputs) != 1:
        return None
    parameters = [constant(v) for v in node.inputs[1:5]]
    if any(p is None for p in parameters):
        return None
    gamma, beta, mean, var = (np.asarray(p, dtype=np.float64) for p in parameters)
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    scale = gamma / np.sqrt(var + epsilon)
    return Affine(scale, beta - mean * scale)
