"""What was measured as bars in a PNG file, by the option --plot."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.timing import cpu_name

if TYPE_CHECKING:
    from benchmarks.models import Result


def add_plot(parser: argparse.ArgumentParser, what: str) -> None:
    """The option --plot; what: that is drawn."""
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw {what} into a PNG file")


def check_plot(parser: argparse.ArgumentParser, path: Path | None) -> None:
    """End the program, before anything is measured, if a plot is wanted that cannot be drawn."""
    if path and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install '.[bench]'")


def plot(results: list[Result], threads: int, path: Path) -> None:
    """Draw the medians as bars, one group a network, into a PNG file."""
    sides = {
        "bnn_tvm": "bnn_tvm",
        "openvino": "OpenVINO BinaryConvolution",
        "onnxruntime_int8": "onnxruntime int8",
        "onnxruntime": "onnxruntime fp32",
    }
    bars = {
        label: [getattr(r, key).median_ms for r in results]
        for key, label in sides.items()
        if getattr(results[0], key) is not None
    }
    title = f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"
    names = [r.network for r in results]
    draw_bars(path, names, bars, "milliseconds a run (median)", title, "%.1f", log=True)


def draw_bars(
    path: Path,
    groups: list[str],
    sides: dict[str, list[float]],
    unit: str,
    title: str,
    number: str,
    log: bool = False,
) -> None:
    """Draw a group of bars for each of `groups`, one of every side, into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 + 2.4 * len(groups), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    step = 0.84 / len(sides)
    for index, (label, values) in enumerate(sides.items()):
        places = [group + (index - (len(sides) - 1) / 2) * step for group in range(len(groups))]
        bars = axes.bar(places, values, 0.93 * step, label=label)
        axes.bar_label(bars, fmt=number, fontsize=8)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(unit)
    if log:
        axes.set_yscale("log")
    axes.set_title(title, fontsize=9)
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, format="png", dpi=150)
