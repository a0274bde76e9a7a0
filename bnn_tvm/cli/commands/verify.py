"""`verify`: does the compiled model compute what the ONNX file says?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnn_tvm.cli.arguments import compile_flags, kernels_flag, options_from, output_flags
from bnn_tvm.cli.console import print_json, print_warnings, show
from bnn_tvm.cli.progress import phases

if TYPE_CHECKING:
    from bnn_tvm.verification import VerifyReport


@click.command("verify")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Also compare on these inputs: .npy, or .npz with one array per input; one or more "
    "samples along the first axis.",
)
@click.option(
    "--samples", type=click.IntRange(0), default=2, show_default=True, help="Random inputs to try."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random inputs.")
@kernels_flag("all, one after the other")
@compile_flags
@output_flags
def command(
    model: Path,
    inputs: tuple[str, ...],
    samples: int,
    seed: int,
    kernels: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Compile MODEL.onnx, run it, and compare with onnxruntime: whole and layer by layer.

    Ends with exit code 1 when they differ. A foreign target runs under qemu-user.

    \b
    Examples:
      bnn-tvm verify model.onnx
      bnn-tvm verify --target arm64 --input images.npy model.onnx
    """
    options = options_from(flags)
    from bnn_tvm.api import verify

    with phases() as progress:
        report = verify(
            model,
            options,
            inputs=inputs,
            samples=samples,
            seed=seed,
            kernels=kernels,
            progress=progress,
        )
    print_warnings(report.warnings)
    if as_json:
        print_json(report.as_dict())
    else:
        _show(report)
    return 0 if report.ok else 1


def _show(report: VerifyReport) -> None:
    from rich.text import Text

    from bnn_tvm.cli.tables import table
    from bnn_tvm.recognize.types import FLOAT16
    from bnn_tvm.verification.compare import FLOAT16_TOLERANCE

    rows = []
    for layer in report.layers:
        half, by_design = FLOAT16 in layer.implied, [i for i in layer.implied if i != FLOAT16]
        near = "equal within half precision" if half else "equal within rounding"
        verdict = "exact" if layer.exact and not half else (near if layer.ok else "DIFFERS")
        if layer.failed_kernels:
            verdict += f" ({', '.join(layer.failed_kernels)})"
        rows.append(
            (
                layer.output,
                "binary" if layer.binary else ("float16" if half else "float"),
                Text(verdict, style="green" if layer.ok else "bold red"),
                f"{layer.max_abs_error:.3g}",
                ", ".join(by_design),
            )
        )
    place = f"{report.target}, {report.place}" if report.place else report.target
    each = "each with the kernels" if len(report.kernels) > 1 else "with the kernels"
    kernels = f", {each} {' and '.join(report.kernels)}" if report.kernels else ""
    lines = [
        f"target {place}; {report.samples} inputs{kernels}",
        f"end to end: max abs error {report.max_abs_error:.3g}",
    ]
    if report.top1_agreement is not None:
        lines.append(f"top-1 agreement: {report.top1_agreement:.2%}")
    if report.rounded:
        lines.append(
            f"{report.rounded} inputs differ only because float rounding decides a sign "
            "whose value lies at its threshold"
        )
    if report.relative_error is not None:
        lines.append(
            f"layers in half precision are inexact: compared within {FLOAT16_TOLERANCE:.0%} of the "
            f"largest value of their output; end to end the relative error is "
            f"{report.relative_error:.2%}, up to {report.relative_tolerance:.0%} passes"
        )
    if report.design_difference is not None:
        lines.append(
            f"what was implied changes the output of the ONNX graph by up to "
            f"{report.design_difference:.3g}, by design; compared with the graph as implied"
        )
    columns = ("layer", "runs as", "result", "max abs error", "differs from ONNX by design")
    shown = None if any(row[-1] for row in rows) else -1
    show(table(columns[:shown], [row[:shown] for row in rows]), "", *lines)
    first = report.first_difference
    if report.failed_kernels:
        show(f"with the kernels {', '.join(report.failed_kernels)}:")
    if report.ok and report.relative_error is not None:
        show("verified: the compiled model computes what the ONNX model does within half precision")
    elif report.ok:
        show("verified: the compiled model computes what the ONNX model computes")
    elif first is not None:
        show(f"NOT VERIFIED: the first layer that differs is {first.output}")
    else:
        show("NOT VERIFIED: every layer agrees by itself, the whole model does not")
