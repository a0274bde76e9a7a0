"""Trained networks, compiled: same answers as onnxruntime, same accuracy as trained."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest

import bnn_tvm
from bnn_tvm.devices import QemuDevice, find_qemu, find_sysroot
from tests.models.networks import NETWORKS, Network

BATCH = 50


def check(network: Network, outputs: np.ndarray, labels: np.ndarray, expected: np.ndarray) -> None:
    """Outputs agree; top-1 is equal but where the reference itself is a tie up to rounding."""
    if network.integers:
        np.testing.assert_array_equal(outputs, expected)
    else:
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    top = outputs.argmax(1)
    reference = expected.argmax(1)
    rows = np.arange(len(top))
    lead = expected[rows, reference] - expected[rows, top]
    assert np.all((top == reference) | (lead < 1e-4))
    assert (top == labels).mean() >= network.accuracy - 0.005


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_host_agrees_on_every_sample(
    network: Network,
    shared_models: Path,
    unpacked: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    inputs, labels, expected = network.load(shared_models)
    compiled = bnn_tvm.compile_model(unpacked(network.file))
    assert any(decision.binary for decision in compiled.decisions)
    model = bnn_tvm.load(compiled.save(tmp_path / "model").so, self_test=True)
    outputs = np.concatenate(
        [next(iter(model.run(sample[None]).values())).reshape(1, -1) for sample in inputs]
    )
    check(network, outputs, labels, expected)


def _run_arm64(path: Path, inputs: np.ndarray, **options: object) -> np.ndarray:
    """The one output for all samples [n, outputs], by an arm64 library under qemu."""
    if find_qemu("aarch64") is None:
        pytest.skip("needs qemu-aarch64 (Debian: qemu-user), which is not installed")
    # Batches, because every run is a process of its own under the emulator.
    compiled = bnn_tvm.compile_model(path, target="arm64", batch=BATCH, **options)
    with QemuDevice("aarch64") as device, closing(device.load(compiled.artifact)) as model:
        return np.concatenate(
            [
                next(iter(model.run(inputs[first : first + BATCH]).values())).reshape(BATCH, -1)
                for first in range(0, len(inputs), BATCH)
            ]
        )


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_arm64_agrees_on_every_sample(
    network: Network, shared_models: Path, unpacked: Callable[[str], Path]
) -> None:
    inputs, labels, expected = network.load(shared_models)
    check(network, _run_arm64(unpacked(network.file), inputs), labels, expected)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_arm64_in_half_precision_keeps_the_answers(
    network: Network, shared_models: Path, unpacked: Callable[[str], Path]
) -> None:
    inputs, labels, expected = network.load(shared_models)
    half = {"mcpu": "cortex-a76", "float16": True}
    top = _run_arm64(unpacked(network.file), inputs, **half).argmax(1)
    assert (top == expected.reshape(len(top), -1).argmax(1)).mean() >= 0.99
    assert (top == labels).mean() >= network.accuracy - 0.01


def _run_armv7(model: onnx.ModelProto, inputs: np.ndarray, **options: object) -> np.ndarray:
    """The one output for a batch, by an armv7 library under qemu."""
    if find_qemu("armv7l") is None or find_sysroot("armv7l") is None:
        pytest.skip("needs qemu-arm and libc6-armhf-cross (Debian), which are not installed")
    compiled = bnn_tvm.compile_model(model, target="armv7", **options)
    with QemuDevice("armv7l") as device, closing(device.load(compiled.artifact)) as loaded:
        return next(iter(loaded.run(inputs).values()))


def test_armv7_agrees_on_digits(digits: Path) -> None:
    arrays = np.load(digits.parent / "test_digits.npz")
    logits = _run_armv7(onnx.load(digits), arrays["image"][:BATCH], batch=BATCH)
    np.testing.assert_allclose(logits, arrays["logits"][:BATCH], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sign_zero", ["plus", "minus"])
def test_armv7_keeps_the_sign_of_zero(sign_zero: str) -> None:
    """NEON flushes denormals; the threshold of `x > 0` is one."""
    rng = np.random.default_rng(1)
    weights = rng.choice(np.array([-1, 1], np.float32), (40, 8))
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[4,40] x) => (float[4,8] y) { s = Sign(x) y = MatMul(s, w) }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    x = rng.normal(size=(4, 40)).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = 0
    zero = 1 if sign_zero == "plus" else -1
    expected = np.where(x > 0, 1, np.where(x < 0, -1, zero)) @ weights
    result = _run_armv7(model, x, sign_zero=sign_zero)
    np.testing.assert_array_equal(result, expected)
