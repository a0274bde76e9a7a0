"""Everything wrong that a user can hand in: exit code, what is wrong, where, what to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.cli import models


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a folder of its own, so that anything left behind is seen."""
    monkeypatch.chdir(tmp_path)


def save(model: onnx.ModelProto, name: str = "m.onnx") -> str:
    onnx.save(model, name)
    return name


def refused(outcome, code: int, kind: str, *texts: str) -> None:
    """The error object has this code and kind, the texts, and a hint; nothing was written."""
    assert outcome.code == code, outcome
    error = outcome.json["error"]
    assert (error["code"], error["kind"]) == (code, kind)
    whole = f"{error['message']} {error['node']} {error['hint']}"
    for text in texts:
        assert text in whole
    assert error["hint"]
    assert "Traceback" not in outcome.err
    left = {path.name for path in Path().iterdir() if path.suffix not in (".onnx", ".txt", ".npy")}
    assert not left, left


def test_a_missing_file(cli) -> None:
    for command in ("compile", "verify", "inspect"):
        refused(cli(command, "none.onnx", "--json"), 6, "file", "none.onnx")


def test_files_that_are_no_onnx(cli) -> None:
    whole = models.two_convs().SerializeToString()
    for content in (b"", b"hello, this is text", whole[:200], whole[:-30], os.urandom(300)):
        Path("bad.onnx").write_bytes(content)
        outcome = cli("compile", "bad.onnx", "--json")
        assert outcome.code in (3, 6), outcome
        refused(outcome, outcome.code, {3: "model", 6: "file"}[outcome.code])


def test_a_folder(cli) -> None:
    Path("folder.onnx").mkdir()
    outcome = cli("compile", "folder.onnx", "--json")
    assert outcome.code == 6 and outcome.json["error"]["hint"]


def test_a_model_that_the_checker_refuses(cli) -> None:
    model = models.two_convs()
    model.graph.node[1].input[0] = "nowhere"
    refused(cli("compile", save(model), "--json"), 3, "model", "nowhere")


def test_unsupported_operators_are_all_listed(cli) -> None:
    model = models.model(
        [
            helper.make_node("NonMaxSuppression", ["x", "x"], ["a"]),
            helper.make_node("StringNormalizer", ["a"], ["b"]),
        ],
        [models.value("x", 1, 4, 4)],
        [models.value("b", 1, 4)],
    )
    outcome = cli("compile", save(model), "--json")
    refused(outcome, 3, "model", "NonMaxSuppression", "StringNormalizer")


def test_dynamic_shapes_name_the_option(cli) -> None:
    path = save(models.two_convs(height="h"))
    outcome = cli("compile", path, "--json")
    assert outcome.code in (2, 3)
    error = outcome.json["error"]
    assert "--shape" in error["hint"] and "x" in error["message"] + str(error["node"])
    assert cli("inspect", path, "--shape", "x=1,3,6,6").code == 0


