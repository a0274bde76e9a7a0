"""Recognition does not depend on how a binariser is written, and takes nothing else for one.

A random spelling is a step between two values written down at random: what goes before it
(affine maps, clips, comparisons), the step itself, what goes behind, and straight-through sums
around it. Whatever comes out, the layer is binary and exact, at zero and at the threshold too.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from bnn_tvm.frontend import prepare
from bnn_tvm.options import CompileOptions
from bnn_tvm.recognize import floats, recognize
from tests.recognize.nets import Net, assert_exact, check, find

CHANNELS = 4


class Spelling:
    """Draws nodes and adds them to a network."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.net = Net([2, CHANNELS, 5, 5], seed=draw(st.integers(0, 10**6)))
        self.straight_through = False

    def pick(self, *choices: str) -> str:
        return self.draw(st.sampled_from(choices))

    def number(self, low: float, high: float) -> str:
        """A constant: a scalar, per channel, or per channel written out over H and W."""
        net, shape = self.net, self.pick("scalar", "channel", "full")
        if shape == "scalar":
            return net.const(net.rng.uniform(low, high))
        values = net.rng.uniform(low, high, (CHANNELS, 1, 1))
        if shape == "full":
            values = np.broadcast_to(values, (1, CHANNELS, 5, 5))
        return net.const(values)

    def before(self, x: str) -> str:
        net = self.net
        for _ in range(self.draw(st.integers(0, 3))):
            kind = self.pick("bn", "add", "sub", "rsub", "mul", "div", "prelu", "clip", "tanh")
            if kind == "bn":
                x = net.bn(x, CHANNELS)
            elif kind == "add":
                x = net.op("Add", self.number(-1, 1), x)
            elif kind == "sub":
                x = net.op("Sub", x, self.number(-1, 1))
            elif kind == "rsub":
                x = net.op("Sub", self.number(-1, 1), x)
            elif kind == "mul":
                x = net.op("Mul", x, self.number(0.2, 3))
            elif kind == "div":
                x = net.op("Div", x, self.number(-3, -0.2))
            elif kind == "prelu":
                x = net.op("PRelu", x, net.const(net.rng.uniform(0, 1, (CHANNELS, 1, 1))))
            elif kind == "clip":
                x = net.op("Clip", x, net.const(-1.5), net.const(1.5))
            else:
                x = net.op("Tanh", x)
        return x

    def condition(self, x: str) -> tuple[str, str]:
        """A boolean, and the same negated, both in a random spelling."""
        net = self.net
        limit = self.number(-0.3, 0.3)
        kind = self.pick("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
        inputs = [x, limit] if self.draw(st.booleans()) else [limit, x]
        truth = net.op(kind, *inputs)
        negated = net.op("Not", truth)
        return (truth, negated) if self.draw(st.booleans()) else (negated, truth)

    def step(self, x: str) -> str:
        """A step between -1 and 1 or between 0 and 1 that says what it does at zero."""
        net = self.net
        kind = self.pick("where", "cast", "sign-eps-sign", "round", "sign-where", "floor")
        if kind == "where":
            return net.op("Where", self.condition(x)[0], net.const(1), net.const(-1))
        if kind == "cast":
            y = net.op("Cast", self.condition(x)[1], to=TensorProto.FLOAT)
            if self.draw(st.booleans()):
                y = net.op("Sub", net.op("Mul", y, net.const(2)), net.const(1))
            return y
        if kind == "sign-eps-sign":
            nudge = net.const(float(self.pick("0.1", "-0.1", "0.5")))
            return net.op("Sign", net.op("Add", net.op("Sign", x), nudge))
        if kind == "round":
            y = net.op("Div", net.op("Add", x, net.const(1)), net.const(2))
            y = net.op("Round", net.op("Clip", y, net.const(0), net.const(1)))
            return net.op("Sub", net.op("Mul", y, net.const(2)), net.const(1))
        if kind == "floor":
            y = net.op("Clip", x, net.const(-0.75), net.const(0.75))
            return net.op("Add", net.op("Floor", y), net.const(1))
        y = net.op("Sign", x)
        zero = net.op("Equal", y, net.const(0))
        return net.op("Where", zero, net.const(float(self.pick("1", "-1"))), y)

    def around(self, x: str, y: str) -> str:
        """A straight-through sum: y - p(x) + p(x)."""
        net = self.net
        kind = self.pick("none", "none", "clip", "identity", "tanh", "cubic")
        if kind == "none":
            return y
        self.straight_through = True
        p = x
        if kind == "clip":
            p = net.op("Clip", x, net.const(-1), net.const(1))
        elif kind == "tanh":
            p = net.op("Tanh", x)
        elif kind == "cubic":
            p = net.op("Clip", x, net.const(-1), net.const(1))
            p = net.op(
                "Sub", p, net.op("Mul", net.op("Mul", p, net.op("Mul", p, p)), net.const(0.3))
            )
        if self.draw(st.booleans()):
            return net.op("Add", net.op("Sub", y, p), p)
        return net.op("Sub", net.op("Add", p, y), p)

    def behind(self, y: str) -> str:
        net = self.net
        for _ in range(self.draw(st.integers(0, 2))):
            kind = self.pick("mul", "neg", "add", "abs-of-sum")
            if kind == "mul":
                y = net.op("Mul", y, net.const(net.rng.uniform(0.3, 2)))
            elif kind == "neg":
                y = net.op("Neg", y)
            elif kind == "add":
                y = net.op("Add", y, self.number(-1, 1))
            else:
                y = net.op("Abs", net.op("Add", y, net.const(4.25)))
        return y


@st.composite
def spellings(draw: st.DrawFn) -> tuple[Net, bool]:
    spelling = Spelling(draw)
    x = spelling.before("x")
    y = spelling.behind(spelling.around(x, spelling.step(x)))
    net = spelling.net
    pads = draw(st.sampled_from([[0, 0, 0, 0], [1, 1, 1, 1], [0, 2, 1, 0]]))
    net.conv(y, net.signs(3, CHANNELS, 3, 3), pads=pads)
    return net, spelling.straight_through


def prove(net: Net, straight_through: bool) -> None:
    prepared = prepare(net.model())
    found = recognize(prepared, CompileOptions())
    (decision,) = found.decisions
    if "is a constant" in decision.reason or "which is a constant" in decision.reason:
        return
    assert decision.binary and not decision.implied, decision
    # Where the sum rounds, the ONNX graph is off its two values by rounding.
    tolerance = 1e-4 if straight_through else 2e-6
    x = net.rng.normal(size=net.shape).astype(np.float32)
    x.flat[:20] = [0, -0.0, 1, -1, 0.5, -0.5, 2, -2, 0.1, -0.1, *net.rng.integers(-9, 9, 10)]
    assert_exact(prepared, found, x, tolerance)
    arrays = {t.name: t for t in found.model.graph.initializer}
    for node in found.model.graph.node:
        if node.op_type != "Binarize" or node.input[0] != "x":
            continue
        # At the threshold itself and at its neighbours, where one float decides.
        from onnx import numpy_helper

        limit = np.broadcast_to(
            numpy_helper.to_array(arrays[node.input[1]]), (1, CHANNELS, 1, 1)
        ).reshape(CHANNELS, 1)
        around = floats.to_key(np.where(np.isfinite(limit), limit, 0)) + np.arange(-12, 13)
        x[0] = np.resize(floats.from_key(around), (CHANNELS, 25)).reshape(CHANNELS, 5, 5)
        assert_exact(prepared, found, x, tolerance)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(spellings())
def test_random_spellings_are_recognised_and_exact(case: tuple[Net, bool]) -> None:
    prove(*case)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(spellings())
def test_many_random_spellings_are_recognised_and_exact(case: tuple[Net, bool]) -> None:
    prove(*case)


# What is no step between two values ----------------------------------------------------------


def ternary(net: Net) -> str:
    return net.op("Round", net.op("Clip", "x", net.const(-1), net.const(1)))


def narrow_pulse(net: Net) -> str:
    away = net.op("Abs", net.op("Sub", net.op("Mul", "x", net.const(1.7)), net.const(3.3333)))
    step = net.op("Where", net.op("Greater", "x", net.const(0)), net.const(1), net.const(-1))
    return net.op("Where", net.op("Less", away, net.const(1e-5)), net.const(-1), step)


def far_pulse(net: Net) -> str:
    step = net.op("Where", net.op("Greater", "x", net.const(0)), net.const(1), net.const(-1))
    return net.op("Where", net.op("Greater", "x", net.const(123456.7)), net.const(-1), step)


def many_levels(net: Net) -> str:
    return net.op("Round", "x")


def slope(net: Net) -> str:
    return net.op("Add", net.op("Sign", "x"), net.op("Mul", "x", net.const(1e-3)))


def slight_slope(net: Net) -> str:
    step = net.op("Where", net.op("Greater", "x", net.const(0)), net.const(1), net.const(-1))
    return net.op("Add", step, net.op("Mul", "x", net.const(1e-5)))


def along_width(net: Net) -> str:
    limits = net.const(net.rng.normal(size=(1, 1, 1, 5)))
    return net.op("Where", net.op("Greater", "x", limits), net.const(1), net.const(-1))


def per_element(net: Net) -> str:
    limits = net.const(net.rng.normal(size=(1, CHANNELS, 5, 5)))
    return net.op("Where", net.op("Greater", "x", limits), net.const(1), net.const(-1))


def not_a_number(net: Net) -> str:
    return net.op("Sign", net.op("Sqrt", "x"))


def not_a_number_at_zero(net: Net) -> str:
    return net.op("Div", "x", net.op("Abs", "x"))


def two_tensors(net: Net) -> str:
    other = net.op("MaxPool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    return net.op("Add", net.op("Sign", "x"), net.op("Sign", other))


def two_steps(net: Net) -> str:
    parts = []
    for limit in (-0.5, 0.5):
        above = net.op("Greater", "x", net.const(limit))
        parts.append(net.op("Where", above, net.const(1), net.const(-1)))
    return net.op("Add", *parts)


def third_value_in_one_channel(net: Net) -> str:
    top = net.const(np.array([1, 1, 2.4, 1]).reshape(4, 1, 1))
    y = net.op("Min", net.op("Max", "x", net.const(0)), top)
    return net.op("Round", y)


NO_STEPS = [
    ternary,
    narrow_pulse,
    far_pulse,
    many_levels,
    slope,
    slight_slope,
    along_width,
    per_element,
    not_a_number,
    not_a_number_at_zero,
    two_tensors,
    two_steps,
    third_value_in_one_channel,
]


@pytest.mark.parametrize("make", NO_STEPS, ids=lambda f: f.__name__)
def test_what_is_no_step_is_never_taken_for_one(make: object) -> None:
    for mode in ("strict", "moderate"):
        net = Net([2, CHANNELS, 5, 5])
        net.conv(make(net), net.signs(3, CHANNELS, 3, 3), sign=True)  # type: ignore[operator]
        (decision,) = find(net, mode=mode).decisions
        assert not decision.binary, decision
        assert "weights are +-1 but the input is" in decision.reason


@pytest.mark.parametrize("make", NO_STEPS, ids=lambda f: f.__name__)
def test_aggressive_mode_says_that_it_binarises_what_is_no_step(make: object) -> None:
    net = Net([2, CHANNELS, 5, 5])
    net.conv(make(net), net.signs(3, CHANNELS, 3, 3), sign=True)  # type: ignore[operator]
    found = find(net)
    assert found.decisions[0].implied == ("binarized-input",) and len(found.warnings) == 1


# Steps of a nearer tensor, though not of x ---------------------------------------------------


def interval(net: Net) -> str:
    inside = net.op("Less", net.op("Abs", "x"), net.const(0.7))
    return net.op("Where", inside, net.const(1), net.const(-1))


def tells_zeros_apart(net: Net) -> str:
    return net.op("Sign", net.op("Reciprocal", "x"))


@pytest.mark.parametrize("make", [interval, tells_zeros_apart], ids=lambda f: f.__name__)
def test_a_step_of_a_nearer_tensor_is_read_there_and_exact(make: object) -> None:
    net = Net([2, CHANNELS, 5, 5])
    net.conv(make(net), net.signs(3, CHANNELS, 3, 3), sign=True)  # type: ignore[operator]
    found = check(net)
    assert found.decisions[0].rule == "strict" and not found.decisions[0].implied
    binarize = next(n for n in found.model.graph.node if n.op_type == "Binarize")
    assert binarize.input[0] != "x"


def test_the_sign_of_rounded_numbers_is_a_matter_of_zeros() -> None:
    def net() -> Net:
        net = Net([2, CHANNELS, 5, 5])
        net.conv(net.op("Sign", ternary(net)), net.signs(3, CHANNELS, 3, 3), sign=True)
        return net

    strict = find(net(), mode="strict").decisions[0]
    assert not strict.binary and "integers, where 0 is likely" in strict.reason
    assert find(net()).decisions[0].implied == ("sign-of-zero",)
