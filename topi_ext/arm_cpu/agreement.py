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

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from ..bconv2d import border_correction, edge_class, needs_correction
from ..emit import splat, vload
from ..kernels import Kernel
from ..params import ConvParams

MAX_TAPS = 65534  # m - K/2 stays within 16 bits, signed
# (operands, params, kernel, place): what one step finds for the output at `place`, and the axes to
# sum over.
Found = Callable[[Sequence[te.Tensor], ConvParams, Kernel, tuple[Any, ...]], tuple[Any, list[Any]]]
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


def compute(
    found: Found, operands: int, arrays: Sequence[te.Tensor], params: ConvParams, kernel: Kernel
) -> te.Tensor:
    """The integers int32 [n, ho, wo, co] of what `found` gives.

    arrays: `operands` of them for `found`, then the border table of zero padding.
    """
    p, table = params, arrays[operands] if len(arrays) > operands else None
    first = _first_count(p)
    add = te.comm_reducer(lambda x, y: x + y, lambda t: tirx.const(first, t), name="add")

    def agreeing(*place: Any) -> Any:
        one, axes = found(arrays[:operands], p, kernel, place)
        one = one.astype("int16")
        if table is not None and _starts_from_table(p):
            at_first = tirx.all(*(axis.var.equal(0) for axis in axes))
            one = one + tirx.Select(at_first, _entry(table, p, *place[1:]), tirx.const(0, "int16"))
        return add(one, axis=axes)

    def integer(n: Any, y: Any, x: Any, o: Any) -> Any:
        doubled = acc[n, y, x, o].astype("int32") * 2
        if table is None:
            return doubled + p.taps % 2
        return doubled if _starts_from_table(p) else doubled + _entry(table, p, y, x, o)

    acc = te.compute(p.out_shape, agreeing, name="agreeing", attrs=kernel.annotations("acc", p))
    attrs = kernel.annotations("integers", p)
    return te.compute(p.out_shape, integer, name="integers", attrs=attrs)


def counts(
    found: Found, arrays: Sequence[te.Tensor], params: ConvParams, kernel: Kernel
) -> te.Tensor:
    """The numbers of differing taps int16 [n, ho, wo, co], of negated weights."""

    def differing(*place: Any) -> Any:
        one, axes = found(arrays, params, kernel, place)
        return te.sum(one.astype("int16"), axis=axes)

    attrs = kernel.annotations("acc", params)
    return te.compute(params.out_shape, differing, name="differing", attrs=attrs)


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


def _starts_from_table(params: ConvParams) -> bool:
    return needs_correction(params) and params.cig % 2 == 0


def _first_count(params: ConvParams) -> int:
    return 0 if needs_correction(params) else -((params.taps + 1) // 2)


def _entry(table: te.Tensor, params: ConvParams, y: Any, x: Any, o: Any) -> Any:
    return table[edge_class(params, 0, y), edge_class(params, 1, x), o]
