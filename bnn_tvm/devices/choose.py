"""Which device runs a given machine's code."""

from __future__ import annotations

from bnn_tvm.devices.base import Device
from bnn_tvm.devices.local import LocalDevice
from bnn_tvm.devices.qemu import QemuDevice
from bnn_tvm.runtime.elf import host_machine, machine_of_triple


def device_for(triple: str) -> Device:
    """This machine if it runs code for the LLVM `triple`, else qemu-user.

    Raises `DeviceError` where neither can: no emulator is installed, or it knows no such machine.
    """
    machine = machine_of_triple(triple)
    if machine == host_machine():
        return LocalDevice()
    return QemuDevice(machine)
