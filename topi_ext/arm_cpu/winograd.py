"""The register tiles of Winograd convolutions on Arm NEON.

Of 32 registers the sums take 14, the inputs of a step one for each tile of outputs, the weights
two; eight tiles spill. Seven divide what maps of 224, 112, 56, 28 and 14 pixels have. Halves have
twice the lanes.
"""

from __future__ import annotations

from dataclasses import replace

from ..winograd import winograd_kernel
from ..winograd_plan import WinogradTile

_FLOATS = WinogradTile(tiles=7, channels=8, lanes=4, by_lane=True, stream_cycles=0.1)
_HALVES = replace(_FLOATS, channels=16, lanes=8, dtype="float16")

KERNELS = (winograd_kernel("neon", _FLOATS), winograd_kernel("neon", _HALVES))
