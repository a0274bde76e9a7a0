from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from bnn_tvm.errors import BnnError, DeviceError, FileError, UsageError
from bnn_tvm.export import Artifact
from bnn_tvm.runtime import capi, load
from bnn_tvm.runtime import model as model_module
from tests.export.programs import ARM64, X86, X_NAME, C, N, artifact, host_spec, random_x


@pytest.fixture
def pair(saved: Path, tmp_path: Path) -> Path:
    for suffix in (".so", ".dab"):
        shutil.copy(saved.with_suffix(suffix), tmp_path / f"net{suffix}")
    return tmp_path / "net.so"


def refused(kind: type[BnnError], path: Path, text: str, hint: str = "") -> None:
    with pytest.raises(kind, match=text) as caught:
        load(path)
    assert caught.value.node
    assert hint in (caught.value.hint or "")


def test_a_missing_file(tmp_path: Path) -> None:
    refused(FileError, tmp_path / "none.so", "there is no such file", "keep both")


def test_a_missing_other_file(pair: Path) -> None:
    pair.with_suffix(".dab").unlink()
    refused(FileError, pair, "the other file is missing", "keep both")


def test_a_wrong_suffix(tmp_path: Path) -> None:
    refused(FileError, tmp_path / "model.onnx", "a pair of .so and .dab")


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"text" * 100])
def test_a_so_that_is_no_library(pair: Path, content: bytes) -> None:
    pair.write_bytes(content)
    refused(FileError, pair, "no compiled model", "the .so that compile wrote")


def test_an_executable_is_no_library(pair: Path) -> None:
    data = bytearray(pair.read_bytes())
    data[16] = 2
    pair.write_bytes(data)
    refused(FileError, pair, "no shared library")


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_a_dab_that_is_none(pair: Path, content: bytes) -> None:
    pair.with_suffix(".dab").write_bytes(content)
    refused(FileError, pair, r"this is no \.dab file")


def test_a_truncated_dab(pair: Path) -> None:
    dab = pair.with_suffix(".dab")
    dab.write_bytes(dab.read_bytes()[:200])
    refused(FileError, pair, "damaged", "compile the model again")


def test_files_that_do_not_belong_together(pair: Path) -> None:
    pair.write_bytes(pair.read_bytes() + b"\0")
    refused(FileError, pair, r"net\.dab does not belong to net\.so", "both files of one compile")


def test_a_truncated_so(pair: Path) -> None:
    pair.write_bytes(pair.read_bytes()[:5000])
    refused(FileError, pair, "does not belong")


def test_another_architecture(tmp_path: Path) -> None:
    foreign = ARM64 if host_spec() is X86 else X86
    path = artifact(foreign).save(tmp_path / "net")[0]
    built, here = ("aarch64", "x86_64") if foreign is ARM64 else ("x86_64", "aarch64")
    refused(DeviceError, path, f"built for {built}, this machine is {here}", "--target host")


def test_a_model_for_the_tvm_runtime(tmp_path: Path) -> None:
    plain = artifact(host_spec())
    other = Artifact(plain.so, dataclasses.replace(plain.metadata, runtime="tvm"))
    refused(FileError, other.save(tmp_path / "m")[0], "needs the tvm runtime", "load_module")


def test_a_dab_that_describes_other_inputs(tmp_path: Path) -> None:
    plain = artifact(host_spec())
    inputs = (dataclasses.replace(plain.metadata.inputs[0], shape=(1, C)),)
    other = Artifact(plain.so, dataclasses.replace(plain.metadata, inputs=inputs))
    refused(FileError, other.save(tmp_path / "m")[0], "other inputs and outputs")


@pytest.mark.parametrize("threads", [0, -1, 257, 1 << 40])
def test_a_thread_count_out_of_range(saved: Path, threads: int) -> None:
    with pytest.raises(UsageError, match=f"threads must be 1 to 256, not {threads}"):
        load(saved, threads=threads)


def test_a_processor_without_the_features(tmp_path: Path) -> None:
    """Refused before any kernel runs; no processor has both of these."""
    from bnn_tvm.export import build
    from tests.export.programs import metadata, network

    spec = host_spec()
    lacking = _lacking_feature(spec is X86)
    if lacking is None:
        pytest.skip("this processor has every feature that the test knows")
    # The kernels do not use it: only the table asks for it.
    spec = dataclasses.replace(spec, mattr=(f"+{lacking}",))
    built = build(network(), spec, metadata())
    refused(DeviceError, built.save(tmp_path / "m")[0], "lacks an instruction set", "--target host")


def _lacking_feature(x86: bool) -> str | None:
    text = Path("/proc/cpuinfo").read_text()
    names = ("avx512bitalg", "avx512vbmi", "avx512f") if x86 else ("sme2", "sve2", "sve")
    present = {w.replace("_", "") for w in text.split()}
    return next((n for n in names if n not in present), None)


INPUT_ERRORS = [
    ({"y": random_x()}, "no input y", f"its inputs are: {X_NAME}"),
    ({X_NAME: random_x(), "extra": 1}, "no input extra", ""),
    ({}, f"input {X_NAME} is missing", ""),
    ({X_NAME: random_x().astype("float64")}, "must be float32, not float64", "astype"),
    ({X_NAME: random_x()[:1]}, rf"must have shape \[{N}, {C}\] \(NC\), not \[1, {C}\]", "--batch"),
    (random_x().reshape(-1), rf"not \[{N * C}\]", "--shape"),
    (3.5, "must be float32, not float64", ""),
    ("text", "must be float32", ""),
    (None, "must be float32, not object", ""),
]


@pytest.mark.parametrize(("value", "text", "hint"), INPUT_ERRORS)
def test_wrong_input_arrays(saved: Path, value: object, text: str, hint: str) -> None:
    model = load(saved)
    for call in (model.run, model.profile):
        with pytest.raises(UsageError, match=text) as caught:
            call(value)
        assert hint in (caught.value.hint or "")


def test_a_bare_array_for_several_inputs() -> None:
    from bnn_tvm.export.metadata import TensorInfo
    from bnn_tvm.runtime.arrays import check_inputs

    infos = (TensorInfo("a", (1,), "int8"), TensorInfo("b", (1,), "int8"))
    with pytest.raises(UsageError, match="has 2 inputs: a, b"):
        check_inputs(np.zeros(1, "int8"), infos)


def test_a_failing_run_names_the_status(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(saved)
    real = model._library

    class Failing:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def bnn_run(self, *_: object) -> int:
            return capi.MEMORY

    monkeypatch.setattr(model, "_library", Failing())
    with pytest.raises(DeviceError, match="out of memory"):
        model.run(random_x())


def test_a_library_of_another_abi(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capi, "ABI_VERSION", 99)
    refused(FileError, saved, "ABI version 1, this bnn_tvm needs 99", "this version")


def test_load_does_not_dlopen_a_foreign_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = ARM64 if host_spec() is X86 else X86
    path = artifact(foreign).save(tmp_path / "net")[0]
    monkeypatch.setattr(model_module.capi, "open_library", lambda _: pytest.fail("opened"))
    refused(DeviceError, path, "built for")
