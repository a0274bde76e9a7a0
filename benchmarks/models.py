"""Whole networks: bnn_tvm on this machine against onnxruntime and OpenVINO, in one run.

    python -m benchmarks.models [--threads N] [--layers] [--plot FILE.png] [--json]

Each network of benchmarks.networks is compiled for the host, its result is compared with
onnxruntime's, and then both are timed in turns: a block of runs of one, a block of runs of the
other, and so on, so that a change of clock or load meets both. The first run of a block is thrown
away, because caches then hold what the other one left.

With several threads bnn_tvm is also timed on one, in the same turns. int8 is onnxruntime's static
quantisation of the same float graph, calibrated with random inputs: a time to compare with, whose
results mean nothing. Where the package openvino is installed, its BinaryConvolution is measured in
the same turns (see openvino_model.py), and its result compared as well.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import openvino_model, peers
from benchmarks.console import table_console
from benchmarks.networks import NETWORKS, count_macs, sample_input
from benchmarks.plot import add_plot, check_plot, plot
from benchmarks.timing import Times, cpu_name, relative_error, time_in_turns

if TYPE_CHECKING:
    from rich.console import Console

# Signs agree exactly on these networks (see networks.py), so only the head's rounding is left.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Result:
    """One network on one number of threads."""

    network: str
    binary_macs: int
    float_macs: int
    compile_s: float
    max_rel_error: float
    same_top1: bool
    bnn_tvm: Times
    onnxruntime: Times
    onnxruntime_int8: Times
    openvino: Times | None
    openvino_rel_error: float | None
    speedup: float
    speedup_int8: float
    speedup_openvino: float | None
    one_thread: Times | None
    layers: list[dict[str, Any]]

    @property
    def agrees(self) -> bool:
        errors = (self.max_rel_error, self.openvino_rel_error or 0.0)
        return max(errors) <= TOLERANCE and self.same_top1

    @property
    def scaling(self) -> float | None:
        """How many times as fast as on one thread, by minima; None where there was one."""
        return self.one_thread.min_ms / self.bnn_tvm.min_ms if self.one_thread else None


def measure(name: str, size: int, threads: int, repeat: int, layers: bool) -> Result:
    """Compile, check and time one network."""
    import bnn_tvm

    proto = NETWORKS[name](size=size)
    x = sample_input(proto)
    others = peers.runners(proto, threads)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        compiled = bnn_tvm.compile_model(proto, target="host", cache=False)
        compiled.save(str(Path(folder) / name))
        compile_s = time.perf_counter() - start
        path = str(Path(folder) / f"{name}.so")
        ours = {"bnn_tvm": bnn_tvm.load(path, threads=threads)}
        if threads > 1:
            ours["single"] = bnn_tvm.load(path, threads=1)
        results = {"bnn_tvm": ours["bnn_tvm"].run(x)["output"]}
        results |= {peer: run(x) for peer, run in others.items()}
        runs = {key: functools.partial(model.run, x) for key, model in ours.items()}
        runs |= {peer: functools.partial(run, x) for peer, run in others.items()}
        times = dict(zip(runs, time_in_turns(list(runs.values()), repeat), strict=True))
        profile = per_layer(ours["bnn_tvm"], x) if layers else []
    binary, floating = count_macs(proto)
    reference = results["fp32"]

    def slower(peer: str) -> float:
        return times[peer].median_ms / times["bnn_tvm"].median_ms

    openvino = "openvino" in others
    return Result(
        network=name,
        binary_macs=binary,
        float_macs=floating,
        compile_s=compile_s,
        max_rel_error=relative_error(results["bnn_tvm"], reference),
        same_top1=bool(results["bnn_tvm"].argmax() == reference.argmax()),
        bnn_tvm=times["bnn_tvm"],
        onnxruntime=times["fp32"],
        onnxruntime_int8=times["int8"],
        openvino=times.get("openvino"),
        openvino_rel_error=relative_error(results["openvino"], reference) if openvino else None,
        speedup=slower("fp32"),
        speedup_int8=slower("int8"),
        speedup_openvino=slower("openvino") if openvino else None,
        one_thread=times.get("single"),
        layers=profile,
    )


def per_layer(model: Any, x: np.ndarray, repeat: int = 20) -> list[dict[str, Any]]:
    """Median time of every kernel call over some profiled runs, in order of execution."""
    return [asdict(layer) for layer in model.profile({"input": x}, repeat)]


def show(results: list[Result], threads: int) -> None:
    """Print the tables for people."""
    import onnxruntime
    from rich.box import SIMPLE
    from rich.table import Table

    console = table_console(150)
    console.print(
        f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}, "
        f"onnxruntime (ort) {onnxruntime.__version__}; medians, milliseconds a run; "
        f"{datetime.date.today()}, load {os.getloadavg()[0]:.1f}",
        highlight=False,
    )
    if os.getloadavg()[0] > 1.5:
        console.print(
            f"[yellow]the machine is busy (load {os.getloadavg()[0]:.1f})", highlight=False
        )
    table = Table("network", "GMAC binary + float", box=SIMPLE)
    heads = ["bnn_tvm", "min", "p95", "ort fp32", "min", "ratio", "ort int8", "min", "ratio"]
    heads += ["OpenVINO", "min", "ratio"]
    for head in (*heads, "error", "compile"):
        table.add_column(head, justify="right")
    for r in results:
        table.add_row(
            r.network,
            f"{r.binary_macs / 1e9:.2f} + {r.float_macs / 1e9:.2f}",
            *(f"{ms:.2f}" for ms in (r.bnn_tvm.median_ms, r.bnn_tvm.min_ms, r.bnn_tvm.p95_ms)),
            *(f"{ms:.1f}" for ms in (r.onnxruntime.median_ms, r.onnxruntime.min_ms)),
            f"{r.speedup:.1f}x",
            *(f"{ms:.1f}" for ms in (r.onnxruntime_int8.median_ms, r.onnxruntime_int8.min_ms)),
            f"{r.speedup_int8:.1f}x",
            *openvino_cells(r),
            f"{r.max_rel_error:.1e}" + ("" if r.agrees else " WRONG"),
            f"{r.compile_s:.1f} s",
        )
    console.print(table)
    if threads > 1:
        show_threads(results, threads, console)
    if not openvino_model.installed():
        console.print("OpenVINO is not installed (pip install openvino)", highlight=False)
    for r in results:
        if not r.layers:
            continue
        layers = Table(
            "layer", "kind", "kernel", box=SIMPLE, title=f"{r.network}: where the time goes"
        )
        layers.add_column("ms", justify="right")
        layers.add_column("share", justify="right")
        for row in r.layers:
            layers.add_row(
                row["output"],
                row["kind"],
                row["kernel"],
                f"{row['ms']:.3f}",
                f"{row['share']:.1%}",
            )
        console.print(layers)


def openvino_cells(result: Result) -> tuple[str, str, str]:
    """Median, minimum and ratio of OpenVINO in the table."""
    if result.openvino is None or result.speedup_openvino is None:
        return "-", "-", "-"
    wrong = "" if (result.openvino_rel_error or 0.0) <= TOLERANCE else " WRONG"
    times = result.openvino
    return f"{times.median_ms:.2f}{wrong}", f"{times.min_ms:.2f}", f"{result.speedup_openvino:.1f}x"


def show_threads(results: list[Result], threads: int, console: Console) -> None:
    """Print how bnn_tvm's times on several threads compare with those on one."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table("network", box=SIMPLE, title="bnn_tvm, minima in milliseconds")
    for head in ("1 thread", f"{threads} threads", "ratio"):
        table.add_column(head, justify="right")
    for r in results:
        if r.one_thread is not None:
            ratio = f"{r.scaling:.2f}x"
            table.add_row(r.network, f"{r.one_thread.min_ms:.2f}", f"{r.bnn_tvm.min_ms:.2f}", ratio)
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=sorted(NETWORKS), help="measure one network")
    parser.add_argument("--threads", type=int, default=1, help="of all (default 1)")
    parser.add_argument("--repeat", type=int, default=48, help="timed runs of each, at least")
    parser.add_argument("--size", type=int, default=224, help="height and width of the input")
    parser.add_argument("--layers", action="store_true", help="also show the time of each layer")
    add_plot(parser, "the times")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args(argv)
    check_plot(parser, args.plot)
    results = [
        measure(name, args.size, args.threads, args.repeat, args.layers)
        for name in ([args.only] if args.only else NETWORKS)
    ]
    if args.plot:
        plot(results, args.threads, args.plot)
    if args.json:
        networks = [{**asdict(r), "agrees": r.agrees, "scaling": r.scaling} for r in results]
        print(json.dumps({"cpu": cpu_name(), "threads": args.threads, "networks": networks}))
    else:
        show(results, args.threads)
    return 0 if all(r.agrees for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
