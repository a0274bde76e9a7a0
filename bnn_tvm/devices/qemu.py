"""Another processor, emulated by qemu-user: exact results, meaningless times.

qemu is found, never required. A model.so is loaded by a small C program, built here with zig, that
runs on the C library of a cross toolchain (`/usr/aarch64-linux-gnu`). Where there is none, the
model's parts and that program become one static executable with musl.

A model.so for Android is loaded as it is, on glibc in place of Android's C library (see
`android_names`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnn_tvm.devices.android_names import link_names
from bnn_tvm.devices.base import Source
from bnn_tvm.errors import DeviceError
from bnn_tvm.export import link
from bnn_tvm.export.artifact import Artifact
from bnn_tvm.export.metadata import Metadata, TensorInfo
from bnn_tvm.runtime.arrays import check_inputs
from bnn_tvm.runtime.elf import ElfHeader, read_header
from bnn_tvm.runtime.families import check_family
from bnn_tvm.runtime.files import open_files
from bnn_tvm.targets import is_android

#: Emulation is some 20 to 100 times slower than the device.
RUN_TIMEOUT_S = 300.0

_SYSROOT_VARIABLE = "BNN_TVM_SYSROOT"


@dataclass(frozen=True)
class Emulated:
    """How to emulate one machine: qemu's name for it, and zig's targets for its programs."""

    qemu: str
    sysroot: str
    loader: str
    zig_dynamic: str
    zig_static: str


MACHINES = {
    "aarch64": Emulated(
        "qemu-aarch64",
        "/usr/aarch64-linux-gnu",
        "lib/ld-linux-aarch64.so.1",
        "aarch64-linux-gnu.2.17",
        "aarch64-linux-musl",
    ),
    "armv7l": Emulated(
        "qemu-arm",
        "/usr/arm-linux-gnueabihf",
        "lib/ld-linux-armhf.so.3",
        "arm-linux-gnueabihf.2.17",
        "arm-linux-musleabihf",
    ),
    "x86_64": Emulated(
        "qemu-x86_64",
        "/usr/x86_64-linux-gnu",
        "lib/ld-linux-x86-64.so.2",
        "x86_64-linux-gnu.2.17",
        "x86_64-linux-musl",
    ),
}


def find_qemu(machine: str) -> Path | None:
    """qemu-user for `machine` (aarch64, armv7l, x86_64) on the PATH, or None."""
    emulated = MACHINES.get(machine)
    if emulated is None:
        return None
    for name in (emulated.qemu, emulated.qemu + "-static"):
        found = shutil.which(name)
        if found:
            return Path(found)
    return None


def find_sysroot(machine: str) -> Path | None:
    """A folder with the machine's C library: $BNN_TVM_SYSROOT, or that of a cross toolchain."""
    emulated = MACHINES.get(machine)
    if emulated is None:
        return None
    for folder in (os.environ.get(_SYSROOT_VARIABLE), emulated.sysroot):
        if folder and (Path(folder) / emulated.loader).exists():
            return Path(folder)
    return None


class QemuDevice:
    """Runs models for `machine` under qemu-user.

    `static` forces the static executable even where a C library is installed. `cpu` is qemu's
    name of the core to emulate; its default knows every instruction that qemu does. Raises
    `DeviceError` if there is no qemu for the machine.
    """

    emulated = True

    def __init__(
        self,
        machine: str,
        *,
        static: bool = False,
        timeout_s: float = RUN_TIMEOUT_S,
        cpu: str = "max",
    ) -> None:
        qemu = find_qemu(machine)
        if qemu is None:
            known = MACHINES.get(machine)
            raise DeviceError(
                f"no emulator for {machine} is installed",
                hint=f"apt install qemu-user (for {known.qemu} on the PATH), or run on the device"
                if known
                else "run on the device",
            )
        self.name = f"qemu ({machine})"
        self.machine = machine
        self.cpu = cpu
        self.qemu = qemu
        self.sysroot = None if static else find_sysroot(machine)
        self.timeout_s = timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="bnn_tvm-qemu-")
        self._runner: Path | None = None

    def load(self, model: Source, threads: int = 1, kernels: str | None = None) -> QemuModel:
        """See `Device.load`. Without a C library of the machine `model` must be an `Artifact`."""
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        if isinstance(model, Artifact):
            metadata, header = model.metadata, read_header(model.so, node="model.so")
        else:
            files = open_files(model)
            metadata, header = files.metadata, files.header
        self._check_machine(header)
        check_family(metadata, kernels)
        place = "emulated by qemu"
        if self.sysroot is not None:
            if isinstance(model, Artifact):
                library = folder / "model.so"
                library.write_bytes(model.so)
            else:
                library = files.so
            program = [str(self._dynamic_runner()), str(library)]
            if is_android(metadata.triple):
                program = ["-E", f"LD_LIBRARY_PATH={self._android_names()}", *program]
                place += " on glibc in place of Android's C library"
        elif isinstance(model, Artifact):
            program = [str(self._static_runner(model, folder)), "-"]
            if is_android(metadata.triple):
                place += " on musl in place of Android's C library"
        else:
            raise DeviceError(
                f"no C library for {self.machine} is installed, so its .so cannot be loaded",
                node=str(model),
                hint="install libc6-arm64-cross (Debian, Ubuntu), or set "
                f"{_SYSROOT_VARIABLE} to a root file system of the machine",
            )
        return QemuModel(self, metadata, folder, program, threads, place, kernels)

    def command(self) -> list[str]:
        """qemu and its options."""
        root = ["-L", str(self.sysroot)] if self.sysroot is not None else []
        return [str(self.qemu), "-cpu", self.cpu, *root]

    def close(self) -> None:
        """Remove the temporary files."""
        self._folder.cleanup()

    def __enter__(self) -> QemuDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_machine(self, header: ElfHeader) -> None:
        if header.machine != self.machine:
            raise DeviceError(
                f"the model is built for {header.machine}, this device emulates {self.machine}",
                hint="choose the device for the model's target",
            )

    def _dynamic_runner(self) -> Path:
        if self._runner is None:
            path = Path(self._folder.name) / "bnn-run"
            link.link_executable(MACHINES[self.machine].zig_dynamic, [_source()], path)
            self._runner = path
        return self._runner

    def _android_names(self) -> Path:
        """A folder with libc.so and libm.so that lead to the machine's C library."""
        folder = Path(self._folder.name) / "android"
        if not folder.exists():
            folder.mkdir()
            link_names(folder, MACHINES[self.machine].zig_dynamic)
        return folder

    def _static_runner(self, model: Artifact, folder: Path) -> Path:
        for name, data in model.parts.items():
            (folder / name).write_bytes(data)
        sources = [folder / name for name in model.parts if Path(name).suffix in (".c", ".S", ".o")]
        path = folder / "bnn-run"
        link.link_executable(
            MACHINES[self.machine].zig_static,
            [_source(), *sources, *link.runtime_sources()],
            path,
            flags=["-static", "-DBNN_RUN_STATIC", "-I", str(link.runtime_dir() / "src")],
        )
        return path


