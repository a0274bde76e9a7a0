"""Operators that treat every element alike: they run in whatever order their operand is stored."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tvm import relax

from bnn_tvm.importer.builder import Builder
from bnn_tvm.importer.generic import convert
from bnn_tvm.importer.value import Order, Value, natural
from bnn_tvm.passes.graph import shape_of

# fmt: off
UNARY = frozenset({
    "Abs", "Cast", "CastLike", "Ceil", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not",
    "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Softplus",
    "Softsign", "Sqrt", "Tanh", "ThresholdedRelu",
})
# fmt: on
# fmt: off
BROADCAST = frozenset({
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
    "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
})
# fmt: on


def unary(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """One tensor in, attributes and scalars beside it; the order of storage is kept."""
    data = inputs[0]
    if _widens(node, data):
        return [Value(data.shape, "float32", data.order, halves=data)]
    stored = b.stored(data, data.order)
    if node.op_type in ("Cast", "CastLike"):
        expr = _cast(b, stored, data.dtype, node.outputs[0])
    elif node.op_type == "IsInf":
        expr = _is_inf(b, node, stored)
    elif node.op_type == "LeakyRelu":
        alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 0.01
        slope = np.asarray(alpha, stored.ty.dtype.dtype)
        expr = _prelu(b, stored, relax.const(slope), slope)
    else:
        args = [stored, *(b.stored(v) if v is not None else None for v in inputs[1:])]
        expr = convert(b, node, args)[0]
    return [b.new(expr, shape_of(node.outputs[0]), expr.ty.dtype.dtype, data.order)]


def _widens(node: ir.Node, data: Value) -> bool:
    """Whether it makes halves float32, which waits until it is known in which order."""
    wanted = node.outputs[0].dtype
    floats = node.op_type == "Cast" and wanted == ir.DataType.FLOAT
    return floats and data.dtype == "float16" and data.array is None


def _cast(b: Builder, x: relax.Expr, source: str, output: ir.Value) -> relax.Expr:
    """Cast as C does; to bool: whether it is not 0."""
    assert output.dtype is not None
    wanted = output.dtype.numpy().name
    if wanted == source:
        return x
    if wanted == "bool":
        return b.emit(relax.op.not_equal(x, relax.const(np.zeros((), source))))
    return b.emit(relax.op.astype(x, wanted))


def _is_inf(b: Builder, node: ir.Node, x: relax.Expr) -> relax.Expr:
    def asked(sign: str) -> bool:
        attribute = node.attributes.get(f"detect_{sign}")
        return attribute is None or bool(attribute.as_int())

    limit = relax.const(np.float32(np.inf))
    if asked("positive") and asked("negative"):
        return b.emit(relax.op.equal(b.emit(relax.op.abs(x)), limit))
    if asked("positive"):
        return b.emit(relax.op.equal(x, limit))
    if asked("negative"):
        return b.emit(relax.op.equal(x, relax.const(np.float32(-np.inf))))
    return b.emit(relax.op.less(b.emit(relax.op.abs(x)), relax.const(np.float32(0))))  # never


def broadcast(b: Builder, node: ir.Node, inputs: list[Value]) -> list[Value]:
    """Several tensors, NumPy broadcasting, in the order of the largest computed operand."""
    shape = shape_of(node.outputs[0])
    order = _common_order(inputs, len(shape))
    args = [_aligned(b, value, order) for value in inputs]
    if node.op_type == "PRelu":
        x, slope = args
        expr = _prelu(b, x, slope, inputs[1].array)
    elif node.op_type == "Equal" and inputs[0].dtype == "bool":
        expr = b.emit(relax.op.logical_not(b.emit(relax.op.logical_xor(*args))))
    else:
        expr = convert(b, node, args)[0]
    return [b.new(expr, shape, expr.ty.dtype.dtype, order)]


def _prelu(b: Builder, x: relax.Expr, slope: relax.Expr, slopes: np.ndarray | None) -> relax.Expr:
    """x where it is at least 0, else slope * x.

    With slopes above 0 and of at most 1 that is the larger of the two, to the bit: rounding keeps
    order and signs. A slope of 0 would make NaN of infinity.
    """
    product = b.emit(relax.op.multiply(x, slope))
    if slopes is not None and bool(np.all((slopes > 0) & (slopes <= 1))):
        return b.emit(relax.op.maximum(x, product))
    zero = relax.const(np.zeros((), x.ty.dtype.dtype))
    return b.emit(relax.op.where(b.emit(relax.op.greater_equal(x, zero)), x, product))


def _common_order(inputs: list[Value], rank: int) -> Order:
    computed = [v for v in inputs if v.array is None and v.rank == rank]
    if not computed:
        return natural(rank)
    return max(computed, key=lambda v: int(np.prod(v.shape, dtype=np.int64))).order


def _aligned(b: Builder, value: Value, order: Order) -> relax.Expr:
    """`value` stored in `order`, with leading axes of extent 1 where it has fewer."""
    rank = len(order)
    if value.rank == rank:
        return b.stored(value, order)
    if value.array is not None and value.array.size == 1:
        return relax.const(value.array.reshape(()))
    lead = rank - value.rank
    if value.array is not None:
        full = value.array.reshape((1,) * lead + value.array.shape)
        return relax.const(np.ascontiguousarray(full.transpose(order)))
    expr = b.emit(relax.op.reshape(b.stored(value), (1,) * lead + value.shape))
    if order == natural(rank):
        return expr
    return b.emit(relax.op.permute_dims(expr, order))
