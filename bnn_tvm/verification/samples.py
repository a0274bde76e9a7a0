"""The inputs to verify with: random ones, and those a user gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bnn_tvm.arrays import Arrays
from bnn_tvm.errors import UsageError
from bnn_tvm.export.metadata import TensorInfo


def split(arrays: Mapping[str, np.ndarray], inputs: Sequence[TensorInfo]) -> list[Arrays]:
    """Samples of the model's input shapes from arrays that hold one or more along the first axis.

    An input of shape [n, ...] may be given as [k*n, ...] or [k, n, ...]; k is the same for all.

    Raises
    ------
    UsageError: a shape or dtype does not fit, or inputs hold different numbers of samples.
    """
    stacked = {info.name: _stack(arrays[info.name], info) for info in inputs}
    counts = {name: len(array) for name, array in stacked.items()}
    if len(set(counts.values())) > 1:
        raise UsageError(
            f"the inputs hold different numbers of samples: {counts}",
            node="--input",
            hint="give as many samples for every input",
        )
    total = next(iter(counts.values()))
    return [{name: array[i] for name, array in stacked.items()} for i in range(total)]


def _stack(array: np.ndarray, info: TensorInfo) -> np.ndarray:
    """`array` as [samples, *info.shape]."""
    if array.dtype != np.dtype(info.dtype):
        raise UsageError(
            f"input {info.name!r} has dtype {array.dtype}, the model takes {info.dtype}",
            node=info.name,
            hint=f"convert it: x.astype({info.dtype!r})",
        )
    if array.shape[1:] == info.shape and len(array):
        return array
    rows = info.shape[0] if info.shape else 1
    fits = array.ndim == len(info.shape) and array.shape[1:] == info.shape[1:]
    if fits and len(array) and len(array) % rows == 0:
        return array.reshape(-1, *info.shape)
    raise UsageError(
        f"input {info.name!r} has shape {list(array.shape)}, the model takes {list(info.shape)}",
        node=info.name,
        hint="give one or more samples of that shape along the first axis",
    )
