"""--float16 on the command line: refused, or said of every layer wherever a model is described."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnn_tvm.devices import find_qemu

ARM = ("--target", "arm64", "--mattr", "+fullfp16", "--float16")
STEM, LOGITS = "/stem/Conv_output_0", "logits"
HALVES = {STEM, "/block2/shortcut/shortcut.1/Conv_output_0", LOGITS}


def test_a_target_without_it_is_wrong_usage(cli, digits: Path, tmp_path: Path) -> None:
    stem = tmp_path / "model"
    outcome = cli("compile", "--target", "arm64", "--float16", "-o", stem, digits)
    assert outcome.code == 2 and outcome.out == ""
    assert "half precision needs FullFP16" in outcome.err and "--mattr +fullfp16" in outcome.err
    assert not list(tmp_path.iterdir())
    error = cli("compile", "--target", "x86_64", "--float16", "--json", digits).json["error"]
    assert error["code"] == 2 and error["node"] == "--float16" and "cortex-a76" in error["hint"]


def test_compile_and_inspect_say_it_of_every_layer(cli, digits: Path, tmp_path: Path) -> None:
    stem = tmp_path / "model"
    compiled = cli("compile", *ARM, "--json", "-o", stem, digits).json
    shown = cli("inspect", "--json", f"{stem}.dab").json
    planned = cli("inspect", *ARM, "--json", digits).json
    for result in (compiled, shown, planned):
        found = {d["output"] for d in result["decisions"] if "float16" in d["implied"]}
        assert found == HALVES
        assert not any(d["binary"] and "float16" in d["implied"] for d in result["decisions"])
        lines = [line for line in result["warnings"] if line.startswith("float16: ")]
        assert [line.split(" in half")[0] for line in lines] == [
            "float16: 2 convolutions compute",
            "float16: 1 dense layer computes",
            "float16: 6 elementwise operators compute",
        ]
        assert all("inexact" in line for line in lines)
    assert shown["options"]["float16"] == "True" and "fullfp16" in shown["features"]
    for result in (shown, planned):
        assert result["float_layers"] == (
            "3 of 3 in half precision (float16): the result is inexact"
        )
    assert {t["dtype"] for t in (*shown["inputs"], *shown["outputs"])} == {"float32"}
    text = cli("inspect", f"{stem}.dab")
    assert "3 of 3 in half precision (float16): the result is inexact" in text.out
    assert "warning: float16: 1 dense layer computes in half precision, inexact" in text.err


def test_the_table_and_the_evidence_say_float16(cli, digits: Path, tmp_path: Path) -> None:
    outcome = cli("compile", *ARM, "-o", tmp_path / "model", digits)
    row = next(line for line in outcome.out.splitlines() if line.startswith(LOGITS))
    assert row.split()[1:3] == ["Gemm", "float16"]
    explained = cli("inspect", *ARM, "--json", "--explain", STEM, digits).json
    assert explained["decision"]["implied"] == ["float16"]


def test_without_the_option_nothing_is_said(cli, digits: Path) -> None:
    plain = cli("inspect", "--target", "arm64", "--mcpu", "cortex-a76", "--json", digits).json
    assert plain["float_layers"] == "float32" and plain["warnings"] == []


@pytest.mark.skipif(find_qemu("aarch64") is None, reason="needs qemu-aarch64")
def test_verify_states_the_tolerance(cli, digits: Path) -> None:
    outcome = cli("verify", *ARM, "--samples", "1", digits)
    assert outcome.code == 0, outcome.out
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line.strip()}
    # A narrow terminal breaks the line behind these words.
    assert "float16" in rows[LOGITS] and "equal within half" in rows[LOGITS]
    assert "exact" not in rows[LOGITS]
    assert (
        "binary" in rows["/block1/conv/Conv_output_0"]
        and "exact" in rows["/block1/conv/Conv_output_0"]
    )
    assert "by design" not in outcome.out
    text = " ".join(outcome.out.split())
    assert "layers in half precision are inexact: compared within 2% of the largest value" in text
    assert "up to 50% passes" in text and "top-1 agreement: 100.00%" in text
    assert "computes what the ONNX model does within half precision" in text
