"""Convolutions and dense layers, binary and float: the calls of kernels from topi_ext."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tvm import relax

from bnn_tvm.importer.bits import as_bits
from bnn_tvm.importer.builder import Builder
from bnn_tvm.importer.params import conv_params
from bnn_tvm.importer.value import FLOATS, Steps, Value, natural
from bnn_tvm.passes.graph import shape_of
from topi_ext.conv2d import needs_pad, pad_nhwc
from topi_ext.halves import MOST_SCALE
from topi_ext.params import ConvParams
from topi_ext.winograd import sums_exactly


def binarize(b: Builder, node: ir.Node, inputs: list[Value]) -> Value:
    """bnn_tvm.Binarize: nothing is computed until somebody reads bits or floats."""
    source, threshold, direction = inputs
    assert threshold.array is not None and direction.array is not None
    limit, flip = comparison(threshold.array, direction.array)
    value = Value(source.shape, "float32", source.order)
    value.steps = Steps(source, limit, flip)
    return value


def comparison(threshold: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spell Binarize with one comparison: bit = (x >= limit) xor flip.

    `x <= t` is `not (x >= the next float above t)`. A NaN threshold means "always -1".
    Returns float32 limits and bool flips of the shape of `threshold`.
    """
    limit = threshold.astype(np.float32)
    down = direction < 0
    above = np.nextafter(limit, np.float32(np.inf))
    limit = np.where(down, above, limit)
    flip = down.copy()
    everything = np.float32(-np.inf)
    always_up = down & np.isposinf(threshold)
    never = np.isnan(threshold)
    limit = np.where(always_up | never, everything, limit).astype(np.float32)
    flip = np.where(always_up, False, np.where(never, True, flip))
    return limit, flip


def binary_conv(b: Builder, node: ir.Node, inputs: list[Value]) -> Value:
    """bnn_tvm.BinaryConv: packed bits, exact integers, then scale and offset as an epilogue.

    Where only bits of the result are read, packed bits come out.
    """
    data, weight, scale, offset = inputs
    assert weight.array is not None and offset.array is not None
    p = conv_params(node, data.shape, weight.shape)
    kernel = b.select("bconv2d", p)
    w = weight.array.reshape(p.co, p.cig, p.kh, p.kw)
    packed = b.packed(data, kernel, p, dense=False)
    bits = as_bits(b, node, packed, kernel, w, p)
    if bits is not None:
        return bits
    acc = b.kernel_call(kernel, packed, w, p)
    shift = offset.array
    if shift.ndim > 1:
        shift = shift.reshape(1, p.co, p.ho, p.wo).transpose(0, 2, 3, 1)
    result = _scaled(b, acc, scale.array, shift)
    return b.from_channels_last(result, shape_of(node.outputs[0]), "float32")


def binary_dense(b: Builder, node: ir.Node, inputs: list[Value]) -> Value:
    """bnn_tvm.BinaryDense: a 1x1 convolution whose pixels are the rows."""
    data, weight, scale, offset = inputs
    assert weight.array is not None
    k, n = weight.shape
    rows = int(np.prod(data.shape[:-1], dtype=np.int64))
    p = ConvParams.dense(rows, k, n)
    kernel = b.select("bconv2d", p)
    w = np.ascontiguousarray(weight.array.T).reshape(n, k, 1, 1)
    packed = b.packed(data, kernel, p, dense=True)
    bits = as_bits(b, node, packed, kernel, w, p)
    if bits is not None:
        return bits
    acc = b.kernel_call(kernel, packed, w, p)
    result = _scaled(b, acc, scale.array, offset.array)
    shape = shape_of(node.outputs[0])
    return b.new(b.emit(relax.op.reshape(result, shape)), shape, "float32", natural(len(shape)))


