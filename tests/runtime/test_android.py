"""Libraries for Android, run under qemu-user on another C library, and refused where they can't."""

from __future__ import annotations

import subprocess
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import bnn_tvm
from bnn_tvm.devices import QemuDevice, choose, device_for, find_qemu, find_sysroot
from bnn_tvm.devices.qemu import MACHINES
from bnn_tvm.errors import DeviceError
from bnn_tvm.export import link
from bnn_tvm.runtime import model as runtime_model
from tests.export.programs import ANDROID, ARM64, X_NAME, artifact, assert_close, random_x

aarch64 = pytest.mark.skipif(
    find_qemu("aarch64") is None or find_sysroot("aarch64") is None,
    reason="qemu-aarch64 or its C library is not installed",
)


@pytest.fixture(scope="module")
def arm() -> QemuDevice:
    return QemuDevice("aarch64")


@aarch64
def test_digits_agree_with_onnxruntime_for_any_number_of_threads(
    arm: QemuDevice, digits: Path, tmp_path: Path
) -> None:
    arrays = np.load(digits.parent / "test_digits.npz")
    count = 50
    compiled = bnn_tvm.compile_model(digits, target="arm64-android", batch=count)
    so = compiled.save(tmp_path / "libdigits").so
    logits = []
    for threads in (1, 2):
        with closing(arm.load(so, threads)) as model:
            logits.append(model.run(arrays["image"][:count])["logits"])
            assert model.self_test() < 1e-4
    np.testing.assert_allclose(logits[0], arrays["logits"][:count], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(logits[0].argmax(1), arrays["logits"][:count].argmax(1))
    assert logits[0].tobytes() == logits[1].tobytes()


@aarch64
def test_threads_and_workspaces_find_their_context(arm: QemuDevice) -> None:
    x = random_x()
    results = []
    for threads in (1, 2, 4):
        model = arm.load(artifact(ANDROID), threads)
        results.append(model.run({X_NAME: x}))
        assert_close(results[-1], x)
        assert model.emulated and "in place of Android's C library" in model.place
    for name, value in results[0].items():
        assert all(other[name].tobytes() == value.tobytes() for other in results)


@aarch64
def test_a_library_takes_one_thread_key_while_it_is_loaded(arm: QemuDevice, tmp_path: Path) -> None:
    so = artifact(ANDROID).save(tmp_path / "libnet")[0]
    program = tmp_path / "check"
    source = Path(__file__).with_name("key_check.c")
    link.link_executable(MACHINES["aarch64"].zig_dynamic, [source], program, flags=["-Werror"])
    names = ["-E", f"LD_LIBRARY_PATH={arm._android_names()}"]
    done = subprocess.run(
        [*arm.command(), *names, str(program), str(so)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "all checks passed\n", "")


def test_a_linux_machine_does_not_load_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runtime_model, "host_machine", lambda: "aarch64")
    path = artifact(ANDROID).save(tmp_path / "m")[0]
    with pytest.raises(DeviceError, match="built for Android, this machine runs Linux") as caught:
        bnn_tvm.load(path)
    assert "--target arm64," in (caught.value.hint or "")


def test_android_does_not_load_a_library_for_linux(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runtime_model, "host_machine", lambda: "aarch64")
    monkeypatch.setattr(runtime_model, "host_is_android", lambda: True)
    path = artifact(ARM64).save(tmp_path / "m")[0]
    with pytest.raises(DeviceError, match="built for Linux, this machine runs Android") as caught:
        bnn_tvm.load(path)
    assert "--target arm64-android" in (caught.value.hint or "")


@aarch64
def test_an_arm64_machine_with_linux_emulates_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "host_machine", lambda: "aarch64")
    assert device_for(ARM64.triple).name == "local"
    assert device_for(ANDROID.triple).emulated
