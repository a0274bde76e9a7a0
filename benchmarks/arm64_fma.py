"""Float kernels alone on arm64 cores: modelled cycles and their part of the FMA bound.

    python -m benchmarks.arm64_fma [--core CORE] [--layer NAME] [--json]

The layers are those of `arm64_float`, with bias and ReLU. Transposes, padding and conversions in
calls of their own are left out. The bound is the cycles that the multiply-adds of the direct
convolution take at the core's peak rate, so Winograd tiles may pass 100 %. See `arm64_models` for
how cycles are modelled.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from . import arm64_models
from .arm64 import ARMCOST, counter
from .arm64_float import HALF_LAYER_TOLERANCE, LAYERS, model


@dataclass(frozen=True)
class KernelRow:
    """One layer on one core: parts of the FMA bound with latencies and by pipes alone."""

    layer: str
    core: str
    kernel: str
    cycles: float
    part: float
    part_by_pipes: float
    error: float

    @property
    def correct(self) -> bool:
        """Whether the result agrees with onnxruntime's."""
        half = self.core.endswith(arm64_models.HALF)
        return self.error <= (HALF_LAYER_TOLERANCE if half else arm64_models.TOLERANCE)


def measure(name: str, core: str, armcost: Path) -> KernelRow:
    """A layer of `LAYERS` on a key of `CORES`. Raises CalledProcessError if a tool fails."""
    with tempfile.TemporaryDirectory() as folder:
        calls, error = arm64_models.measure_model(model(LAYERS[name]), core, armcost, Path(folder))
    kernels = arm64_models.float_layers(calls)
    return KernelRow(
        name,
        core,
        kernels[0].kernel,
        sum(call.cycles for call in kernels),
        arm64_models.fma_share(calls, core),
        arm64_models.fma_share(calls, core, latencies=False),
        error,
    )


def table(rows: list[KernelRow]) -> list[str]:
    """The rows as lines of Markdown."""
    lines = [
        "| layer | core | kernel | thousand cycles | part of the FMA bound | by pipes only |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = f"{row.cycles / 1e3:.0f} | {row.part:.0%} | {row.part_by_pipes:.0%}"
        lines.append(f"| {row.layer} | {row.core} | {row.kernel} | {figures} |")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Command line. Returns 0, 1 if a result is wrong, 4 if a tool is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0].replace("%", "%%"))
    parser.add_argument("--core", action="append", choices=list(arm64_models.CORES))
    parser.add_argument("--layer", action="append", choices=list(LAYERS))
    parser.add_argument("--armcost", type=Path, default=ARMCOST, help="path of armcost.py")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    missing = counter.missing(args.armcost)
    if missing is not None:
        print(f"error: {missing}", file=sys.stderr)
        return 4
    rows = []
    for name in args.layer or LAYERS:
        for core in args.core or arm64_models.CORES:
            rows.append(measure(name, core, args.armcost))
            print(f"{name} on {core}: error {rows[-1].error:.0e}", file=sys.stderr)
    if args.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))
    else:
        print("\n".join([*table(rows), "", "Cycles are modelled, not measured."]))
    return 0 if all(row.correct for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