def _scaled(
    b: Builder, acc: relax.Expr, scale: np.ndarray | None, offset: np.ndarray | None
) -> relax.Expr:
    result = b.emit(relax.op.astype(acc, "float32"))
    if scale is not None and np.any(scale != 1):
        factor = scale.astype(np.float32)
        if np.abs(factor).max() > MOST_SCALE:  # a quarter of it is exact
            result = b.emit(relax.op.multiply(result, relax.const(np.float32(4))))
            factor = (factor / 4).astype(np.float32)
        result = b.emit(relax.op.multiply(result, relax.const(factor)))
    if offset is not None and np.any(offset != 0):
        result = b.emit(relax.op.add(result, relax.const(offset.astype(np.float32))))
    return result


def conv(b: Builder, node: ir.Node, inputs: list[Value]) -> Value | None:
    """ONNX Conv with constant weights; None leaves others to the generic converter."""
    data, weight = inputs[:2]
    bias = inputs[2] if len(inputs) > 2 else None
    if weight.array is None or data.dtype not in FLOATS or data.rank not in (3, 4):
        return None
    if bias is not None and bias.array is None:
        return None
    p = conv_params(node, data.shape, weight.shape)
    w = weight.array.reshape(p.co, p.cig, p.kh, p.kw)
    op = "depthwise" if p.groups == p.ci and p.cig == 1 else "conv2d"
    kernel = b.select(op, p, data.dtype, direct=sums_exactly(w))
    x = b.channels_last_4d(data)
    if op == "conv2d" and needs_pad(p):
        x = b.emit_te("pad", lambda tensor: pad_nhwc(tensor, p), x)
    result = b.kernel_call(kernel, x, w, p)
    if bias is not None and bias.array is not None and np.any(bias.array != 0):
        result = b.emit(relax.op.add(result, relax.const(bias.array)))
    return b.from_channels_last(result, shape_of(node.outputs[0]), data.dtype)


def gemm(b: Builder, node: ir.Node, inputs: list[Value]) -> Value | None:
    """ONNX Gemm with constant weights and bias."""
    data, weight = inputs[:2]
    bias = inputs[2] if len(inputs) > 2 else None
    attributes = node.attributes

    def number(name: str, default: float) -> float:
        return attributes[name].as_float() if name in attributes else default

    def flag(name: str) -> bool:
        return name in attributes and bool(attributes[name].as_int())

    if weight.array is None or flag("transA") or data.dtype not in FLOATS:
        return None
    if bias is not None and bias.array is None:
        return None
    w = weight.array.T if flag("transB") else weight.array
    w = (w * np.float32(number("alpha", 1.0))).astype(np.float32)
    shift = None if bias is None or bias.array is None else bias.array * number("beta", 1.0)
    return _dense(b, node, data, w, shift)


def matmul(b: Builder, node: ir.Node, inputs: list[Value]) -> Value | None:
    """ONNX MatMul of an activation [..., k] with constant weights [k, n]."""
    data, weight = inputs
    if weight.array is None or weight.rank != 2 or data.rank < 2 or data.dtype not in FLOATS:
        return None
    return _dense(b, node, data, weight.array, None)


def _dense(
    b: Builder, node: ir.Node, data: Value, weight: np.ndarray, shift: np.ndarray | None
) -> Value:
    k, n = weight.shape
    rows = int(np.prod(data.shape[:-1], dtype=np.int64))
    p = ConvParams.dense(rows, k, n)
    kernel = b.select("dense", p, data.dtype)
    x = b.emit(relax.op.reshape(b.stored(data), (rows, k)))
    w = np.ascontiguousarray(weight.T).reshape(n, k, 1, 1)
    result = b.kernel_call(kernel, x, w, p)
    if shift is not None and np.any(shift != 0):
        added = np.ascontiguousarray(shift, data.dtype)
        result = b.emit(relax.op.add(result, relax.const(added)))
    shape = shape_of(node.outputs[0])
    # What follows a view of another shape cannot be fused.
    return b.new(b.view(result, shape), shape, data.dtype, natural(len(shape)))
