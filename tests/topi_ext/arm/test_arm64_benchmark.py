"""The arm64 benchmark counts what it says, within the budget, and says what it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import arm64, arm64_program

ARMCOST = arm64._BESIDE
needs_armcost = pytest.mark.skipif(
    arm64_program.missing_tool() is not None or not ARMCOST.is_file(),
    reason=arm64_program.missing_tool() or f"no armcost at {ARMCOST}",
)

# Vector instructions and all instructions per 128 MACs; exact counts, so little room is left.
BUDGET = {"cnt": (3.1, 3.5), "tbl": (2.25, 3.8)}


@needs_armcost
def test_counts_stay_within_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    layers = ["--layer", "14x14x256 k3 s2", "--layer", "7x7x512 k3"]
    assert arm64.main(["--json", "--models", "a72", "--armcost", str(ARMCOST), *layers]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["layer"] for row in rows} == set(layers[1::2])
    for row in rows:
        vector, everything = BUDGET[row["family"]]
        # eor, cnt and one addition are the floor of that family: less would be a wrong count.
        assert row["family"] != "cnt" or row["vector_ops_per_128"] >= 3
        assert row["vector_ops_per_128"] <= vector
        assert row["vector_ops_per_128"] < row["instructions_per_128"] <= everything
        assert row["cycles_per_128"]["a72"] > 0
        assert row["correct"] is True
        assert row["ci"] in (256, 512)
        assert isinstance(row["chosen_for"], list)


def test_missing_armcost_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert arm64.main(["--armcost", str(tmp_path / "none.py")]) == 4
    message = capsys.readouterr().err
    assert "--armcost" in message or arm64_program.missing_tool() is not None
