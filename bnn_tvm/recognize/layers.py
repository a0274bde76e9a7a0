"""Conv, Gemm and MatMul nodes in one form: an activation, constant weights, a bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from bnn_tvm.recognize.graph import FLOAT, Graph, attribute, is_standard

KINDS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """One layer. `problem` says why it can never be binary (then the rest may be missing).

    weights: float [co, ci/group, *kernel] of a Conv, [n, k] of a dense layer.
    bias: float64 [co] or None. pads: the Conv's own, explicit, ONNX order.
    swap_in, swap_out: the last two axes of the activation (of the result) are exchanged.
    addend: input of a Gemm's C that is no bias per column, to be added behind (times beta).
    """

    node: onnx.NodeProto
    output: str
    op: str
    activation: str
    weight_name: str = ""
    weights: np.ndarray | None = None
    bias: np.ndarray | None = None
    pads: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    group: int = 1
    factor: float = 1.0
    swap_in: bool = False
    swap_out: bool = False
    addend: np.ndarray | None = None
    problem: str | None = None

    @property
    def is_conv(self) -> bool:
        """Whether this is a convolution."""
        return self.op == "Conv"


def layers(graph: Graph) -> list[Layer]:
    """All Conv, Gemm and MatMul nodes in graph order."""
    read = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul}
    return [read[n.op_type](graph, n) for n in graph.nodes if n.op_type in KINDS and is_standard(n)]


def _refused(node: onnx.NodeProto, problem: str) -> Layer:
    return Layer(node, node.output[0], node.op_type, node.input[0], problem=problem)


def _conv(graph: Graph, node: onnx.NodeProto) -> Layer:
    weights = graph.constant(node.input[1])
    shape, out_shape = graph.shape(node.input[0]), graph.shape(node.output[0])
    if weights is None:
        return _refused(node, "its weights are computed from an input, not constant")
    if weights.dtype != np.float32 or graph.elem_type(node.input[0]) != FLOAT:
        return _refused(node, f"it computes in {weights.dtype}, binary layers in float32")
    if shape is None or out_shape is None:
        return _refused(node, "its shape is not known")
    if weights.ndim not in (3, 4):
        return _refused(node, f"it has {weights.ndim - 2} spatial dimensions, not 1 or 2")
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = graph.constant(node.input[2])
        if bias is None:
            return _refused(node, "its bias is computed from an input, not constant")
        bias = bias.astype(np.float64)
    dims = weights.ndim - 2
    strides = _ints(node, "strides", dims)
    dilations = _ints(node, "dilations", dims)
    return Layer(
        node,
        node.output[0],
        "Conv",
        node.input[0],
        node.input[1],
        weights,
        bias,
        conv_pads(node, shape, weights.shape, strides, dilations),
        strides,
        dilations,
        int(attribute(node, "group", 1)),
    )


def conv_pads(
    node: onnx.NodeProto,
    shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[int, ...]:
    """Explicit pads (begins, then ends) of a Conv, auto_pad resolved."""
    dims = len(shape) - 2
    auto = attribute(node, "auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for d in range(dims):
            kernel = (weight_shape[2 + d] - 1) * dilations[d] + 1
            size = shape[2 + d]
            total = max(0, (-(-size // strides[d]) - 1) * strides[d] + kernel - size)
            less, more = total // 2, total - total // 2
            begins.append(less if auto == "SAME_UPPER" else more)
            ends.append(more if auto == "SAME_UPPER" else less)
        return (*begins, *ends)
    if auto == "VALID":
        return (0,) * (2 * dims)
    pads = attribute(node, "pads")
    return tuple(int(p) for p in pads) if pads else (0,) * (2 * dims)


def _ints(node: onnx.NodeProto, name: str, count: int) -> tuple[int, ...]:
    value = attribute(node, name)
    return tuple(int(v) for v in value) if value else (1,) * count


def _gemm(graph: Graph, node: onnx.NodeProto) -> Layer:
    a, b = node.input[0], node.input[1]
    if graph.is_constant(a) == graph.is_constant(b):
        return _refused(node, "both operands are computed from inputs: it has no constant weights")
    alpha = float(attribute(node, "alpha", 1.0))
    beta = float(attribute(node, "beta", 1.0))
    trans_a, trans_b = bool(attribute(node, "transA", 0)), bool(attribute(node, "transB", 0))
    weights_first = graph.is_constant(a)
    weight_name, activation = (a, b) if weights_first else (b, a)
    weights = graph.constant(weight_name)
    assert weights is not None
    if weights.dtype != np.float32:
        return _refused(node, f"it computes in {weights.dtype}, binary layers in float32")
    if weights_first:
        # Y = A' B' = (B'^T A'^T)^T: B'^T is the activation, rows of A' are output channels.
        weights = weights.T if trans_a else weights
        swap_in, swap_out = not trans_b, True
    else:
        weights = weights if trans_b else weights.T
        swap_in, swap_out = trans_a, False
    bias, addend = None, None
    if len(node.input) > 2 and node.input[2]:
        c = graph.constant(node.input[2])
        if c is None:
            return _refused(node, "its C is computed from an input, not constant")
        c = c.astype(np.float64) * beta
        per_column = not weights_first and (c.ndim < 2 or c.shape[0] == 1)
        if c.size == 1 or per_column:
            bias = np.broadcast_to(c.reshape(-1), (weights.shape[0],))
        elif weights_first and c.ndim == 2 and c.shape[1] == 1:
            bias = np.broadcast_to(c[:, 0], (weights.shape[0],))
        else:
            addend = c.astype(np.float32)
    return Layer(
        node,
        node.output[0],
        "Gemm",
        activation,
        weight_name,
        weights,
        bias,
        factor=alpha,
        swap_in=swap_in,
        swap_out=swap_out,
        addend=addend,
    )


def _matmul(graph: Graph, node: onnx.NodeProto) -> Layer:
    a, b = node.input[0], node.input[1]
    if graph.is_constant(a) == graph.is_constant(b):
        return _refused(node, "both operands are computed from inputs: it has no constant weights")
    weights_first = graph.is_constant(a)
    weight_name, activation = (a, b) if weights_first else (b, a)
    weights = graph.constant(weight_name)
    shape = graph.shape(activation)
    assert weights is not None
    if weights.dtype != np.float32:
        return _refused(node, f"it computes in {weights.dtype}, binary layers in float32")
    if weights.ndim != 2 or shape is None or len(shape) < (2 if weights_first else 1):
        return _refused(node, f"its weights have {weights.ndim} dimensions, not 2")
    return Layer(
        node,
        node.output[0],
        "MatMul",
        activation,
        weight_name,
        weights if weights_first else weights.T,
        swap_in=weights_first,
        swap_out=weights_first,
    )
