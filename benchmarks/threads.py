"""Whole networks on several threads against one: bnn_tvm, onnxruntime and OpenVINO, in one run.

    python -m benchmarks.threads [--only NAME] [--threads N] [--plot FILE.png] [--json]

One thread and N take turns in many short blocks, so that a change of clock or load meets both;
what a block does in its first milliseconds is thrown away: a processor that slept is slow to come
back, and in that time a program that is twice as fast runs twice as often. bnn_tvm is timed twice:
a call from Python (`Model.run`) and the C call alone. All results but those
of int8 are compared: bnn_tvm's must be equal bit for bit on any number of threads.

What N cores are worth is measured in the same turns: N copies of the network, each on one thread,
run at once. Together they do at best N times the work of one, and less whenever two processors of
a virtual machine are one core of its host, or others use them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.console import table_console
from benchmarks.models import TOLERANCE
from benchmarks.networks import NETWORKS, sample_input
from benchmarks.plot import add_plot, check_plot, draw_bars
from benchmarks.timing import BLOCK, cpu_name, relative_error

#: Measured by default: those whose scaling has a goal.
GOAL_NETWORKS = ("bireal18", "quicknet")
#: Before the timed runs of a block.
WARM_UP_S = 0.01
#: Times in milliseconds of the runs of one block.
Block = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Side:
    """One program on one thread and on several; milliseconds, and how many times as fast."""

    one_min_ms: float
    one_median_ms: float
    many_min_ms: float
    many_median_ms: float
    ratio_min: float
    ratio_median: float

    @classmethod
    def of(cls, one: np.ndarray, many: np.ndarray) -> Side:
        """From the times of blocks [rounds, runs] that took turns.

        `ratio_median` is the median of the rounds' own ratios: both blocks of a round had the same
        machine.
        """
        rounds = np.median(one, axis=1) / np.median(many, axis=1)
        return cls(
            float(one.min()),
            float(np.median(one)),
            float(many.min()),
            float(np.median(many)),
            float(one.min() / many.min()),
            float(np.median(rounds)),
        )


@dataclass(frozen=True)
class Result:
    """One network. `copies`: so many times the work of one core N copies did at once."""

    network: str
    equal: bool
    max_rel_error: float
    copies: float
    sides: dict[str, Side]

    @property
    def agrees(self) -> bool:
        return self.equal and self.max_rel_error <= TOLERANCE


def blocks_in_turns(blocks: dict[str, Block], rounds: int) -> dict[str, np.ndarray]:
    """Times in milliseconds, [rounds, runs in a block], of blocks that take turns."""
    times: dict[str, list[np.ndarray]] = {name: [] for name in blocks}
    for turn in range(rounds):
        # Every other round backwards: nobody always follows the same one.
        for name in list(blocks)[:: 1 if turn % 2 == 0 else -1]:
            # The idle threads of others spin for a while: let them go to sleep.
            time.sleep(0.02)
            times[name].append(blocks[name]())
    return {name: np.array(taken) for name, taken in times.items()}


def timed(run: Callable[[], object]) -> Block:
    """A block of calls of `run`, after some that do not count."""

    def block() -> np.ndarray:
        _warm_up(run)
        taken = np.zeros(BLOCK)
        for i in range(BLOCK):
            start = time.perf_counter_ns()
            run()
            taken[i] = time.perf_counter_ns() - start
        return taken / 1e6

    return block


def measure(name: str, size: int, threads: int, rounds: int) -> Result:
    """Compile, check and time one network."""
    import bnn_tvm

    proto = NETWORKS[name](size=size)
    x = sample_input(proto)
    others = {count: peers.runners(proto, count) for count in (1, threads)}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as callers:
        path = str(Path(folder) / f"{name}.so")
        bnn_tvm.compile_model(proto, target="host").save(path.removesuffix(".so"))
        copies = [bnn_tvm.load(path) for _ in range(threads)]
        ours = {1: copies[0], threads: bnn_tvm.load(path, threads=threads)}
        outputs = {count: model.run(x)["output"] for count, model in ours.items()}
        theirs = {count: {p: run(x) for p, run in runs.items()} for count, runs in others.items()}

        def together() -> np.ndarray:
            parts = callers.map(lambda model: _c_block(model, x), copies)
            return np.mean(list(parts), axis=0)

        blocks: dict[str, Block] = {"copies": together}
        for count, model in ours.items():
            blocks[f"run {count}"] = timed(_bind(model.run, x))
            blocks[f"C {count}"] = _bind(_c_block, model, x)
            for peer, run in others[count].items():
                blocks[f"{peer} {count}"] = timed(_bind(run, x))
        times = blocks_in_turns(blocks, rounds)
    reference = theirs[1]["fp32"]
    exact = [y for found in theirs.values() for peer, y in found.items() if peer != "int8"]
    alone, at_once = (np.median(times[key], axis=1) for key in ("C 1", "copies"))
    return Result(
        network=name,
        equal=outputs[1].tobytes() == outputs[threads].tobytes(),
        max_rel_error=float(np.max([relative_error(y, reference) for y in [outputs[1], *exact]])),
        copies=float(threads * np.median(alone / at_once)),
        sides={
            side: Side.of(times[f"{side} 1"], times[f"{side} {threads}"])
            for side in ("run", "C", *others[1])
        },
    )


def _bind(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)


def _c_block(model: Any, x: np.ndarray) -> np.ndarray:
    _warm_up(lambda: model.latencies(x, 1))
    return np.asarray(model.latencies(x, BLOCK))


def _warm_up(run: Callable[[], object]) -> None:
    end = time.perf_counter() + WARM_UP_S
    run()
    while time.perf_counter() < end:
        run()


LABELS = {
    "run": "bnn_tvm, Model.run",
    "C": "bnn_tvm, C call",
    "fp32": "onnxruntime fp32",
    "int8": "onnxruntime int8",
    "openvino": "OpenVINO BinaryConvolution",
}


def show(results: list[Result], threads: int) -> None:
    """Print the table for people."""
    from rich.box import SIMPLE
    from rich.table import Table

    console = table_console(130)
    console.print(
        f"{cpu_name()}, 1 and {threads} threads, milliseconds a run; "
        f"{datetime.date.today()}, load {os.getloadavg()[0]:.1f}",
        highlight=False,
    )
    table = Table("network", "", box=SIMPLE)
    for head in ("1: min", "median", f"{threads}: min", "median", "ratio of minima", "by rounds"):
        table.add_column(head, justify="right")
    for r in results:
        for key, side in r.sides.items():
            ms = (side.one_min_ms, side.one_median_ms, side.many_min_ms, side.many_median_ms)
            ratios = (f"{side.ratio_min:.2f}x", f"{side.ratio_median:.2f}x")
            table.add_row(r.network, LABELS[key], *(f"{value:.3f}" for value in ms), *ratios)
        table.add_row(r.network, f"{threads} copies at once", *[""] * 5, f"{r.copies:.2f}x")
    console.print(table)
    for r in results:
        if not r.agrees:
            what = f"error {r.max_rel_error:.1e}" if r.equal else "threads change the result"
            console.print(f"{r.network}: WRONG ({what})", highlight=False)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=sorted(NETWORKS), help="measure one network")
    parser.add_argument("--threads", type=int, default=2, help="compared with one (default 2)")
    parser.add_argument("--rounds", type=int, default=60, help="blocks of each (default 60)")
    parser.add_argument("--size", type=int, default=224, help="height and width of the input")
    add_plot(parser, "the ratios")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args(argv)
    if args.threads < 2:
        parser.error("--threads must be at least 2")
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    check_plot(parser, args.plot)
    names = [args.only] if args.only else GOAL_NETWORKS
    results = [measure(name, args.size, args.threads, args.rounds) for name in names]
    if args.plot:
        sides = {LABELS[k]: [r.sides[k].ratio_median for r in results] for k in results[0].sides}
        sides[f"{args.threads} copies at once"] = [r.copies for r in results]
        title = f"{cpu_name()}, {args.threads} threads"
        draw_bars(args.plot, [r.network for r in results], sides, "times one thread", title, "%.2f")
    if args.json:
        networks = [{**asdict(r), "agrees": r.agrees} for r in results]
        print(json.dumps({"cpu": cpu_name(), "threads": args.threads, "networks": networks}))
    else:
        show(results, args.threads)
    return 0 if all(r.agrees for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
