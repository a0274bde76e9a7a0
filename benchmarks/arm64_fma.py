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

Cores that issue in order have a third count of cycles, between llvm-mca's two: `in_order`. It
decides there.
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
    cycles_by_pipes: by pipes and front end alone; cycles_in_order: by `in_order`, for cores that
    issue so.
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
    cycles_in_order: float | None = None

    def part(self, latencies: bool = True, epilogue: bool = False) -> float:
        """The part of the FMA bound, or of the bound with the epilogue, that the cycles are."""
        return self._bound(epilogue) / (self.cycles if latencies else self.cycles_by_pipes)

    def part_in_order(self, epilogue: bool = False) -> float | None:
        """The same by `cycles_in_order`."""
        return self._bound(epilogue) / self.cycles_in_order if self.cycles_in_order else None

    def _bound(self, epilogue: bool) -> float:
        """Cycles that the multiply-adds take at least, or those and the epilogue."""
        operations = EPILOGUES[self.epilogue].operations if epilogue else 0
        # Sums that are too long for half precision stay in float32.
        half = self.core if "_f16" in self.kernel else self.core.removesuffix(arm64_models.HALF)
        return (self.macs + operations * self.outputs) / arm64_models.fma_peak(half)

    @property
    def reached(self) -> str:
        """Whether the goal is: "yes", "by pipes" or "no"."""
        epilogue = self.macs < MANY_TAPS * self.outputs
        part = self.part_in_order(epilogue) or self.part(True, epilogue)
        if part >= arm64_models.FLOAT_GOAL:
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
            "part_in_order": self.part_in_order(),
            "part_with_epilogue_in_order": self.part_in_order(True),
        }
        rounded = {name: part and round(part, 4) for name, part in parts.items()}
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
        _in_order(kernels),
    )


def _in_order(kernels: Sequence[arm64_models.Layer]) -> float | None:
    each = [call.stalling for call in kernels if call.stalling is not None]
    return sum(each) if each else None


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

Cortex-A53 issues two instructions a cycle, in order, so it has three columns. The first one
decides: an instruction waits for its operands and its pipe alone (benchmarks/in_order.py, with
LLVM's latencies and pipes). "Results in order" are llvm-mca's cycles: it lets such a core finish
its instructions in order as well, so that a multiply-add or a load holds up what is behind it for
its whole latency, where the core stalls only for a result that is needed. "By pipes" leaves all
latencies out. LLVM's model has pipes of 128 bits. In the core itself they have 64: bound and
cycles are about twice as high there, and a load does not issue beside a multiply-add.
"""


Task = tuple[str, str, str]


def tasks(layers: Sequence[str], epilogues: Sequence[str], cores: Sequence[str]) -> list[Task]:
    """(layer, epilogue, core) of every row, in the order of the tables."""
    return [(layer, epilogue, core) for epilogue in epilogues for layer in layers for core in cores]


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
        "| by pipes only | in order, stalls for operands | with epilogue | by pipes only "
        "| in order, stalls for operands | goal reached |",
        "|" + "---|" * 12,
    ]
    for row in rows:
        parts = [
            part
            for epilogue in (False, True)
            for part in (
                row.part(True, epilogue),
                row.part(False, epilogue),
                row.part_in_order(epilogue),
            )
        ]
        cells = [row.layer, EPILOGUES[row.epilogue].title, row.core, row.kernel]
        cells += [f"{row.cycles / 1e3:.0f}", *("" if p is None else f"{p:.0%}" for p in parts)]
        cells += [row.reached]
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
        columns = [
            column
            for core in cores
            for column in ([(core, way) for way in _WAYS] if in_order(core) else [(core, "")])
        ]
        titles = [f"{core}, {way}" if way else core for core, way in columns]
        lines += ["| layer | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
        for layer in dict.fromkeys(row.layer for row in rows):
            cells = [_cell(found.get((layer, core)), way) for core, way in columns]
            lines.append(f"| {layer} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


_STALLS, _RESULTS, _PIPES = "stalls for operands", "results in order", "by pipes"
_WAYS = (_STALLS, _RESULTS, _PIPES)


def in_order(core: str) -> bool:
    """Whether the core issues in order, by a key of `CORES`."""
    return arm64_models.CORES[core] in arm64_models.IN_ORDER


def _cell(row: KernelRow | None, way: str) -> str:
    if row is None:
        return ""
    bounds = (False, True) if EPILOGUES[row.epilogue].operations else (False,)
    parts = [
        row.part_in_order(epilogue) if way == _STALLS else row.part(way != _PIPES, epilogue)
        for epilogue in bounds
    ]
    text = " / ".join(f"{part or 0:.0%}" for part in parts)
    return f"**{text}**" if way in ("", _STALLS) and row.reached != "yes" else text


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
