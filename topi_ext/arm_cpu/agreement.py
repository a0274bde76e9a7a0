"""From counts of agreeing taps to the integers of the convolution, for all arm64 kernels.

The weights hold inverted bits, so that a kernel counts the taps that agree, m, not those that
differ, and conv = 2*m - K. Counting from -K/2 on leaves a doubling, which the widening shift
(sshll #1) does for nothing. Zero padding needs a table by border class, stored halved as 16 bits
where all its entries are even (ci / groups is even), else whole as 32 bits; it includes -K.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..bconv2d import border_correction, edge_class, needs_correction
from ..params import ConvParams

MAX_TAPS = 65534  # m - K/2 stays within 16 bits, signed


def supports(params: ConvParams) -> str | None:
    """Any shape whose counts fit 16 bits."""
    if params.taps > MAX_TAPS:
        return f"{params.taps} taps overflow 16-bit counts"
    return None


def first_count(params: ConvParams) -> int:
    """What a kernel's 16-bit counters start from."""
    return 0 if needs_correction(params) else -((params.taps + 1) // 2)


def border_table(weights: np.ndarray, params: ConvParams) -> tuple[np.ndarray, ...]:
    """The table of zero padding [row classes, column classes, co], or nothing.

    weights: int8 +-1 [co, ci/groups, kh, kw].
    """
    if not needs_correction(params):
        return ()
    table = border_correction(weights, params) - 2 * params.taps
    return ((table // 2).astype(np.int16) if params.cig % 2 == 0 else table,)


def integer(m: Any, table: Any, params: ConvParams, y: Any, x: Any, o: Any) -> Any:
    """The int32 expression of one output from its counter `m`; table: a tensor or None."""
    if table is None:
        return m.astype("int32") * 2 + params.taps % 2
    border = table[edge_class(params, 0, y), edge_class(params, 1, x), o]
    if params.cig % 2 == 0:
        return (m + border).astype("int32") * 2
    return m.astype("int32") * 2 + border
