"""The commands end to end on a small network: what they print, write and promise in JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.cli import models


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(models.two_convs(), "net.onnx")


def reference(x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession("net.onnx").run(None, {"x": x})[0]


def test_compile_writes_both_files_and_says_what_was_decided(cli) -> None:
    outcome = cli("compile", "net.onnx")
    assert outcome.code == 0, outcome
    assert "1 of 2 layers are binary" in outcome.out
    assert "first" in outcome.out and "second" in outcome.out
    assert "net.so" in outcome.out and "net.dab" in outcome.out
    assert sorted(p.name for p in Path().iterdir()) == ["net.dab", "net.onnx", "net.so"]
    assert "\x1b[" not in outcome.out, "colours only on a terminal"


def test_compile_json_has_the_fixed_keys(cli) -> None:
    outcome = cli("compile", "net.onnx", "-o", "new/folder/m", "--json", "--moderate")
    result = outcome.json
    assert result["so"] == "new/folder/m.so" and Path(result["so"]).exists()
    assert result["dab"] == "new/folder/m.dab" and Path(result["dab"]).exists()
    assert (result["target"], result["mode"]) == ("host", "moderate")
    assert result["warnings"] == []
    assert [d["output"] for d in result["decisions"]] == ["first", "second"]
    for decision in result["decisions"]:
        assert set(decision) >= {"output", "op", "binary", "rule", "reason", "implied"}
    first = result["decisions"][0]
    assert first["binary"] is False and first["rule"] is None and first["reason"]


def test_what_is_implied_is_a_warning_on_stderr(cli) -> None:
    onnx.save(models.two_convs(sign=False), "relu.onnx")
    outcome = cli("compile", "relu.onnx", "--json")
    result = outcome.json
    second = result["decisions"][1]
    assert second["binary"] and second["rule"] == "aggressive"
    assert "binarized-input" in second["implied"]
    assert any("second" in warning for warning in result["warnings"])
    assert "warning:" in outcome.err and "second" in outcome.err


def test_run_computes_what_onnxruntime_computes(cli) -> None:
    assert cli("compile", "net.onnx", "-o", "m").code == 0
    x = np.random.default_rng(0).standard_normal((1, 3, 6, 6)).astype(np.float32)
    np.save("x.npy", x)
    outcome = cli("run", "m.so", "--input", "x.npy", "--output", "y.npy")
    assert outcome.code == 0, outcome
    assert "second" in outcome.out and "written: y.npy" in outcome.out
    np.testing.assert_array_equal(np.load("y.npy"), reference(x))
    result = cli("run", "m.dab", "--input", "x=x.npy", "--output", "y.npz", "--json").json
    assert result["outputs"] == [{"name": "second", "shape": [1, 5, 6, 6], "dtype": "float32"}]
    np.testing.assert_array_equal(np.load("y.npz")["second"], reference(x))


def test_several_inputs_and_outputs(cli) -> None:
    onnx.save(models.add_two_inputs(), "two.onnx")
    assert cli("compile", "two.onnx").code == 0
    a, b = np.arange(4, dtype=np.float32)[None], np.full((1, 4), 2, np.float32)
    np.savez("in.npz", a=a, b=b)
    assert cli("run", "two.so", "--input", "in.npz", "--output", "out.npz").code == 0
    with np.load("out.npz") as out:
        np.testing.assert_array_equal(out["sum"], a + b)
        np.testing.assert_array_equal(out["difference"], a - b)


def test_verify(cli) -> None:
    np.save("x.npy", np.ones((4, 3, 6, 6), np.float32))
    outcome = cli("verify", "net.onnx", "--input", "x.npy", "--samples", "1", "--json")
    assert outcome.code == 0, outcome
    result = outcome.json
    assert result["ok"] is True and result["emulated"] is False and result["target"] == "host"
    assert result["samples"] == 5
    assert [layer["output"] for layer in result["layers"]] == ["first", "second"]
    assert result["layers"][1]["binary"] and result["layers"][1]["exact"]
    assert result["max_abs_error"] < 1e-4
    people = cli("verify", "net.onnx")
    assert "verified" in people.out and "top-1" not in people.err


def test_verify_says_no_with_exit_code_1(cli, monkeypatch) -> None:
    from bnn_tvm.runtime import Model

    run = Model.run

    def wrong(self, inputs):
        outputs = run(self, inputs)
        if "second" in outputs:
            outputs["second"] = outputs["second"] + 2
        return outputs

    monkeypatch.setattr(Model, "run", wrong)
    outcome = cli("verify", "net.onnx")
    assert outcome.code == 1
    assert "NOT VERIFIED: the first layer that differs is second" in outcome.out
    result = cli("verify", "net.onnx", "--json")
    assert result.code == 1 and result.json["ok"] is False
    assert result.json["first_difference"] == "second"


def test_bench(cli) -> None:
    assert cli("compile", "net.onnx", "-o", "m").code == 0
    outcome = cli("bench", "m.so", "--threads", "2", "--repeat", "5", "--json")
    assert outcome.code == 0, outcome
    result = outcome.json
    assert (result["target"], result["threads"]) == ("host", 2)
    latency = result["latency_ms"]
    assert 0 < latency["min"] <= latency["median"] <= latency["p95"]
    assert {layer["output"] for layer in result["layers"]} >= {"first", "second"}
    assert sum(layer["share"] for layer in result["layers"]) == pytest.approx(1)
    for layer in result["layers"]:
        assert set(layer) >= {"output", "kind", "kernel", "ms", "share"}
    people = cli("bench", "m.so", "--repeat", "3", "--profile")
    assert "share" in people.out and "median" in people.out and "1 thread," in people.out
    assert "share" not in cli("bench", "m.so", "--repeat", "3").out


def test_inspect_a_compiled_model(cli) -> None:
    assert cli("compile", "net.onnx", "-o", "m").code == 0
    for file in ("m.dab", "m.so"):
        result = cli("inspect", file, "--json").json
        assert result["source"] == "net.onnx" and len(result["source_sha256"]) == 64
        assert [t["name"] for t in result["inputs"]] == ["x"]
        assert [d["output"] for d in result["decisions"]] == ["first", "second"]
        assert result["tool_version"] and result["tvm_version"] and result["so_sha256"]
        assert any(layer["kind"] == "binary-conv" for layer in result["layers"])
    people = cli("inspect", "m.dab")
    assert people.code == 0 and "binary-conv" in people.out and "net.onnx" in people.out


def test_inspect_an_onnx_file_decides_without_compiling(cli) -> None:
    result = cli("inspect", "net.onnx", "--json").json
    assert result["kind"] == "onnx" and result["layers"] == []
    assert [d["binary"] for d in result["decisions"]] == [False, True]
    strict = cli("inspect", "net.onnx", "--strict", "--json").json
    assert [d["binary"] for d in strict["decisions"]] == [False, False]
    assert sorted(p.name for p in Path().iterdir()) == ["net.onnx"]


def test_include_dir_has_the_header(cli) -> None:
    folder = Path(cli("inspect", "--include-dir").out.strip())
    assert (folder / "bnn_tvm.h").is_file()


def test_json_is_alone_on_stdout_of_a_real_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bnn_tvm.compile", "net.onnx", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "40"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"] == "host"


def test_python_api_mirrors_the_commands() -> None:
    import bnn_tvm

    compiled = bnn_tvm.compile_model("net.onnx", mode="strict")
    assert [decision.output for decision in compiled.decisions] == ["first", "second"]
    compiled = bnn_tvm.compile_model(onnx.load("net.onnx"))
    saved = compiled.save("out/model")
    assert (saved.so, saved.dab) == (Path("out/model.so"), Path("out/model.dab"))
    x = np.random.default_rng(1).standard_normal((1, 3, 6, 6)).astype(np.float32)
    model = bnn_tvm.load("out/model.so", threads=1, self_test=True)
    np.testing.assert_array_equal(model.run({"x": x})["second"], reference(x))
    np.testing.assert_array_equal(model.run(x)["second"], reference(x))
    assert {layer.output for layer in model.profile(x)} >= {"first", "second"}
