"""Binary convolutions for arm64: exact instruction counts and modelled cycles per layer.

    python -m benchmarks.arm64 [--core cortex-a76] [--json]
    python -m benchmarks.arm64 --models
    python -m benchmarks.arm64 --float-layers [--json]

builds each layer for a core (by default one that takes the kernel), runs it under qemu-aarch64 with
the counting tool armcost, checks the result against `topi_ext.reference`, and prints vector
instructions, all instructions and modelled cycles per 128 binary multiply-accumulates, counted from
packed bits to the layer's output: floats (scale and offset per channel), and packed bits of their
comparison with a threshold per channel. What zero padding costs more than padding with -1 stands
beside them. Instruction counts are exact; cycles are llvm-mca's models of the cores, no
measurement: no Arm hardware is involved.

The figures of dabnn and of Larq Compute Engine beside them come from their own kernels, counted by
the same tool (vector instructions; LCE without its im2col and packing).

The second form does the same for whole networks (`arm64_models`) and writes docs/arm64.md; the
third compares float layers in float32 and in half precision (`arm64_float`).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topi_ext.params import ConvParams

from . import arm64_program, counter
from .arm64_program import Case
from .counter import ARMCOST

if TYPE_CHECKING:
    from topi_ext.kernels import Kernel


def _layer(size: int, channels: int, kernel: int, stride: int = 1) -> ConvParams:
    return ConvParams(
        n=1,
        h=size,
        w=size,
        ci=channels,
        co=channels,
        kh=kernel,
        kw=kernel,
        stride=(stride, stride),
        pads=(kernel // 2,) * 4,
        pad_value=-1,
    )


# dabnn's benchmark list: height x width x channels, kernel; as many channels out.
LAYERS = {
    "14x14x256 k5": _layer(14, 256, 5),
    "56x56x64 k3": _layer(56, 64, 3),
    "28x28x128 k3": _layer(28, 128, 3),
    "14x14x256 k3": _layer(14, 256, 3),
    "14x14x256 k3 s2": _layer(14, 256, 3, 2),
    "7x7x512 k3": _layer(7, 512, 3),
}

# Dense layers, one row of the batch; not of dabnn's list.
DENSE = {
    "dense 1024x1024": ConvParams.dense(1, 1024, 1024),
    "dense 512x1000": ConvParams.dense(1, 512, 1000),
}
OUTPUTS = ("float", "words")

# Vector instructions per 128 MACs of (dabnn, LCE), and modelled cycles per 128 MACs by core.
PEERS_VECTOR = {
    "14x14x256 k5": (4.26, 3.03),
    "56x56x64 k3": (3.56, 3.38),
    "28x28x128 k3": (3.22, 3.18),
    "14x14x256 k3": (3.22, 3.09),
    "14x14x256 k3 s2": (3.22, 3.28),
    "7x7x512 k3": (3.22, 3.23),
}
PEERS_CYCLES = {
    "a72": [(3.16, 1.54), (2.96, 1.97), (1.82, 1.71), (1.85, 1.61), (2.30, 1.71), (2.26, 1.65)],
    "a76": [(2.83, 1.53), (2.76, 1.99), (1.77, 1.63), (1.79, 1.57), (1.84, 1.67), (1.81, 1.63)],
    "a710": [(2.37, 1.53), (2.47, 1.95), (1.71, 1.63), (1.71, 1.57), (1.75, 1.66), (1.73, 1.63)],
    "x3": [(1.45, 0.76), (1.44, 1.03), (0.93, 0.82), (0.94, 0.79), (1.09, 0.83), (1.07, 0.82)],
    "x4": [(1.43, 0.76), (1.41, 1.03), (0.93, 0.82), (0.93, 0.78), (1.08, 0.83), (1.07, 0.82)],
}
# armcost's models, and the core that code is compiled for when one of them is asked for.
MODELS = ("a53", "a55", "a72", "a76", "a710", "x1", "x3", "x4")
CORES = ("cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76", "cortex-a510", "cortex-a710")
CORES += ("cortex-x1", "cortex-x3", "cortex-x4", "neoverse-n1")

# A core that takes the family.
TAKES = {"cnt": "cortex-a72", "tbl": "cortex-a76", "tbl5": "cortex-a76", "tbl4": "cortex-a510"}

_DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "arm64.md"


def families() -> list[str]:
    """The families of binary kernels in the table, by the word in their names."""
    from topi_ext.kernels import table

    return sorted({family_of(row.name) for row in table().values() if _is_neon(row)})


def family_of(name: str) -> str:
    """The family in a row's name: bconv2d_neon_<family><bits>_<tile>; "generic" for others."""
    match = re.match(r"bconv2d_neon_([a-z]+)", name)
    return match.group(1) if match else "generic"


