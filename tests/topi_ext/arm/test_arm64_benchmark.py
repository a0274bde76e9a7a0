"""The arm64 benchmark counts what it says, within the budget, and says what it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import arm64, arm64_program, arm64_sme2, counter, sme_qemu
from benchmarks.counter import ARMCOST
from tests.topi_ext.arm.armcost import needs_armcost

# Vector instructions and all instructions per 128 MACs, to floats and to packed bits. Counts are
# exact: a per cent or two is room enough for another version of LLVM.
BUDGET = {
    "cnt": {
        "14x14x256 k5": ((3.05, 3.38), (3.04, 3.37)),
        "56x56x64 k3": ((3.20, 3.62), (3.18, 3.48)),
        "28x28x128 k3": ((3.13, 3.59), (3.10, 3.52)),
        "14x14x256 k3": ((3.09, 3.46), (3.06, 3.42)),
        "14x14x256 k3 s2": ((3.09, 3.47), (3.06, 3.44)),
        "7x7x512 k3": ((3.06, 3.40), (3.05, 3.38)),
        "dense 1024x1024": ((3.16, 4.17), (3.13, 4.08)),
        "dense 512x1000": ((3.25, 4.13), (3.22, 3.97)),
    },
    "tbl5": {
        "14x14x256 k5": ((2.05, 3.10), (2.03, 3.08)),
        "56x56x64 k3": ((2.29, 3.72), (2.15, 3.51)),
        "28x28x128 k3": ((2.15, 3.25), (2.09, 3.13)),
        "14x14x256 k3": ((2.10, 3.15), (2.06, 3.10)),
        "14x14x256 k3 s2": ((2.15, 3.32), (2.13, 3.25)),
        "7x7x512 k3": ((2.11, 3.21), (2.09, 3.17)),
    },
    "tbl4": {
        "14x14x256 k5": ((2.51, 3.84), (2.50, 3.82)),
        "56x56x64 k3": ((2.78, 4.13), (2.61, 3.90)),
        "28x28x128 k3": ((2.62, 3.92), (2.55, 3.82)),
        "14x14x256 k3": ((2.56, 3.84), (2.52, 3.78)),
        "14x14x256 k3 s2": ((2.64, 4.06), (2.60, 4.00)),
        "7x7x512 k3": ((2.58, 3.99), (2.56, 3.95)),
    },
}
FLOOR = {"cnt": 3.0, "tbl5": 7 * 128 / 480, "tbl4": 7 * 128 / 384}
MOST_FOR_ZERO_PADDING = 1.03


@needs_armcost
@pytest.mark.parametrize("form", ["cnt", "tbl5", pytest.param("tbl4", marks=pytest.mark.slow)])
def test_counts_stay_within_the_budget(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    layers = [arg for layer in BUDGET[form] for arg in ("--layer", layer)]
    args = ["--json", "--price", "a72", "--family", form, *layers]
    assert arm64.main([*args, "--armcost", str(ARMCOST)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    asked = [(layer, output) for layer in BUDGET[form] for output in arm64.OUTPUTS]
    assert [(row["layer"], row["output"]) for row in rows] == asked
    for row in rows:
        vector, everything = BUDGET[form][row["layer"]][arm64.OUTPUTS.index(row["output"])]
        # Below the instructions of its loop a count would be wrong.
        assert FLOOR[form] <= row["vector_ops_per_128"] <= vector, row
        assert row["vector_ops_per_128"] < row["instructions_per_128"] <= everything, row
        assert row["cycles_per_128"]["a72"] > 0
        assert row["correct"] is True
        assert row["core"] == arm64.TAKES[form]
        assert row["core"] in row["chosen_for"]
        assert ("zero_padding" in row) == (not row["layer"].startswith("dense"))
        for ratio in row.get("zero_padding", {}).values():
            assert 0.9 < ratio <= MOST_FOR_ZERO_PADDING, row


def test_missing_armcost_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert arm64.main(["--armcost", str(tmp_path / "none.py")]) == 4
    message = capsys.readouterr().err
    assert "--armcost" in message or arm64_program.missing_tool() is not None


def test_an_old_llvm_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arm64_program, "missing_tool", lambda: None)
    old, new = tmp_path / "old", tmp_path / "new"
    for tool, version in ((old, 14), (new, 22)):
        tool.write_text(f"#!/bin/sh\necho LLVM version {version}.0.6\n")
        tool.chmod(0o755)
    armcost = tmp_path / "armcost.py"
    armcost.touch()
    monkeypatch.setenv("LLVM_MC", str(new))
    monkeypatch.setenv("LLVM_MCA", str(new))
    assert counter.missing(armcost) is None
    for tool in (str(old), "llvm-mca-none"):
        monkeypatch.setenv("LLVM_MCA", tool)
        assert arm64.main(["--armcost", str(armcost)]) == 4
        assert "armcost needs LLVM 19 or newer: apt install llvm-19" in capsys.readouterr().err


@pytest.mark.skipif(sme_qemu.missing() is not None, reason=str(sme_qemu.missing()))
@needs_armcost
def test_sme2_counts_stay_within_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    layers = ["--layer", "56x56x64 k3", "--layer", "7x7x512 k3"]
    assert arm64_sme2.main(["--json", "--bits", "512", *layers, "--armcost", str(ARMCOST)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["layer"] for row in rows] == layers[1::2]
    for row, most in zip(rows, (0.61, 0.15), strict=True):
        assert 128 / 8192 <= row["vector_ops_per_128"] < row["instructions_per_128"] <= most, row
        assert row["correct"] is True and row["vector_bits"] == 512


def test_sme2_counts_say_what_they_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, expected in (("9.2.1", "needs qemu 10.1 or newer"), ("10.1.0", "--armcost")):
        qemu = tmp_path / version
        qemu.write_text(f"#!/bin/sh\necho qemu-aarch64 version {version}\n")
        qemu.chmod(0o755)
        monkeypatch.setenv("BNN_TVM_SME_QEMU", str(qemu))
        monkeypatch.setattr(arm64_program, "missing_tool", lambda: None)
        sme_qemu.missing.cache_clear()
        assert arm64_sme2.main(["--armcost", str(tmp_path / "none.py")]) == 4
        assert expected in capsys.readouterr().err
    sme_qemu.missing.cache_clear()
