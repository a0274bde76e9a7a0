"""What a device needs to choose between families of kernels: the table of cores as plain values."""

from __future__ import annotations

from bnn_tvm.program import Choice, KnownCore
from topi_ext.arm_cpu import cores


def choice_by_core() -> Choice:
    """The families of the binary kernels for arm64, and which core takes which."""
    known = tuple(
        KnownCore(name, *core_id, core.family)
        for name, core in cores.cores_by_name().items()
        for core_id in core.ids
    )
    return Choice(cores.FAMILIES, known, cores.UNKNOWN, cores.UNREADABLE)
