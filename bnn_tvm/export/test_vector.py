"""Reproducible test inputs that Python and C make alike, so that only outputs need storing.

The generator is SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
2014): its n-th value is a mix of `seed + n * golden`, so NumPy makes it in parallel and C in a
loop. Input `i` of a model uses the stream of `seed + i`. `runtime/src/self_test.c` is its twin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bnn_tvm.errors import UsageError
from bnn_tvm.export.metadata import ExpectedOutput, TensorInfo, TestVector

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
#: Outputs longer than this are stored by samples: the file stays small.
MAX_VALUES = 1024


def splitmix64(seed: int, count: int) -> np.ndarray:
    """The first `count` values of the stream `seed`, uint64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed & 0xFFFFFFFFFFFFFFFF) + _GOLDEN * np.arange(
            1, count + 1, dtype=np.uint64
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def make_inputs(
    inputs: Sequence[TensorInfo], seed: int, low: float = -1.0, high: float = 1.0
) -> dict[str, np.ndarray]:
    """Arrays for `inputs`, by name.

    Floats are uniform in [low, high) with 24 random bits; integers are uniform over 0..255
    (0..127 for int8), bool over {False, True}.
    """
    arrays = {}
    for index, info in enumerate(inputs):
        count = int(np.prod(info.shape, dtype=np.int64))
        raw = splitmix64(seed + index, count)
        dtype = np.dtype(info.dtype)
        if dtype.kind == "f":
            unit = (raw >> np.uint64(40)).astype(np.float64) * 2.0**-24
            values = (low + unit * (high - low)).astype(dtype)
        elif dtype.kind == "b":
            values = (raw >> np.uint64(63)).astype(bool)
        else:
            shift = 57 if dtype == np.int8 else 56
            values = (raw >> np.uint64(shift)).astype(dtype)
        arrays[info.name] = values.reshape(info.shape)
    return arrays


def make_test_vector(
    outputs: Sequence[TensorInfo],
    expected: Mapping[str, np.ndarray],
    seed: int,
    *,
    atol: float = 1e-3,
    rtol: float = 1e-3,
    low: float = -1.0,
    high: float = 1.0,
) -> TestVector:
    """The test vector whose inputs are `make_inputs(..., seed, low, high)`.

    `expected` holds the full outputs of a reference by name. Raises `UsageError` if one is
    missing or of the wrong size.
    """
    stored = []
    for info in outputs:
        count = int(np.prod(info.shape, dtype=np.int64))
        if info.name not in expected or expected[info.name].size != count:
            raise UsageError("the test vector lacks the values of an output", node=info.name)
        stride = max(1, -(-count // MAX_VALUES))
        flat = np.asarray(expected[info.name]).reshape(-1)[::stride]
        stored.append(ExpectedOutput(stride, tuple(float(v) for v in flat)))
    return TestVector(seed, tuple(stored), atol, rtol, low, high)
