"""What the kernels need to know about Arm cores: one table, by LLVM's name of the core.

Sources: Arm's software optimisation guides (issue width, vector pipes, latencies) and what LLVM's
scheduler for the core does to the loops: register pressure is why the tiles differ.
"""

from __future__ import annotations

from tvm.target import Target

# Output pixels of one tile of the eor/cnt kernel, largest last. LLVM's scheduling model of the
# cores named here hoists so many loads (long latencies, in order) that taller tiles spill.
_PIXELS = {
    "generic": (1, 4),
    "cortex-a34": (1, 4, 5),
    "cortex-a35": (1, 4, 5),
    "cortex-a53": (1, 4, 5),
}
_PIXELS_ELSE = (1, 4, 7)


def core_of(target: Target) -> str:
    """LLVM's name of the target's core, "generic" if it names none."""
    return str(target.attrs.get("mcpu", "") or "generic")


def cnt_pixels(target: Target) -> tuple[int, ...]:
    """The tile heights, in output pixels, that the eor/cnt kernels may use on this core."""
    return _PIXELS.get(core_of(target), _PIXELS_ELSE)
