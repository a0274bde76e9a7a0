"""The schedule of last resort: right for every fused function, one element at a time."""

from __future__ import annotations

from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc

from .epilogue import find_stage, inline_epilogue


def schedule_scalar(func: PrimFunc) -> PrimFunc:
    """Compute the accumulator where the last block needs it, without a buffer of its own.

    For functions whose last block does not read the accumulator element by element, because a
    reshape or a transpose was fused behind the kernel.
    """
    sch = Schedule(func)
    anchor = find_stage(sch)
    last = inline_epilogue(sch, anchor)
    loops = sch.get_loops(last)
    if not sch.get(last).same_as(sch.get(anchor)):
        sch.compute_at(anchor, loops[-1], preserve_unit_loops=True)
    if len(loops) > 1:
        sch.parallel(loops[0])
    return sch.mod["main"]
