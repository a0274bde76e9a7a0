"""The evidence about one layer: what is found, and what would make a float layer binary."""

from __future__ import annotations

import numpy as np
import pytest

from bnn_tvm.errors import UsageError
from bnn_tvm.frontend import prepare
from bnn_tvm.options import CompileOptions
from bnn_tvm.recognize.explain import Explanation, explain
from tests.recognize.nets import Net, find


def about(net: Net, name: str, **options: object) -> Explanation:
    return explain(prepare(net.model()), CompileOptions(**options), name)  # type: ignore[arg-type]


def test_thresholds_of_a_step_behind_batch_norm_are_those_of_the_conv() -> None:
    net = Net([1, 4, 6, 6])
    conv = net.conv("x", net.rng.normal(size=(6, 4, 3, 3)))
    sign = net.op("Sign", net.bn(conv, 6))
    name = net.conv(net.pad(sign, 1, -1.0), net.signs(5, 6, 3, 3), sign=True)
    found = about(net, name)
    assert found.decision.binary and found.remedies == ()
    assert found.rules == {"strict": None, "moderate": None, "aggressive": None}
    (binariser,) = found.input["binarisers"]
    assert binariser["source"] == conv and len(binariser["thresholds"]) == 6
    assert set(binariser["plus_where"]) <= {">=", "<="}
    assert found.input["values"] == [[-1.0], [1.0]]
    kinds = [node.split(" -> ")[0] for node in found.input["nodes"]]
    assert kinds[0] == "Pad" and kinds[1] == "Sign" and kinds[-1] == "BatchNormalization"
    assert found.weights["binary"] and "Sign" in found.weights["origin"]
    assert found.weights["plus"] + found.weights["minus"] == 5 * 6 * 9
    assert found.padding["kind"] == "member" and "-1" in found.padding["text"]


def test_values_and_threshold_of_zero_and_c() -> None:
    net = Net([1, 4, 6, 6])
    above = net.op("GreaterOrEqual", "x", net.const(0.25))
    where = net.op("Where", above, net.const(3), net.const(0))
    name = net.conv(where, 2 * net.signs(5, 4, 3, 3), pads=[1, 1, 1, 1])
    found = about(net, name)
    assert found.input["values"] == [[0.0], [3.0]]
    (binariser,) = found.input["binarisers"]
    assert (binariser["source"], binariser["thresholds"]) == ("x", [0.25])
    assert found.weights["scales"] == [2.0] and found.padding["kind"] == "member"
    assert found.rules["strict"] is not None and found.rules["aggressive"] is None


def test_unbinarised_input_names_the_mode_and_the_remedy() -> None:
    net = Net([1, 4, 6, 6])
    relu = net.op("Relu", net.conv("x", net.rng.normal(size=(4, 4, 3, 3))))
    name = net.conv(relu, net.signs(5, 4, 3, 3))
    found = about(net, name, mode="strict")
    assert not found.decision.binary and not found.input["two_valued"]
    assert found.rules["strict"] is not None and found.rules["aggressive"] is None
    assert "--aggressive makes it binary" in found.remedies
    assert any("Where(x >= 0, 1, -1)" in remedy for remedy in found.remedies)
    # and the remedy is true
    (decision,) = [d for d in find(net, mode="aggressive").decisions if d.output == name]
    assert decision.binary


def test_nearly_binary_weights_say_which_channel() -> None:
    net = Net([1, 4, 6, 6])
    weights = net.signs(5, 4, 3, 3)
    weights[2, 1, 1, 1] = 0
    name = net.conv(net.op("Sign", net.op("Neg", "x")), weights)
    found = about(net, name)
    assert not found.weights["binary"] and "output channel 2" in found.weights["reason"]
    assert found.input["two_valued"]
    assert all("weights are not +-1" in str(why) for why in found.rules.values())
    assert any("sign(w)" in remedy for remedy in found.remedies)
    assert f"--binary-convs {name}" in found.remedies[-1]
    (decision,) = find(net, binary_convs=(name,)).decisions
    assert decision.binary


def test_first_layer_asks_for_binarize_first() -> None:
    net = Net([1, 4, 6, 6])
    name = net.conv("x", net.signs(5, 4, 3, 3))
    found = about(net, name)
    assert any(remedy.startswith("--binarize-first") for remedy in found.remedies)
    assert find(net, binarize_first=True).decisions[0].binary


def test_layer_without_constant_weights() -> None:
    net = Net([1, 4, 4])
    name = net.op("MatMul", "x", net.op("Sign", "x"))
    found = about(net, name)
    assert found.remedies == (f"nothing as the graph stands: {found.decision.reason}",)
    assert set(found.rules.values()) == {found.decision.reason}


def test_unknown_name_gets_near_spellings() -> None:
    net = Net([1, 4, 6, 6])
    net.conv("x", net.signs(5, 4, 3, 3), name="features.0")
    with pytest.raises(UsageError, match="features_0") as raised:
        about(net, "features_0")
    assert "did you mean features.0?" in str(raised.value.hint)
    assert raised.value.node == "--explain"


def test_a_name_of_the_file_that_became_an_outputs_name_is_understood() -> None:
    net = Net([1, 4, 6, 6])
    conv = net.conv(net.op("Sign", "x"), net.signs(5, 4, 3, 3))
    net.op("Identity", conv, name="result")
    prepared = prepare(net.model())
    assert dict(prepared.renamed) == {conv: "result"}
    for name in (conv, "result"):
        assert explain(prepared, CompileOptions(), name).decision.output == "result"
        (decision,) = find(net, mode="strict", binary_convs=(name,)).decisions
        assert (decision.output, decision.rule) == ("result", "list")


def test_constant_channels_are_told_apart_without_nan() -> None:
    net = Net([1, 2, 6, 6])
    shift = net.const(np.array([0.5, np.inf]).reshape(1, 2, 1, 1))
    sign = net.op("Sign", net.op("Add", "x", shift))
    found = about(net, net.conv(sign, net.signs(3, 2, 3, 3)))
    assert all(not isinstance(v, float) or np.isfinite(v) for v in _numbers(found.input))


def _numbers(value: object) -> list[object]:
    if isinstance(value, dict):
        return [n for v in value.values() for n in _numbers(v)]
    if isinstance(value, list):
        return [n for v in value for n in _numbers(v)]
    return [value]
