"""`run`: a compiled model on arrays from files."""

from __future__ import annotations

from pathlib import Path

import click

from bnn_tvm.cli.arguments import kernels_flag, output_flags
from bnn_tvm.cli.console import print_json, show


@click.command("run")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.so")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    metavar="[NAME=]FILE",
    help="Input array: .npy, or .npz with one array per input (repeatable).",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Where to write: .npy for one output, .npz for one array per output.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads.")
@kernels_flag("those for this machine's cores")
@output_flags
def command(
    model: Path,
    inputs: tuple[str, ...],
    output: Path,
    threads: int,
    kernels: str | None,
    as_json: bool,
) -> None:
    """Run a compiled model on this machine.

    \b
    Example:
      bnn-tvm run model.so --input x.npy --output y.npy
    """
    from bnn_tvm.api import load
    from bnn_tvm.arrays import read_inputs, write_outputs

    loaded = load(model, threads=threads, kernels=kernels)
    arrays = read_inputs(inputs, [tensor.name for tensor in loaded.inputs])
    results = loaded.run(arrays)
    write_outputs(output, results)
    if as_json:
        outputs = [
            {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
            for name, array in results.items()
        ]
        print_json({"output": str(output), "outputs": outputs})
        return
    from bnn_tvm.cli.tables import table

    rows = [(name, list(array.shape), array.dtype) for name, array in results.items()]
    show(table(("output", "shape", "dtype"), rows), f"written: {output}")
