"""`compile`: ONNX in, a shared library and its metadata out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bnn_tvm.cli.arguments import compile_flags, options_from, output_flags
from bnn_tvm.cli.console import print_json, print_warnings, show
from bnn_tvm.cli.progress import phases


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write PATH.so and PATH.dab (default: the model's name in the current directory).",
)
@compile_flags
@output_flags
def command(model: Path, output: Path | None, as_json: bool, **flags: Any) -> None:
    """Compile MODEL.onnx into PATH.so, a self-contained library, and PATH.dab, its metadata.

    \b
    Examples:
      bnn-tvm compile model.onnx
      bnn-tvm compile --target arm64 --mcpu cortex-a76 --strict -o out/model model.onnx
    """
    options = options_from(flags)
    from bnn_tvm.api import compile_with

    stem = output if output is not None else Path(model.name).with_suffix("")
    with phases() as progress:
        compiled = compile_with(model, options, progress=progress)
        saved = compiled.save(stem)
    print_warnings(compiled.warnings)
    if as_json:
        print_json(
            {"so": str(saved.so), "dab": str(saved.dab), **compiled.as_dict()},
        )
        return
    from bnn_tvm.cli.tables import decision_table, size, table

    families = [family.name for family in compiled.artifact.metadata.families]
    binary = sum(decision.binary for decision in compiled.decisions)
    written = [(str(path), size(path.stat().st_size)) for path in (saved.so, saved.dab)]
    show(
        decision_table(compiled.as_dict()["decisions"]),
        "",
        f"{binary} of {len(compiled.decisions)} layers are binary; mode {options.mode}, "
        f"target {compiled.target_text}",
        *(
            [
                f"the device chooses between the kernels {' and '.join(families)} by its cores "
                "when it loads the model; with --mcpu the library holds those of one core"
            ]
            if families
            else []
        ),
        table(("written", "size"), written, right=("size",)),
    )
