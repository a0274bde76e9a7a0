"""Trained networks with the inputs they were trained for and what onnxruntime makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Network:
    """A model of the collection: its file, how to read its data set, and its exactness.

    load: folder of the collection -> (inputs with samples along the first axis, labels,
    reference outputs). integers: whether all outputs are integers, to be met exactly.
    """

    name: str
    file: str
    load: Callable[[Path], tuple[np.ndarray, np.ndarray, np.ndarray]]
    accuracy: float
    integers: bool = False


def _trained(data: str) -> Callable[[Path], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    def load(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        arrays = np.load(folder / "trained" / data)
        return arrays["x"], arrays["y"], arrays["logits"]

    return load


def _real(
    data: str, key: str, expected: str, preprocess: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Path], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    def load(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        arrays = np.load(folder / "data" / data)
        reference = np.load(folder / "expected" / expected)["y"]
        return preprocess(arrays[key]).astype(np.float32), arrays["y"], reference

    return load


def _q8(images: np.ndarray) -> np.ndarray:
    values = images.transpose(0, 3, 1, 2).astype(np.float32) / 255 * 2 - 1
    return np.clip(np.floor(values * 128 + 0.5), -128, 127) / 128


def _signs(images: np.ndarray) -> np.ndarray:
    return np.where(images.reshape(len(images), -1) > 127, 1, -1)


def _unit(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


NETWORKS = (
    Network("digits, latent weights", "trained/digits_bnn_latentw_ts13.onnx",
            _trained("digits_bnn_test500.npz"), 0.98),
    Network("digits, constant weights", "trained/digits_bnn_constw_ts13.onnx",
            _trained("digits_bnn_test500.npz"), 0.98),
    Network("mnist, latent weights", "trained/mnist_bnn_latentw_ts13.onnx",
            _trained("mnist_bnn_test500.npz"), 0.982),
    Network("mnist, constant weights", "trained/mnist_bnn_constw_ts13.onnx",
            _trained("mnist_bnn_test500.npz"), 0.982),
    Network("finn cnv", "real/finn_cnvW1A1_cifar10.onnx.gz",
            _real("cifar10jpg_test500.npz", "x", "finn_cnvW1A1_cifar10.npz", _q8), 0.7, True),
    Network("finn lfc", "real/finn_lfcW1A1_mnist.onnx.gz",
            _real("mnist_test500.npz", "x", "finn_lfcW1A1_mnist.npz", _signs), 0.97, True),
    Network("larq gtsrb", "real/larq_gtsrb_30x30.onnx.gz",
            _real("gtsrb_test500_30px.npz", "x30", "larq_gtsrb_30x30.npz", np.asarray), 0.75),
    Network("msakai mlp", "real/msakai_mlp_mnist_ts13.onnx.gz",
            _real("mnist_test500.npz", "x", "msakai_mlp_mnist_ts13.npz", _unit), 0.94),
)  # fmt: skip
