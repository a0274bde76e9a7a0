"""The `bnn-tvm` group and the entry points of the single commands.

A command's module is imported when the command is used, so that help stays quick.
"""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

import click

from bnn_tvm import __version__
from bnn_tvm.cli.boundary import execute

COMMANDS = ("compile", "verify", "run", "bench", "inspect", "targets")


def load_command(name: str) -> click.Command:
    """The click command called `name`."""
    command: click.Command = importlib.import_module(f"bnn_tvm.cli.commands.{name}").command
    return command


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None for an unknown name."""
        return load_command(cmd_name) if cmd_name in COMMANDS else None


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=False,
)
@click.version_option(__version__, prog_name="bnn-tvm")
def group() -> None:
    """Compile binary neural networks in ONNX to self-contained libraries.

    \b
    Example:
      bnn-tvm compile --target arm64 model.onnx    writes model.so and model.dab
    """


def main(args: list[str] | None = None) -> NoReturn:
    """The `bnn-tvm` script."""
    sys.exit(execute(group, sys.argv[1:] if args is None else args, "bnn-tvm"))


def run_command(name: str) -> NoReturn:
    """Run the one command `name` on `sys.argv`, as `python -m bnn_tvm.NAME` does."""
    sys.exit(execute(load_command(name), sys.argv[1:], f"python -m bnn_tvm.{name}"))
