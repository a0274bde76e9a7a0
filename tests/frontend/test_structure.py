"""Graphs that contradict themselves, and files made to exhaust time or memory."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend import graph as graph_module
from bnn_tvm.frontend import prepare, structure
from tests.frontend.models import ops, parse, prepare_and_compare


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    initializers: list[TensorProto] | None = None,
    opset: int = 13,
) -> onnx.ModelProto:
    """A model that onnx.helper does not check."""

    def values(shapes: dict[str, list[int | str]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, 1, shape) for n, shape in shapes.items()]

    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_all_undefined_and_doubly_defined_tensors_are_listed_at_once() -> None:
    nodes = [
        helper.make_node("Add", ["x", "ghost"], ["a"]),
        helper.make_node("Relu", ["spook"], ["b"]),
        helper.make_node("Relu", ["a"], ["b"]),
    ]
    with pytest.raises(ModelError) as caught:
        prepare(model_of(nodes, {"x": [1]}, {"b": [1], "never": [1]}))
    message = str(caught.value)
    assert "'b' is defined more than once" in message
    assert "Add -> a reads 'ghost'" in message and "Relu -> b reads 'spook'" in message
    assert "output 'never' is produced by nothing" in message
    assert caught.value.hint


def test_a_cycle_is_named() -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    with pytest.raises(ModelError, match="cycle through or before Add -> a, Relu -> b"):
        prepare(model_of(nodes, {"x": [1]}, {"b": [1]}))


def test_a_node_that_reads_itself_is_a_cycle() -> None:
    nodes = [helper.make_node("Add", ["x", "a"], ["a"])]
    with pytest.raises(ModelError, match="cycle"):
        prepare(model_of(nodes, {"x": [1]}, {"a": [1]}))


def test_unsorted_nodes_are_sorted() -> None:
    nodes = [helper.make_node("Neg", ["a"], ["b"]), helper.make_node("Sign", ["x"], ["a"])]
    assert ops(prepare_and_compare(model_of(nodes, {"x": [1, 3]}, {"b": [1, 3]}))) == [
        "Sign",
        "Neg",
    ]


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (TensorProto(data_type=1, dims=[1 << 40, 1 << 40], raw_data=b"abcd"), "impossible shape"),
        (TensorProto(data_type=1, dims=[-1], raw_data=b"abcd"), "negative dimensions"),
        (TensorProto(data_type=1, dims=[3], raw_data=b"abcd"), "needs 12 bytes and holds 4"),
        (TensorProto(data_type=1, dims=[3], float_data=[1]), "needs 3 elements and holds 1"),
        (TensorProto(data_type=99, dims=[1], raw_data=b"a"), "unknown element type 99"),
        (TensorProto(data_type=14, dims=[1], float_data=[1, 2]), "complex"),
        (TensorProto(data_type=1, dims=[1] * 100, float_data=[1]), "impossible shape"),
    ],
)
def test_a_constant_whose_size_and_data_disagree_is_refused(tensor: TensorProto, says: str) -> None:
    tensor.name = "w"
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    with pytest.raises(ModelError) as caught:
        prepare(model_of(nodes, {"x": [1]}, {"y": [1]}, [tensor]))
    assert "constant 'w'" in str(caught.value) and says in str(caught.value)


def test_what_onnx_itself_refuses_names_the_node() -> None:
    model = parse("(float[1,3] x) => (float[1,3] y)", "y = Relu<speed = 1>(x)")
    with pytest.raises(ModelError, match="Unrecognized attribute: speed") as caught:
        prepare(model)
    assert caught.value.node == "y"


def test_shapes_that_contradict_one_another_name_the_node() -> None:
    model = parse("(float[1,3] x) => (float[1,3] y) <float[5] w = {1,2,3,4,5}>", "y = Add(x, w)")
    with pytest.raises(ModelError, match="Incompatible dimensions") as caught:
        prepare(model)
    assert caught.value.node == "y"


@pytest.mark.parametrize("kind", ["sequence", "string"])
def test_inputs_that_are_no_numbers_are_refused(kind: str) -> None:
    model = parse("(float[1,3] x) => (float[1,3] y)", "y = Relu(x)")
    if kind == "sequence":
        model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1
    else:
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ModelError, match="is no tensor" if kind == "sequence" else "string"):
        prepare(model)


def test_sparse_initializers_are_refused() -> None:
    model = parse("(float[1,3] x) => (float[1,3] y)", "y = Relu(x)")
    sparse = model.graph.sparse_initializer.add()
    sparse.values.name = "w"
    with pytest.raises(ModelError, match="sparse initializer 'w'"):
        prepare(model)


def test_a_model_without_inputs_is_refused() -> None:
    with pytest.raises(ModelError, match="no inputs"):
        prepare(parse("() => (float[1] y) <float[1] w = {2}>", "y = Neg(w)"))


def test_impossible_input_shapes_are_refused() -> None:
    model = parse("(float[1,3,100000,100000] x) => (float[1,3,100000,100000] y)", "y = Relu(x)")
    with pytest.raises(ModelError, match="impossible shape"):
        prepare(model)
    model = parse("(float[1,9000000000000] x) => (float[1,9000000000000] y)", "y = Relu(x)")
    with pytest.raises(ModelError, match="has a dimension of 9000000000000"):
        prepare(model)


def test_tensors_that_grow_without_bound_are_refused_before_they_are_made() -> None:
    doubling = " ".join(f"a{i + 1} = Concat<axis = 0>(a{i}, a{i})" for i in range(40))
    model = parse("(float[1,3] x) => (float[M,3] y)", f"a0 = Relu(x) {doubling} y = Neg(a40)")
    with pytest.raises(ModelError, match="tensors of more than"):
        prepare(model)


def test_a_chain_of_5000_nodes_takes_seconds() -> None:
    n = 5000
    nodes = [helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(n)]
    start = time.monotonic()
    prepared = prepare(model_of(nodes, {"t0": [1, 3]}, {f"t{n}": [1, 3]}))
    # A guard against quadratic work, which takes minutes here; the real time is under a second.
    assert time.monotonic() - start < 20
    assert len(prepared.model.graph.node) == n


def test_a_constant_chain_of_3000_nodes_is_folded_in_one_go() -> None:
    n = 3000
    nodes = [helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(n)]
    nodes.append(helper.make_node("Add", ["x", f"t{n}"], ["y"]))
    held = [numpy_helper.from_array(np.ones(3, np.float32), "t0")]
    prepared = prepare(model_of(nodes, {"x": [1, 3]}, {"y": [1, 3]}, held))
    assert ops(prepared) == ["Add"]


@pytest.mark.parametrize("step", [1 << 32, 1 << 62, 0])
def test_endless_slices_of_shapes_end(step: int) -> None:
    model = parse(
        "(float[2,3,4,5] x) => (float[A,B] y) <int64[1] a = {0}, int64[1] b = {4}>",
        f"""t = Constant<value_ints = [{step}]>() h = Shape(x) k = Slice(h, a, b, a, t)
        y = Reshape(x, k)""",
    )
    with pytest.raises(ModelError):
        prepare(model)


def test_a_shape_of_endless_length_is_not_written_out() -> None:
    model = parse(
        "(float[2,3] x) => (float[A,B] y) <int64[1] n = {144115188075855876}>",
        "c = ConstantOfShape<value = int64[1] {1}>(n) d = Concat<axis = 0>(n, c) y = Reshape(x, d)",
    )
    with pytest.raises(ModelError, match="unknown or excessive size"):
        prepare(model)


def test_shapes_known_block_by_block_are_found_without_propagation() -> None:
    n = 60
    body = " ".join(
        f"s{i} = Shape(a{i}) z{i} = ConstantOfShape(s{i}) e{i} = Expand(w, s{i})"
        f" b{i} = Add(a{i}, e{i}) a{i + 1} = Sub(b{i}, z{i})"
        for i in range(n)
    )
    model = parse(
        "(float[1,3,4,4] x) => (float[1,3,4,4] y) <float[3,1,1] w = {1, 2, 3}>",
        f"a0 = Neg(x) {body} y = Neg(a{n})",
    )
    assert ops(prepare_and_compare(model)).count("Add") == n


def test_too_many_nodes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "MAX_NODES", 2)
    assert graph_module.MAX_NODES >= 100_000
    with pytest.raises(ModelError, match="3 nodes"):
        prepare(parse("(float[1] x) => (float[1] y)", "a = Neg(x) b = Neg(a) y = Neg(b)"))
