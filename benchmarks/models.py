"""Whole networks: bnn_tvm on this machine against onnxruntime fp32, in one run.

    python -m benchmarks.models [--threads N] [--layers] [--json]

Each network of benchmarks.networks is compiled for the host, its result is compared with
onnxruntime's, and then both are timed in turns: a block of runs of one, a block of runs of the
other, and so on, so that a change of clock or load meets both. The first run of a block is thrown
away, because caches then hold what the other one left.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.networks import NETWORKS, count_macs, sample_input

BLOCK = 8
WARM_UP = 3
# Signs agree exactly on these networks (see networks.py), so only the head's rounding is left.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Times:
    """Wall-clock times of one run, milliseconds."""

    min_ms: float
    median_ms: float
    p95_ms: float

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        low, median, p95 = np.percentile(np.array(seconds) * 1e3, [0, 50, 95])
        return cls(float(low), float(median), float(p95))


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
    speedup: float
    layers: list[dict[str, Any]]

    @property
    def agrees(self) -> bool:
        return self.max_rel_error <= TOLERANCE and self.same_top1


def onnxruntime_runner(model: onnx.ModelProto, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function input -> output through onnxruntime with all its optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: np.asarray(session.run(["output"], {"input": x})[0])


def time_in_turns(runners: list[Callable[[], object]], repeat: int) -> list[Times]:
    """Times of at least `repeat` runs of each runner, taken in alternating blocks."""
    for runner in runners:
        for _ in range(WARM_UP):
            runner()
    seconds: list[list[float]] = [[] for _ in runners]
    while len(seconds[0]) < repeat:
        for taken, runner in zip(seconds, runners, strict=True):
            # onnxruntime's idle threads spin for a while: let them go to sleep.
            time.sleep(0.02)
            runner()
            for _ in range(BLOCK):
                start = time.perf_counter()
                runner()
                taken.append(time.perf_counter() - start)
    return [Times.of(taken) for taken in seconds]


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference, in units of the largest value of the reference."""
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def measure(name: str, size: int, threads: int, repeat: int, layers: bool) -> Result:
    """Compile, check and time one network."""
    import bnn_tvm

    proto = NETWORKS[name](size=size)
    x = sample_input(proto)
    reference = onnxruntime_runner(proto, threads)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        compiled = bnn_tvm.compile_model(proto, target="host")
        compiled.save(str(Path(folder) / name))
        compile_s = time.perf_counter() - start
        model = bnn_tvm.load(str(Path(folder) / f"{name}.so"), threads=threads)
        ours, theirs = model.run({"input": x})["output"], reference(x)
        our_times, their_times = time_in_turns(
            [lambda: model.run({"input": x}), lambda: reference(x)], repeat
        )
        profile = per_layer(model, x) if layers else []
    binary, floating = count_macs(proto)
    return Result(
        network=name,
        binary_macs=binary,
        float_macs=floating,
        compile_s=compile_s,
        max_rel_error=relative_error(ours, theirs),
        same_top1=bool(ours.argmax() == theirs.argmax()),
        bnn_tvm=our_times,
        onnxruntime=their_times,
        speedup=their_times.median_ms / our_times.median_ms,
        layers=profile,
    )


def per_layer(model: Any, x: np.ndarray, repeat: int = 20) -> list[dict[str, Any]]:
    """Median time of every kernel call over some profiled runs, in order of execution."""
    return [asdict(layer) for layer in model.profile({"input": x}, repeat)]


def show(results: list[Result], threads: int) -> None:
    """Print the tables for people."""
    import onnxruntime
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    console.print(
        f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}, "
        f"onnxruntime {onnxruntime.__version__} fp32; medians, milliseconds a run",
        highlight=False,
    )
    if os.getloadavg()[0] > 1.5:
        console.print(
            f"[yellow]the machine is busy (load {os.getloadavg()[0]:.1f})", highlight=False
        )
    table = Table("network", "GMAC binary + float", box=SIMPLE)
    for head in ("bnn_tvm", "min", "p95", "onnxruntime", "min", "p95", "ratio", "error", "compile"):
        table.add_column(head, justify="right")
    for r in results:
        table.add_row(
            r.network,
            f"{r.binary_macs / 1e9:.2f} + {r.float_macs / 1e9:.2f}",
            *(f"{ms:.2f}" for ms in (r.bnn_tvm.median_ms, r.bnn_tvm.min_ms, r.bnn_tvm.p95_ms)),
            *(
                f"{ms:.1f}"
                for ms in (r.onnxruntime.median_ms, r.onnxruntime.min_ms, r.onnxruntime.p95_ms)
            ),
            f"{r.speedup:.1f}x",
            f"{r.max_rel_error:.1e}" + ("" if r.agrees else " WRONG"),
            f"{r.compile_s:.1f} s",
        )
    console.print(table)
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


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=sorted(NETWORKS), help="measure one network")
    parser.add_argument("--threads", type=int, default=1, help="of both (default 1)")
    parser.add_argument("--repeat", type=int, default=48, help="timed runs of each, at least")
    parser.add_argument("--size", type=int, default=224, help="height and width of the input")
    parser.add_argument("--layers", action="store_true", help="also show the time of each layer")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args(argv)
    results = [
        measure(name, args.size, args.threads, args.repeat, args.layers)
        for name in ([args.only] if args.only else NETWORKS)
    ]
    if args.json:
        networks = [{**asdict(r), "agrees": r.agrees} for r in results]
        print(json.dumps({"cpu": cpu_name(), "threads": args.threads, "networks": networks}))
    else:
        show(results, args.threads)
    return 0 if all(r.agrees for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
