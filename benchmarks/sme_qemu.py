"""A qemu that emulates SME2, which began with release 10.1, at a chosen vector length."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache

#: Bits of a streaming vector: what qemu's `-cpu max` can be told, as far as phones may have it.
LENGTHS = (128, 256, 512)


def command(bits: int) -> list[str]:
    """qemu-aarch64 with streaming vectors of `bits` bits."""
    return [_qemu(), "-cpu", f"max,sme{bits}=on"]


def _qemu() -> str:
    # A second qemu, where the one on the PATH is the system's and older.
    return os.environ.get("BNN_TVM_SME_QEMU") or shutil.which("qemu-aarch64") or ""


@cache
def missing() -> str | None:
    """Why SME2 code cannot be run here, or None."""
    if not _qemu():
        return "qemu-aarch64 is not installed"
    done = subprocess.run([_qemu(), "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"version (\d+)\.(\d+)", done.stdout)
    if version is None or (int(version[1]), int(version[2])) < (10, 1):
        found = version[0] if version else done.stdout[:40]
        return f"SME2 needs qemu 10.1 or newer, {_qemu()} is {found} (see BNN_TVM_SME_QEMU)"
    return None
