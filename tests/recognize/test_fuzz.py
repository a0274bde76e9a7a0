"""Damaged and hostile models through `inspect`: a decision table or an error with a hint, soon."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnn_tvm import api
from bnn_tvm.errors import BnnError
from tests.frontend.models import parse
from tests.frontend.test_mutations import mutate
from tests.recognize.nets import Net

LIMIT_S = 20.0
NUMBERS = [-(1 << 63), -(1 << 31), -5, -2, -1, 0, 1, 2, 3, 7, 64, 1 << 20, 1 << 31, (1 << 63) - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 3e38, float("inf"), float("-inf"), float("nan")]
# fmt: off
OPS = [
    "Sign", "Relu", "Clip", "Where", "Greater", "Cast", "Mul", "Add", "Pad", "Transpose", "Reshape",
    "Slice", "Split", "Concat", "MaxPool", "Gather", "Squeeze", "Unsqueeze", "Flatten", "Gemm",
    "MatMul", "Conv", "BatchNormalization", "Round", "PRelu", "Identity", "Shape", "Expand",
    "NonZero", "ScatterND", "Div", "Mod", "Resize", "Tile", "Softmax", "ArgMax", "Dropout", "Size",
    "Range",
]
# fmt: on


def starts() -> list[onnx.ModelProto]:
    """Networks in which every part of recognition has something to do."""
    net = Net([1, 4, 6, 6])
    x = net.bn(net.conv("x", net.signs(6, 4, 3, 3), pads=[1, 1, 1, 1]), 6)
    x = net.conv(net.pad(net.op("Sign", x), 1, -1.0), net.signs(6, 6, 3, 3), sign=True)
    at_least = net.op("GreaterOrEqual", x, net.const(0.5))
    x = net.op("Where", at_least, net.const(1), net.const(-1))
    x = net.op("MaxPool", x, kernel_shape=[2, 2])
    x = net.op("Transpose", x, perm=[0, 2, 3, 1])
    x = net.op("Reshape", x, net.const([1, -1], np.int64))
    net.op("MatMul", x, net.const(net.signs(150, 5)))

    sums = Net([2, 4, 5, 5])
    low = sums.op("Clip", "x", sums.const(-1), sums.const(1))
    y = sums.op("Add", sums.op("Sub", sums.op("Sign", "x"), low), low)
    a = sums.op("Slice", y, *(sums.const([v], np.int64) for v in (0, 2, 1, 1)))
    b = sums.op("Slice", y, *(sums.const([v], np.int64) for v in (-1, 1, 1, -1)))
    y = sums.op("Concat", a, b, axis=1)
    sums.op("Relu", sums.conv(y, sums.signs(3, 4, 3, 3)))

    shape = parse(
        "(float[1,3,4,4] x) => (float[1,K] y) <int64 z = {0}, int64[1] m = {-1}, int64[1] q = {0}>",
        """s = Shape(x) n = Gather(s, z) u = Unsqueeze(n, q) t = Concat<axis = 0>(u, m)
        r = Sign(x) y = Reshape(r, t)""",
    )
    branch = parse(
        "(float[2,3] x) => (float[2,3] y) <bool c = {1}>",
        """t = If(c) <then_branch = a () => (float[2,3] o) { o = Sign(x) },
        else_branch = b () => (float[2,3] p) { p = Identity(x) }> y = Abs(t)""",
    )
    return [net.model(), sums.model(), shape, branch]


Mutation = Callable[[onnx.GraphProto, random.Random], None]


def _attribute(graph: onnx.GraphProto, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    if not node.attribute or rng.random() < 0.2:
        name = rng.choice(["axis", "pads", "perm", "group", "to", "strides", "dilations", "mode"])
        node.attribute.append(helper.make_attribute(name, rng.choice(NUMBERS)))
        return
    attr = rng.choice(node.attribute)
    if attr.ints:
        attr.ints[rng.randrange(len(attr.ints))] = rng.choice(NUMBERS)
        if rng.random() < 0.3:
            attr.ints.append(rng.choice(NUMBERS))
    elif attr.type == onnx.AttributeProto.INT:
        attr.i = rng.choice(NUMBERS)
    elif attr.type == onnx.AttributeProto.FLOAT:
        attr.f = rng.choice(FLOATS)
    else:
        node.attribute.remove(attr)


def _initializer(graph: onnx.GraphProto, rng: random.Random) -> None:
    if not graph.initializer:
        return
    tensor = rng.choice(graph.initializer)
    if tensor.data_type == TensorProto.STRING:
        return
    array = numpy_helper.to_array(tensor).copy()
    kind = rng.randrange(5)
    if kind == 0 and array.size:
        values = NUMBERS if array.dtype.kind == "i" else FLOATS
        with np.errstate(all="ignore"):
            array.flat[rng.randrange(array.size)] = rng.choice(values)
    elif kind == 1:
        array = array.astype(rng.choice(["f2", "f4", "f8", "i1", "i4", "i8", "u1", "?"]))
    elif kind == 2:
        array = array[:0] if array.ndim else array
    elif kind == 3:
        array = array.reshape(rng.choice([(-1,), (1, -1), (-1, 1), (*array.shape, 1)]))
    else:
        array = np.full(array.shape, rng.choice([0, 1, -1, 2]), array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _strings(graph: onnx.GraphProto, rng: random.Random) -> None:
    if graph.initializer:
        tensor = rng.choice(graph.initializer)
        count = int(np.prod(tensor.dims)) if len(tensor.dims) else 1
        text = helper.make_tensor(tensor.name, TensorProto.STRING, tensor.dims, [b"a"] * count)
        tensor.CopyFrom(text)


def _sparse(graph: onnx.GraphProto, rng: random.Random) -> None:
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [2], [1.0, -1.0])
    indices = helper.make_tensor("", TensorProto.INT64, [2], [0, rng.choice(NUMBERS)])
    graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, indices, [rng.choice(NUMBERS[5:])])
    )
    if graph.node:
        rng.choice(graph.node).input.append("sparse")


def _dims(graph: onnx.GraphProto, rng: random.Random) -> None:
    value = rng.choice([*graph.input, *graph.output, *graph.value_info])
    dims = value.type.tensor_type.shape.dim
    kind = rng.randrange(4)
    if kind == 0 or not dims:
        dims.add().dim_value = rng.choice(NUMBERS)
    elif kind == 1:
        del dims[rng.randrange(len(dims))]
    elif kind == 2:
        rng.choice(dims).dim_param = "N"
    else:
        rng.choice(dims).dim_value = rng.choice(NUMBERS)


def _element_type(graph: onnx.GraphProto, rng: random.Random) -> None:
    value = rng.choice([*graph.input, *graph.output])
    value.type.tensor_type.elem_type = rng.randrange(30)


def _rewire(graph: onnx.GraphProto, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    names = [name for n in graph.node for name in (*n.output, *n.input)] + ["", "absent"]
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)


def _operator(graph: onnx.GraphProto, rng: random.Random) -> None:
    rng.choice(graph.node).op_type = rng.choice(OPS)


def _insert(graph: onnx.GraphProto, rng: random.Random) -> None:
    """Another node in front of a random input."""
    node = rng.choice(graph.node)
    if not node.input:
        return
    at = rng.randrange(len(node.input))
    name = f"inserted{rng.randrange(10**9)}"
    others = [rng.choice([t.name for t in graph.initializer] or [""]) for _ in range(2)]
    inputs = [node.input[at], *others[: rng.randrange(3)]]
    graph.node.add().CopyFrom(helper.make_node(rng.choice(OPS), inputs, [name]))
    node.input[at] = name


def _remove(graph: onnx.GraphProto, rng: random.Random) -> None:
    if len(graph.node) > 1:
        del graph.node[rng.randrange(len(graph.node))]


def _control_flow(graph: onnx.GraphProto, rng: random.Random) -> None:
    """A Loop, Scan or If around a copy of the graph's own nodes."""
    node = rng.choice(graph.node)
    body = onnx.GraphProto(name="body")
    body.node.extend(graph.node[: rng.randrange(1, 4)])
    body.output.extend(onnx.ValueInfoProto(name=n) for n in body.node[-1].output)
    kind = rng.choice(["Loop", "Scan", "If"])
    names = {"Loop": ["body"], "Scan": ["body"], "If": ["then_branch", "else_branch"]}[kind]
    node.op_type = kind
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(name, body) for name in names)
    if kind == "Scan":
        node.attribute.append(helper.make_attribute("num_scan_inputs", rng.choice(NUMBERS)))


