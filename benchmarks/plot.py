"""The times of whole networks as bars in a PNG file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.timing import cpu_name

if TYPE_CHECKING:
    from benchmarks.models import Result


def plot(results: list[Result], threads: int, path: Path) -> None:
    """Draw the medians as bars, one group a network, into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 + 2.4 * len(results), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    sides = {
        "bnn_tvm": "bnn_tvm",
        "openvino": "OpenVINO BinaryConvolution",
        "onnxruntime_int8": "onnxruntime int8",
        "onnxruntime": "onnxruntime fp32",
    }
    sides = {key: label for key, label in sides.items() if getattr(results[0], key) is not None}
    step = 0.84 / len(sides)
    for index, (side, label) in enumerate(sides.items()):
        times = [getattr(r, side).median_ms for r in results]
        places = [group + (index - (len(sides) - 1) / 2) * step for group in range(len(results))]
        bars = axes.bar(places, times, 0.93 * step, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(results)), [r.network for r in results])
    axes.set_ylabel("milliseconds a run (median)")
    axes.set_yscale("log")
    axes.set_title(f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}", fontsize=9)
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, format="png", dpi=150)
