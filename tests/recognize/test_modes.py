"""Which rule makes a layer binary in which mode, and what the reasons say."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.recognize.nets import Net, check, find, only, samples, session

MODES = ("strict", "moderate", "aggressive")


def build(binariser: str, pad: float | str | None, weights: str) -> Net:
    """x -> PRelu -> binariser -> padding -> conv; so x itself is not what the conv reads."""
    net = Net([1, 8, 6, 6])
    x = net.op("PRelu", "x", net.const(0.25))
    if binariser == "sign":
        x = net.op("Sign", x)
    if pad == "zero":
        attributes: dict[str, object] = {"pads": [1, 1, 1, 1]}
    else:
        attributes = {}
        if pad is not None:
            x = net.pad(x, 1, pad)  # type: ignore[arg-type]
    w = net.signs(12, 8, 3, 3)
    if weights == "scaled":
        w = w * net.rng.uniform(-2, 2, (12, 1, 1, 1)).astype(np.float32)
    net.conv(x, w, sign=weights == "sign", **attributes)
    return net


@pytest.mark.parametrize(
    ("binariser", "pad", "weights", "rule"),
    [
        ("sign", -1, "sign", "strict"),
        ("sign", 1, "sign", "strict"),
        ("sign", None, "sign", "strict"),
        ("sign", "zero", "sign", "aggressive"),
        ("sign", 0, "sign", "aggressive"),
        ("sign", -1, "constant", "moderate"),
        ("sign", -1, "scaled", "moderate"),
        ("none", -1, "constant", "moderate"),
        ("none", -1, "sign", "moderate"),
        ("sign", 1, "constant", "aggressive"),
        ("sign", None, "constant", "aggressive"),
        ("sign", "zero", "scaled", "aggressive"),
        ("none", "zero", "constant", "aggressive"),
        ("none", None, "scaled", "aggressive"),
    ],
)
def test_a_layer_is_binary_from_its_rule_on(
    binariser: str, pad: float | str | None, weights: str, rule: str
) -> None:
    for mode in MODES:
        decision = only(build(binariser, pad, weights), mode=mode)
        binary = MODES.index(mode) >= MODES.index(rule)
        assert decision.binary == binary, (mode, decision)
        assert decision.rule == (rule if binary else None)
        if binary:
            implied = ("binarized-input",) if binariser == "none" else ()
            assert decision.implied == implied
        else:
            assert f"--{rule}" in decision.reason


@pytest.mark.parametrize("pad", [-1, 1, 0, 0.5, None, "zero"])
@pytest.mark.parametrize("weights", ["sign", "constant", "scaled"])
def test_a_proven_layer_is_exact_whatever_the_padding(
    pad: float | str | None, weights: str
) -> None:
    found = check(build("sign", pad, weights), zeros=False)
    assert [d.binary for d in found.decisions] == [True]
    assert not found.warnings


def test_implicit_binarisation_is_a_warning_per_layer() -> None:
    found = find(build("none", "zero", "constant"))
    (warning,) = found.warnings
    assert found.decisions[0].output in warning
    assert "binarised implicitly" in warning and "PRelu" in warning


@pytest.mark.parametrize(
    ("net", "mode", "words"),
    [
        (build("none", None, "constant"), "strict", "the input is PRelu: no binariser found"),
        (build("sign", -1, "constant"), "strict", "stored as +-1 constants"),
        (build("sign", "zero", "sign"), "strict", "zero padding"),
        (build("sign", "zero", "constant"), "moderate", "zero padding"),
        (build("sign", 1, "constant"), "moderate", "padded with 1, not -1"),
        (build("sign", None, "constant"), "moderate", "no Pad of -1"),
    ],
)
def test_the_reason_names_the_first_condition_that_fails(net: Net, mode: str, words: str) -> None:
    assert words in only(net, mode=mode).reason


def test_float_weights_are_described_and_a_binary_input_is_mentioned() -> None:
    net = Net([1, 4, 6, 6])
    net.conv(net.op("Sign", "x"), net.rng.normal(size=(4, 4, 3, 3)))
    reason = only(net).reason
    assert "the weights are not +-1" in reason and "magnitudes in output channel 0" in reason
    assert "--binary-list" in reason


def test_relu_before_binary_weights_is_a_near_miss() -> None:
    net = Net([1, 4, 6, 6])
    hidden = net.conv("x", net.rng.normal(size=(4, 4, 3, 3)))
    net.conv(net.op("Relu", hidden), net.signs(4, 4, 3, 3))
    reason = find(net, mode="moderate").decisions[1].reason
    assert "weights are +-1 but the input is Relu: no binariser found" in reason
    assert "exporter dropped the binariser" in reason and "--aggressive" in reason


@pytest.mark.parametrize("between", ["none", "shift", "layout", "pad"])
def test_the_layer_that_reads_the_raw_input_stays_float(between: str) -> None:
    net = Net([1, 6, 6, 8] if between == "layout" else [1, 8, 6, 6])
    x = "x"
    if between == "shift":
        x = net.op("Sub", net.op("Mul", x, net.const(2)), net.const(np.ones((8, 1, 1))))
    elif between == "layout":
        x = net.op("Transpose", x, perm=[0, 3, 1, 2])
    elif between == "pad":
        x = net.pad(x, 1, 0.0)
    net.conv(x, net.signs(4, 8, 3, 3))
    decision = only(net)
    assert not decision.binary and "raw input 'x'" in decision.reason
    assert "--binarize-first" in decision.reason
    first = only(net, binarize_first=True)
    assert (first.binary, first.rule, first.implied) == (True, "aggressive", ("binarized-input",))


def test_eight_bit_input_is_reported_as_such() -> None:
    net = Net([1, 3, 8, 8])
    net.input_type = TensorProto.UINT8
    net.conv(net.op("Cast", "x", to=TensorProto.FLOAT), net.signs(4, 3, 3, 3))
    decision = only(net)
    assert not decision.binary and "8-bit integer input 'x'" in decision.reason


def test_a_proven_binariser_of_the_raw_input_is_no_first_layer_exception() -> None:
    net = Net([1, 8, 6, 6])
    net.conv(net.op("Sign", "x"), net.signs(4, 8, 3, 3))
    assert only(net).binary


def test_averages_and_scales_are_not_taken_for_binary_weights() -> None:
    net = Net([1, 8, 6, 6])
    hidden = net.op("Relu", net.conv("x", net.rng.normal(size=(8, 8, 1, 1))))
    average = net.conv(hidden, np.full((8, 1, 3, 3), 1 / 9), group=8)
    net.conv(average, net.rng.normal(size=(8, 1, 1, 1)), group=8)
    for decision in find(net).decisions[1:]:
        assert not decision.binary and "scale or an average" in decision.reason


# The sign of zero ----------------------------------------------------------------------------


def integers_then_sign() -> Net:
    """Sign of the integers of a binary conv of 16 terms: 0 is likely."""
    net = Net([1, 16, 5, 5])
    hidden = net.conv(net.op("Sign", "x"), net.signs(4, 16, 1, 1), sign=True)
    net.conv(net.op("Sign", hidden), net.signs(4, 4, 3, 3), sign=True)
    return net


def test_zeros_of_integers_stay_float_in_strict_mode_and_warn_in_the_others() -> None:
    strict = find(integers_then_sign(), mode="strict").decisions[1]
    assert not strict.binary and "integers" in strict.reason and "0 is likely" in strict.reason
    for mode in ("moderate", "aggressive"):
        found = find(integers_then_sign(), mode=mode)
        assert found.decisions[1].binary and found.decisions[1].implied == ("sign-of-zero",)
        (warning,) = found.warnings
        assert "sign(0) becomes +1" in warning and "--sign-zero" in warning


def test_integers_that_are_always_odd_give_no_warning() -> None:
    net = Net([1, 15, 5, 5])
    hidden = net.conv(net.op("Sign", "x"), net.signs(4, 15, 1, 1), sign=True)
    net.conv(net.op("Sign", hidden), net.signs(4, 4, 3, 3), sign=True)
    found = find(net, mode="strict")
    assert found.decisions[1].binary and not found.warnings


@pytest.mark.parametrize(("choice", "at_zero"), [("plus", 1.0), ("minus", -1.0)])
def test_sign_zero_chooses_the_bit_of_exact_zeros(choice: str, at_zero: float) -> None:
    net = Net([1, 8, 4, 4])
    weights = net.signs(4, 8, 1, 1)
    net.conv(net.op("Sign", "x"), weights)
    found = find(net, sign_zero=choice)
    x = samples(net.model(), net.rng)
    from bnn_tvm.recognize import expand

    (got,) = session(expand(found.model)).run(None, {"x": x})
    signs = np.where(x == 0, at_zero, np.sign(x))
    wanted = np.einsum("oc,nchw->nohw", weights[:, :, 0, 0], signs)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("pool", [False, True])
def test_the_sign_of_what_is_never_negative_keeps_its_zero_as_a_value(pool: bool) -> None:
    def net() -> Net:
        net = Net([1, 8, 6, 6])
        x = net.op("Relu", "x")
        if pool:
            x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        net.conv(net.op("Sign", x), net.signs(4, 8, 3, 3), sign=True)
        return net

    strict = only(net(), mode="strict")
    assert not strict.binary and "never negative, where 0 is likely" in strict.reason
    found = check(net())
    assert found.decisions[0].binary and not found.decisions[0].implied
    assert "its 0 is kept" in found.warnings[0]


# dabnn ---------------------------------------------------------------------------------------


def test_dabnn_compatible_uses_dabnns_values() -> None:
    net = Net([1, 8, 5, 5])
    weights = net.signs(6, 8, 3, 3)
    net.conv("x", weights, pads=[1, 1, 1, 1])
    found = find(net, dabnn_compatible=True)
    (decision,) = found.decisions
    assert decision.binary
    assert decision.implied == ("binarized-input", "padding-minus-one")
    assert "padding becomes -1" in found.warnings[0]
    from bnn_tvm.recognize import expand

    x = samples(net.model(), net.rng)
    (got,) = session(expand(found.model)).run(None, {"x": x})
    signs = np.pad(
        np.where(x > 0, 1.0, -1.0), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-1
    ).astype(np.float32)
    reference = Net([1, 8, 7, 7])
    reference.conv("x", weights)
    (wanted,) = session(reference.model()).run(None, {"x": signs})
    np.testing.assert_array_equal(got, wanted)


def test_dabnn_compatible_binarises_zero_one_activations() -> None:
    net = Net([1, 8, 5, 5])
    x = net.op("Cast", net.op("Greater", "x", net.const(0.5)), to=TensorProto.FLOAT)
    net.conv(x, net.signs(6, 8, 3, 3))
    assert only(net).implied == ()
    assert only(net, dabnn_compatible=True).implied == ("binarized-input",)
