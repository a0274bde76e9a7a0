"""Arguments shared by commands; the compile flags come from the fields of `CompileOptions`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bnn_tvm.errors import UsageError
from bnn_tvm.options import MODES, RUNTIMES, SIGNS_OF_ZERO, CompileOptions

F = TypeVar("F", bound=Callable[..., Any])

CHOICES = {"sign_zero": SIGNS_OF_ZERO, "runtime": RUNTIMES}


def output_flags(function: F) -> F:
    """`--json` and `--debug`, which every command takes."""
    function = click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
    )(function)
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(function)


def kernels_flag(default: str) -> Callable[[F], F]:
    """`--kernels`, of the commands that run a model; `default` says what happens without it."""
    return click.option(
        "--kernels",
        metavar="FAMILY",
        help=f"Which kernels to run, of a model that has several families (default: {default}).",
    )


def compile_flags(function: F) -> F:
    """Every field of `CompileOptions` as a flag, in the order of the fields."""
    for field in reversed(dataclasses.fields(CompileOptions)):
        function = _flag(field)(function)
    return function


def _flag(field: dataclasses.Field[Any]) -> Callable[[F], F]:
    help_text = field.metadata["help"]
    flags = field.metadata["flags"]
    if field.name == "mode":
        return _mode_flags
    settings: dict[str, Any] = {"help": help_text, "metavar": field.metadata.get("metavar")}
    if field.name == "shapes":
        settings.update(multiple=True)
    elif isinstance(field.default, bool):
        # The flag of a field that is true by default turns it off.
        settings.update(is_flag=True, metavar=None, default=field.default)
        settings.update(flag_value=not field.default)
    elif isinstance(field.default, int):
        settings.update(type=int, default=field.default, show_default=True)
    elif field.name in CHOICES:
        settings.update(
            type=click.Choice(CHOICES[field.name]), default=field.default, show_default=True
        )
    elif field.name in ("binary_list", "dump"):
        settings.update(type=click.Path(path_type=Path))
    elif isinstance(field.default, str):
        settings.update(default=field.default, show_default=True)
    return click.option(*flags, field.name, **settings)


MODE_HELP = {
    "strict": "Binary only what the graph proves.",
    "moderate": "Also +-1 weights behind a Pad with -1.",
    "aggressive": "Also every conv with +-1 weights (default).",
}


def _mode_flags(function: F) -> F:
    for mode in reversed(MODES):
        function = click.option(f"--{mode}", mode, is_flag=True, help=MODE_HELP[mode])(function)
    return function


def options_from(flags: dict[str, Any]) -> CompileOptions:
    """Take the compile flags out of a command's arguments and make options of them.

    Raises
    ------
    UsageError: flags exclude one another or have wrong values.
    """
    values = dict(flags)
    modes = [mode for mode in MODES if values.pop(mode)]
    if len(modes) > 1:
        raise UsageError(
            f"--{modes[0]} and --{modes[1]} exclude one another",
            node=f"--{modes[1]}",
            hint="give one mode",
        )
    values["mode"] = modes[0] if modes else "aggressive"
    for name in ("mattr", "binary_convs"):
        values[name] = tuple((values[name] or "").split(","))
    values["shapes"] = tuple(parse_shape(text) for text in values["shapes"])
    return CompileOptions(**values)


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`input=1,3,224,224` as name and dimensions; the name may hold "=" itself.

    Raises
    ------
    UsageError: the text has no "=" or the dimensions are no whole numbers.
    """
    name, equals, dims = text.rpartition("=")
    try:
        shape = tuple(int(dim) for dim in dims.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not equals or not name or not shape:
        raise UsageError(
            f"{text!r} is no shape",
            node="--shape",
            hint="write the input's name and its dimensions: --shape input=1,3,224,224",
        )
    return name, shape
