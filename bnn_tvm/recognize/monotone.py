"""Push a threshold back through monotone nodes: Binarize(BN(x)) is Binarize(x) once more.

The nodes are monotone by their formula, rounding included, so that the set where the comparison
holds is a ray; its end is found exactly by bisection with onnxruntime's own arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from bnn_tvm.recognize import floats
from bnn_tvm.recognize.elementwise import Elementwise
from bnn_tvm.recognize.graph import FLOAT, Graph
from bnn_tvm.recognize.probe import Evaluator, NotEvaluable, NotPerChannel, Sessions, make_region
from bnn_tvm.recognize.step import Step

_MONOTONE = frozenset(
    [
        "Add",
        "BatchNormalization",
        "Clip",
        "Div",
        "Identity",
        "LeakyRelu",
        "Mul",
        "Neg",
        "PRelu",
        "Relu",
        "Sub",
    ]
)
_PARTS = 16
_LARGEST = np.finfo(np.float32).max


def is_monotone(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether the node is monotone per channel in its one dynamic input."""
    kind = node.op_type
    if kind not in _MONOTONE or (graph.is_constant(node.input[0]) and kind == "Div"):
        return False
    if kind == "LeakyRelu":
        return all(a.f >= 0 for a in node.attribute if a.name == "alpha")
    if kind == "PRelu":
        slope = graph.constant(node.input[1])
        return slope is not None and bool((slope >= 0).all())
    dynamic = [i for i in node.input if i and not graph.is_constant(i)]
    if len(dynamic) != 1:
        return False
    return all(_finite(graph, i) for i in node.input if i and graph.is_constant(i))


def _finite(graph: Graph, name: str) -> bool:
    array = graph.constant(name)
    return array is not None and bool(np.isfinite(array).all())


def chain_back(
    graph: Graph, elementwise: Elementwise, name: str, inside: set[int]
) -> list[onnx.NodeProto]:
    """Monotone nodes that lead to `name` and have no user but the next, nearest first.

    inside: ids of the nodes that may use `name` itself.
    """
    nodes: list[onnx.NodeProto] = []
    while True:
        node = graph.producer.get(name)
        users = graph.users.get(name, [])
        if (
            node is None
            or name in graph.outputs
            or any(id(u) not in inside for u in users)
            or not elementwise.accepts(node)
            or not is_monotone(graph, node)
        ):
            return nodes
        before = elementwise.dynamic_inputs(node)[0]
        if graph.elem_type(before) != FLOAT:
            return nodes
        nodes.append(node)
        inside = {id(node)}
        name = before


