"""Float convolution by Winograd tiles over NHWC data with constant weights: fewer multiplications.

Rows of the op "conv2d" beside the direct ones; see `winograd_axis` for the algorithm, its sources
and why strides need nothing else. What is to be known of the results:

- Rounding: mostly smaller errors than those of a direct kernel, since sums are shorter; see
  docs/winograd.md. Weights are transformed in float64 and rounded once.
- An infinity or a NaN in the input makes NaN of all outputs of the tiles that read it (infinity
  minus infinity), not of those outputs alone whose window holds it.

`Kernel.reassociates` is True for these rows: who wants neither asks `select` for `direct` kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.target import Target

from .kernels import Kernel, short, table
from .params import ConvParams
from .winograd_axis import WinogradAxis
from .winograd_cost import cost
from .winograd_plan import WinogradPlan, WinogradTile
from .winograd_schedule import schedule_winograd

OP = "conv2d"


def winograd_conv2d(
    data: te.Tensor,
    weights: te.Tensor,
    coefficients: te.Tensor,
    plan: WinogradPlan,
    kernel: Kernel,
) -> te.Tensor:
    """Convolution of data [n, hp, wp, ci], already padded: [n, ho, wo, co], both of the kernel's
    dtype.

    weights: `plan.pack_weights`; coefficients: `plan.coefficients`, which only a function that
    cannot be scheduled by tiles reads. Raises ValueError if data is not of the padded shape.
    """
    p, y, x = plan.params, plan.y, plan.x
    if tuple(int(extent) for extent in data.shape) != (p.n, p.hp, p.wp, p.ci):
        raise ValueError(f"conv2d wants padded data for {p}, not of shape {data.shape}")
    axes = {
        name: te.reduce_axis((0, extent), name)
        for name, extent in {
            "i": y.size,
            "j": x.size,
            "py": len(y.pieces),
            "px": len(x.pieces),
            "c": p.ci,
            "a": y.size,
            "b": x.size,
        }.items()
    }
    i, j, py, px, c, a, b = axes.values()
    outputs = (0, y.outputs * y.size)
    first = outputs[1] + x.outputs * x.size
    inputs = (first, first + len(y.pieces) * y.size**2)
    row, valid = _weight_row(plan, i, j, py, px, c)

    def element(n: Any, oy: Any, ox: Any, o: Any) -> Any:
        top = tirx.min(oy // y.outputs * y.outputs, p.ho - y.outputs)
        left = tirx.min(ox // x.outputs * x.outputs, p.wo - x.outputs)
        line = tirx.min(p.stride[0] * (top + a) + _first(y, py), p.hp - 1)
        column = tirx.min(p.stride[1] * (left + b) + _first(x, px), p.wp - 1)
        forward = (
            coefficients[inputs[0] + (py * y.size + i) * y.size + a]
            * coefficients[inputs[1] + (px * x.size + j) * x.size + b]
        )
        back = (
            coefficients[outputs[0] + (oy - top) * y.size + i]
            * coefficients[outputs[1] + (ox - left) * x.size + j]
        )
        width = plan.group_channels
        weight = weights[o // width, row, o % width]
        product = data[n, line, column, c] * weight * (forward * back)
        return te.sum(tirx.Select(valid, product, tirx.const(0, kernel.dtype)), list(axes.values()))

    acc = te.compute(p.out_shape, element, name="winograd", attrs=kernel.annotations("acc", p))
    # An epilogue is always there: what follows is fused behind a block of its own.
    return te.compute(
        p.out_shape,
        lambda *at: acc[at],
        name="conv2d",
        attrs=kernel.annotations("result", p),
    )


def sums_exactly(w: np.ndarray) -> bool:
    """Whether a direct kernel adds up whole numbers with these weights [co, ...] and a Winograd
    kernel might not: 8-bit weights, multiples of one power of two per output channel.

    What follows may compare such sums with a number that they hit. Weights of one magnitude (+-1,
    ternary) are not meant: halves and quarters of them are exact too, for inputs of up to 12 bits.
    """
    largest = np.abs(w).reshape(len(w), -1).max(axis=1).reshape(-1, *[1] * (w.ndim - 1))
    if not np.isfinite(largest).all():
        return True
    unit = 2.0 ** (np.frexp(np.where(largest > 0, largest, 1))[1] - 8)
    whole = bool(np.all(np.rint(w / unit) * unit == w))
    return whole and not np.all((w == 0) | (np.abs(w) == largest))


def _first(axis: WinogradAxis, piece: Any) -> Any:
    """The first tap of a piece whose number is an expression."""
    found = tirx.const(0, "int32")
    for number, (first, _) in enumerate(axis.pieces):
        found = tirx.Select(piece == number, tirx.const(first, "int32"), found)
    return found


def _weight_row(plan: WinogradPlan, i: Any, j: Any, py: Any, px: Any, c: Any) -> tuple[Any, Any]:
    """The row of the weights of position i, j, pieces py, px and channel c; whether it exists."""
    chunk, ci = plan.chunk_size, plan.params.ci
    first = c // chunk * chunk
    size = tirx.min(chunk, ci - first)
    row, valid = tirx.const(0, "int32"), tirx.const(False, "bool")
    for one in plan.positions:
        inside = tirx.all(i >= one.rows[0], j >= one.columns[0])
        at = one.rows_before + one.number(i, j) * one.depth + py * one.pieces[1] + px
        row = tirx.Select(inside, at, row)
        valid = tirx.Select(inside, tirx.all(py < one.pieces[0], px < one.pieces[1]), valid)
    row = plan.depth * first + row * size + c - first
    return tirx.Select(valid, row, 0), valid


def winograd_kernel(isa: str, tile: WinogradTile) -> Kernel:
    """The table's row of a conv2d kernel by Winograd tiles."""
    name = f"conv2d_{short(tile.dtype)}_{isa}_winograd_{tile.tiles}x{tile.channels}"

    def compute(data: te.Tensor, *packed: te.Tensor, params: ConvParams) -> te.Tensor:
        weights, coefficients = packed
        plan = WinogradPlan(params, tile)
        return winograd_conv2d(data, weights, coefficients, plan, table()[name])

    def pack_weights(w: np.ndarray, params: ConvParams) -> tuple[np.ndarray, ...]:
        plan = WinogradPlan(params, tile)
        return (plan.pack_weights(w), plan.coefficients())

    def rank(params: ConvParams, target: Target) -> int:
        return -cost(WinogradPlan(params, tile))

    return Kernel(
        name=name,
        op=OP,
        isa=isa,
        supports=lambda params: WinogradPlan(params, tile).supports(),
        pack_weights=pack_weights,
        compute=compute,
        schedule=lambda func, target: schedule_winograd(func, tile),
        dtype=tile.dtype,
        tile={"pixels": tile.tiles * 2, "channels": tile.channels},
        reassociates=True,
        rank=rank,
    )
