"""Old and new operator sets and file formats mean the same afterwards."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend import prepare
from tests.frontend.models import initializer, ops, parse, prepare_and_compare, with_initializers

# Operators whose inputs and attributes moved between opset 7 and 13.
MOVED = """
    a = BatchNormalization(x, s, s, s, v)
    p = Pad<pads = [0, 0, 1, 1, 0, 0, 1, 1], mode = "constant", value = -1.0>(a)
    e = Slice<axes = [2, 3], starts = [1, 1], ends = [5, 5]>(p)
    u = Unsqueeze<axes = [0]>(e) q = Squeeze<axes = [0]>(u) d = Dropout(q) f = Flatten(d)
    r = ReduceSum<axes = [1], keepdims = 1>(f) k = Sub(f, r) y = Softmax<axis = 1>(k)
"""
SIGNATURE = (
    "(float[N,3,4,4] x) => (float[N,48] y) <float[3] s = {1, -2, 0.5}, float[3] v = {1, 2, 3}>"
)


@pytest.mark.parametrize("opset", [7, 8, 9])
def test_operators_of_old_opsets_are_converted(opset: int) -> None:
    model = parse(SIGNATURE, MOVED, opset=opset, ir=4)
    prepared = prepare_and_compare(model, batch=2)
    assert f"operators converted from opset {opset} to 13" in prepared.notes
    assert ops(prepared).count("Slice") == 1 and "Dropout" not in ops(prepared)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 20, 21, 22, 23])
def test_every_opset_keeps_a_binary_layer_exact(opset: int) -> None:
    sign = "b = Sign(w) s = Sign(x)" if opset >= 9 else "b = Neg(w) s = Neg(x)"
    model = parse(
        "(float[1,3,6,6] x) => (float[A,B,C,D] y)",
        f"{sign} c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(s, b) y = Relu(c)",
        opset=opset,
        ir=4 if opset < 14 else 10,
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    w = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    prepared = prepare_and_compare(with_initializers(model, w=w))
    assert len(ops(prepared)) == 3
    assert prepared.model.opset_import[0].version == max(opset, 13)


@pytest.mark.parametrize("opset", [8, 11, 12])
def test_softmax_over_all_axes_of_old_opsets_keeps_its_meaning(opset: int) -> None:
    model = parse("(float[2,3,4] x) => (float[2,3,4] y)", "y = Softmax<axis = 1>(x)", opset=opset)
    prepared = prepare_and_compare(model)
    assert "Softmax" in ops(prepared)


def test_upsample_becomes_resize() -> None:
    model = parse(
        "(float[1,3,4,4] x) => (float[1,3,8,8] y) <float[4] k = {1, 1, 2, 2}>",
        'y = Upsample<mode = "nearest">(x, k)',
        opset=9,
    )
    assert ops(prepare_and_compare(model)) == ["Resize"]


def test_initializers_listed_as_inputs_are_constants() -> None:
    model = parse("(float[1,3] x, float[3] w) => (float[1,3] y)", "y = Add(x, w)", opset=7, ir=3)
    with_initializers(model, w=np.array([1, 2, 3], np.float32))
    prepared = prepare_and_compare(model)
    assert [value.name for value in prepared.model.graph.input] == ["x"]
    assert initializer(prepared, "w").tolist() == [1, 2, 3]


@pytest.mark.parametrize("ir", range(3, 13))
def test_every_file_format_version_is_read(ir: int) -> None:
    model = parse("(float[1,3] x) => (float[1,3] y)", "y = Neg(x)")
    model.ir_version = ir
    assert prepare(model).model.ir_version == 10


@pytest.mark.parametrize(("opset", "ir"), [(6, 8), (999, 8), (13, 2), (13, 99)])
def test_versions_that_nobody_knows_are_refused(opset: int, ir: int) -> None:
    model = parse("(float[1,3] x) => (float[1,3] y)", "y = Neg(x)")
    model.opset_import[0].version, model.ir_version = opset, ir
    with pytest.raises(ModelError, match="opset" if ir == 8 else "IR version") as caught:
        prepare(model)
    assert caught.value.hint


def test_a_model_without_the_standard_opset_is_refused() -> None:
    model = parse("(float[1,3] x) => (float[1,3] y)", "y = Neg(x)")
    model.opset_import[0].domain = "ai.onnx.ml"
    with pytest.raises(ModelError, match="imports no opset"):
        prepare(model)


def test_numeric_names_are_names() -> None:
    model = parse("(float[1,3] x) => (float[1,3] y)", "m = Neg(x) y = Add(m, w)")
    with_initializers(model, w=np.ones(3, np.float32))
    names = {"x": "0", "m": "1", "w": "2", "y": "3.4"}
    for node in model.graph.node:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = names[name]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = names[value.name]
    prepared = prepare_and_compare(model)
    assert [node.name for node in prepared.model.graph.node] == ["1", "3.4"]


def test_the_domain_may_be_spelled_out() -> None:
    model = parse("(float[1,3] x) => (float[1,3] y)", "y = Neg(x)")
    model.opset_import[0].domain = "ai.onnx"
    model.graph.node[0].domain = "ai.onnx"
    prepared = prepare(model)
    onnx.checker.check_model(prepared.model)
    assert prepared.model.graph.node[0].domain == ""


def test_a_useless_value_of_a_repeating_pad_does_not_survive_the_conversion() -> None:
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Pad", ["x"], ["y"], pads=[0, 0, 1, 1], mode="edge", value=1.0)],
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3, 4])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 9)],
        ir_version=7,
    )
    onnx.checker.check_model(prepare(model).model)
    prepare_and_compare(model)
