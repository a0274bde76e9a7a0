"""`inspect`: what is in a .dab, .so or .onnx file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnn_tvm.cli.arguments import compile_flags, options_from, output_flags
from bnn_tvm.cli.console import print_json, print_warnings, show
from bnn_tvm.errors import UsageError
from bnn_tvm.options import CompileOptions

if TYPE_CHECKING:
    from bnn_tvm.api import Inspection


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path), required=False, metavar="[FILE]")
@click.option("--include-dir", is_flag=True, help="Print the folder of bnn_tvm.h and exit.")
@click.option("--explain", metavar="NAME", help="Show the evidence about one layer of an .onnx.")
@compile_flags
@output_flags
def command(
    file: Path | None, include_dir: bool, explain: str | None, as_json: bool, **flags: Any
) -> None:
    """Show what is in a FILE.dab, FILE.so or FILE.onnx.

    Of an ONNX file it shows, without compiling, what compile would decide with the same flags.

    \b
    Examples:
      bnn-tvm inspect model.dab
      bnn-tvm inspect --strict model.onnx
      bnn-tvm inspect model.onnx --explain conv2_output
      cc app.c -I "$(bnn-tvm inspect --include-dir)" model.so
    """
    if include_dir:
        from bnn_tvm.api import include_dir as folder

        if as_json:
            print_json({"include_dir": str(folder())})
        else:
            click.echo(str(folder()))
        return
    if file is None:
        raise UsageError("no file to inspect", node="FILE", hint="give a .dab, .so or .onnx file")
    options = options_from(flags)
    if explain is not None:
        from bnn_tvm.api import explain as explain_layer
        from bnn_tvm.cli.evidence import as_dict, show_explanation

        explanation = explain_layer(file, explain, options)
        if as_json:
            print_json(as_dict(explanation))
        else:
            show_explanation(explanation)
        return
    from bnn_tvm.api import inspect

    inspection = inspect(file, options)
    print_warnings(inspection.warnings)
    if as_json:
        print_json(inspection.as_dict())
    else:
        _show(inspection)


def _show(inspection: Inspection) -> None:
    from bnn_tvm.cli.tables import decision_table, size, table

    families = inspection.facts.get("families", [])
    facts = [
        (name.replace("_", " "), _text(_changed(value) if name == "options" else value))
        for name, value in inspection.facts.items()
        if name != "families" and not (name == "family_rule" and not families)
    ]
    show(table(("property", "value"), facts), "")
    if families:
        cost = [
            (f["name"], size(f["weight_bytes"]), size(f["code_bytes"]), _text(f["cores"]))
            for f in families
        ]
        titles = ("kernels", "own weights", "own code", "chosen on")
        show(table(titles, cost, right=("own weights", "own code")), "")
    tensors = [
        (role, t["name"], _text(t["shape"]), t["dtype"])
        for role, group in (("input", inspection.inputs), ("output", inspection.outputs))
        for t in group
    ]
    show(table(("tensor", "name", "shape", "dtype"), tensors), "")
    if inspection.layers:
        rows = [
            (
                layer["output"],
                layer["kind"],
                layer["kernel"],
                _text(layer["output_shape"]),
                f"{layer['macs']:,}",
                size(layer["weight_bytes"]),
                _text(layer["families"]) or "all",
            )
            for layer in inspection.layers
        ]
        columns = ("layer", "kind", "kernel", "output shape", "MACs", "weights", "runs with")
        shown = len(columns) if families else -1
        show(
            table(columns[:shown], [row[:shown] for row in rows], right=("MACs", "weights")),
            "",
        )
    show(decision_table(inspection.decisions))


def _changed(options: dict[str, str]) -> dict[str, str]:
    """The options that are not at their defaults."""
    defaults = {name: str(value) for name, value in CompileOptions().as_dict().items()}
    return {name: value for name, value in options.items() if value != defaults.get(name)}


def _text(value: object) -> str:
    """Shapes as 1 x 3 x 8 x 8, counts as "5 Conv, 3 Sign", lists with commas."""
    if isinstance(value, dict):
        if value and all(isinstance(count, int) for count in value.values()):
            return ", ".join(f"{count} {name}" for name, count in value.items())
        return ", ".join(f"{name}={item}" for name, item in value.items())
    if isinstance(value, list | tuple):
        shape = bool(value) and all(isinstance(dim, int) for dim in value)
        return (" x " if shape else ", ").join(map(str, value))
    return str(value)
