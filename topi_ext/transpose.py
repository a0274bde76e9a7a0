"""Changes of layout: the axis that is innermost in the source is the last but one of the result.

NCHW to NHWC and back, alone or with padding and elementwise operators, and the packing of NCHW
floats to NHWC words. Axes that are neighbours on both sides (h and w) become one axis; what is left
of the last two is written in tiles (`transpose_tiles`), the others in loops, cut where the source
changes (`segments`).
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV
from tvm.sym import Analyzer
from tvm.target import Target
from tvm.tirx import PrimFunc, Stmt
from tvm_ffi import structural_map

from .emit import PARALLEL, SERIAL, seq, view
from .isa import isa_of
from .segments import Nest, only_store, segment_cuts, shared_axis
from .transpose_tiles import QUAD, Tiles, loads

_MOST_NESTS = 16
_VECTOR = {"avx512_vpopcntdq": 16, "avx2": 8}  # numbers of 32 bits in a vector; 4 elsewhere


def write_transposed(sch: Schedule, block: SBlockRV, target: Target) -> PrimFunc | None:
    """The function of `sch`, whose only block is `block`, with loops written tile by tile.

    None if the block is no change of layout, or one that would not gain.
    """
    node, func = sch.get(block), sch.mod["main"]
    store = only_store(node)
    if store is None or len(node.iter_vars) < 2:
        return None
    axes = [axis.var for axis in node.iter_vars]
    extents = [int(axis.dom.extent) for axis in node.iter_vars]
    out = store.buffer
    if _bits(out) not in (8, 16, 32) or extents != [int(size) for size in out.ty.shape]:
        return None
    if any(not index.same_as(axis) for index, axis in zip(store.indices, axes, strict=True)):
        return None
    cuts = segment_cuts(sch, block, -1)
    if math.prod(len(places) - 1 for places in cuts) > _MOST_NESTS:
        return None
    stmts: list[Stmt] = []
    flat = _flat(store, axes, stmts)
    while (merged := _merged(flat, axes, cuts)) is not None:
        flat, axes, cuts = merged
    extents = [places[-1] for places in cuts]
    if len(axes) < 2 or not _turns(flat.value, axes) or extents[-2] < QUAD or extents[-1] < 2:
        return None
    shared = shared_axis(extents)
    if 0 <= shared < len(axes) - 2:
        cuts[shared] = [0, extents[shared]]
    nest = _Tiled(flat, axes, cuts, shared, _VECTOR.get(isa_of(target), QUAD))
    return PrimFunc(func.params, seq([*stmts, nest.write()]), func.ret_type, func.attrs)


def _bits(buffer: tirx.Buffer) -> int:
    return 8 * np.dtype(str(buffer.ty.dtype)).itemsize


def _flat(store: tirx.BufferStore, axes: list[tirx.Var], stmts: list[Stmt]) -> tirx.BufferStore:
    """The store and its loads with one index into buffers of one dimension."""
    analyzer = Analyzer()
    views: list[tuple[tirx.Buffer, tirx.Buffer]] = []

    def of(buffer: tirx.Buffer) -> tirx.Buffer:
        for known, flat in views:
            if known.same_as(buffer):
                return flat
        views.append((buffer, view(buffer, [0] * len(buffer.ty.shape), stmts)))
        return views[-1][1]

    def place(buffer: tirx.Buffer, indices: Any) -> Any:
        at: Any = 0
        for extent, index in zip(buffer.ty.shape, indices, strict=True):
            at = at * int(extent) + index
        return analyzer.simplify(at)

    def load(node: TensorLoad) -> Any:
        if not node.indices:
            return node
        return tirx.BufferLoad(of(node.source), [place(node.source, node.indices)])

    value = structural_map(store.value, (TensorLoad, load))
    return tirx.BufferStore(of(store.buffer), value, [place(store.buffer, store.indices)])


def _stride(index: Any, axis: tirx.Var) -> int | None:
    """By how much an index grows along an axis; None if that is not constant."""
    step = structural_map(index, (tirx.Var, lambda var: var + 1 if var.same_as(axis) else var))
    grown = Analyzer().simplify(step - index)
    return int(grown) if isinstance(grown, tirx.IntImm) else None


def _turns(value: Any, axes: list[tirx.Var]) -> bool:
    """Whether all that is read lies side by side along the last axis but one, or is one number
    along it, and something does not along the last."""
    inner, last = axes[-2:]
    places = [node.indices[0] for node in loads(value)]
    strides = [_stride(place, inner) for place in places]
    if any(stride not in (0, 1) for stride in strides):
        return False
    return any(
        stride == 1 and _stride(place, last) not in (0, 1)
        for place, stride in zip(places, strides, strict=True)
    )


def _merged(
    store: tirx.BufferStore, axes: list[tirx.Var], cuts: list[list[int]]
) -> tuple[tirx.BufferStore, list[tirx.Var], list[list[int]]] | None:
    """The same with two neighbouring axes as one, if all indices stay affine in it."""
    analyzer = Analyzer()
    for at in range(len(axes) - 1):
        outer, inner = axes[at : at + 2]
        if len(cuts[at]) > 2 or len(cuts[at + 1]) > 2:
            continue
        extent = cuts[at + 1][-1]
        both = tirx.Var("s", inner.ty.dtype)
        if cuts[at][-1] == 1:
            values = {outer: tirx.const(0, outer.ty.dtype), inner: both}
        else:
            values = {outer: both // extent, inner: both % extent}
        put = functools.partial(lambda known, var: known.get(var, var), values)

        def load(node: TensorLoad) -> Any:
            if not node.indices:
                return node
            return tirx.BufferLoad(node.source, [analyzer.simplify(node.indices[0])])

        whole = structural_map(store, (tirx.Var, put))
        value = structural_map(whole.value, (TensorLoad, load))
        index = analyzer.simplify(whole.indices[0])
        places = [index, *(node.indices[0] for node in loads(value))]
        if any(_stride(place, both) is None for place in places):
            continue
        rest = [[0, cuts[at][-1] * extent]]
        return (
            tirx.BufferStore(whole.buffer, value, [index]),
            [*axes[:at], both, *axes[at + 2 :]],
            [*cuts[:at], *rest, *cuts[at + 2 :]],
        )
    return None


class _Tiled(Nest):
    """The loops around the tiles. vector: 32-bit numbers in a vector of the target."""

    def __init__(
        self,
        store: tirx.BufferStore,
        axes: list[tirx.Var],
        cuts: list[list[int]],
        shared: int,
        vector: int,
    ) -> None:
        super().__init__(store, axes, cuts, shared)
        self.vector = vector

    def _axis(self, at: int, index: list[Any], ranges: list[tuple[Any, tuple[int, int]]]) -> Stmt:
        if at < len(self.axes) - 2:
            return super()._axis(at, index, ranges)
        stmts: list[Stmt] = []
        kind = PARALLEL if at == self.shared else SERIAL
        sides = [list(itertools.pairwise(places)) for places in self.cuts[-2:]]
        for inner, last in itertools.product(*sides):
            any_inner = tirx.Var("any", self.axes[-2].ty.dtype)
            known = [*ranges, (any_inner, inner)]
            decided = self._decided([*index, any_inner], known, *last)
            stmts += Tiles(decided, self.axes, index, inner, last, self.vector, kind).write()
        return seq(stmts)
