"""Float kernels alone on arm64 cores: modelled cycles and their part of the FMA bound.

    python -m benchmarks.arm64_fma [--epilogue NAME] [--core CORE] [--layer NAME] [--json]
    python -m benchmarks.arm64_fma --epilogue all --document

The layers and what follows them are those of `float_models`: by default all layers, with bias and
ReLU. Transposes, padding and conversions in calls of their own are left out. Every result is
compared with onnxruntime's. See `arm64_models` for how cycles are modelled. The second form writes
docs/arm64-float.md.

There are two bounds, both at the peak rate of the core's vector pipes. The FMA bound is the cycles
of the direct convolution's multiply-adds, so Winograd tiles may pass 100 %, and kernels that skip
padded taps gain a little. The other one also counts the vector operations that the epilogue cannot
do without (`float_models.Epilogue`). The goal, 80 %, is of the FMA bound where a result takes at
least `MANY_TAPS` multiply-adds, among which an epilogue is lost. Below, in depthwise layers and
1x1 ones of few channels, it is of the bound with the epilogue: beside nine multiply-adds two more
operations alone leave no more than 82 % of the FMA bound.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from . import arm64_models, counter
from .arm64_float import HALF_LAYER_TOLERANCE
from .counter import ARMCOST
from .float_models import EPILOGUES, LAYERS, model

MANY_TAPS = 25
_DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "arm64-float.md"


@dataclass(frozen=True)
class KernelRow:
    """One layer with one epilogue on one core.

    outputs: numbers of the result. instructions: exact. cycles: modelled, with latencies;
    cycles_by_pipes: by pipes and front end alone.
    """

    layer: str
    epilogue: str
    core: str
    kernel: str
    macs: int
    outputs: int
    instructions: int
    cycles: float
    cycles_by_pipes: float
    error: float

    def part(self, latencies: bool = True, epilogue: bool = False) -> float:
        """The part of the FMA bound, or of the bound with the epilogue, that the cycles are."""
        operations = EPILOGUES[self.epilogue].operations if epilogue else 0
        # Sums that are too long for half precision stay in float32.
        half = self.core if "_f16" in self.kernel else self.core.removesuffix(arm64_models.HALF)
        bound = (self.macs + operations * self.outputs) / arm64_models.fma_peak(half)
        return bound / (self.cycles if latencies else self.cycles_by_pipes)

    @property
    def reached(self) -> str:
        """Whether the goal is: "yes", "by pipes" or "no"."""
        epilogue = self.macs < MANY_TAPS * self.outputs
        if self.part(True, epilogue) >= arm64_models.FLOAT_GOAL:
            return "yes"
        return "by pipes" if self.part(False, epilogue) >= arm64_models.FLOAT_GOAL else "no"

    @property
    def correct(self) -> bool:
        """Whether the result agrees with onnxruntime's."""
        half = self.core.endswith(arm64_models.HALF)
        return self.error <= (HALF_LAYER_TOLERANCE if half else arm64_models.TOLERANCE)

    def as_json(self) -> dict[str, object]:
        """The fields and what follows from them."""
        parts = {
            "part": self.part(),
            "part_by_pipes": self.part(False),
            "part_with_epilogue": self.part(True, True),
            "part_with_epilogue_by_pipes": self.part(False, True),
        }
        rounded = {name: round(part, 4) for name, part in parts.items()}
        return {**asdict(self), **rounded, "reached": self.reached, "correct": self.correct}


def measure(layer: str, epilogue: str, core: str, armcost: Path) -> KernelRow:
    """One of `LAYERS` with one of `EPILOGUES` on a key of `CORES`.

    Raises CalledProcessError if a tool fails.
    """
    what = LAYERS[layer]
    proto = model(what, EPILOGUES[epilogue])
    with tempfile.TemporaryDirectory() as folder:
        calls, error = arm64_models.measure_model(
            proto, core, armcost, Path(folder), winograd=not what.direct
        )
    kernels = arm64_models.float_layers(calls)
    return KernelRow(
        layer,
        epilogue,
        core,
        kernels[0].kernel,
        what.params.macs,
        what.params.pixels * what.params.co,
        sum(call.instructions for call in kernels),
        sum(call.cycles for call in kernels),
        sum(call.bound for call in kernels),
        error,
    )


_HEAD = f"""\
# Float kernels on arm64: their part of the FMA bound

Written by `python -m benchmarks.arm64_fma --epilogue all --document`. **All cycles are modelled**:
exactly counted instructions of a run under qemu-aarch64, priced by llvm-mca's model of the core
(one thread, every load a hit in the first-level cache). Nothing ran on Arm hardware. neoverse-n1 is
priced with the same model as cortex-a76. Every result was compared with onnxruntime's.

Kernels stand alone: transposes, padding and conversions in calls of their own are left out. The
first figure is the part of the FMA bound: the cycles that the multiply-adds of the direct
convolution take at the core's peak rate. Winograd tiles (winograd.md) do with fewer of them and
pass 100 %; `direct` is without. The second figure is the part of the bound that also counts the
vector operations which the operators behind the layer cannot do without.

The goal is {arm64_models.FLOAT_GOAL:.0%}: of the FMA bound from {MANY_TAPS} multiply-adds
for a result on, of the other one below (depthwise 3x3, 1x1 over 16 channels). **Bold** is what
misses it. Border pixels of depthwise layers leave out the taps in the padding, which the bounds
count.

Cortex-A53 issues two instructions a cycle, in order. llvm-mca lets such a core finish its
instructions in order as well, so that a multiply-add or a load holds up what is behind it for its
whole latency, where the core itself stalls only for a result that is needed. So it has two columns:
with latencies, and by pipes and issue width alone. The truth lies between them, nearer to the
second.
"""