@pytest.mark.parametrize(
    ("args", "texts"),
    [
        (["--target", "arm46"], ["unknown target 'arm46'", "arm64"]),
        (["--mcpu", "cortex-x"], ["no core 'cortex-x'"]),
        (["--target", "arm64", "--mcpu", "znver3"], ["no core 'znver3' for aarch64"]),
        (["--mattr", "+avx9"], ["no CPU feature 'avx9'"]),
        (["--sign-zero", "zero"], ["'zero' is not one of", "--sign-zero"]),
        (["--batch", "many"], ["'many' is not a valid integer", "--batch"]),
        (["--batch", "0"], ["batch size", "--batch"]),
        (["--strict", "--moderate"], ["exclude one another"]),
        (["--binary-convs", "second", "--exclude-first-last"], ["exclude one another"]),
        (["--shape", "x=1,a"], ["'x=1,a' is no shape"]),
        (["--shape", "y=1,3,6,6"], ["y"]),
        (["--binary-convs", "secnd"], ["secnd", "second"]),
        (["--nonsense"], ["--nonsense"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_wrong_options(cli, args: list[str], texts: list[str]) -> None:
    path = save(models.two_convs())
    refused(cli("compile", path, *args, "--json"), 2, "usage", *texts)


def test_a_list_file(cli) -> None:
    path = save(models.two_convs())
    Path("list.txt").write_text("second\r\n\r\nthird\r\n")
    refused(cli("compile", path, "--binary-list", "list.txt", "--json"), 2, "usage", "third")
    refused(cli("compile", path, "--binary-list", "none.txt", "--json"), 6, "file", "none.txt")


def test_an_unwritable_output(cli) -> None:
    path = save(models.two_convs())
    Path("blocked.txt").write_text("a file, no folder")
    refused(cli("compile", path, "-o", "blocked.txt/m", "--json"), 6, "file", "blocked.txt")


@pytest.fixture
def compiled(cli) -> Path:
    outcome = cli("compile", save(models.two_convs()), "-o", "m")
    assert outcome.code == 0, outcome
    return Path("m.so")


def failed(outcome, code: int, *texts: str) -> None:
    assert outcome.code == code, outcome
    error = outcome.json["error"]
    for text in texts:
        assert text in f"{error['message']} {error['node']} {error['hint']}"
    assert error["hint"]


def test_wrong_arrays(cli, compiled: Path) -> None:
    good = np.zeros((1, 3, 6, 6), np.float32)
    cases = {
        "shape": (good[:, :, :5], "", ["shape", "[1, 3, 6, 6]"]),
        "dtype": (good.astype(np.float64), "", ["float32", "float64"]),
        "name": (good, "z=", ["no input 'z'"]),
    }
    for name, (array, prefix, texts) in cases.items():
        np.save(f"{name}.npy", array)
        for command in (["run", compiled, "--output", "y.npy"], ["verify", "m.onnx"]):
            outcome = cli(*command, "--input", f"{prefix}{name}.npy", "--json")
            failed(outcome, 2, *texts)
    assert not Path("y.npy").exists()


def test_an_output_file_that_does_not_fit(cli, compiled: Path) -> None:
    np.save("x.npy", np.zeros((1, 3, 6, 6), np.float32))
    run = ["run", compiled, "--input", "x.npy", "--json", "--output"]
    failed(cli(*run, "y.txt"), 2, "must be .npy or .npz")
    failed(cli(*run, "none/y.npy"), 6, "cannot write the output")
    failed(cli("run", compiled, "--json", "--output", "y.npy"), 2, "--input")


def test_files_that_do_not_belong_together(cli, compiled: Path) -> None:
    dab = Path("m.dab").read_bytes()
    so = compiled.read_bytes()
    for name, (library, metadata) in {
        "changed": (so[:-1] + bytes([so[-1] ^ 1]), dab),
        "cut": (so, dab[: len(dab) // 2]),
        "empty": (so, b""),
        "text": (b"no library at all", dab),
    }.items():
        Path(f"{name}.so").write_bytes(library)
        Path(f"{name}.dab").write_bytes(metadata)
        failed(cli("bench", f"{name}.so", "--json"), 6, name)
    Path("alone.so").write_bytes(so)
    failed(cli("bench", "alone.so", "--json"), 6, "alone.dab")
    failed(cli("inspect", "cut.dab", "--json"), 6, "cut.dab")
    failed(cli("inspect", "none.dab", "--json"), 6, "none.dab")
    failed(cli("inspect", "--json"), 2, "no file to inspect")


def test_a_hostile_dab_never_crashes(cli, compiled: Path) -> None:
    rng = np.random.default_rng(3)
    dab = bytearray(Path("m.dab").read_bytes())
    for _ in range(60):
        broken = bytearray(dab)
        for position in rng.integers(0, len(broken), 4):
            broken[position] = rng.integers(0, 256)
        Path("broken.dab").write_bytes(broken)
        outcome = cli("inspect", "broken.dab", "--json")
        assert outcome.code in (0, 6), outcome


def test_a_library_of_another_machine(cli) -> None:
    foreign = "x86_64" if os.uname().machine == "aarch64" else "arm64"
    path = save(models.two_convs())
    assert cli("compile", path, "--target", foreign, "-o", "foreign").code == 0
    np.save("x.npy", np.zeros((1, 3, 6, 6), np.float32))
    run = ["run", "foreign.so", "--input", "x.npy", "--output", "y.npy", "--json"]
    failed(cli(*run), 5, "built for")
    failed(cli("bench", "foreign.so", "--json"), 5, "built for")


def test_a_foreign_target_without_emulator(cli, monkeypatch) -> None:
    foreign = "x86_64" if os.uname().machine == "aarch64" else "arm64"
    monkeypatch.setenv("PATH", str(Path("nothing").absolute()))
    outcome = cli("verify", save(models.two_convs()), "--target", foreign, "--json")
    refused(outcome, 5, "device", "no emulator", "apt install qemu-user")


def test_nothing_to_verify_with(cli) -> None:
    outcome = cli("verify", save(models.two_convs()), "--samples", "0", "--json")
    refused(outcome, 2, "usage", "nothing to verify with", "--input")


def test_a_missing_toolchain(cli, monkeypatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "ziglang" else find(name, *a)
    )
    outcome = cli("compile", save(models.two_convs()), "--json")
    refused(outcome, 4, "toolchain", "zig")


def test_verify_reports_a_foreign_target_as_emulated(cli) -> None:
    from bnn_tvm.devices import find_qemu

    if os.uname().machine != "x86_64" or find_qemu("aarch64") is None:
        pytest.skip("needs qemu-aarch64 on x86-64")
    outcome = cli("verify", save(models.two_convs()), "--target", "arm64", "--json")
    assert outcome.code == 0, outcome
    assert outcome.json["emulated"] is True and outcome.json["target"] == "arm64"
    assert outcome.json["layers"][1]["exact"]


def test_verify_says_that_android_is_emulated_on_another_c_library(cli) -> None:
    from bnn_tvm.devices import find_qemu, find_sysroot

    if find_qemu("aarch64") is None or find_sysroot("aarch64") is None:
        pytest.skip("needs qemu-aarch64 and its C library")
    model = save(models.two_convs())
    outcome = cli("verify", model, "--target", "arm64-android")
    assert outcome.code == 0, outcome
    place = "target arm64-android, emulated by qemu on glibc in place of Android's C library"
    assert place in " ".join(outcome.out.split())
    result = cli("verify", model, "--target", "arm64-android", "--json").json
    assert result["emulated"] is True and result["target"] == "arm64-android"
    assert "glibc" in result["place"]


def test_android_without_emulator(cli, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(Path("nothing").absolute()))
    outcome = cli("verify", save(models.two_convs()), "--target", "arm64-android", "--json")
    refused(outcome, 5, "device", "no emulator", "apt install qemu-user")
