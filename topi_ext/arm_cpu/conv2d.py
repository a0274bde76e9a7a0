"""Register tiles of float convolutions on Arm NEON.

AArch64 has 32 registers of 4 floats: accumulators, one vector of 4 inputs per pixel and the
weights of one step must fit; multiply-adds take the input from a lane. 32-bit NEON has 16.

With FullFP16 a register holds 8 halves, and `fmla .8h` does twice the multiply-adds of `fmla .4s`
in the same time. Its lane operand must be one of the first 16 registers, so inputs and half of
the weights compete for those: tiles hold at most 8 inputs. Sums are halves: `fmlal`, which sums in
float32, needs FEAT_FHM, which Cortex-A75 to A78 lack, and does no more multiply-adds than `fmla
.4s`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tvm.target import Target
from tvm.tirx import PrimFunc

from ..begun_sums import begin_sums
from ..conv2d import register_tile_kernel
from ..kernels import Kernel
from ..params import ConvParams
from ..register_tile import RegisterTile
from .cores import core_of
from .short_conv import schedule_short

NEON_TILES = (
    RegisterTile(pixels=8, channels=4, lanes=4, by_lane=True),
    RegisterTile(pixels=8, channels=8, lanes=4, by_lane=True),
    RegisterTile(pixels=6, channels=12, lanes=4, by_lane=True),
    RegisterTile(pixels=4, channels=16, lanes=4, by_lane=True),
    RegisterTile(pixels=1, channels=32, lanes=4, by_lane=True),
)

NEON32_TILES = (
    RegisterTile(pixels=4, channels=4, lanes=4),
    RegisterTile(pixels=4, channels=8, lanes=4),
)

HALF_TILES = (
    RegisterTile(pixels=8, channels=8, lanes=8, by_lane=True),
    RegisterTile(pixels=4, channels=16, lanes=8, by_lane=True),
    RegisterTile(pixels=8, channels=16, lanes=8, by_lane=True),
    RegisterTile(pixels=6, channels=24, lanes=8, by_lane=True),
    RegisterTile(pixels=4, channels=32, lanes=8, by_lane=True),
    RegisterTile(pixels=1, channels=64, lanes=8, by_lane=True),
)


def neon_kernel(make: Callable[..., Kernel], tile: RegisterTile) -> Kernel:
    """The row that `make` (`register_tile_kernel`) has; sums begin with what is added to them.

    Not on cores that issue in order: there the first product of a sum would wait for the load.
    """
    row = make("neon", tile)

    def schedule(func: PrimFunc, target: Target) -> PrimFunc:
        in_order = core_of(target).in_order
        begun = func if in_order else begin_sums(func)
        return schedule_short(func, in_order) or row.schedule(begun, target)

    return replace(row, schedule=schedule)


LAST = -(10**15)  # a rank: no layer costs as much


def half_kernel(make: Callable[..., Kernel], tile: RegisterTile) -> Kernel:
    """The row that `make` (`register_tile_kernel`) has for halves, last where its tile spills."""
    row = make("neon", tile, "float16")
    small = tile.pixels <= 4 and tile.pixels * tile.channels <= 64

    def rank(params: ConvParams, target: Target) -> int:
        spills = not small and core_of(target).hoists and tile.takes_lanes(params)
        return row.rank_for(params, target) + (LAST if spills else 0)

    def schedule(func: PrimFunc, target: Target) -> PrimFunc:
        return schedule_short(func, core_of(target).in_order) or row.schedule(func, target)

    return replace(row, rank=rank, schedule=schedule)


KERNELS = (
    *(neon_kernel(register_tile_kernel, tile) for tile in NEON_TILES),
    *(half_kernel(register_tile_kernel, tile) for tile in HALF_TILES),
    *(register_tile_kernel("neon32", tile) for tile in NEON32_TILES),
)
