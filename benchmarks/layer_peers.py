"""Single binary layers, from floats to floats, beside onnxruntime and OpenVINO.

    python -m benchmarks.layer_peers [--threads N] [--repeat N] [--plot FILE.png] [--json]

The layers of the dabnn benchmark list, each as an ONNX model of its own: sign, binary convolution
with zero padding, batch norm, global average pool. All sides take NCHW floats and are timed in
turns, and all results are compared. bnn_tvm and OpenVINO rearrange the input to channels last,
which inside of a network neither does: the columns `inside` have the times of packing and
convolution alone, from their own profiles (OpenVINO's counts whole microseconds).
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from benchmarks import openvino_model, peers
from benchmarks.console import table_console
from benchmarks.network_builder import Builder
from benchmarks.networks import sample_input
from benchmarks.plot import add_plot, check_plot, draw_bars
from benchmarks.timing import Times, cpu_name, relative_error, time_in_turns

TOLERANCE = 1e-5
NAMES = {"bnn_tvm": "bnn_tvm", "openvino": "OpenVINO", "int8": "ort int8", "fp32": "ort fp32"}


@dataclass(frozen=True)
class Layer:
    """A square map of `size`, `ci` channels to `co`, kernel k, stride s."""

    size: int
    ci: int
    co: int
    k: int = 3
    s: int = 1

    def __str__(self) -> str:
        stride = f" s{self.s}" if self.s > 1 else ""
        return f"{self.size}x{self.size}x{self.ci} k{self.k} {self.co}{stride}"

    @property
    def macs(self) -> int:
        """Nominal multiply-adds, padded taps included."""
        return (-(-self.size // self.s)) ** 2 * self.k**2 * self.ci * self.co

    def model(self) -> onnx.ModelProto:
        """Sign, convolution, batch norm, pool as ONNX, with seeded weights."""
        net = Builder("layer", self.size, seed=0, channels=self.ci)
        # Inputs are multiples of 1/4: none is zero behind this, so no sign is in doubt.
        x = net.shift("shift", "input", mean=1 / 16)
        x = net.binary_conv("conv", x, self.co, self.s, k=self.k)
        x = net.batch_norm("bn", x, exponent=0)
        return net.model(net.node("GlobalAveragePool", "pool", [x]))


LAYERS = (
    Layer(56, 64, 64),
    Layer(28, 128, 128),
    Layer(14, 256, 256),
    Layer(14, 256, 256, s=2),
    Layer(7, 512, 512),
    Layer(14, 256, 256, k=5),
)


@dataclass(frozen=True)
class Result:
    """times and errors by side ("bnn_tvm", "fp32", "int8", "openvino"), milliseconds; int8 has no
    error. inside_ms: by side, packing and convolution without the change of layout."""

    layer: str
    macs: int
    times: dict[str, Times]
    errors: dict[str, float]
    inside_ms: dict[str, float]

    @property
    def agrees(self) -> bool:
        """Whether everyone's floats are onnxruntime's."""
        return all(error <= TOLERANCE for error in self.errors.values())


def measure(layer: Layer, threads: int, repeat: int) -> Result:
    """Compile, check and time one layer."""
    import bnn_tvm

    proto = layer.model()
    x = sample_input(proto)
    runners = dict(peers.runners(proto, threads))
    with tempfile.TemporaryDirectory() as folder:
        bnn_tvm.compile_model(proto, target="host", cache=False).save(str(Path(folder) / "layer"))
        model = bnn_tvm.load(str(Path(folder) / "layer.so"), threads=threads)
        runners["bnn_tvm"] = lambda given: model.run(given)["output"]
        reference = runners["fp32"](x)
        exact = (name for name in runners if name not in ("fp32", "int8"))
        errors = {name: relative_error(runners[name](x), reference) for name in exact}
        runs = {name: functools.partial(run, x) for name, run in runners.items()}
        times = dict(zip(runs, time_in_turns(list(runs.values()), repeat), strict=True))
        totals = []
        for _ in range(repeat):
            parts = model.profile(x, 1)
            totals.append(sum(part.ms for part in parts if part.kind in ("pack", "binary-conv")))
        inside = {"bnn_tvm": min(totals)}
        if openvino_model.installed():
            inside["openvino"] = openvino_model.binary_ms(proto, threads, x, repeat)
    return Result(str(layer), layer.macs, times, errors, inside)


def show(results: list[Result], threads: int) -> None:
    """Print the table for people."""
    from rich.box import SIMPLE
    from rich.table import Table

    console = table_console(130)
    title = f"{cpu_name()}, {threads} thread(s): minima, milliseconds (times bnn_tvm's)"
    table = Table("layer", box=SIMPLE, title=title)
    sides = [name for name in NAMES if name in results[0].times]
    inside = [name for name in NAMES if name in results[0].inside_ms]
    heads = [NAMES[side] for side in sides] + [f"inside: {NAMES[side]}" for side in inside]
    for head in (*heads, "error"):
        table.add_column(head, justify="right")
    for r in results:
        own = r.times["bnn_tvm"].min_ms
        cells = [f"{own:.3f}"]
        cells += [f"{r.times[s].min_ms:.3f} ({r.times[s].min_ms / own:.1f})" for s in sides[1:]]
        error = f"{max(r.errors.values()):.0e}" + ("" if r.agrees else " WRONG")
        cells += [f"{r.inside_ms[side]:.3f}" for side in inside]
        table.add_row(r.layer, *cells, error)
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of all (default 1)")
    parser.add_argument("--repeat", type=int, default=200, help="timed runs of each, at least")
    add_plot(parser, "the times")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args(argv)
    check_plot(parser, args.plot)
    results = [measure(layer, args.threads, args.repeat) for layer in LAYERS]
    if args.plot:
        sides = {
            label: [r.times[side].min_ms for r in results]
            for side, label in NAMES.items()
            if side in results[0].times
        }
        title = f"{cpu_name()}, {args.threads} thread(s)"
        names = [r.layer for r in results]
        draw_bars(args.plot, names, sides, "milliseconds (minimum)", title, "%.3f", log=True)
    if args.json:
        rows = [{**asdict(r), "agrees": r.agrees} for r in results]
        print(json.dumps({"cpu": cpu_name(), "threads": args.threads, "layers": rows}))
    else:
        show(results, args.threads)
    return 0 if all(r.agrees for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
