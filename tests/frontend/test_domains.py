"""BipolarQuant becomes standard operators of the same values."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend import prepare
from bnn_tvm.frontend.domains import BIPOLAR_DOMAINS
from tests.frontend.models import assert_clean, initializer, ops, parse, run, with_initializers


def quantised(domain: str, opset: int, scale: object = 0.5) -> onnx.ModelProto:
    """y = MatMul(BipolarQuant(x), BipolarQuant(w)); the opset of `domain` is not imported."""
    model = parse("(float[1,6] x) => (float[1,6] y, float[1,2] z)", "", opset=opset)
    w = np.array([[-1, -0.0, 0, 1, np.nan, 3]] * 2, np.float32).T
    with_initializers(model, w=w, s=np.array(scale, np.float32))
    for x, y in (("x", "y"), ("w", "q")):
        model.graph.node.append(helper.make_node("BipolarQuant", [x, "s"], [y], domain=domain))
    model.graph.node.append(helper.make_node("MatMul", ["y", "q"], ["z"]))
    return model


@pytest.mark.parametrize("domain", BIPOLAR_DOMAINS)
@pytest.mark.parametrize("opset", [7, 9, 11, 13, 21])
def test_values_are_those_of_the_definition(domain: str, opset: int) -> None:
    prepared = prepare(quantised(domain, opset))
    assert_clean(prepared.model)
    x = np.array([[-2, -0.0, 0, np.nan, 1e-45, -1e-45]], np.float32)
    y, z = run(prepared.model, {"x": x})
    expected = np.where(x >= 0, np.float32(0.5), np.float32(-0.5))
    assert y.tobytes() == expected.tobytes()
    q = np.array([[-0.5, 0.5, 0.5, 0.5, -0.5, 0.5]] * 2, np.float32).T
    np.testing.assert_array_equal(initializer(prepared, "q"), q)
    np.testing.assert_array_equal(z, expected @ q)


def test_the_weights_remember_that_they_were_quantised() -> None:
    prepared = prepare(quantised("qonnx.custom_op.general", 13))
    assert prepared.folded["q"][0] == "BipolarQuant"
    assert ops(prepared) == ["GreaterOrEqual", "Where", "MatMul"]


def test_a_scale_per_channel_broadcasts() -> None:
    scale = [[0.5, 1, 2, -1, 0, 4]]
    model = quantised("onnx.brevitas", 13, scale)
    del model.graph.node[1:]
    del model.graph.output[1:]
    x = np.array([[1, -1, 1, -1, 1, -1]], np.float32)
    (y,) = run(prepare(model).model, {"x": x})
    np.testing.assert_array_equal(y, np.where(x >= 0, scale, -np.array(scale)))


def test_a_node_without_scale_is_refused() -> None:
    model = quantised("onnx.brevitas", 13)
    del model.graph.node[0].input[1:]
    with pytest.raises(ModelError, match="needs the two inputs x and scale and has 1"):
        prepare(model)


def test_other_operators_of_such_a_domain_are_foreign() -> None:
    model = quantised("qonnx.custom_op.general", 13)
    model.graph.node[0].op_type = "Quant"
    with pytest.raises(ModelError, match=r"qonnx\.custom_op\.general::Quant -> y"):
        prepare(model)
