"""Binary layers against the popcount peak of the ISA, measured in turns in the same run.

    python -m benchmarks.layers [--kernels NAME,...|all] [--case CASE ...] [--mcpu CPU]
        [--rounds N] [--threads N] [--json]

The six layers of the dabnn benchmark list, from packed bits to integers, to floats (scale and
offset per channel fused behind the convolution) and to bits (a threshold per channel). Every round
measures the peak loop and each layer once, so that a machine that slows down slows all of them.
What a kernel does to the packed bits first (`prepare`) counts, packing floats does not. Times are
the minimum and the median over the rounds; the ratio compares the minima.
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
OUTPUTS = ("int", "float", "bits")  # what a layer writes


@dataclass(frozen=True)
class OutputResult:
    """One layer with one kind of output: milliseconds from packed bits, `prepare` included."""

    ms_min: float
    ms_median: float
    gmacs: float
    ratio_to_peak: float


@dataclass(frozen=True)
class LayerResult:
    """One layer by one kernel: what `prepare` took of the times in ms, packing beside them.

    chosen: whether the compiler takes this kernel. outputs: by the words of OUTPUTS; a kernel that
    cannot compare writes no bits.
    """

    case: str
    kernel: str
    chosen: bool
    ms_prepare: float
    ms_pack: float
    outputs: dict[str, OutputResult]


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
    """One layer, compiled: `pack`, `prepare` (or None) and `outputs` measure one round in ms."""

    def __init__(self, params: ConvParams, kernel: Kernel, target: Any) -> None:
        """Compile all functions and check the results against the reference.

        Raises RuntimeError if the compiled layer computes something else.
        """
        import numpy as np
        from tvm import te

        from topi_ext import reference
        from topi_ext.bitpack import pack

        self.params, self.kernel, self.target = params, kernel, target
        rng = np.random.default_rng(0)
        p = params
        x = rng.normal(size=(p.n, p.h, p.w, p.ci)).astype("float32")
        w = rng.choice(np.array([-1, 1], np.int8), (p.co, p.cig, p.kh, p.kw))
        scale, offset = rng.normal(size=(2, p.co)).astype("float32")

        source = te.placeholder(x.shape, "float32", "x")
        packed = pack(source, 0.0, None, p, kernel.word_bits)
        self.pack, bits = _build([source, packed], [x], target)
        self.data, self.prepare = bits, None
        if kernel.prepare is not None:
            words = te.placeholder(bits.shape, str(bits.dtype), "bits")
            self.prepare, self.data = _build([words, kernel.prepare(words, p)], [bits], target)

        exact = reference.bconv2d(reference.binarize(x), w, p)
        self.outputs: dict[str, Callable[[], float]] = {}
        weights = kernel.pack_weights(w, p)
        self._add("int", weights, [], lambda y: y, exact)
        self._add(
            "float",
            weights,
            [scale, offset],
            lambda y, s, o: te.compute(
                p.out_shape, lambda *i: y[i].astype("float32") * s[i[3]] + o[i[3]], name="affine"
            ),
            exact.astype("float64") * scale + offset,
        )
        self._add_bits(w, exact, rng)

    def _add(
        self, output: str, weights: Any, extra: list[Any], behind: Callable[..., Any], expected: Any
    ) -> None:
        """Compile the kernel with `behind` behind it and compare with `expected`."""
        import numpy as np

        arrays = [self.data, *weights, *extra]
        tensors = _placeholders(arrays)
        count = 1 + len(weights)
        y = self.kernel.compute(*tensors[:count], params=self.params)
        timer, got = _build([*tensors, behind(y, *tensors[count:])], arrays, self.target)
        if not np.allclose(got, expected, rtol=1e-5, atol=1e-3):
            raise RuntimeError(f"{self.kernel.name} computes {self.params} wrongly ({output})")
        self.outputs[output] = timer

    def _add_bits(self, w: Any, exact: Any, rng: Any) -> None:
        """Compile the kernel with thresholds, where it can, and compare every bit."""
        import numpy as np

        from topi_ext import reference, threshold

        p, kernel = self.params, self.kernel
        if threshold.refusal(kernel, p, kernel.word_bits) is not None:
            return
        limit = rng.integers(-p.taps // 8, p.taps // 8, p.co).astype("int32")
        sign = rng.choice(np.array([-1, 1], np.int32), p.co)
        arrays = [self.data, *threshold.pack_weights(kernel, w, limit, sign, p)]
        tensors = _placeholders(arrays)
        words = threshold.threshold_words(
            *tensors, params=p, kernel=kernel, word_bits=kernel.word_bits
        )
        timer, got = _build([*tensors, words], arrays, self.target)
        bits = np.where(sign * exact >= limit, 1, -1).astype(np.int8)
        if not np.array_equal(got, reference.pack_bits(bits, kernel.word_bits)):
            raise RuntimeError(f"{kernel.name} computes {p} wrongly (bits)")
        self.outputs["bits"] = timer


def _placeholders(arrays: list[Any]) -> list[Any]:
    from tvm import te

    return [te.placeholder(a.shape, str(a.dtype), f"p{i}") for i, a in enumerate(arrays)]


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


def rows_for(names: str | None, params: ConvParams, target: Any) -> list[Kernel]:
    """The kernels to measure: the compiler's choice (None), every candidate, or those named.

    "all" leaves out the generic kernel where any other can do the layer: it is no candidate for
    speed. Raises ValueError for a name that is no kernel of this layer on this target.
    """
    from topi_ext import kernels

    found = kernels.candidates("bconv2d", params, target)
    if names is None:
        return found[:1]
    if names == "all":
        return [k for k in found if k.isa != "generic"] or found
    by_name = {k.name: k for k in found}
    wrong = [name for name in names.split(",") if name not in by_name]
    if wrong:
        known = ", ".join(by_name)
        raise ValueError(f"{params} on this target is computed by {known}; not by {wrong[0]}")
    return [by_name[name] for name in names.split(",")]


def measure(
    cases: list[str],
    kernels: str | None = None,
    rounds: int = 20,
    threads: int = 1,
    mcpu: str | None = None,
) -> Report:
    """Measure `cases` (see ConvParams.parse) on this machine, in turns with the peak.

    kernels: see `rows_for`. mcpu: compile layers and peak for another core than this machine's.
    """
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import tvm
    from tvm.target import Target
    from tvm.target.codegen import llvm_get_system_cpu

    from benchmarks.peak import build_peak
    from topi_ext.isa import isa_of
    from topi_ext.kernels import select
    from topi_ext.params import ConvParams

    cpu = mcpu or llvm_get_system_cpu()
    target = Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": cpu})
    layers = []
    for case in cases:
        params = ConvParams.parse(case)
        layers += [LayerCase(params, row, target) for row in rows_for(kernels, params, target)]
    spec, peak, tensors = build_peak(target)
    peak_timer = peak.time_evaluator("main", tvm.cpu(), number=3, repeat=1)
    peaks: list[float] = []
    times: list[list[dict[str, float]]] = [[] for _ in layers]
    for _ in range(rounds):
        peaks.append(spec.macs / peak_timer(*tensors).mean * 1e-9)
        for layer, taken in zip(layers, times, strict=True):
            once = {"pack": layer.pack(), "prepare": layer.prepare() if layer.prepare else 0.0}
            once |= {name: timer() for name, timer in layer.outputs.items()}
            taken.append(once)
    best_peak = max(peaks)

    def result(layer: LayerCase, taken: list[dict[str, float]]) -> LayerResult:
        low = {name: min(once[name] for once in taken) for name in taken[0]}
        outputs = {}
        for name in layer.outputs:
            total = low[name] + low["prepare"]
            gmacs = layer.params.macs / total * 1e-6
            median = statistics.median(once[name] + once["prepare"] for once in taken)
            outputs[name] = OutputResult(total, median, gmacs, gmacs / (best_peak * threads))
        chosen = layer.kernel is select("bconv2d", layer.params, target)
        return LayerResult(
            str(layer.params), layer.kernel.name, chosen, low["prepare"], low["pack"], outputs
        )

    return Report(
        target=cpu,
        isa=isa_of(target),
        threads=threads,
        rounds=rounds,
        peak_gmacs=best_peak,
        peak_gmacs_median=statistics.median(peaks),
        layers=[result(layer, taken) for layer, taken in zip(layers, times, strict=True)],
    )


def show(report: Report) -> None:
    """Print the report as a table: every kernel has a letter, the chosen one a star."""
    from rich.console import Console
    from rich.table import Table

    names = sorted({r.kernel for r in report.layers})
    letters = {name: chr(ord("a") + i) for i, name in enumerate(names)}
    table = Table(
        title=f"{report.target} ({report.isa}), {report.threads} thread(s): popcount peak "
        f"{report.peak_gmacs:.0f} GMAC/s a thread (median {report.peak_gmacs_median:.0f})"
    )
    table.add_column("layer (n x h x w x ci, kernel x co)", no_wrap=True)
    for name in ("kernel", "pack", "prepare"):
        table.add_column(name, justify="right")
    for name in OUTPUTS:
        table.add_column(f"{name}: ms (median)", justify="right")
        table.add_column("of peak", justify="right")
    for r in report.layers:
        cells = [letters[r.kernel] + ("*" if r.chosen else "")]
        cells += [f"{v:.4f}" for v in (r.ms_pack, r.ms_prepare)]
        for name in OUTPUTS:
            got = r.outputs.get(name)
            cells.append(f"{got.ms_min:.4f} ({got.ms_median:.4f})" if got else "-")
            cells.append(f"{got.ratio_to_peak:.0%}" if got else "-")
        table.add_row(r.case, *cells)
    table.caption = "from packed bits, prepare included; " + "; ".join(
        f"{letter}: {name}" for name, letter in letters.items()
    )
    table.caption += "; *: chosen by the compiler"
    Console(width=max(Console().width, 160)).print(table)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", action="append", help="a layer as it is printed; repeatable")
    parser.add_argument(
        "--kernels",
        help="rows of the kernel table, separated by commas, or 'all' candidates of each layer, "
        "instead of the chosen one",
    )
    parser.add_argument("--mcpu", help="compile for this core instead of the machine's own")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    cases = args.case or list(CASES)
    try:
        report = measure(cases, args.kernels, args.rounds, args.threads, args.mcpu)
    except ValueError as error:
        parser.error(str(error))
    if args.json:
        json.dump(asdict(report), sys.stdout, indent=1)
        print()
    else:
        show(report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
