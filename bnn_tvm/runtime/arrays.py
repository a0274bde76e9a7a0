"""Checking a caller's arrays against what a model takes."""

from __future__ import annotations

import ctypes
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


class InputCheck:
    """`check_inputs` of one model, prepared: a run's Python costs little."""

    def __init__(self, infos: Sequence[TensorInfo]) -> None:
        self._infos = tuple(infos)
        self._names = {info.name for info in infos}
        self._forms = [(info.name, np.dtype(info.dtype), info.shape) for info in infos]

    def __call__(self, given: Any) -> list[np.ndarray]:
        """What `check_inputs` returns and raises."""
        if type(given) is np.ndarray and len(self._forms) == 1:
            arrays = [given]
        elif type(given) is dict and given.keys() == self._names:
            arrays = [given[name] for name, _, _ in self._forms]
        else:
            return check_inputs(given, self._infos)
        for array, (_, dtype, shape) in zip(arrays, self._forms, strict=True):
            # Equal dtypes may be different objects: those take the long way, like all that is odd.
            plain = type(array) is np.ndarray and array.dtype is dtype
            if not (plain and array.shape == shape and array.flags.c_contiguous):
                return check_inputs(given, self._infos)
        return arrays


class Pointers:
    """The `void *const *` of the C API, kept from run to run: a run's Python costs little.

    table: its address.
    """

    def __init__(self, infos: Sequence[TensorInfo]) -> None:
        self._pointers = (ctypes.c_void_p * max(1, len(infos)))()
        self.table = ctypes.addressof(self._pointers)

    def set(self, arrays: Sequence[np.ndarray]) -> None:
        """Point to `arrays`, which the caller keeps alive."""
        for i, array in enumerate(arrays):
            self._pointers[i] = _address(array)


def _address(array: np.ndarray) -> int:
    # Of what is writable and not empty ctypes tells it four times as fast as NumPy.
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):
        pointer: int = array.__array_interface__["data"][0]
        return pointer
