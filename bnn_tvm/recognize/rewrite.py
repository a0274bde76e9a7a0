"""Write the planned layers as bnn_tvm operators; drop what nothing needs any more."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bnn_tvm.recognize.bits import Binarized, Bits, Flipped, Moved, Padded
from bnn_tvm.recognize.decide import Plan
from bnn_tvm.recognize.graph import Graph
from bnn_tvm.recognize.types import DOMAIN


def rewrite(graph: Graph, plans: dict[str, Plan]) -> onnx.ModelProto:
    """The clean model with every planned layer replaced. The given model is left alone."""
    return _Rewriter(graph, plans).run()


class _Rewriter:
    def __init__(self, graph: Graph, plans: dict[str, Plan]) -> None:
        self.graph, self.plans = graph, plans
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = dict(graph.initializers)
        self.infos: dict[str, onnx.ValueInfoProto] = {}
        self.taken = set(graph.producer) | set(graph.initializers) | graph.inputs
        self._made: dict[object, str] = {}
        self._constants: dict[object, str] = {}

    def run(self) -> onnx.ModelProto:
        for node in self.graph.nodes:
            plan = self.plans.get(node.output[0]) if node.output else None
            if plan is None:
                self.nodes.append(node)
            elif plan.layer.is_conv:
                self._conv(plan)
            else:
                self._dense(plan)
        return self._model()

    # Layers ----------------------------------------------------------------------------------

    def _conv(self, plan: Plan) -> None:
        layer, operand = plan.layer, plan.operand
        scale, offset = conv_scale_offset(plan, self.graph.shape(layer.output) or ())
        self._add(
            "BinaryConv",
            [
                self._bits(operand.bits),
                self._constant(plan.weights.t, layer.output, "weights"),
                self._constant(scale, layer.output, "scale"),
                self._constant(offset, layer.output, "offset"),
            ],
            layer.output,
            strides=list(layer.strides),
            dilations=list(layer.dilations),
            pads=list(operand.pads),
            group=layer.group,
            pad_value=operand.pad_bit if operand.padded else 0,
        )

    def _dense(self, plan: Plan) -> None:
        layer, operand = plan.layer, plan.operand
        bits = self._bits(operand.bits)
        shape = operand.bits.shape
        if layer.swap_in:
            bits, shape = self._swap(bits, shape)
        scale, offset = dense_scale_offset(plan)
        t = np.ascontiguousarray(plan.weights.t.T)
        result, out = layer.output, (*shape[:-1], t.shape[1])
        stages = [bool(layer.swap_out), layer.addend is not None]
        if any(stages):
            result = self._name(f"{layer.output}/binary", out)
        self._add(
            "BinaryDense",
            [
                bits,
                self._constant(t, layer.output, "weights"),
                self._constant(scale, layer.output, "scale"),
                self._constant(offset, layer.output, "offset"),
            ],
            result,
        )
        if layer.swap_out:
            last = None if stages[1] else layer.output
            result, out = self._swap(result, out, last)
        if layer.addend is not None:
            addend = self._constant(layer.addend, layer.output, "addend")
            self.nodes.append(
                helper.make_node("Add", [result, addend], [layer.output], name=layer.output)
            )

    def _swap(
        self, name: str, shape: tuple[int, ...], result: str | None = None
    ) -> tuple[str, tuple[int, ...]]:
        perm = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        swapped = tuple(shape[p] for p in perm)
        if result is None:
            result = self._name(f"{name}/swapped", swapped)
        self.nodes.append(helper.make_node("Transpose", [name], [result], name=result, perm=perm))
        return result, swapped

    # Bits ------------------------------------------------------------------------------------

    def _bits(self, bits: Bits) -> str:
        """Name of the +-1 tensor; nodes are made once per distinct expression."""
        stack: list[tuple[Bits, bool]] = [(bits, False)]
        names: dict[int, str] = {}
        while stack:
            current, ready = stack.pop()
            if id(current) in names:
                continue
            children = _children(current)
            if not ready:
                stack.append((current, True))
                stack.extend((c, False) for c in children)
                continue
            names[id(current)] = self._emit(current, [names[id(c)] for c in children])
        return names[id(bits)]

    def _emit(self, bits: Bits, children: list[str]) -> str:
        if isinstance(bits, Binarized):
            threshold, direction = bits.threshold, bits.direction
            key: object = ("binarize", bits.source, _token(threshold), _token(direction))
            if key not in self._made:
                result = self._name(f"{bits.source}/bits", bits.shape)
                inputs = [
                    bits.source,
                    self._constant(threshold.astype(np.float32), result, "threshold"),
                    self._constant(direction.astype(np.int8), result, "direction"),
                ]
                self._add("Binarize", inputs, result)
                self._made[key] = result
        elif isinstance(bits, Padded):
            key = ("pad", children[0], bits.pads, bits.value)
            if key not in self._made:
                result = self._name(f"{children[0]}/padded", bits.shape)
                inputs = [
                    children[0],
                    self._constant(np.array(bits.pads, np.int64), result, "pads"),
                    self._constant(np.array(bits.value, np.float32), result, "value"),
                ]
                self.nodes.append(helper.make_node("Pad", inputs, [result], name=result))
                self._made[key] = result
        elif isinstance(bits, Flipped):
            key = ("flip", children[0], _token(bits.sign))
            if key not in self._made:
                result = self._name(f"{children[0]}/flipped", bits.shape)
                if (bits.sign < 0).all():
                    node = helper.make_node("Neg", children, [result], name=result)
                else:
                    sign = self._constant(bits.sign.astype(np.float32), result, "sign")
                    node = helper.make_node("Mul", [children[0], sign], [result], name=result)
                self.nodes.append(node)
                self._made[key] = result
        else:
            assert isinstance(bits, Moved)
            key = ("move", bits.node.output[0], tuple(children), bits.index)
            if key not in self._made:
                self._move(bits, children)
        return self._made[key]

    def _move(self, bits: Moved, children: list[str]) -> None:
        node = onnx.NodeProto()
        node.CopyFrom(bits.node)
        moved = iter(children)
        count = len(children)
        for i in range(count):
            node.input[i] = next(moved)
        for i, old in enumerate(bits.node.output):
            if old:
                shape = self.graph.shape(old) or bits.shape
                node.output[i] = self._name(f"{old}/bits", shape)
                self._made["move", bits.node.output[0], tuple(children), i] = node.output[i]
        node.name = node.output[0]
        self.nodes.append(node)

    # Parts -----------------------------------------------------------------------------------

    def _add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=output, domain=DOMAIN, **attributes)
        )

    def _name(self, wish: str, shape: tuple[int, ...]) -> str:
        name, count = wish, 1
        while name in self.taken:
            count += 1
            name = f"{wish}_{count}"
        self.taken.add(name)
        self.infos[name] = helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
        return name

    def _constant(self, array: np.ndarray, owner: str, part: str) -> str:
        key = _token(array)
        if key not in self._constants:
            name, count = f"{owner}/{part}", 1
            while name in self.taken:
                count += 1
                name = f"{owner}/{part}_{count}"
            self.taken.add(name)
            shaped = np.ascontiguousarray(array).reshape(array.shape)
            self.initializers[name] = numpy_helper.from_array(shaped, name)
            self._constants[key] = name
        return self._constants[key]

    def _model(self) -> onnx.ModelProto:
        old = self.graph.model
        nodes = _alive(self.nodes, {o.name for o in old.graph.output})
        used = {i for n in nodes for i in n.input} | {o.name for o in old.graph.output}
        made = {o for n in nodes for o in n.output}
        model = onnx.ModelProto()
        model.CopyFrom(_without_graph(old))
        new = model.graph
        new.name, new.doc_string = old.graph.name, old.graph.doc_string
        new.node.extend(nodes)
        new.initializer.extend(t for n, t in self.initializers.items() if n in used)
        new.input.extend(old.graph.input)
        new.output.extend(old.graph.output)
        new.value_info.extend(v for v in old.graph.value_info if v.name in made)
        new.value_info.extend(v for n, v in self.infos.items() if n in made)
        if any(n.domain == DOMAIN for n in nodes):
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        return model


def conv_scale_offset(plan: Plan, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """scale [co] and offset [co], or [1, co, *spatial] where the border needs it, float32.

    conv(a, w) = alpha * (half * conv(s, t) + sum over taps of t * r), where r = a - half * s is
    mid inside and pad_real - half * pad_bit on padded taps.
    """
    layer, operand = plan.layer, plan.operand
    t, alpha = plan.weights.t, plan.weights.alpha
    co, groups = t.shape[0], layer.group
    per_group = co // groups
    half = np.repeat(operand.half, per_group)
    taps = t.reshape(groups, per_group, t.shape[1], *t.shape[2:]).astype(np.float64)
    inside = operand.mid.reshape(groups, t.shape[1])
    outside = np.broadcast_to(
        (operand.pad_real - operand.half * operand.pad_bit)[:, None], inside.shape
    )
    sum_in = np.einsum("goi...,gi->go...", taps, inside).reshape(co, *t.shape[2:])
    sum_out = np.einsum("goi...,gi->go...", taps, outside).reshape(co, *t.shape[2:])
    bias = layer.bias if layer.bias is not None else np.zeros(co)
    scale = (alpha * half).astype(np.float32)
    kernel_axes = tuple(range(1, sum_in.ndim))
    if not operand.padded or np.array_equal(sum_in, sum_out):
        total = sum_in.sum(axis=kernel_axes)
        return scale, (alpha * total + bias).astype(np.float32)
    # Which taps lie inside, per output position: one matrix [size, k] per spatial axis.
    valid = []
    size = shape[2:]
    source = _input_size(plan)
    dims = len(size)
    for d in range(dims):
        position = np.arange(size[d])[:, None] * layer.strides[d] - operand.pads[d]
        position = position + np.arange(t.shape[2 + d]) * layer.dilations[d]
        valid.append(((position >= 0) & (position < source[d])).astype(np.float64))
    total = sum_out.sum(axis=kernel_axes).reshape(co, *[1] * dims)
    excess = sum_in - sum_out
    if dims == 1:
        total = total + np.einsum("ok,yk->oy", excess, valid[0])
    else:
        total = total + np.einsum("okl,yk,xl->oyx", excess, valid[0], valid[1], optimize=True)
    column = (co, *[1] * dims)
    offset = alpha.reshape(column) * total + bias.reshape(column)
    return scale, offset.astype(np.float32)[None]


def _input_size(plan: Plan) -> tuple[int, ...]:
    return plan.operand.bits.shape[2:]


def dense_scale_offset(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """scale and offset [n] of a dense layer, float32."""
    layer, operand = plan.layer, plan.operand
    t = plan.weights.t.astype(np.float64)
    alpha = plan.weights.alpha * layer.factor
    bias = layer.bias if layer.bias is not None else np.zeros(t.shape[0])
    scale = alpha * operand.half[0]
    return scale.astype(np.float32), (alpha * (t @ operand.mid) + bias).astype(np.float32)


def _children(bits: Bits) -> tuple[Bits, ...]:
    if isinstance(bits, Moved):
        return bits.children
    if isinstance(bits, (Padded, Flipped)):
        return (bits.child,)
    return ()


def _token(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, array.tobytes()


def _alive(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that an output needs, in their order."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if any(o in needed for o in node.output):
            kept.append(node)
            needed.update(i for i in node.input if i)
    return kept[::-1]


def _without_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Everything of a model but its graph, without copying the weights."""
    shell = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if (
            field.is_repeated
            if hasattr(field, "is_repeated")
            else field.label == field.LABEL_REPEATED
        ):
            getattr(shell, field.name).extend(value)
        else:
            setattr(shell, field.name, value)
    return shell
