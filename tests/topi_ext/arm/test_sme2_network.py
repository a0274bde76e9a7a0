"""A whole network with the BMOPA kernel, and its refusal where the processor has no SME2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bnn_tvm
from benchmarks import sme_qemu
from bnn_tvm.devices import QemuDevice, find_qemu, find_sysroot
from bnn_tvm.errors import DeviceError
from bnn_tvm.export.artifact import Artifact

needs_qemu = pytest.mark.skipif(
    find_qemu("aarch64") is None or find_sysroot("aarch64") is None,
    reason="qemu-aarch64 or its C library is not installed",
)
needs_sme2 = pytest.mark.skipif(sme_qemu.missing() is not None, reason=str(sme_qemu.missing()))


@pytest.fixture(scope="module")
def compiled(digits: Path) -> Artifact:
    """The digits network for a processor with SME2."""
    return bnn_tvm.compile_model(digits, target="arm64", mattr="+sme2").artifact


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a qemu-aarch64 on the PATH that is `command`, whatever -cpu it is told."""

    def install(command: list[str]) -> None:
        script = tmp_path / "qemu-aarch64"
        script.write_text(f'#!/bin/sh\nshift 2\nexec {" ".join(command)} "$@"\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return install


def test_the_metadata_tells_what_the_device_must_have(compiled: Artifact) -> None:
    metadata = compiled.metadata
    assert metadata.isa == "sme2" and {"sme", "sme2"} <= set(metadata.features)
    binary = [layer.kernel for layer in metadata.layers if layer.kind == "binary-conv"]
    assert binary and set(binary) == {"bconv2d_sme2_bmopa_2x2"}


@needs_qemu
@needs_sme2
@pytest.mark.parametrize("bits", sme_qemu.LENGTHS)
def test_a_network_gives_its_logits_at_every_vector_length(
    compiled: Artifact, digits: Path, emulator, bits: int
) -> None:
    emulator(sme_qemu.command(bits))
    with np.load(digits.parent / "test_digits.npz") as arrays:
        images, expected = arrays["image"][:20], arrays["logits"][:20]
    with QemuDevice("aarch64") as device:
        results = device.load(compiled, threads=2).run_many([image[None] for image in images])
    logits = np.concatenate([result["logits"] for result in results])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@needs_qemu
def test_a_processor_without_sme2_refuses_the_model(compiled: Artifact, emulator) -> None:
    emulator([str(find_qemu("aarch64")), "-cpu", "cortex-a72"])
    with QemuDevice("aarch64") as device:
        model = device.load(compiled)
        with pytest.raises(DeviceError, match=r"lacks an instruction set .* sme, sme2") as error:
            model.run(np.zeros((1, 1, 8, 8), np.float32))
    assert "SME2 needs qemu 10.1 or newer" in str(error.value)


def test_tvms_virtual_machine_needs_no_support_library(digits: Path) -> None:
    artifact = bnn_tvm.compile_model(digits, target="arm64", mattr="+sme2", runtime="tvm").artifact
    for routine in (b"__arm_tpidr2_save", b"__arm_get_current_vg"):
        assert routine not in artifact.so, "the routine would be looked for at load time"
