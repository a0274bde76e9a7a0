"""Register tiles of Winograd convolutions on x86-64: the fastest of those tried on either ISA."""

from __future__ import annotations

from ..winograd import winograd_kernel
from ..winograd_plan import WinogradTile

KERNELS = (
    winograd_kernel("avx2", WinogradTile(tiles=6, channels=16, lanes=8)),
    winograd_kernel("avx512_vpopcntdq", WinogradTile(tiles=8, channels=32, lanes=16)),
)
