"""Two-valued tensors through nodes that move elements about, or take their maximum."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from bnn_tvm.recognize import origin
from bnn_tvm.recognize.bits import Moved, Padded
from bnn_tvm.recognize.graph import Graph, attribute, is_standard

if TYPE_CHECKING:
    from bnn_tvm.recognize.values import Fact, TwoValued

_MOVES = frozenset(
    [
        "Pad",
        "Transpose",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "MaxPool",
        "GlobalMaxPool",
        "Concat",
        "Split",
        "Slice",
        "Gather",
    ]
)
_LARGEST = 1 << 24
"""Per-element values beyond this size are not followed through a reshape."""


def moves(node: onnx.NodeProto) -> bool:
    """Whether the node's output elements are elements (or maxima of elements) of its inputs."""
    return is_standard(node) and node.op_type in _MOVES


def moved_inputs(graph: Graph, node: onnx.NodeProto) -> list[str]:
    """The inputs whose elements the node moves."""
    return list(node.input) if node.op_type == "Concat" else [node.input[0]]


def move(graph: Graph, node: onnx.NodeProto, name: str, children: list[Fact]) -> Fact:
    """The fact about output `name` of a moving node, from the facts about its inputs."""
    from bnn_tvm.recognize.values import TwoValued, Unproven

    facts: list[TwoValued] = []
    for child in children:
        if not isinstance(child, TwoValued):
            what = (
                f"{node.op_type} of " if node.op_type != "Concat" else "Concat of a part that is "
            )
            return Unproven(what + child.reason)
        facts.append(child)
    shape = graph.shape(name)
    if shape is None:
        return Unproven(f"{node.op_type} of unknown shape")
    handler = _HANDLERS[node.op_type]
    result = handler(graph, node, name, shape, facts)
    if result is None:
        return Unproven(f"{node.op_type} that mixes different values")
    return result


def _moved(
    node: onnx.NodeProto, name: str, shape: tuple[int, ...], facts: list[TwoValued]
) -> Moved:
    return Moved(shape, node, tuple(f.bits for f in facts), list(node.output).index(name))


def _uniform(fact: TwoValued) -> bool:
    return fact.minus.size == 1 and fact.plus.size == 1


def _with(
    node: onnx.NodeProto,
    name: str,
    shape: tuple[int, ...],
    fact: TwoValued,
    minus: np.ndarray,
    plus: np.ndarray,
) -> TwoValued:
    return replace(fact, bits=_moved(node, name, shape, [fact]), minus=minus, plus=plus)


def _transpose(graph, node, name, shape, facts):  # type: ignore[no-untyped-def]
    (fact,) = facts
    perm = attribute(node, "perm") or list(range(len(shape)))[::-1]
    return _with(node, name, shape, fact, fact.minus.transpose(perm), fact.plus.transpose(perm))


def _reshape(graph, node, name, shape, facts):  # type: ignore[no-untyped-def]
    (fact,) = facts
    before = fact.bits.shape
    if not _uniform(fact) and int(np.prod(before)) > _LARGEST:
        return None

    def reshaped(value: np.ndarray) -> np.ndarray:
        if value.size == 1:
            return value.reshape([1] * len(shape))
        return _collapse(np.broadcast_to(value, before).reshape(shape))

    return _with(node, name, shape, fact, reshaped(fact.minus), reshaped(fact.plus))


def _maxpool(graph, node, name, shape, facts):  # type: ignore[no-untyped-def]
    from bnn_tvm.recognize.values import ordered

    if len([o for o in node.output if o]) != 1:
        return None
    fact = ordered(facts[0])
    if any(d > 1 for v in (fact.minus, fact.plus) for d in v.shape[2:]):
        return None
    return _with(node, name, shape, fact, fact.minus, fact.plus)


def _pad(graph, node, name, shape, facts):  # type: ignore[no-untyped-def]
    (fact,) = facts
    mode = attribute(node, "mode", "constant")
    pads = origin.pad_widths(graph, node)
    if pads is None:
        return None
    rank = len(shape)
    for axis in range(rank):
        if (pads[axis] or pads[axis + rank]) and max(
            fact.minus.shape[axis], fact.plus.shape[axis]
        ) > 1:
            return None
    if mode != "constant":
        return _with(node, name, shape, fact, fact.minus, fact.plus)
    value = origin.pad_value(graph, node)
    if value is None:
        return None
    tolerance = 1e-6 * np.maximum(np.abs(fact.minus), np.abs(fact.plus))
    for side, known in ((-1, fact.minus), (1, fact.plus)):
        if (np.abs(known - value) <= tolerance).all():
            return replace(fact, bits=Padded(shape, fact.bits, pads, side))
    return None


