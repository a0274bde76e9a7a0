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

# Vector instructions and all instructions per 128 MACs. Counts are exact: a per cent is room
# enough for another version of LLVM.
BUDGET = {
    "cnt": {
        "14x14x256 k5": (3.06, 3.38),
        "56x56x64 k3": (3.28, 3.62),
        "28x28x128 k3": (3.16, 3.59),
        "14x14x256 k3": (3.10, 3.46),
        "14x14x256 k3 s2": (3.10, 3.47),
        "7x7x512 k3": (3.07, 3.42),
    },
    "tbl": {
        "14x14x256 k5": (2.05, 3.14),
        "56x56x64 k3": (2.30, 3.75),
        "28x28x128 k3": (2.17, 3.60),
        "14x14x256 k3": (2.10, 3.16),
        "14x14x256 k3 s2": (2.15, 3.33),
        "7x7x512 k3": (2.11, 3.21),
    },
}
FLOOR = {"cnt": 3.0, "tbl": 7 * 128 / 480}
CORE = {"cnt": "cortex-a72", "tbl": "cortex-a76"}


@needs_armcost
@pytest.mark.parametrize("family", list(BUDGET))
def test_counts_stay_within_the_budget(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--json", "--price", "a72", "--core", CORE[family], "--family", family]
    assert arm64.main([*args, "--armcost", str(ARMCOST)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["layer"] for row in rows] == list(BUDGET[family])
    for row in rows:
        vector, everything = BUDGET[family][row["layer"]]
        # Below the instructions of its loop a count would be wrong.
        assert FLOOR[family] <= row["vector_ops_per_128"] <= vector, row
        assert row["vector_ops_per_128"] < row["instructions_per_128"] <= everything, row
        assert row["cycles_per_128"]["a72"] > 0
        assert row["correct"] is True
        assert CORE[family] in row["chosen_for"]


def test_missing_armcost_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert arm64.main(["--armcost", str(tmp_path / "none.py")]) == 4
    message = capsys.readouterr().err
    assert "--armcost" in message or arm64_program.missing_tool() is not None
