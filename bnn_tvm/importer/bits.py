"""Binary layers whose results are only ever read as bits: no float tensor is made.

Between such a layer and the layers that read it stand one Binarize, MaxPools, and operators that
move nothing in NHWC. The layer's kernel compares integers and writes packed words
(`topi_ext.threshold`); a MaxPool is an OR on words. Below a pool a channel that is +1 for small
numbers is the complement of an OR over complements: it is turned where the Binarize stands.

The whole way is looked at when the layer is imported. Where a step does not fit, the values go as
floats, which is always right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from tvm import relax
from tvm.target.codegen import target_has_features

from bnn_tvm.importer.builder import Builder
from bnn_tvm.importer.params import conv_params
from bnn_tvm.importer.pool import read_pool
from bnn_tvm.importer.value import Bits, Value
from bnn_tvm.passes.graph import BNN_DOMAIN, constant, only_user, shape_of
from topi_ext import threshold
from topi_ext.isa import RUNS_ON, isa_of
from topi_ext.kernels import Kernel
from topi_ext.params import ConvParams
from topi_ext.pool import or_pool2d_nhwc
from topi_ext.words import negate_channels

_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class _Way:
    """How a layer's result is binarised: per channel float32 thresholds and bool directions.

    turned: channels whose bits are complements until the Binarize, because of a pool before it.
    """

    threshold: np.ndarray
    up: np.ndarray
    turned: np.ndarray
    word_bits: int


def as_bits(
    b: Builder,
    node: ir.Node,
    data: relax.Expr,
    kernel: Kernel,
    weights: np.ndarray,
    params: ConvParams,
) -> Value | None:
    """The result of a binary layer as packed words; None where somebody needs floats.

    data: what `kernel` reads; weights: int8 +-1 [co, ci/groups, kh, kw].
    """
    p = params
    scale, offset = constant(node.inputs[2]), constant(node.inputs[3])
    if scale is None or offset is None or offset.size not in (1, p.co) or kernel.counts is None:
        return None
    scale, offset = (
        np.broadcast_to(array.reshape(-1), (p.co,)).astype(np.float32) for array in (scale, offset)
    )
    if not (np.isfinite(scale).all() and np.isfinite(offset).all()):
        return None
    if isa_of(b.target) == "neon32":
        return None  # its vectors flush denormals, as the integers here would not
    way = _way(b, node, p)
    if way is None or threshold.refusal(kernel, p, way.word_bits) is not None:
        return None
    # A complement below a pool: not (y <= t) is y >= the next float above t.
    limit = np.where(way.turned, np.nextafter(way.threshold, np.float32(np.inf)), way.threshold)
    fused = rounds_once(b)
    limits, sign = threshold.integer_limits(
        scale, offset, limit.astype(np.float32), way.up | way.turned, p.taps, fused
    )
    # Nothing is above infinity: y <= inf always holds, so its complement never does.
    never = way.turned & np.isposinf(way.threshold)
    limits = np.where(never, p.taps + 1, limits)
    arrays = threshold.pack_weights(kernel, weights, limits, sign, p)
    expr = b.emit_te(
        f"{kernel.op}_words",
        lambda x, *rest: threshold.threshold_words(
            x, *rest, params=p, kernel=kernel, word_bits=way.word_bits
        ),
        data,
        *(relax.const(array) for array in arrays),
        opaque=True,
    )
    shape = shape_of(node.outputs[0])
    order = (0, *range(2, len(shape)), 1)
    turned = way.turned if way.turned.any() else None
    return Value(shape, "float32", order, bits=Bits(expr, way.word_bits, turned))


def rounds_once(b: Builder) -> bool:
    """Whether the target computes scale * x + offset with one rounding: TVM lets LLVM fuse them."""
    return "neon" in RUNS_ON[isa_of(b.target)] or target_has_features(["fma"], b.target)


def follow(b: Builder, node: ir.Node, data: Value) -> Value | None:
    """`node` on words; None where it is a layer, which takes words by itself.

    Only nodes that `as_bits` has seen get here.
    """
    shape = shape_of(node.outputs[0])
    bits = data.bits
    assert bits is not None
    if node.op_type == "MaxPool":
        pool = read_pool(node)
        assert pool is not None
        n, _, h, w = data.shape
        words = b.view(bits.expr, (n, h, w, bits.expr.ty.shape[3]))
        expr = b.emit_te("max_pool_words", lambda x: or_pool2d_nhwc(x, *pool), words, opaque=True)
        bits = replace(bits, expr=expr)
    elif node.op_type == "Binarize":
        turned, word_bits = bits.turned, bits.word_bits
        if turned is not None:
            expr = b.emit_te(
                "negate_channels",
                lambda x: negate_channels(x, turned, word_bits),
                bits.expr,
                opaque=True,
            )
            bits = replace(bits, expr=expr, turned=None)
    elif node.op_type not in _MOVES:
        return None
    return Value(shape, "float32", tuple(range(len(shape))), bits=bits)


def _way(b: Builder, node: ir.Node, params: ConvParams) -> _Way | None:
    """Follow the result of `node` to the layers that read its bits."""
    place = _Place.of(shape_of(node.outputs[0]), node.op_type == "BinaryDense", params.co)
    found: tuple[np.ndarray, np.ndarray] | None = None
    pooled = False
    last = node
    while True:
        value = last.outputs[0]
        users = [use.node for use in value.uses()]
        if value.is_graph_output() or not users:
            return None
        if found is not None and all(user.domain == BNN_DOMAIN for user in users):
            break
        user = only_user(value)
        if user is None or user.inputs[0] is not value or len(user.outputs) != 1:
            return None
        result = shape_of(user.outputs[0])
        if user.domain == BNN_DOMAIN and user.op_type == "Binarize" and found is None:
            found = place.channels(user)
            if found is None:
                return None
            # Only what a pool before the Binarize has seen is complemented.
            turned = pooled & ~found[1] & ~np.isnan(found[0])
        elif user.domain == "" and user.op_type == "MaxPool":
            if read_pool(user) is None or not place.is_nhwc():
                return None
            pooled = pooled or found is None
            place = _Place.of(result, False, params.co)
        elif user.domain == "" and user.op_type in _MOVES:
            place = place.moved(user, result)
        else:
            return None
        last = user
    assert found is not None
    words = {_word_bits(b, user, last.outputs[0], place, params.co) for user in users}
    word = words.pop() if len(words) == 1 else None
    return None if word is None else _Way(*found, turned, word)


@dataclass(frozen=True)
class _Place:
    """Where a tensor's elements lie: the storage position of each, channels innermost."""

    position: np.ndarray
    co: int

    @classmethod
    def of(cls, shape: tuple[int, ...], last: bool, co: int) -> _Place:
        """A tensor stored in NHWC (`last`: as it is)."""
        if last:
            return cls(np.arange(int(np.prod(shape))).reshape(shape), co)
        order = (0, *range(2, len(shape)), 1)
        stored = np.arange(int(np.prod(shape))).reshape([shape[axis] for axis in order])
        return cls(np.moveaxis(stored, -1, 1), co)

    def is_nhwc(self) -> bool:
        """Whether the tensor, transposed to NHWC, is what is stored."""
        flat = np.moveaxis(self.position, 1, -1).reshape(-1)
        return self.position.ndim == 4 and self.position.shape[1] == self.co and _counts_up(flat)

    def moved(self, node: ir.Node, shape: tuple[int, ...]) -> _Place:
        """Behind a Transpose or a change of shape."""
        position = self.position
        if node.op_type == "Transpose":
            reverse = tuple(reversed(range(position.ndim)))
            attributes = node.attributes
            perm = tuple(attributes["perm"].as_ints()) if "perm" in attributes else reverse
            return _Place(position.transpose(perm), self.co)
        return _Place(position.reshape(shape), self.co)

    def channels(self, node: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
        """Threshold and direction (up) of a Binarize per channel of the layer, if they are."""
        limit, direction = constant(node.inputs[1]), constant(node.inputs[2])
        if limit is None or direction is None:
            return None
        channel = self.position.reshape(-1) % self.co
        result = []
        for array in (limit.astype(np.float32), direction > 0):
            full = np.broadcast_to(array, self.position.shape).reshape(-1)
            chosen = np.zeros(self.co, array.dtype)
            chosen[channel] = full
            same = chosen[channel] == full
            if array.dtype.kind == "f":
                same |= np.isnan(full) & np.isnan(chosen[channel])
            if not same.all():
                return None
            result.append(chosen)
        return result[0], result[1]


def _counts_up(flat: np.ndarray) -> bool:
    return bool(np.array_equal(flat, np.arange(flat.size)))


def _word_bits(b: Builder, user: ir.Node, value: ir.Value, place: _Place, co: int) -> int | None:
    """The word of the layer `user`, if what is stored is what it reads; else None."""
    if user.inputs[0] is not value:
        return None
    shape, weight = shape_of(value), constant(user.inputs[1])
    assert weight is not None
    if user.op_type == "BinaryConv":
        p = conv_params(user, shape, weight.shape)
        flat = np.moveaxis(place.position, 1, -1).reshape(-1)
    elif user.op_type == "BinaryDense":
        rows = int(np.prod(shape[:-1], dtype=np.int64))
        p = ConvParams.dense(rows, *weight.shape)
        flat = place.position.reshape(-1)
    else:
        return None
    bits = b.select("bconv2d", p).word_bits
    whole = co % bits == 0 and p.cig % bits == 0
    same = p.groups == 1 and p.ci == co
    return bits if (whole or same) and _counts_up(flat) else None
