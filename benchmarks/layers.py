"""Binary layers against the popcount peak of the ISA, measured in turns in the same run.

    python -m benchmarks.layers [--kernel NAME] [--case CASE ...] [--rounds N] [--json]

The six layers of the dabnn benchmark list, from packed bits to float output (scale and offset per
channel fused behind the convolution). Every round measures the peak loop and each layer once, so
that a machine that slows down slows all of them. Times are the minimum and the median over the
rounds; the ratio compares the minima.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topi_ext.kernels import Kernel
    from topi_ext.params import ConvParams

CASES = (
    "1x56x56x64-k3x3x64-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x28x28x128-k3x3x128-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x14x14x256-k3x3x256-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x14x14x256-k3x3x256-s2x2-d1x1-p1,1,1,1-g1-v0",
    "1x7x7x512-k3x3x512-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x14x14x256-k5x5x256-s1x1-d1x1-p2,2,2,2-g1-v0",
)


@dataclass(frozen=True)
class LayerResult:
    """One layer: times of the whole layer in ms, what `prepare` took of it, packing beside it."""

    case: str
    kernel: str
    ms_min: float
    ms_median: float
    ms_prepare: float
    ms_pack: float
    gmacs: float
    ratio_to_peak: float


@dataclass(frozen=True)
class Report:
    """What one run measured; `peak_gmacs` is the best of all rounds."""

    target: str
    isa: str
    threads: int
    rounds: int
    peak_gmacs: float
    peak_gmacs_median: float
    layers: list[LayerResult]


class LayerCase:
    """One layer, compiled: `pack`, `prepare` (or None) and `conv` each return milliseconds."""

    def __init__(self, params: ConvParams, kernel: Kernel, target: Any) -> None:
        """Compile all functions and check the result against the reference.

        Raises RuntimeError if the compiled layer computes something else.
        """
        import numpy as np
        from tvm import te

        from topi_ext import reference
        from topi_ext.bitpack import pack

        self.params, self.kernel = params, kernel
        rng = np.random.default_rng(0)
        p = params
        x = rng.normal(size=(p.n, p.h, p.w, p.ci)).astype("float32")
        w = rng.choice(np.array([-1, 1], np.int8), (p.co, p.cig, p.kh, p.kw))
        scale, offset = rng.normal(size=(2, p.co)).astype("float32")
        weights = kernel.pack_weights(w, p)

        source = te.placeholder(x.shape, "float32", "x")
        packed = pack(source, 0.0, None, p, kernel.word_bits)
        self.pack, bits = _build([source, packed], [x], target)
        data, self.prepare = bits, None
        if kernel.prepare is not None:
            words = te.placeholder(bits.shape, str(bits.dtype), "bits")
            self.prepare, data = _build([words, kernel.prepare(words, p)], [bits], target)

        arrays = [data, *weights, scale, offset]
        tensors = [te.placeholder(a.shape, str(a.dtype), f"p{i}") for i, a in enumerate(arrays)]
        *inputs, s, o = tensors
        y = kernel.compute(*inputs, params=p)
        out = te.compute(
            p.out_shape, lambda *i: y[i].astype("float32") * s[i[3]] + o[i[3]], name="affine"
        )
        self.conv, got = _build([*tensors, out], arrays, target)
        exact = reference.bconv2d(reference.binarize(x), w, p).astype("float64")
        if not np.allclose(got, exact * scale + offset, rtol=1e-5, atol=1e-3):
            raise RuntimeError(f"{kernel.name} computes {params} wrongly")


def _build(tensors: list[Any], arrays: list[Any], target: Any) -> tuple[Callable[[], float], Any]:
    """Compile the function of `tensors` (last: the result), run it on `arrays`.

    Returns a function that measures one round in ms, and the result.
    """
    import numpy as np
    import tvm
    from tvm import te

    from topi_ext.schedule import schedule_primfunc

    func = schedule_primfunc(te.create_prim_func(tensors), target)
    module = tvm.compile(func, target=target).jit()
    out = np.zeros([int(v) for v in tensors[-1].shape], str(tensors[-1].dtype))
    values = [tvm.runtime.tensor(a) for a in (*arrays, out)]
    module["main"](*values)
    once = module.time_evaluator("main", tvm.cpu(), number=1, repeat=3)(*values).min
    number = max(1, int(1e-3 / max(once, 1e-7)))
    timer = module.time_evaluator("main", tvm.cpu(), number=number, repeat=1)
    return (lambda: timer(*values).mean * 1e3), values[-1].numpy()


def measure(
    cases: list[str], kernel: str | None = None, rounds: int = 20, threads: int = 1
) -> Report:
    """Measure `cases` (see ConvParams.parse) on this machine, in turns with the peak.

    kernel: a row's name; None takes the row that the compiler would take.
    """
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import tvm
    from tvm.target import Target
    from tvm.target.codegen import llvm_get_system_cpu

    from benchmarks.peak import build_peak
    from topi_ext import kernels
    from topi_ext.isa import isa_of
    from topi_ext.params import ConvParams

    cpu = llvm_get_system_cpu()
    target = Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": cpu})
    layers = []
    for case in cases:
        params = ConvParams.parse(case)
        row = kernels.table()[kernel] if kernel else kernels.select("bconv2d", params, target)
        layers.append(LayerCase(params, row, target))
    spec, peak, tensors = build_peak(target)
    peak_timer = peak.time_evaluator("main", tvm.cpu(), number=3, repeat=1)
    peaks: list[float] = []
    times: list[list[tuple[float, float, float]]] = [[] for _ in layers]
    for _ in range(rounds):
        peaks.append(spec.macs / peak_timer(*tensors).mean * 1e-9)
        for layer, taken in zip(layers, times, strict=True):
            prepare = layer.prepare() if layer.prepare else 0.0
            taken.append((layer.conv(), prepare, layer.pack()))
    results = []
    best_peak = max(peaks)
    for layer, taken in zip(layers, times, strict=True):
        conv, prepare, pack = (min(column) for column in zip(*taken, strict=True))
        total = conv + prepare
        gmacs = layer.params.macs / total * 1e-6
        results.append(
            LayerResult(
                case=str(layer.params),
                kernel=layer.kernel.name,
                ms_min=total,
                ms_median=statistics.median(c + p for c, p, _ in taken),
                ms_prepare=prepare,
                ms_pack=pack,
                gmacs=gmacs,
                ratio_to_peak=gmacs / (best_peak * threads),
            )
        )
    return Report(
        target=cpu,
        isa=isa_of(target),
        threads=threads,
        rounds=rounds,
        peak_gmacs=best_peak,
        peak_gmacs_median=statistics.median(peaks),
        layers=results,
    )


def show(report: Report) -> None:
    """Print the report as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{report.target} ({report.isa}), {report.threads} thread(s): popcount peak "
        f"{report.peak_gmacs:.0f} GMAC/s a thread (median {report.peak_gmacs_median:.0f})"
    )
    table.add_column("layer (n x h x w x ci, kernel x co)", no_wrap=True)
    for name in ("ms min", "median", "prepare", "pack", "GMAC/s", "of peak"):
        table.add_column(name, justify="right")
    for r in report.layers:
        table.add_row(
            r.case,
            *(f"{v:.4f}" for v in (r.ms_min, r.ms_median, r.ms_prepare, r.ms_pack)),
            f"{r.gmacs:.0f}",
            f"{r.ratio_to_peak:.0%}",
        )
    kernels = sorted({r.kernel for r in report.layers})
    table.caption = f"ms a layer, prepare included, pack not; kernels: {', '.join(kernels)}"
    Console(width=max(Console().width, 110)).print(table)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", action="append", help="a layer as it is printed; repeatable")
    parser.add_argument("--kernel", help="a row of the kernel table instead of the chosen one")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    report = measure(args.case or list(CASES), args.kernel, args.rounds, args.threads)
    if args.json:
        json.dump(asdict(report), sys.stdout, indent=1)
        print()
    else:
        show(report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
