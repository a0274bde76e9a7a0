"""The channel tile: one pixel of an outer loop times a run of channels held in registers.

The schedule of everything that reduces over a window but not over channels: depthwise
convolutions, pools, global pools. A tap outside the input is skipped by one scalar comparison per
vector run, so padding needs neither a copy nor a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV
from tvm.target import Target

from .isa import isa_of

# Makes the loop partition pass split off the last, incomplete tile.
PARTITION = "pragma_loop_partition_hint"

# float32 numbers in eight vector registers: enough sums in flight to hide an addition's latency.
_RUN = {"avx512_vpopcntdq": 128, "avx2": 64, "sme2": 32, "neon": 32, "neon32": 16, "generic": 16}


def channel_run(channels: int, target: Target, halves: bool = False) -> int:
    """Channels of one tile: a power of two, or all of them where they are fewer.

    halves: twice as many fit. A divisor of the channels is preferred unless it is less than a
    quarter of the longest run.
    """
    limit = _RUN[isa_of(target)] * (2 if halves else 1)
    if channels <= limit and channels & (channels - 1) == 0:
        return channels
    for run in (limit, limit // 2, limit // 4):
        if channels % run == 0:
            return run
    return min(limit // 2, 1 << (channels.bit_length() - 1))


def schedule_channel_tile(
    sch: Schedule,
    anchor: SBlockRV,
    last: SBlockRV,
    target: Target,
    parallel: bool,
    order: Sequence[int] = (),
) -> None:
    """Compute the window reduction `anchor` at tiles of `last`, which reads it one for one.

    The anchor writes [..., channels]; the leading axes are the loop nest outside of the tile.
    order: for each axis of the anchor's result the axis of `last`; empty where they are the same.
    """
    loops = sch.get_loops(last)
    *rest, channel = (loops[axis] for axis in order or range(len(loops)))
    sch.reorder(*rest, channel)
    halves = str(sch.get(anchor).writes[0].source.ty.dtype) == "float16"
    run = channel_run(int(sch.get(channel).extent), target, halves)
    whole = int(sch.get(channel).extent) % run == 0
    outer, inner = sch.split(channel, [None, run])
    if not whole:
        sch.annotate(outer, PARTITION, 1)
    if rest and parallel:
        # The innermost of the leading loops stays serial: tasks of whole rows.
        launch = sch.fuse(*rest[:-1]) if len(rest) > 2 else rest[0]
        sch.parallel(launch)
    sch.compute_at(anchor, outer, preserve_unit_loops=True)
    reduces = sum(1 for iv in sch.get(anchor).iter_vars if iv.iter_type == iv.CommReduce)
    loops = sch.get_loops(anchor)
    reduction, run_loop = loops[-reduces:], loops[-reduces - 1]
    sch.reorder(*reduction, run_loop)
    sch.vectorize(run_loop)
    sch.decompose_reduction(anchor, reduction[0])
    sch.vectorize(inner)


def reduction_axes(sch: Schedule, block: SBlockRV) -> list[LoopRV]:
    """The reduction loops of a block whose loops are its iteration variables one for one."""
    pairs = zip(sch.get(block).iter_vars, sch.get_loops(block), strict=True)
    return [loop for iv, loop in pairs if iv.iter_type == iv.CommReduce]
