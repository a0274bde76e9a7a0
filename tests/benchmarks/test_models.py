"""The benchmark of whole networks checks what it times. Times themselves are not tested."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import models, openvino_model, peers, timing


def test_percentiles_are_in_milliseconds() -> None:
    times = timing.Times.of([0.001 * n for n in range(1, 102)])
    assert times.min_ms == pytest.approx(1)
    assert times.median_ms == pytest.approx(51)
    assert times.p95_ms == pytest.approx(96)


def test_every_runner_is_timed_at_least_as_often_as_asked() -> None:
    calls = [0, 0]

    def runner(index: int) -> None:
        calls[index] += 1

    times = timing.time_in_turns([lambda: runner(0), lambda: runner(1)], repeat=10)
    assert len(times) == 2
    assert calls[0] == calls[1] >= 10 + timing.WARM_UP


def test_error_is_relative_to_the_largest_value() -> None:
    reference = np.array([0.5, -4.0])
    assert timing.relative_error(reference + 0.02, reference) == pytest.approx(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "convs"), [("bireal18", 16), ("quicknet", 16), ("reactnet_a", 30)]
)
def test_compiled_network_agrees_with_onnxruntime(
    name: str, convs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert models.main(["--only", name, "--size", "96", "--repeat", "1", "--layers", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["networks"][0]
    assert result["agrees"] is True
    assert result["max_rel_error"] < models.TOLERANCE
    kinds = [layer["kind"] for layer in result["layers"]]
    assert kinds.count("binary-conv") == convs


def _result(**fields: object) -> models.Result:
    times = timing.Times(1.0, 2.0, 3.0)
    values = dict.fromkeys(("bnn_tvm", "onnxruntime", "onnxruntime_int8"), times)
    numbers = dict.fromkeys(("binary_macs", "float_macs", "compile_s", "max_rel_error"), 0.0)
    absent = dict.fromkeys(("openvino", "openvino_rel_error", "speedup_openvino", "one_thread"))
    other = {"speedup": 1.0, "speedup_int8": 1.0, "layers": [], **absent}
    start = {"network": "quicknet", "same_top1": True, **values, **numbers, **other}
    return models.Result(**{**start, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_rel_error": 1e-2},
        {"same_top1": False},
        {"max_rel_error": np.nan},
        {"openvino": timing.Times(1, 2, 3), "speedup_openvino": 1.5, "openvino_rel_error": 0.5},
    ],
)
def test_a_wrong_result_is_said_and_fails(
    fields: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = _result(**fields)
    monkeypatch.setattr(models, "measure", lambda *_: wrong)
    assert models.main(["--only", "quicknet"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_openvino_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="needs openvino, which is only measured against")
    for name in models.NETWORKS:
        model = models.NETWORKS[name](size=64)
        x = models.sample_input(model)
        theirs = openvino_model.runner(model, 1)(x)
        reference = peers.onnxruntime_runner(model, 1)(x)
        assert timing.relative_error(theirs, reference) < models.TOLERANCE, name


def test_threads_are_compared_with_one_by_minima(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = _result(one_thread=timing.Times(1.9, 9.0, 9.0))
    monkeypatch.setattr(models, "measure", lambda *_: result)
    assert models.main(["--only", "quicknet", "--threads", "2"]) == 0
    assert "1.90x" in capsys.readouterr().out
    assert _result().scaling is None


def test_the_quantised_network_convolves_in_eight_bits() -> None:
    given = models.NETWORKS["quicknet"](size=32)
    before = given.SerializeToString()
    model = peers.quantized(given, samples=1)
    assert given.SerializeToString() == before
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convs) == 25
    for conv in convs:
        source, weight = (producers[name] for name in conv.input[:2])
        assert source.op_type == weight.op_type == "DequantizeLinear"
        assert types[weight.input[0]] == onnx.TensorProto.INT8


def test_a_plot_is_a_png(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, from the extra bench")
    monkeypatch.setattr(models, "measure", lambda *_: _result())
    path = tmp_path / "times.png"
    assert models.main(["--only", "quicknet", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_plot_without_matplotlib_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        models.main(["--plot", str(tmp_path / "times.png")])
    assert caught.value.code == 2
    assert "pip install '.[bench]'" in capsys.readouterr().err
