"""Register tiles of float convolutions on Arm NEON.

AArch64 has 32 registers of 4 floats: accumulators, one vector of 4 inputs per pixel and the
weights of one step must fit; multiply-adds take the input from a lane. 32-bit NEON has 16.
"""

from __future__ import annotations

from ..conv2d import register_tile_kernel
from ..register_tile import RegisterTile

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

KERNELS = tuple(register_tile_kernel("neon", tile) for tile in NEON_TILES) + tuple(
    register_tile_kernel("neon32", tile) for tile in NEON32_TILES
)
