"""`--runtime tvm`: the same network through TVM's virtual machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bnn_tvm
from bnn_tvm.errors import BnnError
from bnn_tvm.export import dab


def test_digits_run_on_the_virtual_machine(digits: Path, tmp_path: Path) -> None:
    import tvm
    from tvm import relax

    compiled = bnn_tvm.compile_model(digits, runtime="tvm")
    saved = compiled.save(tmp_path / "digits")
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(saved.so)), tvm.cpu())
    arrays = np.load(digits.parent / "test_digits.npz")
    for image, expected in zip(arrays["image"][:20], arrays["logits"][:20], strict=True):
        (logits,) = machine["main"](tvm.runtime.tensor(image[None]))
        np.testing.assert_allclose(logits.numpy()[0], expected, rtol=1e-4, atol=1e-4)
    metadata = dab.read(saved.dab)
    assert metadata.runtime == "tvm"
    assert any(layer.kind == "binary-conv" for layer in metadata.layers)


@pytest.mark.parametrize("target", ["arm64", "arm64-android"])
def test_links_for_arm64(digits: Path, target: str) -> None:
    artifact = bnn_tvm.compile_model(digits, runtime="tvm", target=target).artifact
    assert artifact.so[:4] == b"\x7fELF"
    assert int.from_bytes(artifact.so[18:20], "little") == 183  # EM_AARCH64


def test_our_loader_says_how_to_load_it(digits: Path, tmp_path: Path) -> None:
    saved = bnn_tvm.compile_model(digits, runtime="tvm").save(tmp_path / "digits")
    with pytest.raises(BnnError, match="tvm runtime") as error:
        bnn_tvm.load(saved.so)
    assert "tvm.runtime.load_module" in str(error.value)