def _concat(graph, node, name, shape, facts):  # type: ignore[no-untyped-def]
    axis = int(attribute(node, "axis")) % len(shape)

    def joined(values: list[np.ndarray]) -> np.ndarray:
        others = np.broadcast_shapes(*[(*v.shape[:axis], 1, *v.shape[axis + 1 :]) for v in values])
        if int(np.prod(others)) * shape[axis] > _LARGEST:
            return np.empty(0)
        parts = []
        for fact, value in zip(facts, values, strict=True):
            target = list(others)
            target[axis] = fact.bits.shape[axis]
            parts.append(np.broadcast_to(value, target))
        return _collapse(np.concatenate(parts, axis=axis))

    minus, plus = joined([f.minus for f in facts]), joined([f.plus for f in facts])
    if not minus.size or not plus.size:
        return None
    first = next((f for f in facts if f.zeros), facts[0])
    return replace(first, bits=_moved(node, name, shape, facts), minus=minus, plus=plus)


def _split(graph, node, name, shape, facts):  # type: ignore[no-untyped-def]
    (fact,) = facts
    axis = int(attribute(node, "axis", 0)) % len(shape)
    start = 0
    for out in node.output:
        if out == name:
            break
        part = graph.shape(out)
        if part is None:
            return None
        start += part[axis]
    return _taken(node, name, shape, fact, axis, np.arange(start, start + shape[axis]))


def _slice(graph, node, name, shape, facts):  # type: ignore[no-untyped-def]
    (fact,) = facts
    rank = len(shape)
    inputs = [graph.constant(i) if i else None for i in node.input[1:]]
    if any(a is None and i for a, i in zip(inputs, node.input[1:], strict=True)):
        return None
    starts, ends = inputs[0], inputs[1]
    if starts is None or ends is None or any(a is not None and a.ndim != 1 for a in inputs):
        return None
    axes = inputs[2] if len(inputs) > 2 and inputs[2] is not None else np.arange(len(starts))
    steps = (
        inputs[3] if len(inputs) > 3 and inputs[3] is not None else np.ones(len(starts), np.int64)
    )
    slices = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = fact.bits.shape[int(axis)]
        if step < 0 and end < -size:
            slices[int(axis)] = slice(int(start), None, int(step))
        else:
            slices[int(axis)] = slice(int(start), int(end), int(step))

    def cut(value: np.ndarray) -> np.ndarray:
        index = tuple(s if value.shape[a] > 1 else slice(None) for a, s in enumerate(slices))
        return _collapse(value[index])

    return _with(node, name, shape, fact, cut(fact.minus), cut(fact.plus))


def _gather(graph, node, name, shape, facts):  # type: ignore[no-untyped-def]
    (fact,) = facts
    indices = graph.constant(node.input[1])
    axis = int(attribute(node, "axis", 0)) % len(fact.bits.shape)
    if indices is None or (indices.ndim != 1 and not _uniform(fact)):
        return None
    if _uniform(fact):
        ones = [1] * len(shape)
        return _with(node, name, shape, fact, fact.minus.reshape(ones), fact.plus.reshape(ones))
    return _taken(node, name, shape, fact, axis, indices)


def _taken(node, name, shape, fact, axis, indices):  # type: ignore[no-untyped-def]
    def take(value: np.ndarray) -> np.ndarray:
        return value if value.shape[axis] == 1 else _collapse(value.take(indices, axis=axis))

    return _with(node, name, shape, fact, take(fact.minus), take(fact.plus))


def _collapse(value: np.ndarray) -> np.ndarray:
    """Size 1 along every axis on which the values do not depend."""
    for axis in range(value.ndim):
        if value.shape[axis] > 1:
            first = value.take([0], axis=axis)
            if (value == first).all():
                value = first
    return np.ascontiguousarray(value)


_HANDLERS = {
    "Pad": _pad,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "MaxPool": _maxpool,
    "GlobalMaxPool": _maxpool,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
}
