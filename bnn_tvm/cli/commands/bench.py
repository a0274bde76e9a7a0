"""`bench`: how long a compiled model takes, as a whole and per layer."""

from __future__ import annotations

from pathlib import Path

import click

from bnn_tvm.cli.arguments import kernels_flag, output_flags
from bnn_tvm.cli.console import print_json, show
from bnn_tvm.cli.progress import phases


@click.command("bench")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.so")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads.")
@click.option("--repeat", type=click.IntRange(1), default=50, show_default=True, help="Timed runs.")
@click.option("--profile", is_flag=True, help="Also show every layer's time and share.")
@kernels_flag("those for this machine's cores")
@output_flags
def command(
    model: Path, threads: int, repeat: int, profile: bool, kernels: str | None, as_json: bool
) -> None:
    """Measure a compiled model on this machine.

    \b
    Example:
      bnn-tvm bench --threads 2 --profile model.so
    """
    from bnn_tvm.api import bench

    with phases() as progress:
        progress("bench")
        report = bench(
            model, threads=threads, repeat=repeat, profile=profile or as_json, kernels=kernels
        )
    if as_json:
        print_json(report.as_dict())
        return
    from bnn_tvm.cli.tables import table

    latency = report.latency_ms
    if profile:
        rows = [
            (layer.output, layer.kind, layer.kernel, f"{layer.ms:.4f}", f"{layer.share:.1%}")
            for layer in report.layers
        ]
        show(table(("layer", "kind", "kernel", "ms", "share"), rows, right=("ms", "share")), "")
    family = f"{report.kernels} kernels, " if report.kernels else ""
    show(
        f"{report.target}, {family}{threads} thread{'s' if threads > 1 else ''}, {repeat} runs: "
        f"min {latency['min']:.3f} ms, median {latency['median']:.3f} ms, "
        f"p95 {latency['p95']:.3f} ms"
    )
