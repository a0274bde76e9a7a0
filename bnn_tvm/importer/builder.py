"""What converters emit through: Relax bindings with ONNX names, layouts, kernels, packed bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax
from tvm.target import Target

from bnn_tvm.importer.value import (
    Bits,
    Order,
    Parts,
    Steps,
    Value,
    moves_nothing,
    natural,
    whole_words,
)
from topi_ext import kernels
from topi_ext.bitpack import compared_as, half_limits, pack
from topi_ext.isa import isa_of
from topi_ext.kernels import Kernel
from topi_ext.pack_nchw import pack_nchw, packs_nchw
from topi_ext.params import ConvParams
from topi_ext.words import pad_words


class Builder:
    """A Relax function under construction.

    `origins` maps the name of every binding to the (layer, kind) that the time of its kernel
    belongs to: Relax passes keep the names of bindings, not ONNX names.
    """

    def __init__(self, target: Target, winograd: bool = True) -> None:
        self.bb = relax.BlockBuilder()
        self.target = target
        self.winograd = winograd
        self.values: dict[str, Value] = {}
        self.origins: dict[str, tuple[str, str]] = {}
        self.opaque: set[str] = set()
        self.origin = ("", "other")
        self._packed: dict[tuple[object, ...], relax.Var] = {}

    def begin(self, node: ir.Node, kind: str | None = None) -> None:
        """Charge what is emitted from now on to `node`."""
        self.origin = (str(node.name), kind or node.op_type)

    def begin_output(self, name: str) -> None:
        """Charge what is emitted from now on to the layout of an output."""
        self.origin = (name, "transpose")

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Bind an expression, unless it is bound already."""
        var = expr if isinstance(expr, relax.Var) else self.bb.emit(expr)
        self.origins.setdefault(var.name, self.origin)
        return var

    def emit_te(
        self, name: str, function: Callable[..., Any], *args: relax.Expr, opaque: bool = False
    ) -> relax.Var:
        """Bind a call of the PrimFunc that `function` computes; opaque ones fuse with nothing."""
        call = self.bb.call_te(function, *args, primfunc_name_hint=name)
        if opaque:
            self.opaque.add(call.args[0].name_hint)
        return self.emit(call)

    def new(self, expr: relax.Expr, shape: Sequence[int], dtype: str, order: Order) -> Value:
        """A value for a bound expression, stored in `order`."""
        return Value(tuple(shape), dtype, order, expr=expr)

    def constant(self, array: np.ndarray) -> Value:
        """A value for a constant."""
        return Value(array.shape, array.dtype.name, natural(array.ndim), array=array)

    def stored(self, value: Value, order: Order | None = None) -> relax.Expr:
        """The tensor of `value` stored in `order` (default: natural), transposed if need be."""
        order = order or natural(value.rank)
        if order not in value.stored:
            value.stored[order] = self._store(value, order)
        return value.stored[order]

    def _store(self, value: Value, order: Order) -> relax.Expr:
        if value.array is not None:
            return relax.const(np.ascontiguousarray(value.array.transpose(order)))
        if value.steps is not None and value.expr is None:
            source = value.steps.source
            value.order = source.order
            value.expr = self._signs(value.steps, source.order)
        if value.parts is not None and value.expr is None:
            value.expr = self._concat(value.parts, value.order)
        if value.halves is not None:
            # Moved first: halves are half of the bytes to move, and what makes them writes halves.
            return self.emit(relax.op.astype(self.stored(value.halves, order), value.dtype))
        assert value.expr is not None
        if order == value.order:
            return value.expr
        permutation = tuple(value.order.index(axis) for axis in order)
        if moves_nothing(value.storage_shape(), permutation):
            return self.emit(relax.op.reshape(value.expr, value.storage_shape(order)))
        moved = relax.op.permute_dims(value.expr, permutation)
        return self._charged((self.origin[0], "transpose"), lambda: self.emit(moved))

    def _concat(self, parts: Parts, order: Order) -> relax.Expr:
        def emit() -> relax.Var:
            stored = [self.stored(value, order) for value in parts.values]
            return self.emit(relax.op.concat(stored, axis=order.index(parts.axis)))

        return self._charged(parts.origin, emit)

    def _charged(self, origin: tuple[str, str], emit: Callable[[], relax.Var]) -> relax.Var:
        """What `emit` binds, charged to another (layer, kind)."""
        reader, self.origin = self.origin, origin
        try:
            return emit()
        finally:
            self.origin = reader

    def _signs(self, steps: Steps, order: Order) -> relax.Expr:
        rank = steps.source.rank

        def const(array: np.ndarray) -> relax.Expr:
            full = array.reshape((1,) * (rank - array.ndim) + array.shape)
            return relax.const(np.ascontiguousarray(full.transpose(order)))

        x = self.stored(steps.source, order)
        if steps.source.dtype == "float16":
            x = self.emit(relax.op.astype(x, "float32"))
        limit = steps.threshold.astype(np.float32)
        if self._flushed(limit):
            above = relax.op.greater(x, const(np.nextafter(limit, np.float32(-np.inf))))
        else:
            above = relax.op.greater_equal(x, const(limit))
        high = np.where(steps.flip, -1, 1).astype(np.float32)
        return self.emit(relax.op.where(self.emit(above), const(high), const(-high)))

    def _flushed(self, limit: np.ndarray) -> bool:
        """Whether vector compares of the target take one of these thresholds for 0.

        32-bit NEON flushes denormals: `x >= 1.4e-45`, which is `x > 0`, would hold for 0.
        """
        tiny = np.finfo(np.float32).tiny
        return isa_of(self.target) == "neon32" and bool(np.any((limit > 0) & (limit < tiny)))

    def channels_last_4d(self, value: Value) -> relax.Expr:
        """An activation [n, c, (h,) w] stored as NHWC with h = 1 where it has one spatial axis."""
        last = (0, *range(2, value.rank), 1)
        expr = self.stored(value, last)
        if value.rank == 4:
            return expr
        n, c, w = value.shape
        return self.emit(relax.op.reshape(expr, (n, 1, w, c)))

    def from_channels_last(self, expr: relax.Expr, shape: Sequence[int], dtype: str) -> Value:
        """The reverse for a result: NHWC to a value of logical `shape` [n, c, (h,) w]."""
        last = (0, *range(2, len(shape)), 1)
        if len(shape) == 3:
            expr = self.emit(relax.op.reshape(expr, (shape[0], shape[2], shape[1])))
        return self.new(expr, shape, dtype, last)

    def kernel_call(
        self, kernel: Kernel, data: relax.Expr, weight: np.ndarray, p: ConvParams
    ) -> relax.Var:
        """Bind a convolution-like kernel on packed or plain activations; NHWC result."""
        arrays = [relax.const(a) for a in kernel.pack_weights(weight, p)]

        def compute(x: Any, *weights: Any) -> Any:
            return kernel.compute(x, *weights, params=p)

        return self.emit_te(kernel.op, compute, data, *arrays)

    def packed(self, value: Value, kernel: Kernel, params: ConvParams, dense: bool) -> relax.Expr:
        """The bits of `value` as `kernel` reads them, padded for `params`; shared by all users.

        The same binariser packed twice with equal padding is packed once. `dense` values are
        rows [..., k], others [n, c, (h,) w].
        """
        if value.bits is not None:
            return self._prepared(self._padded(value.bits, params), kernel, params)
        steps = value.steps
        if steps is None or self._flushed(steps.threshold):
            steps = Steps(value, np.zeros((), np.float32), np.zeros((), bool))
        key = (
            id(steps.source),
            steps.threshold.tobytes(),
            steps.flip.tobytes(),
            (params.n, params.h, params.w, params.ci, params.groups),
            params.pads,
            params.pad_value == 1,
            kernel.word_bits,
            dense,
        )
        bits = self._packed.get(key)
        if bits is None:
            bits = self._packed[key] = self._pack_parts(steps, params, kernel.word_bits, dense)
        return self._prepared(bits, kernel, params)

    def _prepared(self, bits: relax.Var, kernel: Kernel, params: ConvParams) -> relax.Var:
        """Padded words in the kernel's own form, which depends on what it reads from the shape."""
        if kernel.prepare is None:
            return bits
        key = (kernel.name, str(params), bits.name)
        if key not in self._packed:
            prepare = kernel.prepare
            self._packed[key] = self.emit_te(
                "prepare", lambda x: prepare(x, params), bits, opaque=True
            )
        return self._packed[key]

    def _padded(self, bits: Bits, params: ConvParams) -> relax.Var:
        """Words that a layer wrote, as a layer with `params` reads them."""
        p = params
        expr = self.view(bits.expr, (p.n, p.h, p.w, p.groups * p.words(bits.word_bits)))
        if not p.padded:
            return expr
        key = ("pad_words", expr.name, p.pads, p.pad_value == 1, p.groups)
        if key not in self._packed:
            self._packed[key] = self.emit_te(
                "pad_words", lambda x: pad_words(x, p, bits.word_bits), expr, opaque=True
            )
        return self._packed[key]

    def view(self, expr: relax.Var, shape: Sequence[int]) -> relax.Var:
        """`expr` as a tensor of another shape; nothing moves."""
        extents = tuple(int(extent) for extent in shape)
        if tuple(int(extent) for extent in expr.ty.shape) == extents:
            return expr
        key = ("view", expr.name, extents)
        if key not in self._packed:
            self._packed[key] = self.emit(relax.op.reshape(expr, extents))
        return self._packed[key]

    def _pack_parts(
        self, steps: Steps, params: ConvParams, word_bits: int, dense: bool
    ) -> relax.Var:
        """The words of a binariser; of a concatenation, the words of its parts side by side."""
        parts = () if dense else whole_words(steps, word_bits, params.groups)
        if not parts:
            return self._pack(steps, params, word_bits, dense)
        words = [
            self._pack(part, replace(params, ci=part.source.shape[1]), word_bits, dense)
            for part in parts
        ]
        layer = self.origin[0]
        return self._charged((layer, "pack"), lambda: self.emit(relax.op.concat(words, axis=3)))

    def _pack(self, steps: Steps, params: ConvParams, word_bits: int, dense: bool) -> relax.Var:
        as_stored = not dense and self._packs_as_stored(steps.source, params, word_bits)
        if as_stored:
            x = self.stored(steps.source)
        elif dense:
            x = self.stored(steps.source)
            x = self.emit(relax.op.reshape(x, (1, 1, params.w, params.ci)))
        else:
            x = self.channels_last_4d(steps.source)
        threshold = self._channel_vector(steps.threshold, steps.source, dense)
        if steps.source.dtype == "float16":
            threshold = half_limits(threshold)
        flip = self._channel_vector(steps.flip, steps.source, dense)
        args = [x]
        if threshold.size > 1:
            args.append(relax.const(threshold.astype(compared_as(steps.source.dtype))))
        if flip.size > 1 or flip.any():
            full = np.broadcast_to(flip, (params.ci,)).astype(np.uint8)
            if as_stored:
                full = np.packbits(full, bitorder="little").view(f"<u{word_bits // 8}")
            args.append(relax.const(np.ascontiguousarray(full)))
        has_thresholds, has_flip = threshold.size > 1, flip.size > 1 or bool(flip.any())

        def compute(data: Any, *rest: Any) -> Any:
            limit = rest[0] if has_thresholds else float(threshold.reshape(-1)[0])
            turned = rest[-1] if has_flip else None
            return (pack_nchw if as_stored else pack)(data, limit, turned, params, word_bits)

        def emit() -> relax.Var:
            return self.emit_te("pack", compute, *args, opaque=True)

        return self._charged((self.origin[0], "pack"), emit) if as_stored else emit()

    def _packs_as_stored(self, source: Value, params: ConvParams, word_bits: int) -> bool:
        """Whether the words of an NCHW tensor are best taken from it as it is."""
        last = (0, 2, 3, 1)
        return (
            source.rank == 4
            and source.expr is not None
            and source.order == natural(4)
            and last not in source.stored
            and not moves_nothing(source.shape, last)
            and packs_nchw(params, word_bits, self.target)
        )

    @staticmethod
    def _channel_vector(array: np.ndarray, source: Value, dense: bool) -> np.ndarray:
        if array.size == 1:
            return array.reshape(-1)
        full = array.reshape((1,) * (source.rank - array.ndim) + array.shape)
        axis = source.rank - 1 if dense else 1
        if full.size != full.shape[axis]:
            raise ValueError("a binarisation's thresholds vary along more than the channel axis")
        return full.reshape(-1)

    def select(
        self, op: str, params: ConvParams, dtype: str = "float32", direct: bool = False
    ) -> Kernel:
        """The kernel for a layer on this target; none that reassociates, if `direct` or asked.

        dtype: of a float layer's data.
        """
        return kernels.select(op, params, self.target, dtype, direct or not self.winograd)
