"""Float depthwise convolutions on Arm NEON: runs of eight registers of channels (32-bit: four)."""

from __future__ import annotations

from ..depthwise import channel_tile_kernel

KERNELS = (
    channel_tile_kernel("neon"),
    channel_tile_kernel("neon", "float16"),
    channel_tile_kernel("neon32"),
)
