"""The interface to where code runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bnn_tvm.errors import FileError
from bnn_tvm.export.artifact import Artifact
from bnn_tvm.export.metadata import TensorInfo

#: A compiled model: in memory, or the path of its .so or .dab.
Source = Artifact | str | os.PathLike[str]


class Loaded(Protocol):
    """A compiled model on a device. `place`: where it runs if not on this machine, for people."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    emulated: bool
    place: str

    @property
    def kernels(self) -> str:
        """The family of kernels that it runs; empty where there was nothing to choose."""

    def run(self, inputs: Any) -> dict[str, np.ndarray]:
        """Outputs by name; `inputs` as `bnn_tvm.runtime.Model.run` takes them.

        Raises `UsageError` for wrong inputs, `DeviceError` if the run fails or takes too long.
        """

    def run_many(self, samples: Sequence[Any]) -> list[dict[str, np.ndarray]]:
        """`run` for each of `samples`, where starting costs with one start. All are in memory."""

    def self_test(self) -> float:
        """Run the embedded test vector: the largest absolute error. Raises `DeviceError`."""

    def close(self) -> None:
        """Give back what the model holds."""


class Device(Protocol):
    """A place that runs compiled models. `emulated`: its times mean nothing."""

    name: str
    emulated: bool

    def load(self, model: Source, threads: int = 1, kernels: str | None = None) -> Loaded:
        """Make `model` ready to run, with the family `kernels` or with one that it chooses.

        Raises `DeviceError` or `FileError`; `UsageError` if the model has no such family.
        """


def run_npz(
    device: Device,
    model: Source,
    inputs: str | os.PathLike[str],
    outputs: str | os.PathLike[str],
    threads: int = 1,
) -> None:
    """Run `model` once on arrays of the .npz file `inputs` and write the .npz file `outputs`.

    Arrays carry the names of the model's inputs and outputs. Raises `FileError` if a file cannot
    be read or written, and what `Loaded.run` raises.
    """
    try:
        with np.load(inputs, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError) as exc:
        raise FileError(f"cannot read the arrays: {exc}", node=str(inputs)) from exc
    loaded = device.load(model, threads)
    try:
        results = loaded.run(arrays)
    finally:
        loaded.close()
    try:
        with Path(outputs).open("wb") as file:
            np.savez(file, allow_pickle=False, **results)
    except OSError as exc:
        raise FileError(f"cannot write the arrays: {exc}", node=str(outputs)) from exc
