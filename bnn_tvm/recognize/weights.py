"""Constant weights as alpha_o * t, t in {-1, +1}."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SPREAD = 1e-6
"""Relative spread of |w| within one output channel that still counts as one alpha."""

_BINARISERS = frozenset(
    [
        "Sign",
        "Where",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Round",
        "Floor",
        "Ceil",
        "BipolarQuant",
    ]
)


@dataclass(frozen=True)
class BinaryWeights:
    """w[o] = alpha[o] * t[o]: t int8 of the weights' shape, alpha float64 [co], never negative.

    alpha[o] = 0 marks an output channel whose weights are all zero (its t is +1).
    """

    t: np.ndarray
    alpha: np.ndarray

    @property
    def evident(self) -> bool:
        """Whether the values speak of binary weights by themselves.

        One weight per output channel, or weights of one sign, are +-alpha by accident: a scale
        or an average written as a convolution.
        """
        both_signs = self.t.min(initial=1) < 0 < self.t.max(initial=-1)
        several = self.t[0].size > 1
        return bool((self.alpha == 1).all()) or (both_signs and several)


def factor(weights: np.ndarray) -> BinaryWeights | str:
    """Split float weights [co, ...] into alpha and t, or say why they are not binary."""
    co = weights.shape[0]
    if not weights.size:
        return "there are none"
    magnitude = np.abs(weights.reshape(co, -1))
    low, high = magnitude.min(axis=1).astype(np.float64), magnitude.max(axis=1).astype(np.float64)
    if not np.isfinite(high).all():
        return "some are not finite"
    bad = np.flatnonzero(high - low > SPREAD * high)
    if len(bad):
        o = int(bad[0])
        if len(bad) < co and not magnitude[o].min():
            return f"output channel {o} holds 0 as well as +-{high[o]:.6g}"
        return f"magnitudes in output channel {o} range from {low[o]:.6g} to {high[o]:.6g}"
    if not high.any():
        return "all are 0"
    alpha = np.where(low == high, high, magnitude.mean(axis=1, dtype=np.float64))
    return BinaryWeights(np.where(weights < 0, -1, 1).astype(np.int8), alpha)


def by_sign(weights: np.ndarray, sign_zero: str = "plus") -> BinaryWeights:
    """Weights binarised by their sign, alpha 1; exact zeros as `sign_zero` says."""
    up = weights >= 0 if sign_zero == "plus" else weights > 0
    return BinaryWeights(np.where(up, 1, -1).astype(np.int8), np.ones(weights.shape[0]))


def from_binariser(history: tuple[str, ...]) -> bool:
    """Whether the constant sub-graph that made the weights holds a Sign or another binariser."""
    return any(op in _BINARISERS for op in history)
