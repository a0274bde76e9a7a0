"""Register tiles of float dense layers on Arm NEON: those of 1x1 convolutions."""

from __future__ import annotations

from ..dense import register_tile_kernel
from .conv2d import HALF_TILES, NEON32_TILES, NEON_TILES, half_kernel, neon_kernel

KERNELS = (
    *(neon_kernel(register_tile_kernel, tile) for tile in NEON_TILES),
    *(half_kernel(register_tile_kernel, tile) for tile in HALF_TILES),
    *(register_tile_kernel("neon32", tile) for tile in NEON32_TILES),
)
