"""Elementwise functions whose source changes along an axis: padding, concatenation.

Such a function chooses by `if_then_else` on its indices. Where a choice compares the index of an
axis with a constant, the axis is cut there; within a segment the choice is decided, and the last
axis can be vectorised. TVM's loop partition does not see choices inside of larger expressions,
and its vectoriser takes every vector with a choice in it apart.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.ir import Call, Expr, Op, Range
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV
from tvm.sym import Analyzer
from tvm.tirx import IterVar, PrimFunc, Stmt
from tvm_ffi import structural_map, structural_walk

from .emit import PARALLEL, channel_loops, loop, seq
from .parallel import PARALLEL_ELEMENTS

_IF_THEN_ELSE = Op.get("prim.if_then_else")
_LANES = 16
# Loop nests of one function; more are not worth their code.
_MOST_NESTS = 64
# `index OP limit` changes at limit plus the first number, `limit OP index` at limit plus the
# second.
_CUT_AFTER = {tirx.LT: (0, 1), tirx.LE: (1, 0), tirx.GT: (1, 0), tirx.GE: (0, 1)}


def conditions(sch: Schedule, block: SBlockRV) -> list[Expr]:
    """What chooses the source of what the block stores."""
    found: list[Expr] = []

    def visit(call: Call) -> None:
        if _is_choice(call):
            found.append(call.args[0])

    structural_walk(sch.get(block).body, [(Call, visit)])
    return found


def write_segments(sch: Schedule, block: SBlockRV) -> PrimFunc | None:
    """The function of `sch`, whose only block is `block`, with loops written segment by segment.

    The first axis that is longer than 1 runs in parallel where the output is large; it then stays
    whole. None if the block does more than store one element for each of its indices.
    """
    node, func = sch.get(block), sch.mod["main"]
    store = only_store(node)
    if store is None:
        return None
    axes = list(node.iter_vars)
    extents = [int(axis.dom.extent) for axis in axes]
    shared = shared_axis(extents)
    cuts = segment_cuts(sch, block, shared)
    if math.prod(len(places) - 1 for places in cuts) > _MOST_NESTS:
        cuts = [[0, size] for size in extents[:-1]] + cuts[-1:]
    body = Nest(store, [axis.var for axis in axes], cuts, shared).write()
    return PrimFunc(func.params, body, func.ret_type, func.attrs)


def only_store(node: tirx.SBlock) -> tirx.BufferStore | None:
    """What a block stores for each of its indices, if it does nothing else."""
    axes = list(node.iter_vars)
    if not isinstance(node.body, tirx.BufferStore) or not axes:
        return None
    if any(axis.iter_type != IterVar.DataPar for axis in axes):
        return None
    return node.body


def shared_axis(extents: list[int]) -> int:
    """The axis that runs in parallel, none the last; -1 where the output is small."""
    if math.prod(extents) < PARALLEL_ELEMENTS:
        return -1
    return next((at for at, size in enumerate(extents[:-1]) if size > 1), -1)


def segment_cuts(sch: Schedule, block: SBlockRV, shared: int) -> list[list[int]]:
    """For each axis where its segments begin and end; `shared` stays whole."""
    tests = conditions(sch, block)
    return [
        [0, int(axis.dom.extent)] if at == shared else _cuts(tests, axis.var, int(axis.dom.extent))
        for at, axis in enumerate(sch.get(block).iter_vars)
    ]


class Nest:
    """The loops around one store. cuts: for each axis where its segments begin and end."""

    def __init__(
        self, store: tirx.BufferStore, axes: list[tirx.Var], cuts: list[list[int]], shared: int
    ) -> None:
        self.store, self.axes, self.cuts, self.shared = store, axes, cuts, shared

    def write(self) -> Stmt:
        """All segments of all axes."""
        return self._axis(0, [], [])

    def _axis(self, at: int, index: list[Any], ranges: list[tuple[Any, tuple[int, int]]]) -> Stmt:
        """The loops from axis `at` on, inside those that gave `index`."""
        stmts: list[Stmt] = []
        kind = PARALLEL if at == self.shared else tirx.ForKind.SERIAL
        for begin, end in itertools.pairwise(self.cuts[at]):
            if at + 1 < len(self.axes):
                body = functools.partial(self._inside, at, index, ranges, begin, end)
                stmts.append(loop(end - begin, body, f"i{at}", kind))
            else:
                store = functools.partial(self._element, index, ranges, begin, end)
                stmts += channel_loops(store, end - begin, _LANES)
        return seq(stmts)

    def _inside(
        self,
        at: int,
        index: list[Any],
        ranges: list[tuple[Any, tuple[int, int]]],
        begin: int,
        end: int,
        var: Any,
    ) -> Stmt:
        known = [*ranges, (var, (0, end - begin))] if isinstance(var, tirx.Var) else ranges
        return self._axis(at + 1, [*index, var + begin], known)

    def _element(
        self,
        index: list[Any],
        ranges: list[tuple[Any, tuple[int, int]]],
        begin: int,
        end: int,
        last: Any,
    ) -> Stmt:
        """The store of one element."""
        decided = self._decided(index, ranges, begin, end)
        return structural_map(decided, (tirx.Var, self._at([*index, last + begin])))

    def _decided(
        self, index: list[Any], ranges: list[tuple[Any, tuple[int, int]]], begin: int, end: int
    ) -> tirx.BufferStore:
        """The store, its choices decided as far as the segments of all axes decide them."""
        analyzer = Analyzer()
        for var, (first, past) in ranges:
            dtype = str(var.ty.dtype)
            analyzer.bind(var, Range(tirx.const(first, dtype), tirx.const(past, dtype)))
        # `last` is an expression of loop variables that only `channel_loops` knows the ranges of:
        # choices are decided for a variable that takes all values of the segment.
        dtype = str(self.axes[-1].ty.dtype)
        any_of_segment = tirx.Var("any", dtype)
        analyzer.bind(any_of_segment, Range(tirx.const(begin, dtype), tirx.const(end, dtype)))
        known = self._at([*index, any_of_segment])

        def choose(call: Call) -> Any:
            if not _is_choice(call):
                return call
            test = analyzer.simplify(structural_map(call.args[0], (tirx.Var, known)))
            return call.args[1 if int(test) else 2] if isinstance(test, tirx.IntImm) else call

        return structural_map(self.store, (Call, choose))

    def _at(self, index: list[Any]) -> Callable[[tirx.Var], Any]:
        """What puts `index` in the place of the axes' variables."""
        values = {}
        for axis, value in zip(self.axes, index, strict=True):
            dtype = axis.ty.dtype  # 64 bits in functions that hold such integers as data
            number = isinstance(value, int)
            values[axis] = tirx.const(value, dtype) if number else value.astype(dtype)
        return lambda var: values.get(var, var)


def _cuts(tests: list[Expr], axis: tirx.Var, extent: int) -> list[int]:
    """Where the segments of an axis begin, and its end."""
    places = {0, extent}

    def visit(test: Any) -> None:
        left, right = _CUT_AFTER[type(test)]
        for index, limit, after in ((test.a, test.b, left), (test.b, test.a, right)):
            if isinstance(limit, tirx.IntImm) and index.same_as(axis):
                places.add(min(max(int(limit) + after, 0), extent))

    for test in tests:
        structural_walk(test, [(kind, visit) for kind in _CUT_AFTER])
    return sorted(places)


def _is_choice(call: Call) -> bool:
    return call.op.same_as(_IF_THEN_ELSE)
