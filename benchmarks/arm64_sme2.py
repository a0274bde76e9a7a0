"""The SME2 kernel: exact instruction counts per layer and vector length. No cycles.

    python -m benchmarks.arm64_sme2 [--bits 512] [--json]

builds the layers of `benchmarks.arm64` once, runs the program under a qemu that emulates SME2 at
each length of a streaming vector with the counting tool armcost, checks the results against
`topi_ext.reference`, and prints instructions per 128 binary multiply-accumulates, counted as there.
No scheduling model of any core prices BMOPA and no Arm hardware is involved, so these counts say
nothing about time: a streaming unit may be shared by cores and run at another rate than they do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from topi_ext.arm_cpu.bconv2d_sme2 import ROW
from topi_ext.params import ConvParams

from . import arm64_program, counter, sme_qemu
from .arm64 import LAYERS
from .arm64_program import Case, Program
from .counter import ARMCOST


def measure(layers: dict[str, ConvParams], bits: list[int], armcost: Path) -> list[dict[str, Any]]:
    """One row a layer and vector length. Raises CalledProcessError if a tool fails."""
    cases = [Case(f"layer{i}", params, ROW, "float") for i, params in enumerate(layers.values())]
    with tempfile.TemporaryDirectory() as directory:
        program = arm64_program.build(cases, arm64_program.sme2_target(), Path(directory))
        return [row for length in bits for row in _count(program, list(layers), length, armcost)]


def _count(program: Program, names: list[str], bits: int, armcost: Path) -> list[dict[str, Any]]:
    out, report = (program.path.with_suffix(suffix) for suffix in (".out", ".json"))
    qemu, _, cpu = sme_qemu.command(bits)
    command = [sys.executable, str(armcost), "--backend", "log", "--qemu-cpu", cpu]
    command += ["--cores", "a76", "--json", str(report), "--", str(program.path), str(out)]
    environment = {**os.environ, "QEMU_AARCH64": qemu}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    counted = {region["name"]: region for region in json.loads(report.read_text())["regions"]}
    outputs = arm64_program.read_outputs(program, out)
    rows = []
    for name, one in zip(names, program.cases, strict=True):
        region = counted[one.case.name]
        units = one.case.params.macs / 128
        vector = sum(
            n
            for kind, n in region["classes"].items()
            if kind[0] == "v" and kind not in ("vload", "vstore")
        )
        rows.append(
            {
                "layer": name,
                "vector_bits": bits,
                "kernel": ROW.name,
                "vector_ops_per_128": round(vector / units, 3),
                "instructions_per_128": round(region["instructions"] / units, 3),
                "correct": arm64_program.is_correct(one, outputs[one.case.name]),
            }
        )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line a layer, a pair of columns a vector length."""
    from rich.console import Console
    from rich.table import Table

    lengths = list(dict.fromkeys(row["vector_bits"] for row in rows))
    table = Table(title="Exact instructions per 128 binary MACs: vector | all")
    table.add_column("layer")
    for bits in lengths:
        table.add_column(f"{bits} bits", justify="right")
    table.add_column("result")
    for layer in dict.fromkeys(row["layer"] for row in rows):
        mine = [row for row in rows if row["layer"] == layer]
        cells = [f"{r['vector_ops_per_128']:.3f} | {r['instructions_per_128']:.3f}" for r in mine]
        table.add_row(layer, *cells, "exact" if all(r["correct"] for r in mine) else "WRONG")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print("Counts, not times: no model prices BMOPA, and no hardware was measured.")


def main(argv: list[str] | None = None) -> int:
    """Command line. Returns 0, 1 if a result is wrong, 4 if a tool is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bits", action="append", type=int, choices=sme_qemu.LENGTHS)
    parser.add_argument("--layer", action="append", choices=list(LAYERS), help="default: all")
    parser.add_argument("--armcost", type=Path, default=ARMCOST, help="path of armcost.py")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    missing = sme_qemu.missing() or counter.missing(args.armcost)
    if missing is not None:
        print(f"error: {missing}", file=sys.stderr)
        return 4
    layers = {name: LAYERS[name] for name in args.layer or LAYERS}
    rows = measure(layers, args.bits or list(sme_qemu.LENGTHS), args.armcost)
    if args.json:
        print(json.dumps({"rows": rows}))
    else:
        print_table(rows)
    return 0 if all(row["correct"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
