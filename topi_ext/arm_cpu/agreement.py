"""From counts of agreeing taps to the integers of the convolution, for all arm64 kernels.

The weights hold inverted bits, so that a kernel counts the taps that agree, m, not those that
differ, and conv = 2*m - K. Counting from -K/2 on leaves a doubling, which the widening shift
(sshll #1) does for nothing. Zero padding needs a table by border class, which includes -K. Where
all its entries are even (ci / groups is even) counting starts from their halves, 16 bits, which
costs no more than starting from a constant; else it is added to the doubled counts, 32 bits.

Packed with negated weights (`Kernel.inverted`), the same kernels count the taps that differ, from
0 on, for thresholds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from ..bconv2d import border_correction, edge_class, needs_correction
from ..emit import splat, vload
from ..params import ConvParams

MAX_TAPS = 65534  # m - K/2 stays within 16 bits, signed
FILLER = 64  # entries behind the table's last channel, so that vectors may read over a group's end


def supports(params: ConvParams) -> str | None:
    """Any shape whose counts fit 16 bits."""
    if params.taps > MAX_TAPS:
        return f"{params.taps} taps overflow 16-bit counts"
    return None


def border_table(weights: np.ndarray, params: ConvParams) -> tuple[np.ndarray, ...]:
    """The table of zero padding [row classes, column classes, co (+ filler)], or nothing.

    weights: int8 +-1 [co, ci/groups, kh, kw].
    """
    if not needs_correction(params):
        return ()
    table = border_correction(weights, params) - 2 * params.taps
    if not _starts_from_table(params):
        return (table,)
    halves = (table // 2).astype(np.int16)
    return (np.pad(halves, ((0, 0), (0, 0), (0, FILLER))),)


def count(
    found: Any, axes: list[Any], table: te.Tensor | None, params: ConvParams, place: tuple[Any, ...]
) -> Any:
    """The int16 reduction of `found` over `axes`: the counter of one output at n, y, x, channel.

    table: of `border_table`, None without.
    """
    first = _first_count(params)
    add = te.comm_reducer(lambda x, y: x + y, lambda t: tirx.const(first, t), name="add")
    value = found.astype("int16")
    if table is not None and _starts_from_table(params):
        at_first = tirx.all(*(axis.var.equal(0) for axis in axes))
        value = value + tirx.Select(
            at_first, _entry(table, params, *place[1:]), tirx.const(0, "int16")
        )
    return add(value, axis=axes)


def differing(found: Any, axes: list[Any]) -> Any:
    """The same for thresholds: from 0 on."""
    return te.sum(found.astype("int16"), axis=axes)


def start(
    table: tirx.Buffer | None, params: ConvParams, y: Any, x: Any, channel: Any, lanes: int
) -> Any:
    """int16x<lanes>: what the counters of `lanes` channels of an output pixel start from.

    table: the buffer that the accumulator reads, None without.
    """
    if table is None:
        return splat(_first_count(params), f"int16x{lanes}")
    row, column = edge_class(params, 0, y), edge_class(params, 1, x)
    return vload(table, [row, column, channel], lanes)


def integer(m: Any, table: te.Tensor | None, params: ConvParams, y: Any, x: Any, o: Any) -> Any:
    """The int32 expression of one output from its counter `m`."""
    doubled = m.astype("int32") * 2
    if table is None:
        return doubled + params.taps % 2
    return doubled if _starts_from_table(params) else doubled + _entry(table, params, y, x, o)


def _starts_from_table(params: ConvParams) -> bool:
    return needs_correction(params) and params.cig % 2 == 0


def _first_count(params: ConvParams) -> int:
    return 0 if needs_correction(params) else -((params.taps + 1) // 2)


def _entry(table: te.Tensor, params: ConvParams, y: Any, x: Any, o: Any) -> Any:
    return table[edge_class(params, 0, y), edge_class(params, 1, x), o]
