"""Freezing the inputs: batch, --shape, and what is said where they do not suffice."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, ValueInfoProto, helper

from bnn_tvm.errors import ModelError, UsageError
from bnn_tvm.frontend import prepare
from bnn_tvm.frontend.graph import static_shape
from tests.frontend.models import ops, parse, prepare_and_compare

RELU = ("(float[N,3,H,W] input) => (float[N,3,H,W] y)", "y = Relu(input)")


def shapes_of(prepared) -> dict[str, tuple[int, ...]]:  # type: ignore[no-untyped-def]
    graph = prepared.model.graph
    return {v.name: static_shape(v) for v in (*graph.input, *graph.value_info, *graph.output)}


def test_a_dynamic_batch_is_one_unless_told_otherwise() -> None:
    model = parse("(float[N,3] x) => (float[N,3] y)", "y = Relu(x)")
    assert shapes_of(prepare_and_compare(model))["y"] == (1, 3)
    prepared = prepare_and_compare(model, batch=4)
    assert shapes_of(prepared) == {"x": (4, 3), "y": (4, 3)}
    assert prepared.notes == ("input x [N,3] compiled for [4,3]",)


def test_a_nameless_or_negative_batch_dimension_is_dynamic_too() -> None:
    model = parse("(float[1,3] x) => (float[1,3] y)", "y = Relu(x)")
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    dim.dim_value = -1
    assert shapes_of(prepare(model, batch=2))["x"] == (2, 3)
    dim.dim_value = 0
    assert shapes_of(prepare(model, batch=2))["x"] == (2, 3)
    dim.Clear()
    assert shapes_of(prepare(model, batch=2))["x"] == (2, 3)


def test_other_dynamic_dimensions_are_named_with_the_remedy() -> None:
    with pytest.raises(ModelError) as caught:
        prepare(parse(*RELU))
    assert "inputs with dynamic dimensions: input [N,3,H,W]" in str(caught.value)
    assert "--shape input=1,3,224,224" in (caught.value.hint or "")
    assert caught.value.node == "input"


def test_the_remedy_works() -> None:
    prepared = prepare_and_compare(parse(*RELU), shapes={"input": (1, 3, 6, 5)})
    assert shapes_of(prepared)["y"] == (1, 3, 6, 5)
    pairs = prepare(parse(*RELU), shapes=(("input", (2, 3, 6, 5)),))
    assert shapes_of(pairs)["y"] == (2, 3, 6, 5)


def test_dimensions_of_one_name_are_one_number() -> None:
    model = parse("(float[N,3,H] a, float[N,3,H] b) => (float[N,3,H] y)", "y = Add(a, b)")
    assert shapes_of(prepare_and_compare(model, shapes={"a": (2, 3, 7)}))["b"] == (2, 3, 7)
    with pytest.raises(UsageError, match="'H' of the model two values, 7 and 8"):
        prepare(model, shapes={"a": (2, 3, 7), "b": (2, 3, 8)})


def test_an_unknown_input_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="'inptu', which the model does not have") as caught:
        prepare(parse(*RELU), shapes={"inptu": (1, 3, 5, 7)})
    assert "did you mean input?" in (caught.value.hint or "")
    assert caught.value.node == "--shape"


@pytest.mark.parametrize("shape", [(1, 4, 5, 7), (1, 3, 5), (1, 3, 5, 7, 9)])
def test_a_shape_that_contradicts_the_model_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"contradicts the model.*\[N,3,H,W\]"):
        prepare(parse(*RELU), shapes={"input": shape})


def test_dimensions_below_one_are_refused() -> None:
    with pytest.raises(UsageError, match="dimension below 1"):
        prepare(parse(*RELU), shapes={"input": (1, 3, 0, 7)})
    with pytest.raises(UsageError, match="at least 1, not 0"):
        prepare(parse(*RELU), batch=0)


def test_a_batch_for_a_model_of_fixed_batch_is_refused() -> None:
    model = parse("(float[1,3] x) => (float[1,3] y)", "y = Relu(x)")
    with pytest.raises(UsageError, match="the model's batch is fixed: x \\[1,3\\]"):
        prepare(model, batch=4)


def test_inputs_without_rank_need_a_shape() -> None:
    model = parse("(float[1] x) => (float[1] y)", "y = Relu(x)")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="x of unknown rank"):
        prepare(model)
    assert shapes_of(prepare_and_compare(model, shapes={"x": (2, 5)}))["y"] == (2, 5)


def test_outputs_need_neither_type_nor_shape_in_the_file() -> None:
    model = parse("(float[1,3] x) => (float[1,3] y)", "y = Relu(x)")
    model.graph.output[0].CopyFrom(ValueInfoProto(name="y"))
    prepared = prepare(model)
    assert prepared.model.graph.output[0] == helper.make_tensor_value_info("y", 1, [1, 3])


def test_a_reshape_that_fixed_the_batch_is_found() -> None:
    model = parse("(float[N,4] x) => (float[1,2,2] y) <int64[3] s = {1,2,2}>", "y = Reshape(x, s)")
    prepare_and_compare(model)
    with pytest.raises(ModelError, match=r"number of elements.*\[3,4\] to \[1,2,2\]") as caught:
        prepare(model, batch=3)
    assert caught.value.node == "y"


def test_shapes_that_depend_on_values_are_refused_with_the_node() -> None:
    model = parse(
        "(float[1,4] x, int64[2] s) => (float[A,B] y)", "r = Neg(x) q = Reshape(r, s) y = Neg(q)"
    )
    with pytest.raises(ModelError, match="depend on values") as caught:
        prepare(model)
    assert caught.value.node == "q"


def test_tensors_without_elements_are_refused() -> None:
    model = parse(
        "(float[1,4] x) => (float[1,K] y) <int64[1] a = {3}, int64[1] b = {3}, int64[1] c = {1}>",
        "y = Slice(x, a, b, c)",
    )
    with pytest.raises(ModelError, match="without elements"):
        prepare(model)


def test_shapes_computed_in_the_graph_become_numbers() -> None:
    model = parse(
        "(float[N,3,H,W] x) => (float[N,K] y) <int64 zero = {0}, int64[1] minus = {-1},"
        " int64[1] axes = {0}>",
        """s = Shape(x) n = Gather<axis = 0>(s, zero) n1 = Unsqueeze(n, axes)
        target = Concat<axis = 0>(n1, minus) y = Reshape(x, target)""",
    )
    prepared = prepare_and_compare(model, shapes={"x": (2, 3, 4, 5)})
    assert ops(prepared) == ["Reshape"] and shapes_of(prepared)["y"] == (2, 60)


def test_shape_and_size_honour_their_attributes() -> None:
    model = parse(
        "(float[2,3,4] x) => (int64[2] s, int64 z, float[2,3,4] y)",
        "s = Shape<start = -2>(x) z = Size(x) y = Neg(x)",
        opset=15,
    )
    prepared = prepare_and_compare(model)
    assert ops(prepared) == ["Neg"]


def test_integer_inputs_keep_their_type() -> None:
    model = parse("(int64[2,3] x) => (float[2,3] y)", "y = Cast<to = 1>(x)")
    prepared = prepare_and_compare(model)
    assert prepared.model.graph.input[0].type.tensor_type.elem_type == TensorProto.INT64
    assert np.dtype(np.int64) == helper.tensor_dtype_to_np_dtype(TensorProto.INT64)


@pytest.mark.parametrize("group", [3, 2**62, -1, 0])
def test_groups_that_contradict_the_channels_are_refused(group: int) -> None:
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4,5,5] x) => (float[1,4,5,5] y) {{ y = Conv<group={group}>(x, w) }}"""
    )
    weights = np.ones((4, 2, 1, 1), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    with pytest.raises(ModelError, match="groups of a Conv must divide its channels"):
        prepare(model)


def test_an_output_that_is_the_input_has_its_shape() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3] x) => (float[N,3] x) { y = Abs(x) }"""
    )
    (output,) = prepare(model, batch=2).model.graph.output
    assert static_shape(output) == (2, 3)
