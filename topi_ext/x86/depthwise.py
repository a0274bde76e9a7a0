"""Float depthwise convolutions on x86-64: runs of eight registers of channels."""

from __future__ import annotations

from ..depthwise import channel_tile_kernel

KERNELS = (channel_tile_kernel("avx2"), channel_tile_kernel("avx512_vpopcntdq"))
