"""The register tile of Winograd convolutions on Arm NEON.

Of 32 registers the sums take 14, the inputs of a step one for each tile of outputs, the weights
two; eight tiles spill. Seven divide what maps of 224, 112, 56, 28 and 14 pixels have.
"""

from __future__ import annotations

from ..winograd import winograd_kernel
from ..winograd_plan import WinogradTile

KERNELS = (
    winograd_kernel(
        "neon", WinogradTile(tiles=7, channels=8, lanes=4, by_lane=True, stream_cycles=0.1)
    ),
)
