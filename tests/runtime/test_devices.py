from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bnn_tvm.devices import LocalDevice, QemuDevice, device_for, find_qemu, find_sysroot, qemu
from bnn_tvm.devices.base import run_npz
from bnn_tvm.errors import DeviceError, FileError, UsageError
from bnn_tvm.export import build
from bnn_tvm.runtime.elf import host_machine, machine_of_triple
from tests.export.programs import (
    ANDROID,
    ARM64,
    ARMV7,
    H_NAME,
    X86,
    X_NAME,
    Y_NAME,
    Spec,
    artifact,
    assert_close,
    host_spec,
    metadata,
    network,
    random_x,
)

aarch64 = pytest.mark.skipif(
    find_qemu("aarch64") is None or find_sysroot("aarch64") is None,
    reason="qemu-aarch64 or its C library is not installed",
)


@pytest.fixture(scope="module")
def arm() -> QemuDevice:
    return QemuDevice("aarch64")


@aarch64
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_arm64_code_runs_under_qemu(arm: QemuDevice, threads: int) -> None:
    model = arm.load(artifact(ARM64), threads)
    x = random_x()
    assert_close(model.run({X_NAME: x}), x)
    one = arm.load(artifact(ARM64), 1).run(x)
    assert model.run(x)[Y_NAME].tobytes() == one[Y_NAME].tobytes()
    assert model.emulated


@aarch64
def test_arm64_files_run_under_qemu(arm: QemuDevice, tmp_path: Path) -> None:
    path = artifact(ARM64).save(tmp_path / "m")[0]
    x = random_x(3)
    assert_close(arm.load(path).run(x), x)
    assert arm.load(path.with_suffix(".dab")).self_test() < 1e-3


@aarch64
def test_npz_in_npz_out(arm: QemuDevice, tmp_path: Path) -> None:
    x = random_x(4)
    np.savez(tmp_path / "in.npz", **{X_NAME: x})
    run_npz(arm, artifact(ARM64), tmp_path / "in.npz", tmp_path / "out.npz", threads=2)
    with np.load(tmp_path / "out.npz") as archive:
        assert_close({H_NAME: archive[H_NAME], Y_NAME: archive[Y_NAME]}, x)
    with pytest.raises(FileError, match="cannot read the arrays"):
        run_npz(arm, artifact(ARM64), tmp_path / "none.npz", tmp_path / "out.npz")
    with pytest.raises(FileError, match="cannot write the arrays"):
        run_npz(arm, artifact(ARM64), tmp_path / "in.npz", tmp_path / "none" / "out.npz")


@aarch64
def test_the_self_test_fails_under_qemu_too(arm: QemuDevice) -> None:
    wrong = build(network(), ARM64, metadata(wrong_by=1.0))
    with pytest.raises(DeviceError, match="self-test differs"):
        arm.load(wrong).self_test()


@aarch64
def test_wrong_arrays_and_thread_counts_are_named(arm: QemuDevice) -> None:
    model = arm.load(artifact(ARM64))
    with pytest.raises(UsageError, match="must be float32"):
        model.run(random_x().astype("int32"))
    with pytest.raises(DeviceError, match="an argument is NULL or out of range"):
        arm.load(artifact(ARM64), threads=0).run(random_x())


