"""Where compiled models run, behind one interface: this machine, or an emulator."""

from __future__ import annotations

from bnn_tvm.devices.base import Device, Loaded
from bnn_tvm.devices.choose import device_for
from bnn_tvm.devices.local import LocalDevice
from bnn_tvm.devices.qemu import QemuDevice, find_qemu, find_sysroot

__all__ = [
    "Device",
    "Loaded",
    "LocalDevice",
    "QemuDevice",
    "device_for",
    "find_qemu",
    "find_sysroot",
]
