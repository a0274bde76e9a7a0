"""Softmax over the last axis, in vectors: exp is a polynomial, so no call to libm remains."""

from __future__ import annotations

from typing import Any

from tvm import ir, te, tirx

# exp(x) = 2^n * exp(r) with n = round(x / ln 2): r by two constants whose sum is ln 2 (Cody and
# Waite), exp(r) on [-ln 2 / 2, ln 2 / 2] by its Taylor polynomial, whose next term is below 2^-26.
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_TAYLOR = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)
_LOWEST = -87.0  # below, exp(x) < 2^-125 counts as that


def exp_negative(x: Any) -> Any:
    """exp of a float32 expression x <= 0, within 2 ulp; below -87 it is exp(-87)."""

    def number(value: float) -> Any:
        return tirx.const(value, "float32")

    x = tirx.max(x, number(_LOWEST))
    n = tirx.floor(x * number(_LOG2_E) + number(0.5))
    r = x - n * number(_LN2_HIGH) - n * number(_LN2_LOW)
    value = number(_TAYLOR[0])
    for factor in _TAYLOR[1:]:
        value = value * r + number(factor)
    exponent = (n.astype("int32") + tirx.const(127, "int32")) << tirx.const(23, "int32")
    return value * ir.Call(ir.Op.get("tirx.reinterpret"), [exponent], ret_ty="float32")


def softmax_last_axis(data: te.Tensor) -> te.Tensor:
    """exp(x) / sum(exp(x)) over the last axis of float32 data of any shape.

    exp is computed twice, for the sum and for the result, so that no row has to be stored between.
    """
    *rows, extent = (int(e) for e in data.shape)
    k = te.reduce_axis((0, extent), "k")
    greatest = te.compute(rows, lambda *i: te.max(data[(*i, k)], axis=k), name="softmax_max")
    j = te.reduce_axis((0, extent), "j")
    total = te.compute(
        rows,
        lambda *i: te.sum(exp_negative(data[(*i, j)] - greatest[i]), axis=j),
        name="softmax_sum",
    )
    return te.compute(
        data.shape,
        lambda *i: exp_negative(data[i] - greatest[i[:-1]]) / total[i[:-1]],
        name="softmax",
    )
