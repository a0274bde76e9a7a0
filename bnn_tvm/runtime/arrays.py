"""Checking a caller's arrays against what a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bnn_tvm.errors import UsageError
from bnn_tvm.export.metadata import TensorInfo


def check_inputs(given: Any, infos: Sequence[TensorInfo]) -> list[np.ndarray]:
    """The arrays of `given` in the order of `infos`, contiguous; copies only of what is not.

    `given` is a mapping from input names to arrays; a bare array is accepted where there is one
    input. Raises `UsageError` for a wrong name, shape or dtype.
    """
    names = [info.name for info in infos]
    if not isinstance(given, Mapping):
        if len(infos) == 1:
            return [_check_array(given, infos[0])]
        raise UsageError(
            f"the model has {len(infos)} inputs: {', '.join(names)}",
            hint="give a dict with one array for each name",
        )
    unknown = [str(name) for name in given if name not in names]
    if unknown:
        raise UsageError(
            f"the model has no input {', '.join(unknown)}",
            node=unknown[0],
            hint=f"its inputs are: {', '.join(names)}",
        )
    missing = [name for name in names if name not in given]
    if missing:
        raise UsageError(
            f"input {', '.join(missing)} is missing",
            node=missing[0],
            hint=f"the inputs are: {', '.join(names)}",
        )
    return [_check_array(given[info.name], info) for info in infos]


def _check_array(value: Any, info: TensorInfo) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype != np.dtype(info.dtype):
        raise UsageError(
            f"input {info.name} must be {info.dtype}, not {array.dtype}",
            node=info.name,
            hint=f"convert it: x.astype('{info.dtype}')",
        )
    if array.shape != info.shape:
        layout = f" ({info.layout})" if info.layout else ""
        raise UsageError(
            f"input {info.name} must have shape {list(info.shape)}{layout}, "
            f"not {list(array.shape)}",
            node=info.name,
            hint="the shape was fixed when the model was compiled: --batch and --shape change it",
        )
    return np.asarray(array, order="C")


class Pointers:
    """The `void *const *` of the C API, kept from run to run: a run's Python costs little.

    table: its address.
    """

    def __init__(self, infos: Sequence[TensorInfo]) -> None:
        self._pointers = np.zeros(max(1, len(infos)), np.uintp)
        self.table = _address(self._pointers)

    def set(self, arrays: Sequence[np.ndarray]) -> None:
        """Point to `arrays`, which the caller keeps alive."""
        for i, array in enumerate(arrays):
            self._pointers[i] = _address(array)


def _address(array: np.ndarray) -> int:
    # `array.ctypes.data` takes ten times as long.
    pointer: int = array.__array_interface__["data"][0]
    return pointer
