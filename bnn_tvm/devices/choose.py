"""Which device runs a given machine's code."""

from __future__ import annotations

from bnn_tvm.devices.base import Device
from bnn_tvm.devices.local import LocalDevice
from bnn_tvm.devices.qemu import QemuDevice
from bnn_tvm.runtime.elf import host_is_android, host_machine, machine_of_triple
from bnn_tvm.targets import is_android


def device_for(triple: str) -> Device:
    """This machine if it runs code for the LLVM `triple`, else qemu-user.

    Code for Android finds its C library on this machine only if this is Android; under qemu it
    has another. Raises `DeviceError` where neither can: no emulator is installed, or it knows no
    such machine.
    """
    machine = machine_of_triple(triple)
    if machine == host_machine() and is_android(triple) == host_is_android():
        return LocalDevice()
    return QemuDevice(machine)
