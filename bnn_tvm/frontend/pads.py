"""auto_pad of a Conv, spelled as pads: kernels know explicit ones alone."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

from bnn_tvm.frontend.graph import attribute, replace, static_shape


def spell_auto_pads(model: onnx.ModelProto, known: Mapping[str, onnx.ValueInfoProto]) -> None:
    """Give every Conv with auto_pad the pads that it means, begins then ends.

    SAME: output size is the input's over the stride, rounded up; SAME_UPPER puts the odd one at
    the end, SAME_LOWER at the beginning. A Conv whose input or weights have no known shape stays.
    """
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for name, info in known.items():
        shape = static_shape(info)
        if shape is not None:
            shapes[name] = shape
    for node in model.graph.node:
        if node.op_type != "Conv" or attribute(node, "auto_pad", b"NOTSET") == b"NOTSET":
            continue
        data, weights = (shapes.get(name) for name in node.input[:2])
        if data is None or weights is None or len(data) != len(weights):
            continue
        pads = _pads(node, data[2:], weights[2:])
        replace(node.attribute, [a for a in node.attribute if a.name not in ("auto_pad", "pads")])
        node.attribute.append(helper.make_attribute("pads", pads))


def _pads(node: onnx.NodeProto, size: tuple[int, ...], kernel: tuple[int, ...]) -> list[int]:
    auto = attribute(node, "auto_pad")
    ones = [1] * len(size)
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    assert isinstance(strides, list) and isinstance(dilations, list)
    begins, ends = [], []
    for extent, taps, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        reach = (taps - 1) * dilation + 1
        total = max(0, (-(-extent // stride) - 1) * stride + reach - extent)
        less, more = total // 2, total - total // 2
        if auto not in (b"SAME_UPPER", b"SAME_LOWER"):  # VALID
            less = more = 0
        begins.append(less if auto == b"SAME_UPPER" else more)
        ends.append(more if auto == b"SAME_UPPER" else less)
    return begins + ends