Task = tuple[str, str, str]


def tasks(layers: Sequence[str], epilogues: Sequence[str], cores: Sequence[str]) -> list[Task]:
    """(layer, epilogue, core) of every row; half precision is direct anyway."""
    return [
        (layer, epilogue, core)
        for epilogue in epilogues
        for layer in layers
        for core in cores
        if not (LAYERS[layer].direct and core.endswith(arm64_models.HALF))
    ]


def measure_all(wanted: Sequence[Task], armcost: Path, jobs: int) -> Iterator[KernelRow]:
    """The rows in order, `jobs` of them at a time."""
    if jobs == 1:
        yield from (measure(*task, armcost) for task in wanted)
        return
    # TVM has threads of its own, with which a process cannot be forked.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(measure, *zip(*wanted, strict=True), [armcost] * len(wanted))


def table(rows: Sequence[KernelRow]) -> list[str]:
    """The rows as lines of Markdown."""
    lines = [
        "| layer | epilogue | core | kernel | thousand cycles | part of the FMA bound "
        "| by pipes only | with epilogue | by pipes only | goal reached |",
        "|" + "---|" * 10,
    ]
    for row in rows:
        parts = [row.part(pipes, epilogue) for epilogue in (False, True) for pipes in (True, False)]
        cells = [row.layer, EPILOGUES[row.epilogue].title, row.core, row.kernel]
        cells += [f"{row.cycles / 1e3:.0f}", *(f"{part:.0%}" for part in parts), row.reached]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def document(rows: Sequence[KernelRow]) -> str:
    """One table for each epilogue as Markdown: layers by cores."""
    lines = _HEAD.splitlines()
    cores = list(dict.fromkeys(row.core for row in rows))
    for name in dict.fromkeys(row.epilogue for row in rows):
        found = {(row.layer, row.core): row for row in rows if row.epilogue == name}
        operations = EPILOGUES[name].operations
        lines += ["", f"## {EPILOGUES[name].title[0].upper()}{EPILOGUES[name].title[1:]}", ""]
        lines += [f"Vector operations for a vector of results, at least: {operations}.", ""]
        columns = [(core, True) for core in cores]
        for at, core in reversed(list(enumerate(cores))):
            if in_order(core):
                columns.insert(at + 1, (core, False))
        titles = [core if latencies else f"{core}, by pipes" for core, latencies in columns]
        lines += ["| layer | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
        for layer in dict.fromkeys(row.layer for row in rows):
            cells = [_cell(found.get((layer, core)), latencies) for core, latencies in columns]
            lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def in_order(core: str) -> bool:
    """Whether the core issues in order, by a key of `CORES`."""
    return arm64_models.CORES[core] == "a53"


def _cell(row: KernelRow | None, latencies: bool) -> str:
    if row is None:
        return ""
    both = [f"{row.part(latencies, epilogue):.0%}" for epilogue in (False, True)]
    text = " / ".join(both if EPILOGUES[row.epilogue].operations else both[:1])
    missed = row.reached == "no" or (latencies and row.reached == "by pipes")
    return f"**{text}**" if missed else text


def main(argv: list[str] | None = None) -> int:
    """Command line. Returns 0, 1 if a result is wrong, 4 if a tool is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0].replace("%", "%%"))
    parser.add_argument(
        "--epilogue", action="append", choices=[*EPILOGUES, "all"], help="default: relu"
    )
    parser.add_argument("--core", action="append", choices=list(arm64_models.CORES))
    parser.add_argument("--layer", action="append", choices=list(LAYERS))
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="at a time (default: cores)"
    )
    parser.add_argument("--armcost", type=Path, default=ARMCOST, help="path of armcost.py")
    parser.add_argument(
        "--document", type=Path, nargs="?", const=_DOCUMENT, help=f"write {_DOCUMENT.name} instead"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs must be a whole number from 1, not {args.jobs}")
    missing = counter.missing(args.armcost)
    if missing is not None:
        print(f"error: {missing}", file=sys.stderr)
        return 4
    epilogues = args.epilogue or ["relu"]
    epilogues = list(EPILOGUES) if "all" in epilogues else epilogues
    wanted = tasks(args.layer or list(LAYERS), epilogues, args.core or list(arm64_models.CORES))
    rows = []
    for row in measure_all(wanted, args.armcost, args.jobs):
        rows.append(row)
        what = f"{row.layer}, {EPILOGUES[row.epilogue].title} on {row.core}"
        print(f"{len(rows)} of {len(wanted)}: {what}: error {row.error:.0e}", file=sys.stderr)
    if args.document is not None:
        args.document.write_text(document(rows), encoding="utf-8")
    if args.json:
        print(json.dumps({"rows": [row.as_json() for row in rows]}))
    elif args.document is None:
        print("\n".join([*table(rows), "", "Cycles are modelled, not measured."]))
    return 0 if all(row.correct for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
