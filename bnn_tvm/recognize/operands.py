"""The activation of a layer as mid + half * s, padding included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnn_tvm.recognize import origin
from bnn_tvm.recognize.bits import Binarized, Bits, Flipped, Moved, Padded, spatial_pads
from bnn_tvm.recognize.graph import Graph
from bnn_tvm.recognize.layers import Layer
from bnn_tvm.recognize.step import Step
from bnn_tvm.recognize.values import BorderedByThird, Facts, TwoValued, Unproven

DENORMAL = np.float32(1.4e-45)
"""Smallest positive float32: x >= DENORMAL is x > 0."""


@dataclass(frozen=True)
class Operand:
    """a = mid + half * s inside; padded taps hold pad_real in the graph, pad_bit * 1 in s.

    mid float64 [ci], half float64 [group] (one per group of input channels); pads ONNX order for
    a Conv, empty for a dense layer.
    """

    bits: Bits
    mid: np.ndarray
    half: np.ndarray
    pads: tuple[int, ...]
    pad_real: float
    pad_bit: int

    @property
    def padded(self) -> bool:
        """Whether there is any padding."""
        return any(self.pads)


def explicit_pad(graph: Graph, layer: Layer) -> float | None:
    """The value of a constant spatial Pad directly before a Conv without pads of its own."""
    node = graph.producer.get(layer.activation)
    if not layer.is_conv or node is None or node.op_type != "Pad" or any(layer.pads):
        return None
    widths = origin.pad_widths(graph, node)
    value = origin.pad_value(graph, node)
    if widths is None or value is None or spatial_pads(widths) is None:
        return None
    return value


def proven(graph: Graph, facts: Facts, layer: Layer) -> tuple[Operand, TwoValued] | Unproven:
    """The operand where the graph shows it to be two-valued."""
    fact = facts.of(layer.activation)
    if isinstance(fact, TwoValued):
        return _factor(layer, fact, *_padding(layer, fact))
    if isinstance(fact, BorderedByThird):
        spatial = spatial_pads(fact.pads)
        if layer.is_conv and spatial and (fact.value == 0 or not any(layer.pads)):
            pads = tuple(a + b for a, b in zip(spatial, layer.pads, strict=True))
            return _factor(layer, fact.inner, fact.inner.bits, pads, fact.value, 0)
        return Unproven(fact.reason)
    node = graph.producer.get(layer.activation)
    if layer.is_conv and node is not None and node.op_type == "Pad":
        # A Pad with a third value: its taps become a correction at the border.
        widths, value = origin.pad_widths(graph, node), origin.pad_value(graph, node)
        spatial = spatial_pads(widths) if widths else None
        if value is not None and spatial is not None and (value == 0 or not any(layer.pads)):
            inner = facts.of(node.input[0])
            if isinstance(inner, TwoValued):
                pads = tuple(a + b for a, b in zip(spatial, layer.pads, strict=True))
                return _factor(layer, inner, inner.bits, pads, value, 0)
    return fact


def _padding(layer: Layer, fact: TwoValued) -> tuple[Bits, tuple[int, ...], float, int]:
    """Bits below a foldable Pad, pads, the value that padded taps have, and its bit (or 0)."""
    if not layer.is_conv:
        return fact.bits, (), 0.0, 0
    if isinstance(fact.bits, Padded):
        spatial = fact.bits.spatial_pads()
        side = fact.minus if fact.bits.value < 0 else fact.plus
        real = float(side.flat[0])
        if spatial is not None and (side == real).all() and (not any(layer.pads) or real == 0):
            pads = tuple(a + b for a, b in zip(spatial, layer.pads, strict=True))
            return fact.bits.child, pads, real, fact.bits.value
    bit = 0
    if any(layer.pads):
        bit = -1 if (fact.minus == 0).all() else 1 if (fact.plus == 0).all() else 0
    return fact.bits, layer.pads, 0.0, bit


def _factor(
    layer: Layer, fact: TwoValued, bits: Bits, pads: tuple[int, ...], real: float, bit: int
) -> tuple[Operand, TwoValued] | Unproven:
    """mid and half per input channel, where the values allow it."""
    assert layer.weights is not None
    groups = layer.group
    ci = layer.weights.shape[1] * groups
    axis = 1 if layer.is_conv else fact.minus.ndim - 1
    if not layer.is_conv and layer.swap_in:
        axis = fact.minus.ndim - 2
    values = []
    for value in (fact.minus, fact.plus):
        if any(d > 1 for a, d in enumerate(value.shape) if a != axis):
            return Unproven("two-valued, but its values differ within an input channel")
        values.append(np.broadcast_to(value.reshape(-1).astype(np.float64), (ci,)))
    minus, plus = values
    half = (plus - minus) / 2
    constant = half == 0
    if (half < 0).any() and (half > 0).any():
        sign = np.where(half < 0, -1, 1).astype(np.int8)
        if bit:
            return Unproven("two-valued, but rises in some channels and falls in others")
        shape = [1] * fact.minus.ndim
        shape[axis] = ci
        bits = Flipped(bits.shape, bits, sign.reshape(shape))
        half = np.abs(half)
        minus, plus = np.minimum(minus, plus), np.maximum(minus, plus)
    steps = np.zeros(groups)
    mid = (minus + plus) / 2
    for g in range(groups):
        part = slice(g * ci // groups, (g + 1) * ci // groups)
        moving = half[part][~constant[part]]
        step = float(moving[0]) if len(moving) else 1.0
        if len(moving) and np.abs(moving - step).max() > 1e-6 * abs(step):
            return Unproven("two-valued, but the distance of its values differs between channels")
        steps[g] = step
        # s is -1 throughout a constant channel: its threshold is NaN.
        mid[part] = np.where(constant[part], minus[part] + step, mid[part])
    if constant.any() and not _constant_bits_are_minus(fact, constant):
        return Unproven("two-valued, but constant in some channels")
    return Operand(bits, mid, steps, pads, real, bit), fact


def _constant_bits_are_minus(fact: TwoValued, constant: np.ndarray) -> bool:
    """Constant channels of a fresh step have bit -1; mapped ones may have either."""
    bits = fact.bits
    while isinstance(bits, (Padded, Moved)):
        children = (bits.child,) if isinstance(bits, Padded) else bits.children
        if len(children) != 1:
            return False
        bits = children[0]
    if not isinstance(bits, Binarized):
        return False
    threshold = bits.threshold.reshape(-1)
    return threshold.size == constant.size and bool(np.isnan(threshold[constant]).all())


def implicit(graph: Graph, facts: Facts, layer: Layer, sign_zero: str) -> Operand:
    """The operand binarised by its sign, where the graph does not do it.

    An explicit Pad with a constant becomes padding with the constant's sign (0 stays 0).
    """
    assert layer.weights is not None
    source, pads, real, bit = layer.activation, layer.pads, 0.0, 0
    node = graph.producer.get(source)
    if layer.is_conv and node is not None and node.op_type == "Pad":
        widths, value = origin.pad_widths(graph, node), origin.pad_value(graph, node)
        spatial = spatial_pads(widths) if widths else None
        if value is not None and spatial is not None and (value == 0 or not any(layer.pads)):
            source = node.input[0]
            pads = tuple(a + b for a, b in zip(spatial, layer.pads, strict=True))
            bit = 0 if value == 0 else 1 if value > 0 else -1
            real = float(bit)
    threshold = np.float32(0) if sign_zero == "plus" else DENORMAL
    one = np.ones(1, np.float32)
    step = Step(None, threshold * one, one.astype(np.int8), -one, one)
    users = {id(layer.node), id(node) if node is not None else 0}
    bits, _, step, _ = facts.go_back(source, step, users)
    if np.isnan(step.threshold).any():
        # A channel that is constant before the sign: binarise there, where its bit is at hand.
        shape = graph.shape(source)
        assert shape is not None
        bits = Binarized(shape, source, np.asarray(threshold), np.asarray(1, np.int8))
    ci = layer.weights.shape[1] * layer.group
    return Operand(bits, np.zeros(ci), np.ones(layer.group), pads, real, bit)
