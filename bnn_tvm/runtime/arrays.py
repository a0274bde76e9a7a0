"""Checking a caller's arrays against what a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bnn_tvm.errors import UsageError
from bnn_tvm.export.metadata import TensorInfo

#: The runtime uses buffers at multiples of this as they are, and copies others to memory it keeps.
ALIGNMENT = 64


def check_inputs(given: Any, infos: Sequence[TensorInfo]) -> list[np.ndarray]:
    """The arrays of `given` in the order of `infos`, contiguous; copies only of what is not.

    `given` is a mapping from input names to arrays; a bare array is accepted where there is one
    input. Raises `UsageError` for a wrong name, shape or dtype.
    """
    names = [info.name for info in infos]
    if not isinstance(given, Mapping):
        if len(infos) != 1:
            raise UsageError(
                f"the model has {len(infos)} inputs: {', '.join(names)}",
                hint="give a dict with one array for each name",
            )
        given = {names[0]: given}
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


def empty_aligned(info: TensorInfo) -> np.ndarray:
    """An uninitialised array for `info` that starts at a multiple of 64 bytes."""
    dtype = np.dtype(info.dtype)
    nbytes = int(np.prod(info.shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(nbytes + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes].view(dtype).reshape(info.shape)
