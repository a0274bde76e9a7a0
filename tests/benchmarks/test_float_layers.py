"""The float benchmark compares like with like: both sides give the same numbers."""

from __future__ import annotations

import json

import pytest

from benchmarks import float_layers


def test_json_holds_every_asked_layer_with_equal_results(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert float_layers.main(["--only", "7", "--rounds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [layer.name for layer in float_layers.LAYERS if "7" in layer.name]
    assert [row["layer"] for row in found["layers"]] == names
    assert found["peak_gmacs_per_s"] > 0
    for row in found["layers"]:
        assert row["ms"] > 0 and row["onnxruntime_ms"] > 0
        # Sums of up to 4608 products of standard normal numbers.
        assert row["max_abs_error"] < 3e-3, row


def test_the_table_names_the_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert float_layers.main(["--only", "softmax", "--rounds", "1"]) == 0
    assert "softmax 1000" in capsys.readouterr().out


def test_an_unknown_layer_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        float_layers.main(["--only", "nothing of the kind"])
    assert "no layer's name contains" in capsys.readouterr().err
