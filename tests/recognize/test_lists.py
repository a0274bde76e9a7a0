"""The list options: which layers they name, and what is wrong with a list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnn_tvm.errors import FileError, UsageError
from bnn_tvm.recognize import expand
from tests.recognize.nets import Net, find, samples, session


def float_net() -> Net:
    net = Net([1, 4, 8, 8])
    x = net.op("Relu", net.conv("x", net.rng.normal(size=(8, 4, 3, 3)), pads=[1, 1, 1, 1]))
    x = net.op("Relu", net.conv(x, net.rng.normal(size=(8, 8, 3, 3))))
    x = net.conv(x, net.rng.normal(size=(6, 8, 3, 3)))
    net.op("Gemm", net.op("Flatten", x), net.const(net.rng.normal(size=(96, 5))), name="logits")
    return net


NAMES = [d.output for d in find(float_net()).decisions]


def test_listed_layers_are_binarised_by_sign_and_say_so() -> None:
    found = find(float_net(), binary_convs=(NAMES[1],))
    assert [d.binary for d in found.decisions] == [False, True, False, False]
    decision = found.decisions[1]
    assert decision.rule == "list"
    assert decision.implied == ("binarized-input", "binarized-weights")
    (warning,) = found.warnings
    assert NAMES[1] in warning and "weights are binarised by their sign" in warning


def test_a_listed_layer_computes_with_signs() -> None:
    net = Net([1, 4, 6, 6])
    weights = net.rng.normal(size=(3, 4, 3, 3)).astype(np.float32)
    name = net.conv("x", weights, pads=[1, 1, 1, 1], bias=[1, 2, 3])
    found = find(net, binary_convs=(name,))
    x = samples(net.model(), net.rng)
    (got,) = session(expand(found.model)).run(None, {"x": x})
    reference = Net([1, 4, 6, 6])
    reference.conv("x", np.where(weights >= 0, 1, -1), pads=[1, 1, 1, 1], bias=[1, 2, 3])
    signs = np.where(x >= 0, 1, -1).astype(np.float32)
    (wanted,) = session(reference.model()).run(None, {"x": signs})
    np.testing.assert_array_equal(got, wanted)


def test_a_listed_layer_that_the_mode_finds_keeps_its_rule() -> None:
    net = Net([1, 4, 6, 6])
    name = net.conv(net.op("Sign", "x"), net.signs(4, 4, 3, 3), sign=True)
    (decision,) = find(net, binary_convs=(name,)).decisions
    assert (decision.rule, decision.implied) == ("strict", ())


def test_exclude_first_last_lists_all_layers_between() -> None:
    found = find(float_net(), exclude_first_last=True)
    assert [d.rule for d in found.decisions] == [None, "list", "list", None]


@pytest.mark.parametrize(
    "text",
    [
        "{1}\n{2}\n",
        "{1}\r\n\r\n{2}\r\n",
        "  {1}\t{2} {1} ",
        "\ufeff{2}\n\n\n{1}",
    ],
)
def test_a_list_file_holds_names_between_white_space(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(text.format(*NAMES).encode())
    found = find(float_net(), binary_list=path)
    assert [d.binary for d in found.decisions] == [False, True, True, False]


def test_an_unknown_name_is_an_error_with_near_spellings(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{NAMES[0]} logit completely_different")
    with pytest.raises(UsageError) as caught:
        find(float_net(), binary_list=path)
    assert "logit, completely_different" in caught.value.message
    assert caught.value.hint == "logit: did you mean logits?"
    assert caught.value.node == str(path)


def test_an_unknown_name_far_from_all_lists_the_layers() -> None:
    with pytest.raises(UsageError) as caught:
        find(float_net(), binary_convs=("zzzzz",))
    assert caught.value.hint is not None and NAMES[0] in caught.value.hint


def test_a_relu_is_no_layer() -> None:
    relu = next(n.output[0] for n in float_net().nodes if n.op_type == "Relu")
    with pytest.raises(UsageError, match="no Conv, Gemm or MatMul has the output name"):
        find(float_net(), binary_convs=(relu,))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xfa"])
def test_a_list_that_cannot_be_read_is_a_file_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError, match="cannot read the list"):
        find(float_net(), binary_list=path)


def test_an_empty_list_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\n \r\n")
    with pytest.raises(UsageError, match="names none"):
        find(float_net(), binary_list=path)


def test_a_layer_without_constant_weights_cannot_be_listed() -> None:
    net = Net([4, 4])
    name = net.op("MatMul", "x", "x")
    with pytest.raises(UsageError, match="cannot be made binary: both operands"):
        find(net, binary_convs=(name,))


def test_list_options_exclude_one_another(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude one another"):
        find(float_net(), binary_convs=(NAMES[0],), exclude_first_last=True)