def pull_back(
    graph: Graph,
    elementwise: Elementwise,
    sessions: Sessions,
    name: str,
    nodes: list[onnx.NodeProto],
    step: Step,
) -> tuple[str, Step] | None:
    """The step as a function of the tensor before `nodes` (nearest first), and that tensor.

    None where the constants differ along another axis than the step's, where the arithmetic
    overflows into NaN, or where a plain Sign would be 0 on a whole interval.
    """
    source = elementwise.dynamic_inputs(nodes[-1])[0]
    try:
        region = make_region(graph, source, name, reversed(nodes))
    except NotPerChannel:
        return None
    if None not in (region.axis, step.axis) and region.axis != step.axis:
        return None
    axis = step.axis if region.axis is None else region.axis
    shape = graph.shape(source)
    assert shape is not None
    channels = shape[axis] if axis is not None else 1
    if region.rank < 2 and axis is not None:
        return None
    region = replace(region, axis=axis, channels=channels)
    try:
        evaluate = Evaluator(graph, region, sessions, search=False)
    except NotEvaluable:
        return None

    def spread(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values, (channels,))

    ends, _ = evaluate(np.array([[-_LARGEST], [_LARGEST]], np.float32).repeat(channels, axis=1))
    first, last = ends[0]
    if np.isnan(ends[0]).any():
        return None
    rises = last >= first
    threshold, direction = spread(step.threshold), spread(step.direction)
    low, high = spread(step.low), spread(step.high)
    # One search for the threshold and two for the interval of exact zeros, side by side. Each
    # asks from which key on (counted against the slope where it falls) y >= limit holds.
    limits = [np.where(direction > 0, threshold, np.nextafter(threshold, np.float32(np.inf)))]
    zeros = step.zero_low is not None and step.zero_high is not None
    if zeros:
        limits.append(spread(step.zero_low))  # type: ignore[arg-type]
        after = np.nextafter(spread(step.zero_high), np.float32(np.inf))  # type: ignore[arg-type]
        limits.append(after)
    distinct, inverse = np.unique(
        np.stack(limits).astype(np.float32), axis=0, return_inverse=True, equal_nan=True
    )
    found = _first_reaching(evaluate, distinct, rises)[inverse.reshape(-1)]
    key = found[0]
    # Rising: y >= limit for keys >= key. Falling: for keys <= -key.
    top = int(floats.to_key(_LARGEST))
    always, never = key <= -top, key > top
    upper_when_reached = direction > 0
    at = np.where(rises, key, -key)
    below = np.where(rises, key - 1, 1 - key)
    new_threshold = floats.from_key(np.clip(np.where(upper_when_reached, at, below), -top, top))
    new_direction = np.where(upper_when_reached == rises, 1, -1).astype(np.int8)
    constant = np.isnan(threshold) | always | never
    value = np.where(always == upper_when_reached, high, low)
    value = np.where(np.isnan(threshold), high, value)
    if constant.all():
        return None
    result = replace(
        step,
        axis=axis,
        threshold=np.where(constant, np.float32(np.nan), new_threshold).astype(np.float32),
        direction=np.where(constant, 1, new_direction).astype(np.int8),
        low=np.where(constant, value, low).astype(np.float32),
        high=np.where(constant, value, high).astype(np.float32),
    )
    if zeros:
        start, end = found[1], found[2] - 1
        some = (start <= end) & ~np.isnan(limits[1])
        z = [floats.from_key(np.clip(np.where(rises, k, -k), -top, top)) for k in (start, end)]
        z_low, z_high = np.minimum(*z), np.maximum(*z)
        if (some & is_wide(z_low, z_high)).any():
            return None
        nan = np.float32(np.nan)
        result = replace(
            result, zero_low=np.where(some, z_low, nan), zero_high=np.where(some, z_high, nan)
        )
    return source, result


def is_wide(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether an interval is more than the rounding around one point."""
    return high - low > 1e-5 * np.maximum(np.abs(low), np.abs(high)) + 1e-30


def _first_reaching(evaluate: Evaluator, limits: np.ndarray, rises: np.ndarray) -> np.ndarray:
    """Smallest key k, [searches, channels], with y(k if rises else -k) >= limit.

    -largest where all reach it, largest + 1 where none does (or the limit is NaN).
    """
    searches, channels = limits.shape
    top = int(floats.to_key(_LARGEST))
    low = np.full((searches, channels), -top - 1, np.int64)  # not reached, by convention
    high = np.full((searches, channels), top + 1, np.int64)  # reached, by convention
    parts = np.arange(1, _PARTS)[:, None, None]
    while (high - low > 1).any():
        marks = low + (high - low) * parts // _PARTS
        inner = np.clip(marks, -top, top)
        keys = np.where(rises, inner, -inner).reshape(-1, channels)
        values, _ = evaluate(floats.from_key(keys))
        reached = values[0].reshape(marks.shape) >= limits
        reached = np.where(marks <= low, False, np.where(marks >= high, True, reached))
        count = reached.sum(axis=0)  # reached is False ... False True ... True
        all_marks = np.concatenate([low[None], marks, high[None]])
        index = _PARTS - 1 - count
        low = np.take_along_axis(all_marks, index[None], axis=0)[0]
        high = np.take_along_axis(all_marks, index[None] + 1, axis=0)[0]
    return high
