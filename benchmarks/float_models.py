"""Single float layers with what follows them in networks, as ONNX models with seeded weights.

`LAYERS` are shapes of Bi-Real-Net-18, QuickNet and ReActNet-A at 224x224, the float 3x3 layers of
ResNet-18, and depthwise layers of MobileNets. `EPILOGUES` says what may follow them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from topi_ext.params import ConvParams

from .networks import SAME


@dataclass(frozen=True)
class FloatLayer:
    """A layer of these shapes; `dense` ones read [n, ci]. direct: without Winograd tiles."""

    params: ConvParams
    dense: bool = False
    direct: bool = False


@dataclass(frozen=True)
class Epilogue:
    """What follows a layer: whether it has a bias, and the ONNX operators behind it, in order.

    operations: the vector operations for each vector of results that no kernel can do without,
    other than the layer's multiply-adds. Sums may begin with the bias, so that it costs none, and
    a batch norm that follows at once is folded into weights and bias. A ReLU is a maximum, a batch
    norm behind it a multiply-add. PReLU with slopes of at most one, as here, is the maximum of x
    and slope * x: two. A shortcut's sum takes an addition, since only one of bias and shortcut can
    be what the sum begins with.
    """

    title: str
    bias: bool
    operators: tuple[str, ...]
    operations: int


EPILOGUES = {
    "none": Epilogue("nothing", False, (), 0),
    "relu": Epilogue("bias, ReLU", True, ("Relu",), 1),
    "bn": Epilogue("batch norm", False, ("BatchNormalization",), 0),
    "relu-bn": Epilogue("bias, ReLU, batch norm", True, ("Relu", "BatchNormalization"), 2),
    "prelu": Epilogue("bias, PReLU", True, ("PRelu",), 2),
    "add": Epilogue("bias, Add", True, ("Add",), 1),
    "add-relu": Epilogue("bias, Add, ReLU", True, ("Add", "Relu"), 2),
}


def _conv(
    size: int,
    ci: int,
    co: int,
    k: int,
    stride: int = 1,
    pads: list[int] | None = None,
    groups: int = 1,
    direct: bool = False,
) -> FloatLayer:
    """Of a kernel k x k over size x size x ci; pads: half the kernel on each side by default."""
    top, left, bottom, right = pads or [k // 2] * 4
    strides, around = (stride, stride), (top, left, bottom, right)
    params = ConvParams(1, size, size, ci, co, k, k, strides, pads=around, groups=groups)
    return FloatLayer(params, direct=direct)


def _depthwise(
    size: int, channels: int, k: int, stride: int = 1, pads: list[int] | None = None
) -> FloatLayer:
    return _conv(size, channels, channels, k, stride, pads, groups=channels)


def _dense(ci: int, co: int) -> FloatLayer:
    return FloatLayer(ConvParams.dense(1, ci, co), dense=True)


LAYERS = {
    "stem 7x7 s2, 224x224x3 to 64": _conv(224, 3, 64, 7, 2),
    "stem 7x7 s2, 224x224x3 to 64, direct": _conv(224, 3, 64, 7, 2, direct=True),
    "stem 3x3 s2, 224x224x3 to 8": _conv(224, 3, 8, 3, 2, SAME),
    "stem 3x3 s2, 224x224x3 to 16": _conv(224, 3, 16, 3, 2, SAME),
    "stem 3x3 s2, 224x224x3 to 32": _conv(224, 3, 32, 3, 2),
    "3x3, 56x56x64": _conv(56, 64, 64, 3),
    "3x3, 56x56x64, direct": _conv(56, 64, 64, 3, direct=True),
    "3x3, 28x28x128": _conv(28, 128, 128, 3),
    "3x3, 28x28x128, direct": _conv(28, 128, 128, 3, direct=True),
    "3x3, 14x14x256": _conv(14, 256, 256, 3),
    "3x3, 14x14x256, direct": _conv(14, 256, 256, 3, direct=True),
    "3x3, 7x7x512": _conv(7, 512, 512, 3),
    "3x3 s2, 56x56x64 to 128": _conv(56, 64, 128, 3, 2),
    "3x3 s2, 56x56x64 to 128, direct": _conv(56, 64, 128, 3, 2, direct=True),
    "1x1, 56x56x16 to 64": _conv(56, 16, 64, 1),
    "1x1, 28x28x64 to 128": _conv(28, 64, 128, 1),
    "1x1, 14x14x128 to 256": _conv(14, 128, 256, 1),
    "1x1, 7x7x256 to 512": _conv(7, 256, 512, 1),
    "depthwise 3x3 s2, 112x112x16": _depthwise(112, 16, 3, 2, SAME),
    "depthwise 3x3 s2, 56x56x64": _depthwise(56, 64, 3, 2),
    "depthwise 3x3 s2, 55x55x64": _depthwise(55, 64, 3, 2),
    "depthwise 3x3 s2, 27x27x128": _depthwise(27, 128, 3, 2),
    "depthwise 3x3 s2, 13x13x256": _depthwise(13, 256, 3, 2),
    "depthwise 3x3, 56x56x64": _depthwise(56, 64, 3),
    "depthwise 3x3, 28x28x128": _depthwise(28, 128, 3),
    "depthwise 3x3, 14x14x256": _depthwise(14, 256, 3),
    "depthwise 3x3, 7x7x512": _depthwise(7, 512, 3),
    "depthwise 5x5, 28x28x128": _depthwise(28, 128, 5),
    "dense, 512 to 1000": _dense(512, 1000),
    "dense, 1024 to 1000": _dense(1024, 1000),
}


def model(layer: FloatLayer, epilogue: Epilogue) -> onnx.ModelProto:
    """The layer and what follows it; input `input` and output `output` NCHW, or [n, c] if dense.

    A shortcut is a constant map: the kernel reads it as it would the result of another layer, in
    its own order.
    """
    p, rng = layer.params, np.random.default_rng(0)
    dims = [1, p.ci] if layer.dense else [p.n, p.ci, p.h, p.w]
    result = [1, p.co] if layer.dense else [p.n, p.co, p.ho, p.wo]
    column = [p.co] + [1] * (len(result) - 2)
    weight = (p.co, p.cig) if layer.dense else (p.co, p.cig, p.kh, p.kw)
    constants = {"w": rng.standard_normal(weight) / np.sqrt(p.taps)}
    operands = ["input", "w"]
    if epilogue.bias:
        constants["b"] = rng.standard_normal(p.co)
        operands.append("b")
    if layer.dense:
        nodes = [helper.make_node("Gemm", operands, ["layer"], name="layer", transB=1)]
    else:
        window: dict[str, Any] = {"strides": p.stride, "pads": p.pads, "group": p.groups}
        nodes = [helper.make_node("Conv", operands, ["layer"], name="layer", **window)]
    for operator in epilogue.operators:
        extra: dict[str, np.ndarray] = {}
        if operator == "BatchNormalization":
            extra = {part: rng.standard_normal(p.co) for part in ("gamma", "beta", "mean")}
            extra["variance"] = rng.uniform(0.5, 2, p.co)
        elif operator == "PRelu":
            extra = {"slope": rng.uniform(0, 1, column)}
        elif operator == "Add":
            extra = {"shortcut": rng.standard_normal(result)}
        constants |= extra
        last = nodes[-1].output[0]
        nodes.append(helper.make_node(operator, [last, *extra], [operator], name=operator))
    nodes[-1].output[0] = "output"
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, result)],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 8
    return onnx.shape_inference.infer_shapes(made, strict_mode=True)
