"""Every kind of layer, two-valued input and structure in between, exact after rewriting."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnn_tvm.recognize import Recognition
from bnn_tvm.recognize.graph import attribute
from tests.recognize.nets import Net, check, find, operators


def binariser(net: Net, x: str, low: float = -1, high: float = 1) -> str:
    """x >= 0 ? high : low, which says what 0 is."""
    return net.op(
        "Where", net.op("GreaterOrEqual", x, net.const(0)), net.const(high), net.const(low)
    )


def all_binary(found: Recognition) -> Recognition:
    for decision in found.decisions:
        assert decision.binary, decision
        assert not decision.implied
    return found


@pytest.mark.parametrize(
    "case",
    [
        {"ci": 1, "co": 1, "k": (3, 3)},
        {"ci": 3, "co": 5, "k": (3, 3), "pads": [1, 1, 1, 1]},
        {"ci": 37, "co": 4, "k": (1, 1)},
        {"ci": 16, "co": 8, "k": (5, 3), "pads": [2, 0, 1, 2], "strides": [2, 3]},
        {"ci": 8, "co": 8, "k": (3, 3), "pads": [2, 2, 2, 2], "dilations": [2, 2]},
        {"ci": 8, "co": 12, "k": (3, 3), "group": 4, "pads": [1, 1, 1, 1]},
        {"ci": 8, "co": 8, "k": (3, 3), "group": 8, "pads": [1, 0, 0, 1]},
        {"ci": 4, "co": 4, "k": (3, 3), "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"ci": 4, "co": 4, "k": (2, 4), "auto_pad": "SAME_LOWER"},
        {"ci": 4, "co": 4, "k": (3, 3), "auto_pad": "VALID"},
    ],
    ids=str,
)
@pytest.mark.parametrize("values", [(-1, 1), (0, 1), (0, 0.3), (1, -1), (-0.5, 2)], ids=str)
@pytest.mark.parametrize("scaled", [False, True])
def test_convolutions_are_exact(case: dict, values: tuple, scaled: bool) -> None:
    case = dict(case)
    ci, co, kernel = case.pop("ci"), case.pop("co"), case.pop("k")
    net = Net([2, ci, 9, 7])
    weights = net.signs(co, ci // case.get("group", 1), *kernel)
    bias = None
    if scaled:
        weights = weights * net.rng.uniform(-3, 3, (co, 1, 1, 1)).astype(np.float32)
        bias = net.rng.normal(size=co)
    net.conv(binariser(net, "x", *values), weights, bias=bias, **case)
    all_binary(check(net))


@pytest.mark.parametrize("pads", [[0, 0], [1, 1], [2, 0]])
def test_one_dimensional_convolutions_are_exact(pads: list[int]) -> None:
    for values in ((-1, 1), (0, 1)):
        net = Net([2, 6, 11])
        net.conv(binariser(net, "x", *values), net.signs(4, 3, 3), group=2, pads=pads, strides=[2])
        all_binary(check(net))


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("c", [None, (), (1,), (6,), (1, 6), (5, 1), (5, 6)], ids=str)
@pytest.mark.parametrize("weights_first", [False, True])
def test_gemm_is_exact(trans_a: int, trans_b: int, c: tuple | None, weights_first: bool) -> None:
    m, k, n = 5, 12, 6
    shapes = ((k, m) if trans_a else (m, k)), ((n, k) if trans_b else (k, n))
    net = Net(shapes[1] if weights_first else shapes[0])
    s = binariser(net, "x", 0, 1)
    w = net.const(net.signs(*shapes[0 if weights_first else 1]))
    extra = [] if c is None else [net.const(net.rng.normal(size=c))]
    a, b = (w, s) if weights_first else (s, w)
    net.op("Gemm", a, b, *extra, transA=trans_a, transB=trans_b, alpha=0.5, beta=2.0)
    all_binary(check(net))


@pytest.mark.parametrize("shape", [(3, 10), (2, 3, 10), (10,)])
def test_matmul_by_constant_weights_is_exact(shape: tuple[int, ...]) -> None:
    net = Net(shape)
    weights = net.signs(10, 4) * net.rng.uniform(0.1, 2, 4).astype(np.float32)
    net.op("MatMul", binariser(net, "x"), net.const(weights))
    all_binary(check(net))


@pytest.mark.parametrize("shape", [(10, 3), (2, 10, 3)])
def test_constant_times_x_is_exact(shape: tuple[int, ...]) -> None:
    net = Net(shape)
    net.op("MatMul", net.const(net.signs(4, 10)), binariser(net, "x", 0, 2))
    all_binary(check(net))


def test_layers_that_cannot_be_binary_say_why() -> None:
    net = Net([2, 4, 4])
    s = binariser(net, "x")
    a = net.op("MatMul", s, s)
    b = net.op("MatMul", s, net.const(net.signs(2, 4, 4)))
    reasons = [d.reason for d in find(net, a, b).decisions]
    assert "no constant weights" in reasons[0]
    assert "weights have 3 dimensions" in reasons[1]
    deep = Net([1, 2, 4, 4, 4])
    deep.conv(binariser(deep, "x"), deep.signs(2, 2, 3, 3, 3))
    assert "3 spatial dimensions" in find(deep).decisions[0].reason


def test_weights_that_are_zero_in_one_channel_are_exact_and_zeros_elsewhere_are_not_binary() -> (
    None
):
    net = Net([1, 8, 5, 5])
    weights = net.signs(4, 8, 3, 3)
    weights[2] = 0
    net.conv(binariser(net, "x"), weights, bias=[1, 2, 3, 4])
    all_binary(check(net))
    weights[1, 0, 0, 0] = 0
    other = Net([1, 8, 5, 5])
    other.conv(binariser(other, "x"), weights)
    assert "output channel 1 holds 0 as well as +-1" in find(other).decisions[0].reason


@pytest.mark.parametrize(("spread", "binary"), [(4e-7, True), (4e-6, False)])
def test_scales_may_differ_by_rounding_alone(spread: float, binary: bool) -> None:
    net = Net([1, 8, 5, 5])
    noise = 1 + net.rng.uniform(-spread, spread, (4, 8, 3, 3))
    net.conv(binariser(net, "x"), net.signs(4, 8, 3, 3) * 0.7 * noise)
    assert find(net).decisions[0].binary == binary


# Between the binariser and the layer ---------------------------------------------------------


def between(kind: str, net: Net, s: str) -> tuple[str, int]:
    """Apply one kind of structure to s [2, 8, 6, 6]; the result and its channels."""
    if kind == "maxpool":
        return net.op("MaxPool", s, kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0]), 8
    if kind == "transposes":
        return net.op("Transpose", net.op("Transpose", s, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2]), 8
    if kind == "shuffle":
        x = net.op("Reshape", s, net.const([2, 2, 4, 6, 6], np.int64))
        x = net.op("Transpose", x, perm=[0, 2, 1, 3, 4])
        return net.op("Reshape", x, net.const([2, 8, 6, 6], np.int64)), 8
    if kind == "concat":
        return net.op("Concat", s, binariser(net, net.op("Neg", "x"), -1, 1), axis=1), 16
    if kind == "split":
        net.nodes.append(helper.make_node("Split", [s], ["part0", "part1"], axis=1))
        return "part1", 4
    if kind == "slice":
        limits = [net.const([v], np.int64) for v in (1, 6, 1, 2)]
        return net.op("Slice", s, *limits), 3
    if kind == "gather":
        return net.op("Gather", s, net.const([5, 0, 2], np.int64), axis=1), 3
    if kind == "pad-reflect":
        pads = net.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
        return net.op("Pad", s, pads, mode="reflect"), 8
    assert kind == "identity"
    return net.op("Identity", s), 8


KINDS = [
    "maxpool",
    "transposes",
    "shuffle",
    "concat",
    "split",
    "slice",
    "gather",
    "pad-reflect",
    "identity",
]


@pytest.mark.parametrize("kind", KINDS)
def test_structure_between_binariser_and_conv_keeps_two_values(kind: str) -> None:
    net = Net([2, 8, 6, 6])
    x, channels = between(kind, net, binariser(net, "x"))
    net.conv(x, net.signs(4, channels, 3, 3), pads=[1, 1, 1, 1])
    all_binary(check(net))


@pytest.mark.parametrize("kind", KINDS)
def test_values_per_channel_follow_the_structure(kind: str) -> None:
    net = Net([2, 8, 6, 6])
    s = net.op("Add", binariser(net, "x"), net.const(net.rng.normal(size=(8, 1, 1))))
    x, channels = between(kind, net, s)
    net.conv(x, net.signs(4, channels, 3, 3), pads=[1, 1, 1, 1])
    all_binary(check(net, repeat=2))


@pytest.mark.parametrize("flatten", ["Flatten", "Reshape"])
def test_flatten_before_a_dense_layer(flatten: str) -> None:
    net = Net([2, 8, 3, 3])
    s = net.op("Add", binariser(net, "x"), net.const(net.rng.normal(size=(8, 1, 1))))
    if flatten == "Flatten":
        x = net.op("Flatten", s)
    else:
        x = net.op("Reshape", s, net.const([2, -1], np.int64))
    net.op("MatMul", x, net.const(net.signs(72, 5)))
    all_binary(check(net))


def test_maxpool_of_a_falling_function_is_exact() -> None:
    net = Net([2, 8, 6, 6])
    s = binariser(net, "x")
    pooled = net.op("MaxPool", s, kernel_shape=[3, 3])
    again = net.op("MaxPool", net.op("Mul", pooled, net.const(-0.5)), kernel_shape=[2, 2])
    net.conv(again, net.signs(4, 8, 1, 1))
    assert "Neg" in operators(all_binary(check(net)).model)


def test_channels_that_rise_and_fall_are_exact() -> None:
    net = Net([2, 8, 6, 6])
    pooled = net.op("MaxPool", binariser(net, "x"), kernel_shape=[2, 2])
    flips = net.signs(8, 1, 1)
    net.conv(net.op("Mul", pooled, net.const(flips)), net.signs(4, 8, 1, 1))
    all_binary(check(net))


def test_steps_of_different_height_stay_float_unless_a_group_has_one_height() -> None:
    heights = np.repeat([0.5, 2.0], 4).reshape(8, 1, 1)
    for group, binary in ((1, False), (2, True)):
        net = Net([2, 8, 6, 6])
        s = net.op("Mul", binariser(net, "x"), net.const(heights))
        net.conv(s, net.signs(4, 8 // group, 3, 3), group=group)
        decision = find(net, mode="aggressive").decisions[0]
        if binary:
            all_binary(check(net))
        else:
            assert decision.implied == ("binarized-input",)
            assert "distance of its values differs" in decision.reason


def test_channels_that_are_constant_are_exact() -> None:
    net = Net([2, 8, 6, 6])
    scale = np.ones(8)
    scale[[1, 5]] = 0
    bias = net.rng.normal(size=8)
    parts = [scale, bias, np.zeros(8), np.ones(8)]
    x = net.op("BatchNormalization", "x", *[net.const(p) for p in parts])
    net.conv(binariser(net, x, 0, 1), net.signs(4, 8, 3, 3), pads=[1, 1, 1, 1])
    all_binary(check(net))


# Shape of the rewritten model ----------------------------------------------------------------


def test_the_binariser_reads_the_farthest_tensor_and_pads_are_folded() -> None:
    net = Net([1, 8, 6, 6])
    hidden = net.conv(net.op("Sign", "x"), net.signs(8, 8, 3, 3), sign=True, pads=[1, 1, 1, 1])
    x = net.op("Clip", net.bn(hidden, 8), net.const(-1), net.const(1))
    s = net.pad(net.op("Sign", x), 1, -1.0)
    net.conv(s, net.signs(4, 8, 3, 3), sign=True)
    model = all_binary(check(net, zeros=False)).model
    assert operators(model) == ["Binarize", "BinaryConv", "Binarize", "BinaryConv"]
    last = model.graph.node[-1]
    assert attribute(last, "pad_value") == -1 and attribute(last, "pads") == [1, 1, 1, 1]
    assert model.graph.node[2].input[0] == hidden
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert arrays[model.graph.node[2].input[1]].shape == (1, 8, 1, 1)
    assert set(arrays[model.graph.node[2].input[2]].ravel()) == {-1, 1}
    assert arrays[last.input[1]].dtype == np.int8


@pytest.mark.parametrize("kind", ["Tanh", "Sigmoid", "Erf"])
def test_no_threshold_is_moved_before_a_function_without_exact_values(kind: str) -> None:
    net = Net([1, 8, 6, 6])
    squashed = net.op(kind, net.bn("x", 8))
    net.conv(binariser(net, net.op("Sub", squashed, net.const(0.2))), net.signs(4, 8, 3, 3))
    assert operators(all_binary(check(net)).model)[-2:] == ["Binarize", "BinaryConv"]
    assert squashed in [i for n in find(net).model.graph.node for i in n.input]


def test_a_straight_through_sum_of_such_a_function_is_still_a_step_of_x() -> None:
    net = Net([1, 8, 6, 6])
    soft = net.op("Tanh", "x")
    net.conv(net.op("Add", net.op("Sub", binariser(net, "x"), soft), soft), net.signs(4, 8, 3, 3))
    assert operators(all_binary(check(net)).model) == ["Binarize", "BinaryConv"]


@pytest.mark.parametrize("value", [-1.0, 1.0, 0.0])
def test_a_pad_before_the_binariser_is_folded(value: float) -> None:
    net = Net([1, 8, 6, 6])
    hidden = net.bn(net.op("PRelu", "x", net.const(0.2)), 8)
    net.conv(binariser(net, net.pad(hidden, 1, value)), net.signs(4, 8, 3, 3), sign=True)
    model = all_binary(check(net, mode="strict")).model
    assert operators(model) == ["Binarize", "BinaryConv"]
    assert attribute(model.graph.node[-1], "pad_value") == (-1 if value < 0 else 1)


def test_the_sign_of_zero_padding_is_zero_padding() -> None:
    net = Net([1, 8, 6, 6])
    hidden = net.bn(net.op("PRelu", "x", net.const(0.2)), 8)
    padded = net.pad(net.op("Add", hidden, net.const(0.01)), [1, 1, 0, 2], 0.0)
    net.conv(net.op("Sign", padded), net.signs(4, 8, 3, 3), sign=True)
    model = all_binary(check(net, zeros=False)).model
    assert operators(model) == ["Binarize", "BinaryConv"]
    assert attribute(model.graph.node[-1], "pad_value") == 0
    assert "zero padding" in find(net, mode="strict").decisions[0].reason


def test_layers_of_one_structure_share_one_evaluation() -> None:
    from bnn_tvm.frontend import prepare
    from bnn_tvm.options import CompileOptions
    from bnn_tvm.recognize import decide
    from bnn_tvm.recognize.graph import Graph

    net, x = Net([1, 4, 5, 5]), "x"
    for _ in range(30):
        x = net.bn(net.conv(binariser(net, x), net.signs(4, 4, 1, 1)), 4)
    decider = decide._Decider(Graph(prepare(net.model()).model), {}, CompileOptions(), frozenset())
    for layer in decide.layers(decider.graph):
        decider.decide(layer)
    assert len(decider.plans) == 30
    assert len(decider.facts.sessions) <= 3


def test_a_tensor_that_something_else_uses_is_the_source() -> None:
    net = Net([1, 8, 6, 6])
    shortcut = net.bn("x", 8)
    y = net.conv(binariser(net, shortcut), net.signs(8, 8, 3, 3), pads=[1, 1, 1, 1])
    net.op("Add", y, shortcut)
    model = all_binary(check(net)).model
    binarize = next(n for n in model.graph.node if n.op_type == "Binarize")
    assert binarize.input[0] == shortcut


def test_several_users_share_one_binariser_and_the_float_tensor_stays_for_others() -> None:
    net = Net([1, 8, 6, 6])
    s = binariser(net, "x")
    a = net.conv(s, net.signs(8, 8, 3, 3), pads=[1, 1, 1, 1])
    b = net.conv(s, net.signs(8, 8, 1, 1))
    net.op("Add", net.op("Add", a, b), s)
    model = all_binary(check(net)).model
    kinds = operators(model)
    assert kinds.count("Binarize") == 1 and kinds.count("BinaryConv") == 2
    assert "Where" in kinds


def test_zero_padding_needs_no_full_offset_where_the_middle_is_zero() -> None:
    for values, rank in (((-1, 1), 1), ((0, 1), 1), ((-1, 3), 4)):
        net = Net([1, 8, 6, 6])
        net.conv(binariser(net, "x", *values), net.signs(4, 8, 3, 3), pads=[1, 1, 1, 1])
        model = all_binary(check(net)).model
        offset = model.graph.node[-1].input[3]
        (shape,) = [t.dims for t in model.graph.initializer if t.name == offset]
        assert len(shape) == rank


def test_every_tensor_of_the_rewritten_model_has_a_shape() -> None:
    net = Net([2, 8, 6, 6])
    x, channels = between("shuffle", net, binariser(net, net.bn("x", 8)))
    y = net.conv(x, net.signs(4, channels, 3, 3))
    net.op("Gemm", net.op("Flatten", y), net.const(net.rng.normal(size=(64, 3))))
    model = find(net).model
    known = {v.name: v for v in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        for name in node.output:
            dims = known[name].type.tensor_type.shape.dim
            assert dims and all(d.dim_value > 0 for d in dims), name
            assert known[name].type.tensor_type.elem_type == TensorProto.FLOAT


def test_the_given_model_is_left_alone() -> None:
    net = Net([1, 8, 6, 6])
    net.conv(binariser(net, "x"), net.signs(4, 8, 3, 3))
    from bnn_tvm.frontend import prepare
    from bnn_tvm.options import CompileOptions
    from bnn_tvm.recognize import recognize

    prepared = prepare(net.model())
    before = prepared.model.SerializeToString()
    recognize(prepared, CompileOptions())
    assert prepared.model.SerializeToString() == before


# Bounded work --------------------------------------------------------------------------------


def test_a_region_that_onnxruntime_cannot_run_is_a_reason_and_no_crash() -> None:
    net = Net([1, 8, 6, 6])
    above = net.op("Greater", "x", net.const(0))
    chosen = net.op("Where", above, net.const(True, bool), net.const(False, bool))
    net.conv(net.op("Cast", chosen, to=TensorProto.FLOAT), net.signs(4, 8, 3, 3))
    decision = find(net, mode="moderate").decisions[0]
    assert not decision.binary and "cannot be evaluated" in decision.reason


def test_a_lattice_of_concats_is_looked_at_once_per_tensor() -> None:
    from bnn_tvm.frontend import prepare
    from bnn_tvm.recognize import origin
    from bnn_tvm.recognize.graph import Graph

    net = Net([1, 1, 2])
    a, b = net.op("Relu", "x"), net.op("Abs", "x")
    for _ in range(20):
        a, b = net.op("Concat", a, b, axis=1), net.op("Concat", b, a, axis=1)
        a = net.op("MaxPool", a, kernel_shape=[2])
        b = net.op("Slice", b, *_first(net))
        a = net.op("Slice", net.op("Concat", a, a, axis=2), *_first(net))
    graph = Graph(prepare(net.model(a, b)).model)
    known: dict[str, bool] = {}
    origin.non_negative(graph, a, known)
    assert len(known) <= len(graph.nodes) + len(graph.initializers) + 1


def test_a_deep_chain_needs_no_deep_recursion() -> None:
    net = Net([1, 4, 3, 3])
    x = net.op("Sign", "x")
    for _ in range(1500):
        x = net.op("Transpose", x, perm=[0, 1, 3, 2])
    net.conv(x, net.signs(2, 4, 1, 1))
    assert find(net).decisions[0].binary


def _first(net: Net) -> list[str]:
    return [net.const([v], np.int64) for v in (0, 1, 1)]
