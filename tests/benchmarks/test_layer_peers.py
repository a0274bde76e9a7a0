"""The benchmark of single layers beside others compares results before it shows times."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import layer_peers
from benchmarks.timing import Times

SMALL = (layer_peers.Layer(6, 32, 16), layer_peers.Layer(5, 16, 24, k=5, s=2))


def test_results_agree_and_times_have_sides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(layer_peers, "LAYERS", SMALL)
    assert layer_peers.main(["--repeat", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["layers"]
    assert [row["layer"] for row in rows] == ["6x6x32 k3 16", "5x5x16 k5 24 s2"]
    assert [row["macs"] for row in rows] == [36 * 9 * 32 * 16, 9 * 25 * 16 * 24]
    for row in rows:
        assert row["agrees"] and row["errors"]["bnn_tvm"] <= layer_peers.TOLERANCE
        assert {"bnn_tvm", "fp32", "int8"} <= set(row["times"])
        assert row["inside_ms"]["bnn_tvm"] > 0


def test_a_wrong_result_is_said_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = dict.fromkeys(("bnn_tvm", "fp32", "int8"), Times(1.0, 2.0, 3.0))
    right = layer_peers.Result("a layer", 1, times, {"bnn_tvm": 0.0}, {"bnn_tvm": 0.5})
    monkeypatch.setattr(layer_peers, "LAYERS", SMALL[:1])
    monkeypatch.setattr(layer_peers, "measure", lambda *_: right)
    assert layer_peers.main([]) == 0
    assert "WRONG" not in capsys.readouterr().out
    monkeypatch.setattr(layer_peers, "measure", lambda *_: replace(right, errors={"openvino": 0.1}))
    assert layer_peers.main([]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_a_plot_is_a_png(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, from the extra bench")
    times = dict.fromkeys(("bnn_tvm", "fp32", "int8"), Times(1.0, 2.0, 3.0))
    result = layer_peers.Result("a layer", 1, times, {"bnn_tvm": 0.0}, {"bnn_tvm": 0.5})
    monkeypatch.setattr(layer_peers, "measure", lambda *_: result)
    path = tmp_path / "times.png"
    assert layer_peers.main(["--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
