"""Register tiles of float dense layers on x86-64: those of 1x1 convolutions."""

from __future__ import annotations

from ..dense import register_tile_kernel
from .conv2d import AVX2_TILES, AVX512_TILES

KERNELS = tuple(register_tile_kernel("avx2", tile) for tile in AVX2_TILES) + tuple(
    register_tile_kernel("avx512_vpopcntdq", tile) for tile in AVX512_TILES
)
