"""What follows a kernel's accumulator in a fused function, and the tiling common to all kernels.

After FuseTIR a function reads: the kernel's stages, the accumulator block, then elementwise
blocks (cast, scale, offset, PReLU, shortcut ...) of which the last writes the output.
"""

from __future__ import annotations

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from .kernels import STAGE


def leaf_blocks(sch: Schedule) -> list[SBlockRV]:
    """The blocks directly under the root, in the order of execution."""
    return list(sch.get_child_blocks(sch.get_sblock("root", func_name="main")))


def find_stage(sch: Schedule, stage: str = "acc") -> SBlockRV:
    """The block annotated as `stage`. Raises LookupError if there is none."""
    for block in leaf_blocks(sch):
        if sch.get(block).annotations.get(STAGE) == stage:
            return block
    raise LookupError(f"no block is annotated as the stage {stage!r}")


def inline_epilogue(sch: Schedule, anchor: SBlockRV) -> SBlockRV:
    """Inline the elementwise blocks behind `anchor` into the last block and return that one.

    If nothing follows the anchor, the anchor itself is returned.
    """
    name = sch.get(anchor).name_hint
    names = [sch.get(block).name_hint for block in leaf_blocks(sch)]
    behind = names[names.index(name) + 1 :]
    for block in behind[:-1]:
        sch.compute_inline(sch.get_sblock(block))
    return sch.get_sblock(behind[-1]) if behind else anchor


def divisor(extent: int, limit: int) -> int:
    """The largest divisor of `extent` not above `limit`."""
    return max(d for d in range(1, min(extent, limit) + 1) if extent % d == 0)


def tile_accumulator(
    sch: Schedule, anchor: SBlockRV, last: SBlockRV, pixels: int, channels: int
) -> tuple[LoopRV, LoopRV, LoopRV]:
    """Tile `last` as [outer, pixels x channels] and compute `anchor` at the tile.

    `last` writes [n, ho, wo, co] (any rank; the last two axes are tiled). `pixels` must divide wo
    and `channels` co (see `divisor`). The accumulator shrinks to one tile. Returns the fused outer
    loop and the two tile loops of `last`; the caller schedules the reduction inside and marks
    loops parallel *before* it decomposes the reduction.
    """
    *rest, wo, co = sch.get_loops(last)
    wo_outer, wo_inner = sch.split(wo, [None, pixels])
    co_outer, co_inner = sch.split(co, [None, channels])
    sch.reorder(*rest, wo_outer, co_outer, wo_inner, co_inner)
    outer = sch.fuse(*rest, wo_outer, co_outer)
    sch.compute_at(anchor, outer, preserve_unit_loops=True)
    return outer, wo_inner, co_inner