@aarch64
def test_many_samples_run_in_one_process(arm: QemuDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    model = arm.load(artifact(ARM64))
    samples = [random_x(seed) for seed in range(5)]
    alone = [model.run(x) for x in samples]
    started = []
    start = subprocess.Popen

    def counting(command: list[str], **settings: object) -> object:
        started.append(command)
        return start(command, **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", counting)
    together = model.run_many(samples)
    assert len(started) == 1
    for x, one, other in zip(samples, alone, together, strict=True):
        assert_close(other, x)
        assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    assert model.run_many([]) == []


def _fake_emulator(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A qemu-aarch64 that is a shell script, and a C library for it."""
    fake = folder / "qemu-aarch64"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    (folder / "lib").mkdir()
    (folder / "lib" / "ld-linux-aarch64.so.1").touch()
    monkeypatch.setenv("BNN_TVM_SYSROOT", str(folder))


def test_the_time_limit_is_that_of_one_sample(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outputs = artifact(ARM64).metadata.outputs
    size = sum(4 * int(np.prod(info.shape)) for info in outputs)
    write = f'sleep 0.7; head -c {size} /dev/zero >> "$file"'
    script = f"for file; do :; done; for i in 1 2 3 4; do {write}; done"
    _fake_emulator(tmp_path, monkeypatch, script)
    with QemuDevice("aarch64", timeout_s=2) as device:
        monkeypatch.setattr(device, "_dynamic_runner", lambda: tmp_path)
        results = device.load(artifact(ARM64)).run_many([random_x()] * 4)
    assert len(results) == 4
    assert all(not array.any() for result in results for array in result.values())


@aarch64
def test_a_run_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    with QemuDevice("aarch64", timeout_s=1e-3) as device:
        model = device.load(artifact(ARM64))
        with pytest.raises(DeviceError, match=r"took more than 0\.001 s"):
            model.run(random_x())


@aarch64
def test_code_of_another_machine_is_refused(arm: QemuDevice) -> None:
    with pytest.raises(DeviceError, match="built for x86_64, this device emulates aarch64"):
        arm.load(artifact(X86))


@aarch64
def test_without_a_c_library_a_file_cannot_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(qemu, "find_sysroot", lambda machine: None)
    path = artifact(ARM64).save(tmp_path / "m")[0]
    with pytest.raises(DeviceError, match="no C library for aarch64") as caught:
        QemuDevice("aarch64").load(path)
    assert "libc6-arm64-cross" in (caught.value.hint or "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "spec"),
    [("aarch64", ARM64), ("aarch64", ANDROID), ("armv7l", ARMV7)],
    ids=["aarch64", "android", "armv7l"],
)
def test_without_a_c_library_an_artifact_runs_as_a_static_program(machine: str, spec: Spec) -> None:
    if find_qemu(machine) is None:
        pytest.skip(f"no qemu for {machine}")
    with QemuDevice(machine, static=True) as device:
        model = device.load(artifact(spec), threads=3)
        x = random_x()
        assert_close(model.run(x), x)
        assert model.self_test() < 1e-3


def test_a_missing_emulator_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert find_qemu("aarch64") is None
    with pytest.raises(DeviceError, match="no emulator for aarch64 is installed") as caught:
        QemuDevice("aarch64")
    assert "install qemu-user" in (caught.value.hint or "")
    with pytest.raises(DeviceError, match="no emulator for riscv64"):
        device_for("riscv64-linux-gnu")


def test_an_emulator_that_crashes_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _fake_emulator(tmp_path, monkeypatch, "echo 'Illegal instruction' >&2; exit 132")
    fake = tmp_path / "qemu-aarch64"
    device = QemuDevice("aarch64")
    assert (device.qemu, device.sysroot) == (fake, tmp_path)
    monkeypatch.setattr(device, "_dynamic_runner", lambda: fake)
    with pytest.raises(DeviceError, match="failed: Illegal instruction") as caught:
        device.load(artifact(ARM64)).run(random_x())
    assert "--mcpu" in (caught.value.hint or "")


def test_outputs_that_are_cut_short_are_an_error() -> None:
    with pytest.raises(DeviceError, match="without all outputs"):
        qemu._split(memoryview(b"1234"), artifact(ARM64).metadata.outputs)


def test_this_machine_runs_its_own_code(tmp_path: Path) -> None:
    device = device_for(host_spec().triple)
    assert isinstance(device, LocalDevice)
    x = random_x()
    model = device.load(artifact(host_spec()), threads=2)
    assert_close(model.run(x), x)
    assert not model.emulated
    model.close()
    path = artifact(host_spec()).save(tmp_path / "m")[0]
    assert_close(device.load(path).run(x), x)


@pytest.mark.parametrize(
    ("triple", "machine"),
    [
        ("aarch64-linux-gnu", "aarch64"),
        ("arm64-apple-ios", "aarch64"),
        ("armv7-linux-gnueabihf", "armv7l"),
        ("x86_64-linux-gnu", "x86_64"),
    ],
)
def test_machines_of_triples(triple: str, machine: str) -> None:
    assert machine_of_triple(triple) == machine


def test_the_host_has_the_name_that_elf_headers_use() -> None:
    uname = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True)
    assert host_machine() == uname.stdout.strip()
