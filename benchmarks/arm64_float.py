"""Float layers for one arm64 core in float32 and in half precision: modelled cycles side by side.

    python -m benchmarks.arm64 --float-layers [--json]

Each layer, with bias and ReLU, is an ONNX model of its own and goes through the product's pipeline
twice, without and with `--float16`; what surrounds the kernel counts too (padding, the transpose of
an NCHW input, conversions at both ends). See `arm64_models` for how cycles are modelled.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from . import arm64_models
from .float_models import EPILOGUES, LAYERS, model

CORE = "cortex-a76"
# Of one layer alone, relative to the largest value.
HALF_LAYER_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Row:
    """One layer: kernels, modelled cycles of the kernel and of all around it, largest error."""

    layer: str
    macs: int
    kernel32: str
    kernel16: str
    cycles32: float
    cycles16: float
    error16: float

    @property
    def gain(self) -> float:
        """How many times fewer cycles half precision takes."""
        return self.cycles32 / self.cycles16


def measure(armcost: Path) -> list[Row]:
    """All layers on `CORE`. Raises CalledProcessError if a tool fails."""
    rows = []
    for name, layer in LAYERS.items():
        if layer.direct:  # as the kernel table would choose, in both precisions
            continue
        found, proto = [], model(layer, EPILOGUES["relu"])
        for core in (CORE, CORE + arm64_models.HALF):
            with tempfile.TemporaryDirectory() as folder:
                found.append(arm64_models.measure_model(proto, core, armcost, Path(folder)))
        print(f"{name}: error {found[1][1]:.0e}", file=sys.stderr)
        (kernel32, kernel16) = (_kernel(calls) for calls, _ in found)
        cycles32, cycles16 = (sum(call.cycles for call in calls) for calls, _ in found)
        macs = sum(call.macs for call in found[0][0])
        rows.append(Row(name, macs, kernel32, kernel16, cycles32, cycles16, found[1][1]))
    return rows


def _kernel(calls: list[arm64_models.Layer]) -> str:
    return next(call.kernel for call in calls if call.macs)


def as_json(rows: list[Row]) -> list[dict[str, object]]:
    """The rows with their gain, for `--json`."""
    return [{**asdict(row), "core": CORE, "gain": round(row.gain, 3)} for row in rows]


def table(rows: list[Row]) -> list[str]:
    """The rows as lines of Markdown."""
    peak = arm64_models.FMA_PEAK[arm64_models.CORES[CORE]]
    lines = [
        f"| layer on {CORE} | float32: thousand cycles | part of its peak | float16 "
        "| part of its peak | gain | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row.layer]
        # Sums that are too long for half precision stay in float32.
        peak16 = 2 * peak if "_f16" in row.kernel16 else peak
        for cycles, rate in ((row.cycles32, peak), (row.cycles16, peak16)):
            cells += [f"{cycles / 1e3:.0f}", f"{row.macs / rate / cycles:.0%}"]
        cells += [f"{row.gain:.2f}x", f"{row.error16:.0e}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
