"""The benchmark of whole networks checks what it times. Times themselves are not tested."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import models


def test_percentiles_are_in_milliseconds() -> None:
    times = models.Times.of([0.001 * n for n in range(1, 102)])
    assert times.min_ms == pytest.approx(1)
    assert times.median_ms == pytest.approx(51)
    assert times.p95_ms == pytest.approx(96)


def test_every_runner_is_timed_at_least_as_often_as_asked() -> None:
    calls = [0, 0]

    def runner(index: int) -> None:
        calls[index] += 1

    times = models.time_in_turns([lambda: runner(0), lambda: runner(1)], repeat=10)
    assert len(times) == 2
    assert calls[0] == calls[1] >= 10 + models.WARM_UP


def test_error_is_relative_to_the_largest_value() -> None:
    reference = np.array([0.5, -4.0])
    assert models.relative_error(reference + 0.02, reference) == pytest.approx(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bireal18", "quicknet"])
def test_compiled_network_agrees_with_onnxruntime(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert models.main(["--only", name, "--size", "96", "--repeat", "1", "--layers", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["networks"][0]
    assert result["agrees"] is True
    assert result["max_rel_error"] < models.TOLERANCE
    kinds = [layer["kind"] for layer in result["layers"]]
    assert kinds.count("binary-conv") == 16


@pytest.mark.parametrize(("error", "same_top1"), [(1e-2, True), (0.0, False), (np.nan, True)])
def test_a_wrong_result_is_said_and_fails(
    error: float,
    same_top1: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = models.Times(1.0, 1.0, 1.0)
    wrong = models.Result("quicknet", 1, 1, 1.0, error, same_top1, times, times, 1.0, [])
    monkeypatch.setattr(models, "measure", lambda *_: wrong)
    assert models.main(["--only", "quicknet"]) == 1
    assert "WRONG" in capsys.readouterr().out
