"""Register tiles of float dense layers on Arm NEON: those of 1x1 convolutions."""

from __future__ import annotations

from ..dense import register_tile_kernel
from .conv2d import NEON32_TILES, NEON_TILES

KERNELS = tuple(register_tile_kernel("neon", tile) for tile in NEON_TILES) + tuple(
    register_tile_kernel("neon32", tile) for tile in NEON32_TILES
)
