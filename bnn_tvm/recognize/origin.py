"""What is known about the numbers a tensor holds: raw input, never negative, integers."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from bnn_tvm.recognize.graph import Graph, attribute

_LAYOUT = frozenset(
    [
        "Transpose",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Slice",
        "Split",
        "Gather",
        "Concat",
        "Expand",
        "Tile",
        "DepthToSpace",
        "SpaceToDepth",
    ]
)
_NON_NEGATIVE = frozenset(
    ["Relu", "Sigmoid", "Softmax", "Abs", "Exp", "Sqrt", "HardSigmoid", "Softplus"]
)
_POOLS = frozenset(
    ["MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMax", "ReduceMean"]
)
_SHIFTS = frozenset(["Mul", "Add", "Sub", "Div", "BatchNormalization"])
_INTEGER_TYPES = (
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
)
_STEPS = 64


def reads_raw_input(graph: Graph, name: str) -> str | None:
    """The model input that `name` is, but for layout, cast, scale and shift, and padding."""
    for _ in range(_STEPS):
        node = graph.producer.get(name)
        if node is None:
            return name if name in graph.inputs else None
        dynamic = [i for i in node.input if i and not graph.is_constant(i)]
        if len(set(dynamic)) != 1:
            return None
        if node.op_type not in _LAYOUT | _SHIFTS | {"Cast", "Pad"}:
            return None
        name = dynamic[0]
    return None


def non_negative(graph: Graph, name: str, known: dict[str, bool] | None = None) -> bool:
    """Whether no element can be below zero. `known` remembers answers between calls."""
    return _non_negative(graph, name, {} if known is None else known, 24)


def _non_negative(graph: Graph, name: str, known: dict[str, bool], depth: int) -> bool:
    if name not in known:
        known[name] = False  # for what is too deep; overwritten below
        known[name] = depth > 0 and _derive_non_negative(graph, name, known, depth - 1)
    return known[name]


def _derive_non_negative(graph: Graph, name: str, known: dict[str, bool], depth: int) -> bool:
    array = graph.constant(name)
    if array is not None:
        return array.dtype.kind in "fiu" and bool((array >= 0).all())
    node = graph.producer.get(name)
    if node is None:
        unsigned = (TensorProto.UINT8, TensorProto.UINT16, TensorProto.BOOL)
        return graph.elem_type(name) in unsigned
    kind = node.op_type
    if kind in _NON_NEGATIVE:
        return True
    if kind == "Clip":
        low = graph.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        return low is not None and bool((low >= 0).all())
    if kind == "Pad":
        value = pad_value(graph, node)
        if attribute(node, "mode", "constant") == "constant" and not (value or 0.0) >= 0:
            return False
    elif kind not in _LAYOUT | _POOLS | {"Cast", "Add", "Concat"}:
        return False
    read = node.input if kind in ("Add", "Concat") else node.input[:1]
    return all(_non_negative(graph, i, known, depth) for i in read)


def integer_range(
    graph: Graph, name: str, known: dict[str, tuple[int, int]]
) -> tuple[int, int] | None:
    """(largest magnitude, parity or -1) where every element is an integer, else None.

    `known` holds the outputs of layers that sum K terms of +-1: magnitude K, parity of K.
    """
    for _ in range(_STEPS):
        if name in known:
            return known[name]
        node = graph.producer.get(name)
        if node is None:
            return (1 << 24, -1) if graph.elem_type(name) in _INTEGER_TYPES else None
        kind = node.op_type
        if kind == "Cast" and graph.elem_type(node.input[0]) in _INTEGER_TYPES:
            return (1 << 24, -1)
        if kind in ("Round", "Floor", "Ceil"):
            return (1 << 24, -1)
        if kind not in (_LAYOUT - {"Concat"}) | {"MaxPool", "GlobalMaxPool", "ReduceMax"}:
            return None
        name = node.input[0]
    return None


def holds_integer(low: np.ndarray, high: np.ndarray, magnitude: int, parity: int) -> bool:
    """Whether any of the intervals [low, high] (NaN: empty) holds an attainable integer."""
    some = np.isfinite(low) & np.isfinite(high)
    low, high = low[some].astype(np.float64), high[some].astype(np.float64)
    first = np.ceil(low)
    if parity >= 0:
        first = first + (np.mod(first, 2) != parity)
    return bool(((first <= high) & (np.abs(first) <= magnitude)).any())


def pad_value(graph: Graph, node: onnx.NodeProto) -> float | None:
    """The constant of a constant-mode Pad node, None where it is not known."""
    if attribute(node, "mode", "constant") != "constant":
        return None
    if len(node.input) < 3 or not node.input[2]:
        return 0.0
    value = graph.constant(node.input[2])
    return None if value is None or value.size != 1 else float(value.reshape(())[()])


def pad_widths(graph: Graph, node: onnx.NodeProto) -> tuple[int, ...] | None:
    """The pads of a Pad node for all axes, begins then ends, None where they are not constant."""
    pads = graph.constant(node.input[1]) if len(node.input) > 1 else None
    shape = graph.shape(node.input[0])
    if pads is None or shape is None:
        return None
    rank = len(shape)
    if len(node.input) > 3 and node.input[3]:
        axes = graph.constant(node.input[3])
        if axes is None:
            return None
        full = [0] * (2 * rank)
        for i, axis in enumerate(int(a) % rank for a in axes):
            full[axis], full[axis + rank] = int(pads[i]), int(pads[i + len(axes)])
        return tuple(full)
    return tuple(int(p) for p in pads) if len(pads) == 2 * rank else None
