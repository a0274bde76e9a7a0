"""bnn_tvm operators back into standard ONNX: what they mean, and the proof that rewriting is exact.

The expansion computes the integers as float32 convolutions of +-1, which is exact below 2**24.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bnn_tvm.recognize.graph import attribute
from bnn_tvm.recognize.types import DOMAIN


def expand(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model in standard operators alone, so that onnxruntime can run it.

    The int8 weights become float32. Intermediate tensors keep their names.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    arrays = {t.name: t for t in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    extra: dict[str, onnx.TensorProto] = {}

    def constant(name: str, value: np.ndarray) -> str:
        extra.setdefault(
            name, numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        )
        return name

    def value(name: str) -> np.ndarray:
        return numpy_helper.to_array(arrays[name])

    for node in graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        if node.op_type == "Binarize":
            nodes.extend(_binarize(node, value(node.input[2]), constant))
        elif node.op_type in ("BinaryConv", "BinaryDense"):
            nodes.extend(_layer(node, value, constant))
        else:
            raise ValueError(f"unknown operator {DOMAIN}.{node.op_type}")
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(extra.values())
    used = {i for n in nodes for i in n.input} | {o.name for o in graph.output}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    kept_opsets = [o for o in result.opset_import if o.domain != DOMAIN]
    del result.opset_import[:]
    result.opset_import.extend(kept_opsets)
    return result


def _binarize(node, direction, constant):  # type: ignore[no-untyped-def]
    """y = +1 where (direction > 0 ? x >= threshold : x <= threshold) else -1."""
    x, threshold = node.input[0], node.input[1]
    y = node.output[0]
    plus = constant("bnn_tvm/one", np.float32(1))
    minus = constant("bnn_tvm/minus_one", np.float32(-1))
    up, down, both = f"{y}/up", f"{y}/down", f"{y}/reached"
    nodes = []
    if (direction > 0).all():
        nodes.append(helper.make_node("GreaterOrEqual", [x, threshold], [both]))
    elif (direction <= 0).all():
        nodes.append(helper.make_node("LessOrEqual", [x, threshold], [both]))
    else:
        rising = constant(f"{y}/rising", direction > 0)
        falling = constant(f"{y}/falling", direction <= 0)
        nodes.append(helper.make_node("GreaterOrEqual", [x, threshold], [f"{up}?"]))
        nodes.append(helper.make_node("LessOrEqual", [x, threshold], [f"{down}?"]))
        nodes.append(helper.make_node("And", [f"{up}?", rising], [up]))
        nodes.append(helper.make_node("And", [f"{down}?", falling], [down]))
        nodes.append(helper.make_node("Or", [up, down], [both]))
    nodes.append(helper.make_node("Where", [both, plus, minus], [y], name=node.name))
    return nodes


def _layer(node, value, constant):  # type: ignore[no-untyped-def]
    s, w, scale, offset = node.input
    y = node.output[0]
    nodes = []
    weights = constant(f"{w}/float", value(w).astype(np.float32))
    integers, scaled = f"{y}/integers", f"{y}/scaled"
    if node.op_type == "BinaryConv":
        rank = value(w).ndim
        pads = list(attribute(node, "pads") or [])
        pad_value = int(attribute(node, "pad_value", 0))
        if any(pads) and pad_value:
            dims = rank - 2
            full = np.array([0, 0, *pads[:dims], 0, 0, *pads[dims:]], np.int64)
            padded = f"{y}/padded"
            inputs = [s, constant(f"{y}/pads", full)]
            inputs.append(constant(f"bnn_tvm/pad{pad_value}", np.float32(pad_value)))
            nodes.append(helper.make_node("Pad", inputs, [padded]))
            s, pads = padded, [0] * len(pads)
        nodes.append(
            helper.make_node(
                "Conv",
                [s, weights],
                [integers],
                strides=attribute(node, "strides"),
                dilations=attribute(node, "dilations"),
                pads=pads,
                group=attribute(node, "group", 1),
                kernel_shape=list(value(w).shape[2:]),
            )
        )
        column = (1, -1, *[1] * (rank - 2))
        scale = constant(f"{scale}/column{rank}", value(scale).reshape(column))
        if value(offset).ndim == 1:
            offset = constant(f"{offset}/column{rank}", value(offset).reshape(column))
    else:
        nodes.append(helper.make_node("MatMul", [s, weights], [integers]))
    nodes.append(helper.make_node("Mul", [integers, scale], [scaled]))
    nodes.append(helper.make_node("Add", [scaled, offset], [y], name=node.name))
    return nodes
