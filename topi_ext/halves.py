"""The integers of a binary layer as 2 * (start - count), for kernels that hold counts in vectors.

A layer's result is T - 2*count, T the number of taps or the border table (`bconv2d`). With counters
that fall from start = T/2 it is twice what they end at, and behind it

    float(T - 2*count) * scale + offset = float(start - count) * (2*scale) + offset

exactly, since doubling only moves the exponent: a conversion and a multiply-add for every result
instead of those and a doubling and a subtraction. 2*scale is worth a register for all pixels of a
tile, and loading `start` takes no place of a vector instruction. T must be even: where it is
K = kh*kw*ci/groups it is so with an even number of channels, and what padding adds to it is a sum
of +-1 over whole taps.

A scale of 2**127 or more would overflow: who writes the function must not use such
(`MOST_SCALE`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import TensorLoad
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc
from tvm_ffi import structural_map

from .bconv2d import border_correction, edge_class
from .epilogue import Epilogue, extract_epilogue, find_stage, read_buffers
from .kernels import STAGE
from .params import ConvParams

FALLEN = "fallen"  # the stage of start - count
MOST_SCALE = 2.0**126  # of the absolute values of what the integers are multiplied with


def halves(params: ConvParams, lanes: int) -> bool:
    """Whether the layer's counters may fall from halves, loaded in whole vectors of `lanes`."""
    return params.cig % 2 == 0 and params.cog % lanes == 0


def start_table(weights: np.ndarray, params: ConvParams) -> np.ndarray:
    """Half the border table: int32 [row classes, column classes, co].

    weights: int8 +-1 [co, ci/groups, kh, kw].
    """
    return border_correction(weights, params) // 2


def finish(count: te.Tensor, params: ConvParams, table: te.Tensor | None) -> te.Tensor:
    """2 * (start - count): what `bconv2d.finish` returns, int32 [n, ho, wo, co].

    count: int32 [n, ho, wo, co]; table: of `start_table`, None where nothing is padded with 0.
    The difference is a stage of its own, or TVM's simplifier would undo it.
    """

    def fallen(n: Any, y: Any, x: Any, c: Any) -> Any:
        start: Any = tirx.const(params.taps // 2, "int32")
        if table is not None:
            start = table[edge_class(params, 0, y), edge_class(params, 1, x), c]
        return start - count[n, y, x, c]

    halved = te.compute(params.out_shape, fallen, name="fallen", attrs={STAGE: FALLEN})
    return te.compute(
        params.out_shape,
        lambda *index: halved[index] * 2,
        name="integers",
        attrs={STAGE: "integers"},
    )


def extract_fallen(func: PrimFunc) -> tuple[Epilogue, Any] | None:
    """The epilogue behind counters that fall from `start`, and `start`, to be given its place by
    `Epilogue.at`. Otherwise as `extract_epilogue`.

    Raises LookupError if `func` does not come from `finish`.
    """
    found = extract_epilogue(func, FALLEN)
    if found is None:
        return None
    sch = Schedule(func)
    acc, fallen = sch.get(find_stage(sch)), sch.get(find_stage(sch, FALLEN))
    start = fallen.body.value.a
    # In variables of the last block.
    places = {var: dim for dim, var in enumerate(iv.var for iv in fallen.iter_vars)}
    epilogue = replace(
        found,
        reads=read_buffers(acc),
        annotations=dict(acc.annotations),
        _dims={**found._dims, **places},
    )
    return epilogue.with_value(_scaled(found)), start


def _scaled(epilogue: Epilogue) -> Any:
    """What is stored, with float(2 * fallen) * scale as float(fallen) * (2 * scale)."""

    def half(node: Any) -> Any:
        if not isinstance(node, tirx.Mul) or not _is(node.b, 2):
            return None
        load = node.a
        mine = isinstance(load, TensorLoad) and load.source.same_as(epilogue.accumulator)
        return load if mine else None

    def scaled(node: tirx.Mul) -> Any:
        for product, scale in ((node.a, node.b), (node.b, node.a)):
            if isinstance(product, tirx.Cast) and str(product.ty.dtype) == "float32":
                fallen = half(product.value)
                if fallen is not None:
                    return fallen.astype("float32") * (scale * tirx.const(2.0, "float32"))
        return node

    return structural_map(epilogue.value, [(tirx.Mul, scaled)])


def _is(node: Any, value: int) -> bool:
    return isinstance(node, tirx.IntImm) and int(node) == value
