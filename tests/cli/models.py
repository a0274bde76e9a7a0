"""Small models for the command line's tests."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    **constants: np.ndarray,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        outputs,
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    result.ir_version = 9
    return result


def signs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.choice(np.array([-1, 1], np.float32), shape)


def two_convs(*, sign: bool = True, height: int | str = 6) -> onnx.ModelProto:
    """float conv -> Sign (or Relu) -> conv with +-1 weights, zero padding."""
    rng = np.random.default_rng(7)
    return model(
        [
            helper.make_node("Conv", ["x", "w0"], ["first"], pads=[1, 1, 1, 1]),
            helper.make_node("Sign" if sign else "Relu", ["first"], ["s"]),
            helper.make_node("Conv", ["s", "w1"], ["second"], pads=[1, 1, 1, 1]),
        ],
        [value("x", 1, 3, height, 6)],
        [value("second", 1, 5, height, 6)],
        w0=rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        w1=signs(rng, 5, 4, 3, 3),
    )


def add_two_inputs() -> onnx.ModelProto:
    return model(
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
        ],
        [value("a", 1, 4), value("b", 1, 4)],
        [value("sum", 1, 4), value("difference", 1, 4)],
    )