def _is_neon(row: Any) -> bool:
    return bool(row.op == "bconv2d" and row.isa == "neon")


def best_of_family(params: ConvParams, family: str, core: str) -> Any:
    """The family's row of the highest rank on this shape and core; None if none supports it.

    "tbl4" or "tbl5" is one form of the family "tbl".
    """
    from topi_ext.kernels import candidates

    target = arm64_program.arm64_target(core)
    rows = [k for k in candidates("bconv2d", params, target) if _is_neon(k)]
    return next((k for k in rows if k.name.startswith(f"bconv2d_neon_{family}")), None)


def measure(
    layers: dict[str, ConvParams], core: str, family: str, armcost: Path, models: Iterable[str]
) -> list[dict[str, Any]]:
    """Build, run, check and count the layers on one core's code. Raises CalledProcessError."""
    models = list(models)
    target = arm64_program.arm64_target(core)
    found: dict[str, dict[str, Case]] = {}
    for number, (name, p) in enumerate(layers.items()):
        kernel = best_of_family(p, family, core)
        if kernel is not None:
            for output in OUTPUTS:
                label = f"layer{number}_{output}"
                cases = found.setdefault(f"{name} {output}", {})
                cases["layer"] = Case(label, p, kernel, output)
                if p.padded:
                    zero = replace(p, pad_value=0)
                    cases["zero"] = Case(f"{label}_zero", zero, kernel, output)
    every = [case for cases in found.values() for case in cases.values()]
    with tempfile.TemporaryDirectory() as directory:
        program = arm64_program.build(every, target, Path(directory))
        out, report = Path(directory, "outputs"), Path(directory, "armcost.json")
        command = [sys.executable, str(armcost), "--cores", ",".join(models)]
        command += ["--json", str(report), "--", str(program.path), str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        regions = {region["name"]: region for region in json.loads(report.read_text())["regions"]}
        outputs = arm64_program.read_outputs(program, out)
        correct = {
            one.case.name: arm64_program.is_correct(one, outputs[one.case.name])
            for one in program.cases
        }
    results = []
    for title, cases in found.items():
        case, region = cases["layer"], regions[cases["layer"].name]
        units = case.params.macs / 128
        row = {
            "layer": title.removesuffix(f" {case.epilogue}"),
            "ci": case.params.ci,
            "family": family_of(case.kernel.name),
            "output": case.epilogue,
            "kernel": case.kernel.name,
            "core": core,
            "vector_ops_per_128": round(_vector(region) / units, 3),
            "instructions_per_128": round(region["instructions"] / units, 3),
            "cycles_per_128": {m: round(_cycles(region, m) / units, 3) for m in models},
            "chosen_for": chosen_for(case.params, case.kernel),
            "correct": all(correct[one.name] for one in cases.values()),
        }
        if "zero" in cases:
            zero = regions[cases["zero"].name]
            row["zero_padding"] = {
                "vector_ops": round(_vector(zero) / _vector(region), 4),
                "instructions": round(zero["instructions"] / region["instructions"], 4),
            }
        results.append(row)
    return results


def measure_models(armcost: Path, document: Path) -> int:
    """Write the tables of whole networks. Returns 0, 1 if a result differs from onnxruntime's."""
    from . import arm64_float, arm64_models

    results = {}
    for network in arm64_models.MEASURED:
        for core in arm64_models.CORES:
            with tempfile.TemporaryDirectory() as folder:
                found = arm64_models.measure(network, core, armcost, Path(folder))
            results[network, core] = found
            print(f"{network} for {core}: error {found[1]:.0e}", file=sys.stderr)
    floats = arm64_float.measure(armcost)
    text = arm64_models.document(results, arm64_float.table(floats))
    document.write_text(text, encoding="utf-8")
    wrong = [key for key, (_, error) in results.items() if error > arm64_models.tolerance(key[1])]
    return 1 if wrong else 0


def measure_float_layers(armcost: Path, as_json: bool) -> int:
    """Print float layers in both precisions. Returns 0, 1 if a result is wrong."""
    from . import arm64_float

    rows = arm64_float.measure(armcost)
    if as_json:
        print(json.dumps({"rows": arm64_float.as_json(rows)}))
    else:
        print("\n".join([*arm64_float.table(rows), "", "Cycles are modelled, not measured."]))
    return 0 if all(row.error16 <= arm64_float.HALF_LAYER_TOLERANCE for row in rows) else 1


_MEMORY = ("vload", "vstore")


def _vector(region: dict[str, Any]) -> int:
    """Vector instructions that are neither loads nor stores."""
    classes = region["classes"].items()
    return sum(n for kind, n in classes if kind[0] == "v" and kind not in _MEMORY)


def _cycles(region: dict[str, Any], model: str) -> float:
    return float(region["cores"][model]["cycles"])


def chosen_for(params: ConvParams, kernel: Kernel) -> list[str]:
    """The cores for which the kernel table takes this kernel's form on this shape."""
    from topi_ext.kernels import select

    def form(name: str) -> str:
        match = re.match(r"bconv2d_neon_[a-z]+\d*", name)
        return match.group() if match else name

    return [
        core
        for core in CORES
        if form(select("bconv2d", params, arm64_program.arm64_target(core)).name)
        == form(kernel.name)
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line a layer and family, the peers' figures beside it."""
    from rich.console import Console
    from rich.table import Table

    models = list(rows[0]["cycles_per_128"])
    table = Table(title="Per 128 binary MACs: exact instructions | modelled cycles (llvm-mca)")
    for title in ("layer", "kernel", "output"):
        table.add_column(title)
    for title in ("vector", "dabnn", "LCE", "all", "zero padding\nvector, all"):
        table.add_column(title, justify="right")
    for model in models:
        table.add_column(f"{model} modelled\n(dabnn/LCE)", justify="right")
    table.add_column("result")
    names = list(LAYERS)
    for row in rows:
        layer = row["layer"]
        peer = layer in names and row["output"] == "float"
        cells = [layer, row["kernel"].removeprefix("bconv2d_neon_"), row["output"]]
        cells += [f"{row['vector_ops_per_128']:.2f}"]
        cells += [f"{figure:.2f}" for figure in PEERS_VECTOR[layer]] if peer else ["", ""]
        cells += [f"{row['instructions_per_128']:.2f}"]
        ratios = row.get("zero_padding", {}).values()
        cells += [", ".join(f"{100 * (ratio - 1):+.1f} %" for ratio in ratios)]
        for model in models:
            cell = f"{row['cycles_per_128'][model]:.2f}"
            if peer and model in PEERS_CYCLES:
                peers = PEERS_CYCLES[model][names.index(layer)]
                cell += f" ({peers[0]:.2f}/{peers[1]:.2f})"
            cells.append(cell)
        table.add_row(*cells, "exact" if row["correct"] else "WRONG")
    console = Console(width=None if sys.stdout.isatty() else 220)
    console.print(table)
    console.print(
        f"Code for {', '.join(dict.fromkeys(row['core'] for row in rows))}, run under "
        "qemu-aarch64. Cycles are modelled, not measured. "
        "In-order cores (a53, a55) are priced too high by the model."
    )


def main(argv: list[str] | None = None) -> int:
    """Command line. Returns 0, 1 if a result is wrong, 4 if a tool is missing."""
    known = {**LAYERS, **DENSE}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--core", help="core as LLVM names it (default: one that takes the family)")
    parser.add_argument("--price", default="a72,a76,a710,x1,x3,x4", help=f"of {','.join(MODELS)}")
    parser.add_argument("--models", action="store_true", help="whole networks, into --document")
    parser.add_argument("--float-layers", action="store_true", help="float32 beside --float16")
    parser.add_argument("--document", type=Path, default=_DOCUMENT, help="what --models writes")
    parser.add_argument(
        "--family", action="append", help="cnt, tbl, tbl4 or tbl5 (default: cnt, tbl)"
    )
    parser.add_argument(
        "--layer", action="append", choices=list(known), help="default: dabnn's six"
    )
    parser.add_argument("--armcost", type=Path, default=ARMCOST, help="path of armcost.py")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    missing = counter.missing(args.armcost)
    if missing is not None:
        print(f"error: {missing}", file=sys.stderr)
        return 4
    if args.models:
        return measure_models(args.armcost, args.document)
    if args.float_layers:
        return measure_float_layers(args.armcost, args.json)
    layers = {name: known[name] for name in args.layer or LAYERS}
    rows: list[dict[str, Any]] = []
    for family in args.family or families():
        core = args.core or TAKES.get(family, CORES[0])
        rows += measure(layers, core, family, args.armcost, args.price.split(","))
    if args.json:
        print(json.dumps({"rows": rows}))
    else:
        print_table(rows)
    return 0 if all(row["correct"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
