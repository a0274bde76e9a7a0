"""The finite float32 numbers in their order, as integers: what bisection runs over.

key(x) is the bit pattern for x >= 0 and minus the magnitude's bit pattern below, so that
x < y exactly when key(x) < key(y), and -0.0 and 0.0 share key 0.
"""

from __future__ import annotations

import numpy as np

LARGE = float(2.0**60)
"""Probes go up to here: squares of it are still finite."""


def to_key(x: np.ndarray | np.floating | float) -> np.ndarray:
    """Order-preserving int64 keys of float32 values (NaN is not allowed)."""
    bits = np.asarray(x, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def from_key(key: np.ndarray | int) -> np.ndarray:
    """The float32 values of keys; key 0 gives +0.0."""
    key = np.asarray(key, np.int64)
    bits = np.abs(key).astype(np.uint32)
    np.bitwise_or(bits, np.uint32(1 << 31), out=bits, where=key < 0)
    return bits.view(np.float32)


def grid(points: int) -> np.ndarray:
    """About `points` sorted keys: zero, tiny, every binade of the usual range, and huge."""
    fine = max(1, points // 160)
    binades = 2.0 ** np.arange(-24, 24)[:, None] * (1 + np.arange(fine) / fine)
    linear = np.arange(1, 16 * max(2, points // 64)) / max(2, points // 64)
    extreme = np.concatenate(
        [[1.4e-45, 1.1754942e-38, 1.1754944e-38, 1e-30, 1e-20, 1e-12], 2.0 ** np.arange(24, 61, 4)]
    )
    magnitude = np.concatenate([binades.ravel(), linear, extreme]).astype(np.float32)
    return np.unique(to_key(np.concatenate([[0.0], magnitude, -magnitude])))
