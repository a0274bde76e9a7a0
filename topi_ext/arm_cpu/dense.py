"""Register tiles of float dense layers on Arm NEON: those of 1x1 convolutions, and a wide one."""

from __future__ import annotations

from dataclasses import replace

from tvm.target import Target

from ..dense import register_tile_kernel
from ..kernels import Kernel
from ..params import ConvParams
from ..register_tile import RegisterTile
from .conv2d import HALF_TILES, LAST, NEON32_TILES, NEON_TILES, half_kernel, neon_kernel
from .cores import core_of

WIDE_TILE = RegisterTile(pixels=1, channels=64, lanes=4, by_lane=True)


def wide_kernel(tile: RegisterTile) -> Kernel:
    """The row of a tile for cores where fewer sums wait for themselves, last on others."""
    row = neon_kernel(register_tile_kernel, tile)
    fewer = tile.channels // tile.lanes // 2

    def rank(params: ConvParams, target: Target) -> int:
        waits = core_of(target).sum_cycles > fewer
        return row.rank_for(params, target) if waits else LAST

    return replace(row, rank=rank)


KERNELS = (
    *(neon_kernel(register_tile_kernel, tile) for tile in NEON_TILES),
    wide_kernel(WIDE_TILE),
    *(half_kernel(register_tile_kernel, tile) for tile in HALF_TILES),
    *(register_tile_kernel("neon32", tile) for tile in NEON32_TILES),
)
