"""The schedule of functions that hold no kernel: elementwise chains, pools, softmax, reductions,
transposes, padding, concatenations.

Elementwise stages are inlined into what reads them. Then
- a reduction over a window or over space (channels last, kept) becomes a channel tile with its
  epilogue on the tile;
- reductions over the last axis (softmax, layer means) run row by row, in vectors of partial
  results, at the row of the function's output;
- a change of layout is turned tile by tile in registers (`transpose`);
- a copy whose source changes along an axis (padding, concatenation) is written in `segments`;
- everything else is vectorised over its last axis.
Loops over large outputs run in parallel.
"""

from __future__ import annotations

import itertools
import math

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV, ScheduleError
from tvm.target import Target
from tvm.tirx import IterVar, PrimFunc

from .channel_tile import reduction_axes, schedule_channel_tile
from .epilogue import leaf_blocks
from .parallel import PARALLEL_ELEMENTS
from .register_tile import written_shape
from .segments import conditions, write_segments
from .transpose import write_transposed

# Partial results of a reduction over the last axis: vectors in flight of 4, 8 or 16 floats.
_PARTIALS = (32, 16, 8, 4)


def default_schedule(func: PrimFunc, target: Target) -> PrimFunc:
    """Schedule a function without a kernel's annotation. Any function is accepted."""
    sch = Schedule(func)
    _inline_producers(sch)
    blocks = leaf_blocks(sch)
    if not blocks:
        return func
    last = blocks[-1]
    if len(blocks) == 1:
        turned = write_transposed(sch, last, target)
        if turned is not None:
            return turned
    if len(blocks) == 1 and conditions(sch, last):
        written = write_segments(sch, last)
        if written is not None:
            return written
    reductions = [block for block in blocks if _reduces(sch, block)]
    if len(blocks) == 1 and _reduces(sch, last) and _keeps_last_axis(sch, last):
        anchor, last = last, sch.cache_write(last, 0, "global")
        schedule_channel_tile(sch, anchor, last, target, _is_large(sch, anchor))
    elif (
        len(blocks) == 2
        and reductions == blocks[:1]
        and written_shape(sch, last) == written_shape(sch, reductions[0])
        and _keeps_last_axis(sch, reductions[0])
    ):
        schedule_channel_tile(sch, reductions[0], last, target, _is_large(sch, reductions[0]))
    elif reductions and not _reduces(sch, last):
        _schedule_rows(sch, reductions, last)
    else:
        for block in blocks:
            if _reduces(sch, block):
                _vectorise_partials(sch, _split_reduction(sch, block), lane_first=False)
            else:
                _schedule_elementwise(sch, block)
    return sch.mod["main"]


def _inline_producers(sch: Schedule) -> None:
    """Inline every stage without a reduction into its readers, where that is possible."""
    for block in leaf_blocks(sch)[:-1]:
        if not _reduces(sch, block):
            try:
                sch.compute_inline(block)
            except ScheduleError:
                continue  # an output of the function, or written in a form that is not elementwise


def _schedule_rows(sch: Schedule, reductions: list[SBlockRV], last: SBlockRV) -> None:
    """Compute reductions over the last axis at the row of the output that needs them."""
    shape = written_shape(sch, last)
    large = any(_is_large(sch, block) for block in reductions)
    stages: list[SBlockRV] = []
    for block in reductions:
        rows = written_shape(sch, block)
        stages += _split_reduction(sch, block)
        if len(rows) == len(shape) and rows[-1] == 1:
            rows = rows[:-1]
        if rows != shape[:-1]:
            return  # another reduction (over space, then broadcast): plain loops
    *rest, inner = sch.get_loops(last)
    if rest:
        row = sch.fuse(*rest)
        for block in reversed(stages):
            sch.compute_at(block, row, preserve_unit_loops=True)
        _vectorise_partials(sch, stages, lane_first=True)
        if large and math.prod(shape[:-1]) > 1:
            sch.parallel(row)
    _vectorise_last(sch, inner, shape[-1])


def _split_reduction(sch: Schedule, block: SBlockRV) -> list[SBlockRV]:
    """Reduce the last reduction axis in vectors of partial results where its extent divides.

    Returns the stages in their order: the partial results, if any, and the block.
    """
    loop = reduction_axes(sch, block)[-1]
    extent = int(sch.get(loop).extent)
    lanes = next((count for count in _PARTIALS if extent % count == 0 and extent > count), 0)
    if not lanes:
        return [block]
    _, lane = sch.split(loop, [None, lanes])
    partial = sch.rfactor(lane, factor_axis=len(written_shape(sch, block)))
    return [partial, block]


def _vectorise_partials(sch: Schedule, stages: list[SBlockRV], lane_first: bool) -> None:
    """Vectorise the partial results that `_split_reduction` made, once they are in their place.

    lane_first: their loops are in the order of their axes, as compute_at leaves them.
    """
    for partial, block in itertools.pairwise(stages):
        if sch.get(partial).name_hint != f"{sch.get(block).name_hint}_rf":
            continue
        kinds = [iv.iter_type for iv in sch.get(partial).iter_vars]
        loops = sch.get_loops(partial)[-len(kinds) :]
        lane = loops.pop(0 if lane_first else -1)
        sch.reorder(*loops, lane)
        sch.vectorize(lane)
        sch.decompose_reduction(partial, loops[-kinds.count(IterVar.CommReduce)])


def _schedule_elementwise(sch: Schedule, block: SBlockRV) -> None:
    """Vectorise the last axis and run the others in parallel where the tensor is large."""
    shape = written_shape(sch, block)
    loops = sch.get_loops(block)
    if not loops:
        return
    large = math.prod(shape) >= PARALLEL_ELEMENTS
    *rest, inner = loops
    if rest and large:
        sch.parallel(sch.fuse(*rest) if len(rest) > 1 else rest[0])
    _vectorise_last(sch, inner, shape[-1])


def _vectorise_last(sch: Schedule, loop: LoopRV, extent: int) -> None:
    lanes = next((count for count in (16, 8, 4) if extent % count == 0), 0)
    if lanes:
        _, inner = sch.split(loop, [None, lanes])
        sch.vectorize(inner)


def _reduces(sch: Schedule, block: SBlockRV) -> bool:
    return any(iv.iter_type != IterVar.DataPar for iv in sch.get(block).iter_vars)


def _keeps_last_axis(sch: Schedule, block: SBlockRV) -> bool:
    """Whether the reduction's last written axis is also its inputs' innermost axis, kept."""
    node = sch.get(block)
    kept = [iv.var for iv in node.iter_vars if iv.iter_type == IterVar.DataPar]
    if not kept:
        return False
    for read in node.reads:
        if len(read.region) == 0:
            continue
        index = read.region[-1].min
        if not (hasattr(index, "same_as") and index.same_as(kept[-1])):
            return False
    return True


def _is_large(sch: Schedule, block: SBlockRV) -> bool:
    """Whether the block's loops run often enough for threads to pay."""
    extents = [int(iv.dom.extent) for iv in sch.get(block).iter_vars]
    return math.prod(extents) >= PARALLEL_ELEMENTS
