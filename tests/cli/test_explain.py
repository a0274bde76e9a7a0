"""`inspect --explain`: the evidence about one layer, as a table and as JSON."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.cli import models


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(models.two_convs(), "net.onnx")
    onnx.save(models.two_convs(sign=False), "relu.onnx")


def test_a_binary_layer(cli) -> None:
    outcome = cli("inspect", "net.onnx", "--explain", "second")
    assert outcome.code == 0, outcome
    for text in ("second (Conv)", "Sign -> s", "first >= 0", "a third value [1, 1, 1, 1]", "+-1"):
        assert text in outcome.out, text
    result = cli("inspect", "net.onnx", "--explain", "second", "--json").json
    assert set(result) == {"decision", "input", "weights", "padding", "rules", "remedies"}
    assert result["decision"]["binary"] and result["remedies"] == []
    assert result["rules"]["aggressive"] is None and result["rules"]["strict"]


def test_a_float_layer_says_what_would_make_it_binary(cli) -> None:
    outcome = cli("inspect", "relu.onnx", "--strict", "--explain", "second")
    assert outcome.code == 0, outcome
    assert "none: the input is Relu" in outcome.out
    assert "--aggressive makes it binary" in outcome.out


def test_an_unknown_layer_is_a_usage_error(cli) -> None:
    outcome = cli("inspect", "net.onnx", "--explain", "secnd")
    assert outcome.code == 2
    assert "did you mean second?" in outcome.err
    compiled = cli("inspect", "net.dab", "--explain", "second")
    assert compiled.code == 2 and "give the .onnx file" in compiled.err
