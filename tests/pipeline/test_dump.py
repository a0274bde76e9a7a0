"""`--dump`: the module after each phase, and the assembly of every kernel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bnn_tvm


@pytest.mark.parametrize(
    ("target", "counts"),
    [("arm64", r"\b(cnt|tbl)\tv\d+\.16b"), ("x86_64", r"\bvp?\w+\t.*%[xyz]mm")],
)
def test_a_dump_holds_every_phase_and_every_kernel(
    digits: Path, tmp_path: Path, target: str, counts: str
) -> None:
    stale = tmp_path / "5-assembly" / "bnn_of_another_model.s"
    stale.parent.mkdir()
    stale.write_text("old")
    mcpu = {"x86_64": "haswell", "arm64": None}[target]
    bnn_tvm.compile_model(digits, target=target, mcpu=mcpu, dump=tmp_path)
    families = ["-cnt", "-tbl"] if target == "arm64" else [""]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1-simplified.onnx.txt",
        *(f"2-imported{family}.py" for family in families),
        *(f"3-fused{family}.py" for family in families),
        "4-scheduled.py",
        "5-assembly",
    ]
    assert "BinaryConv" in (tmp_path / "1-simplified.onnx.txt").read_text()
    for family in families:
        assert "call_tir" in (tmp_path / f"3-fused{family}.py").read_text()
    scheduled = set(re.findall(r"def (\w+)\(", (tmp_path / "4-scheduled.py").read_text()))
    texts = {path.stem: path.read_text() for path in (tmp_path / "5-assembly").iterdir()}
    assert texts.keys() == scheduled
    assert all(f"kernel_{symbol}:" in text for symbol, text in texts.items())
    binary = [text for symbol, text in texts.items() if symbol.startswith("bnn_fused_bconv2d")]
    assert binary and all(re.search(counts, text) for text in binary)


def test_a_dump_changes_nothing_of_the_result(digits: Path, tmp_path: Path) -> None:
    plain = bnn_tvm.compile_model(digits, target="x86_64").artifact
    dumped = bnn_tvm.compile_model(digits, target="x86_64", dump=tmp_path).artifact
    assert dumped.so == plain.so
