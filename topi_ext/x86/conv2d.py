"""Register tiles of float convolutions on x86-64.

AVX2 has 16 registers of 8 floats: accumulators, the weights of one step and one broadcast input
must fit. AVX512 has 32 of 16 floats and broadcasts from memory within the multiply-add.
"""

from __future__ import annotations

from ..conv2d import register_tile_kernel
from ..register_tile import RegisterTile

AVX2_TILES = (
    RegisterTile(pixels=12, channels=8, lanes=8),
    RegisterTile(pixels=6, channels=16, lanes=8),
    RegisterTile(pixels=4, channels=24, lanes=8),
    RegisterTile(pixels=1, channels=48, lanes=8),
)

AVX512_TILES = (
    RegisterTile(pixels=14, channels=16, lanes=16),
    RegisterTile(pixels=12, channels=32, lanes=16),
    RegisterTile(pixels=8, channels=48, lanes=16),
    RegisterTile(pixels=6, channels=64, lanes=16),
    RegisterTile(pixels=1, channels=128, lanes=16),
)

KERNELS = tuple(register_tile_kernel("avx2", tile) for tile in AVX2_TILES) + tuple(
    register_tile_kernel("avx512_vpopcntdq", tile) for tile in AVX512_TILES
)
