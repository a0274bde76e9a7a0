"""The benchmark of threads compares what it times. Times themselves are not tested."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import threads


def _result(**fields: object) -> threads.Result:
    side = threads.Side.of(np.full((2, 3), 3.8), np.full((2, 3), 2.0))
    start = {"network": "quicknet", "equal": True, "max_rel_error": 0.0, "copies": 1.95}
    return threads.Result(**{**start, "sides": {"run": side, "C": side}, **fields})  # type: ignore[arg-type]


def test_the_ratio_by_rounds_is_of_neighbours() -> None:
    one = np.array([[2.0, 2.0], [4.0, 4.0], [8.0, 8.0]])
    many = np.array([[1.0, 1.0], [2.0, 2.0], [8.0, 8.0]])
    side = threads.Side.of(one, many)
    assert (side.ratio_median, side.ratio_min) == (2.0, 2.0)
    assert (side.one_median_ms, side.many_median_ms, side.one_min_ms) == (4.0, 2.0, 2.0)


def test_blocks_take_turns_and_every_other_round_goes_backwards() -> None:
    order: list[str] = []

    def block(name: str) -> threads.Block:
        return lambda: np.full(2, float(len(order) if order.append(name) is None else 0))

    times = threads.blocks_in_turns({name: block(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abccbaabc"
    assert times["a"].tolist() == [[1, 1], [6, 6], [7, 7]]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"equal": False}, "threads change the result"),
        ({"max_rel_error": 1e-2}, "error 1.0e-02"),
        ({"max_rel_error": float("nan")}, "error nan"),
    ],
)
def test_a_wrong_result_is_said_and_fails(
    fields: dict[str, object],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(threads, "measure", lambda *_: _result(**fields))
    assert threads.main(["--only", "quicknet"]) == 1
    assert f"WRONG ({text})" in capsys.readouterr().out


def test_the_table_has_ratios_and_the_copies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads, "measure", lambda *_: _result())
    assert threads.main([]) == 0
    out = capsys.readouterr().out
    assert "1.90x" in out and "2 copies at once" in out and "1.95x" in out


@pytest.mark.parametrize(("option", "least"), [("--threads", 2), ("--rounds", 1)])
def test_numbers_that_measure_nothing_are_refused(
    option: str, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        threads.main([option, str(least - 1)])
    assert caught.value.code == 2
    assert f"{option} must be at least {least}" in capsys.readouterr().err


def test_a_plot_is_a_png(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, from the extra bench")
    monkeypatch.setattr(threads, "measure", lambda *_: _result())
    path = tmp_path / "ratios.png"
    assert threads.main(["--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_network_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--only", "quicknet", "--size", "64", "--rounds", "1", "--threads", "3", "--json"]
    assert threads.main(command) == 0
    (result,) = json.loads(capsys.readouterr().out)["networks"]
    assert result["agrees"] and result["equal"] and result["copies"] > 0
    assert {"run", "C", "fp32", "int8"} <= result["sides"].keys()
