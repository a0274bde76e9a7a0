"""What a shared library's ELF header says, so that a foreign one is refused before dlopen."""

from __future__ import annotations

import platform
import struct
import sys
from dataclasses import dataclass

from bnn_tvm.errors import FileError

#: e_machine of the ELF specification, as `platform.machine()` names it.
_MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_ALIASES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}
_SHARED_OBJECT = 3


@dataclass(frozen=True)
class ElfHeader:
    """Machine (x86_64, aarch64, armv7l ...) and width of an ELF shared library."""

    machine: str
    bits: int


def read_header(data: bytes, *, node: str) -> ElfHeader:
    """Parse the ELF header. Raises `FileError` if `data` is no ELF shared library."""
    if len(data) < 52 or data[:4] != b"\x7fELF":
        raise FileError(
            "this is no compiled model (no ELF shared library)",
            node=node,
            hint="give the .so that compile wrote",
        )
    kind, machine = struct.unpack_from("<HH" if data[5] != 2 else ">HH", data, 16)
    if kind != _SHARED_OBJECT or data[4] not in (1, 2):
        raise FileError("this is an ELF file but no shared library", node=node)
    return ElfHeader(_MACHINES.get(machine, f"machine {machine}"), 32 * data[4])


def machine_of_triple(triple: str) -> str:
    """The machine of an LLVM triple, in the words of `ElfHeader.machine`."""
    arch = triple.split("-", 1)[0].lower()
    if arch.startswith(("armv7", "thumbv7")) or arch == "arm":
        return "armv7l"
    return _ALIASES.get(arch, arch)


def host_machine() -> str:
    """The machine of the running Python, in the same words."""
    machine = platform.machine().lower()
    machine = _ALIASES.get(machine, machine)
    if machine == "x86_64" and struct.calcsize("P") == 4:
        return "i686"
    if machine == "aarch64" and struct.calcsize("P") == 4:
        return "armv7l"
    return machine


def host_is_android() -> bool:
    """Whether the running Python is one for Android, whose C library is not that of Linux."""
    return hasattr(sys, "getandroidapilevel")
