"""NumPy meaning of the bnn_tvm operators, to evaluate rewritten graphs without compiling them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class Binarize(OpRun):
    op_domain = "bnn_tvm"

    def _run(self, x, threshold, direction):  # type: ignore[no-untyped-def]
        above = np.where(direction > 0, x >= threshold, x <= threshold)
        return (np.where(above, 1, -1).astype(np.float32),)


class BinaryConv(OpRun):
    op_domain = "bnn_tvm"

    def _run(  # type: ignore[no-untyped-def]
        self, s, w, scale, offset, strides=None, dilations=None, pads=None, group=1, pad_value=0
    ):
        one_d = s.ndim == 3
        if one_d:
            s, w = s[:, :, None], w[:, :, None]
            strides, dilations = [1, *strides], [1, *dilations]
            pads = [0, pads[0], 0, pads[1]]
        n = len(s)
        co, cig, kh, kw = w.shape
        width = ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3]))
        padded = np.pad(s, width, constant_values=pad_value)
        ho = (padded.shape[2] - dilations[0] * (kh - 1) - 1) // strides[0] + 1
        wo = (padded.shape[3] - dilations[1] * (kw - 1) - 1) // strides[1] + 1
        total = np.zeros((n, group, co // group, ho, wo), np.int64)
        weights = w.reshape(group, co // group, cig, kh, kw).astype(np.int64)
        for i in range(kh):
            for j in range(kw):
                top, left = i * dilations[0], j * dilations[1]
                taps = padded[
                    :,
                    :,
                    top : top + (ho - 1) * strides[0] + 1 : strides[0],
                    left : left + (wo - 1) * strides[1] + 1 : strides[1],
                ].astype(np.int64)
                taps = taps.reshape(n, group, cig, ho, wo)
                total += np.einsum("ngchw,goc->ngohw", taps, weights[..., i, j])
        y = total.reshape(n, co, ho, wo) * scale.reshape(-1, 1, 1)
        if one_d:
            y = y[:, :, 0] + (offset if offset.ndim > 1 else offset.reshape(-1, 1))
        else:
            y = y + (offset if offset.ndim > 1 else offset.reshape(-1, 1, 1))
        return (y.astype(np.float32),)


class BinaryDense(OpRun):
    op_domain = "bnn_tvm"

    def _run(self, s, w, scale, offset):  # type: ignore[no-untyped-def]
        return ((s.astype(np.int64) @ w.astype(np.int64) * scale + offset).astype(np.float32),)


def evaluate(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of a rewritten model, by definition."""
    session = ReferenceEvaluator(model, new_ops=[Binarize, BinaryConv, BinaryDense])
    return session.run(None, feeds)


def parse(
    body: str, arrays: dict[str, np.ndarray], inputs: str = "float[2,6,9,8] x"
) -> onnx.ModelProto:
    """A model out of ONNX text; `arrays` become initializers where the text uses them.

    Shapes of the bnn_tvm operators' results are filled in by evaluation on zeros.
    """
    header = '<ir_version: 9, opset_import: ["" : 18, "bnn_tvm" : 1]>'
    text = f"{header} g ({inputs}) => (y) {{ {body} }}"
    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    for name in sorted(used & set(arrays)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(arrays[name], name))
    for node in model.graph.node:
        node.name = node.output[0]
    _add_shapes(model)
    return model


def _add_shapes(model: onnx.ModelProto) -> None:
    feeds = {
        value.name: np.zeros([d.dim_value for d in value.type.tensor_type.shape.dim], np.float32)
        for value in model.graph.input
    }
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    names = [name for node in model.graph.node for name in node.output]
    for name in names:
        probe.graph.output.append(onnx.ValueInfoProto(name=name))
    outputs = {value.name for value in model.graph.output}
    del model.graph.value_info[:]
    infos = {}
    for name, array in zip(names, evaluate(probe, feeds), strict=True):
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        infos[name] = onnx.helper.make_tensor_value_info(name, kind, array.shape)
        if name not in outputs:
            model.graph.value_info.append(infos[name])
    for value in model.graph.output:
        value.CopyFrom(infos[value.name])
