"""`--kernels`, and what commands tell about families of kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bnn_tvm.devices import find_qemu
from tests.cli import models
from tests.export.programs import H_NAME, X_NAME, expected, host_spec, random_x
from tests.export.two_families import artifact


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BNN_TVM_KERNELS", raising=False)
    artifact(host_spec()).save("two")


@pytest.mark.parametrize("family", ["cnt", "tbl"])
def test_run_with_the_kernels_asked_for(cli, family: str) -> None:
    x = random_x()
    np.savez("x.npz", **{X_NAME: x})
    command = ("run", "two.so", "--input", "x.npz", "--output", "y.npz", "--kernels", family)
    assert cli(*command).code == 0
    with np.load("y.npz") as result:
        np.testing.assert_allclose(result[H_NAME], expected(x)[H_NAME], rtol=2e-4, atol=2e-4)


def test_bench_json_lists_what_ran(cli) -> None:
    result = cli("bench", "two.so", "--repeat", "2", "--json", "--kernels", "tbl").json
    assert result["kernels"] == "tbl"
    assert [row["kernel"] for row in result["layers"] if row["output"] == "h"] == [
        "dense-halves",
        "dense-both",
    ]
    assert set(result) >= {"target", "threads", "latency_ms", "layers"}
    for row in result["layers"]:
        assert set(row) >= {"output", "kind", "kernel", "ms", "share"}


def test_a_wrong_name_is_wrong_usage_with_the_remedy(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (("bench", "two.so"), ("run", "two.so", "--input", "x", "--output", "y.npz")):
        outcome = cli(*command, "--kernels", "neon")
        assert outcome.code == 2 and "no kernels called 'neon' [--kernels]" in outcome.err
        assert "it has: cnt, tbl" in outcome.err
    assert not Path("y.npz").exists()
    monkeypatch.setenv("BNN_TVM_KERNELS", "neon")
    outcome = cli("bench", "two.so", "--json")
    assert outcome.code == 2 and outcome.json["error"]["node"] == "BNN_TVM_KERNELS"


def test_a_model_without_a_choice_refuses_to_be_asked(cli) -> None:
    onnx.save(models.two_convs(), "net.onnx")
    assert cli("compile", "net.onnx").code == 0
    outcome = cli("bench", "net.so", "--kernels", "cnt")
    assert outcome.code == 2 and "one set of kernels, so 'cnt' cannot be chosen" in outcome.err
    assert cli("bench", "net.so", "--repeat", "1", "--json").json["kernels"] is None
    outcome = cli("verify", "net.onnx", "--kernels", "cnt")
    assert outcome.code == 2 and "--target arm64" in outcome.err


def test_compile_and_inspect_tell_about_both(
    cli, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    outcome = cli("compile", "--target", "arm64", digits, "-o", "d")
    assert "the device chooses between the kernels cnt and tbl" in outcome.out
    shown = cli("inspect", "d.dab").out
    for text in ("chosen on", "cortex-a53", "cortex-a76", "runs with", "BNN_TVM_KERNELS"):
        assert text in shown
    result = cli("inspect", "d.dab", "--json").json
    assert [family["name"] for family in result["families"]] == ["cnt", "tbl"]
    for layer in ("block1", "block2", "block3"):
        rows = [x for x in result["layers"] if f"/{layer}/conv" in x["output"] and x["macs"]]
        kernels = [("_cnt_" in row["kernel"], row["families"]) for row in rows]
        assert kernels == [(True, ["cnt"]), (False, ["tbl"])]
    assert all(family["weight_bytes"] and family["code_bytes"] for family in result["families"])
    one = cli("compile", "--target", "arm64", "--mcpu", "cortex-a76", digits, "-o", "one")
    assert "the device chooses" not in one.out
    shown = cli("inspect", "one.dab").out
    assert "runs with" not in shown and "family rule" not in shown
    assert cli("inspect", "one.dab", "--json").json["families"] == []


@pytest.mark.skipif(find_qemu("aarch64") is None, reason="qemu-aarch64 is not installed")
def test_verify_says_which_kernels_it_ran(cli, digits: Path) -> None:
    command = ("verify", "--target", "arm64", "--samples", "1", digits)
    outcome = cli(*command)
    assert outcome.code == 0
    assert "1 inputs, each with the kernels cnt and tbl" in outcome.out
    outcome = cli(*command, "--kernels", "cnt")
    assert "1 inputs, with the kernels cnt\n" in outcome.out
    assert cli(*command, "--kernels", "cnt", "--json").json["kernels"] == ["cnt"]