MUTATIONS: tuple[Mutation, ...] = (
    *(_attribute, _attribute, _initializer, _initializer, _strings, _sparse, _dims),
    *(_element_type, _rewire, _rewire, _operator, _insert, _remove, _control_flow),
)


def check(path: Path, data: bytes, what: object) -> str:
    path.write_bytes(data)
    begun = time.monotonic()
    try:
        api.inspect(path)
    except BnnError as error:
        assert type(error) is not BnnError, f"{what}: a bug: {error}"
        assert error.hint, f"{what}: no hint: {error}"
        outcome = error.kind
    except Exception as error:
        path.with_suffix(".crash").write_bytes(data)
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    else:
        outcome = "inspected"
    took = time.monotonic() - begun
    assert took < LIMIT_S, f"{what}: {took:.0f} s"
    return outcome


def fuzz(folder: Path, rounds: range) -> dict[str, int]:
    """One model per number; the number alone makes it again."""
    models = starts()
    outcomes: dict[str, int] = {}
    for seed in rounds:
        rng = random.Random(seed)
        model = onnx.ModelProto()
        model.CopyFrom(rng.choice(models))
        if rng.random() < 0.2:
            data = mutate(model.SerializeToString(), rng)
            what = f"bytes, seed {seed}"
        else:
            chosen = [rng.choice(MUTATIONS) for _ in range(rng.choice([1, 1, 2, 3]))]
            for mutation in chosen:
                mutation(model.graph, rng)
            data = model.SerializeToString()
            what = f"{[m.__name__ for m in chosen]}, seed {seed}"
        outcome = check(folder / "mutant.onnx", data, what)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def test_starts_are_valid_and_binary(tmp_path: Path) -> None:
    decisions = []
    for model in starts():
        onnx.save(model, tmp_path / "start.onnx")
        decisions += api.inspect(tmp_path / "start.onnx").decisions
    assert [d["binary"] for d in decisions] == [False, True, True, True], decisions


def test_mutants_are_inspected_or_refused(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, range(220))
    assert set(outcomes) >= {"inspected", "model"}, outcomes
    assert outcomes["inspected"] >= 20, outcomes


@pytest.mark.slow
def test_many_mutants_are_inspected_or_refused(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, range(1000, 7000))
    assert outcomes["inspected"] >= 300, outcomes