class QemuModel:
    """A model under qemu: every `run` and every `run_many` is a process of its own."""

    emulated = True

    def __init__(
        self,
        device: QemuDevice,
        metadata: Metadata,
        folder: Path,
        program: list[str],
        threads: int,
        place: str,
        kernels: str | None = None,
    ) -> None:
        self.metadata = metadata
        self.place = place
        self.inputs: tuple[TensorInfo, ...] = metadata.inputs
        self.outputs: tuple[TensorInfo, ...] = metadata.outputs
        self._device = device
        self._folder = folder
        self._program = program
        # An empty name leaves the choice to the library.
        self._context = (str(threads), kernels or "")

    @property
    def kernels(self) -> str:
        """See `Loaded.kernels`: what the library chooses on the emulated core."""
        return self._call("kernels", *self._context).strip()

    def run(self, inputs: Any) -> dict[str, np.ndarray]:
        """See `Loaded.run`."""
        return self.run_many([inputs])[0]

    def run_many(self, samples: Sequence[Any]) -> list[dict[str, np.ndarray]]:
        """See `Loaded.run_many`. The time limit holds for each sample."""
        if not samples:
            return []
        source, target = self._folder / "inputs.bin", self._folder / "outputs.bin"
        checked = [check_inputs(sample, self.inputs) for sample in samples]
        with source.open("wb") as file:
            for arrays in checked:
                file.writelines(array.tobytes() for array in arrays)
        target.unlink(missing_ok=True)
        count = str(len(checked))
        self._call("run", *self._context, count, str(source), str(target), grows=target)
        data = memoryview(target.read_bytes())
        size = len(data) // len(checked)
        return [_split(data[i * size : (i + 1) * size], self.outputs) for i in range(len(checked))]

    def self_test(self) -> float:
        """See `Loaded.self_test`."""
        return float(self._call("test", *self._context))

    def close(self) -> None:
        """Remove the model's temporary files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _call(self, *arguments: str, grows: Path | None = None) -> str:
        """What the runner prints. It may take the time limit anew whenever the file `grows`."""
        command = [*self._device.command(), *self._program, *arguments]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except OSError as exc:
            raise DeviceError(f"{self._device.qemu} could not be started: {exc}") from exc
        with process:
            try:
                stdout, stderr = self._wait(process, grows)
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            what = stderr.strip()[-1000:] or f"exit code {process.returncode}"
            raise DeviceError(
                f"the run under {self._device.name} failed: {what}", hint=self._failure_hint()
            )
        return stdout

    def _failure_hint(self) -> str:
        if "sme2" in self.metadata.features:
            return "SME2 needs qemu 10.1 or newer; --mattr -sme2 does without"
        return "does the target's --mcpu ask for more than qemu emulates?"

    def _wait(self, process: subprocess.Popen[str], grows: Path | None) -> tuple[str, str]:
        seen = 0
        while True:
            try:
                return process.communicate(timeout=self._device.timeout_s)
            except subprocess.TimeoutExpired:
                size = grows.stat().st_size if grows is not None and grows.exists() else 0
                if size > seen:
                    seen = size
                    continue
                raise DeviceError(
                    f"the run under {self._device.name} took more than "
                    f"{self._device.timeout_s:g} s",
                    hint="emulation is slow: run on the device, or on a smaller input",
                ) from None


def _source() -> Path:
    return Path(__file__).with_name("bnn_run.c")


def _split(data: memoryview, infos: tuple[TensorInfo, ...]) -> dict[str, np.ndarray]:
    """Arrays from their bytes one after the other."""
    arrays = {}
    position = 0
    for info in infos:
        dtype = np.dtype(info.dtype)
        count = int(np.prod(info.shape, dtype=np.int64))
        if position + count * dtype.itemsize > len(data):
            raise DeviceError("the run ended without all outputs", node=info.name)
        flat = np.frombuffer(data, dtype, count, position)
        arrays[info.name] = flat.reshape(info.shape).copy()
        position += count * dtype.itemsize
    return arrays
