"""What goes where: results to stdout, warnings, errors and progress to stderr.

rich drops colours by itself where the stream is no terminal, and obeys NO_COLOR.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

from bnn_tvm.errors import BnnError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WIDTH_WITHOUT_TERMINAL = 160
NARROWEST = 60


def stderr_console() -> Console:
    """A console on stderr."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def show(*renderables: RenderableType) -> None:
    """Print tables and text to stdout: in colour on a terminal, plain and greppable elsewhere."""
    from rich.console import Console

    if sys.stdout.isatty():
        console = Console(highlight=False)
        for renderable in renderables:
            console.print(renderable)
        return
    text = io.StringIO()
    width = max(shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 24)).columns, NARROWEST)
    plain = Console(file=text, highlight=False, width=width, color_system=None)
    for renderable in renderables:
        plain.print(renderable)
    sys.stdout.writelines(line.rstrip() + "\n" for line in text.getvalue().splitlines())


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object to stdout."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")


def print_warnings(warnings: tuple[str, ...]) -> None:
    """One line each on stderr."""
    if warnings:
        from rich.text import Text

        console = stderr_console()
        for warning in warnings:
            console.print(Text.assemble(("warning: ", "yellow"), warning))


def print_error(error: BnnError) -> None:
    """Message, place and hint on stderr."""
    from rich.text import Text

    text = Text.assemble(("error: ", "bold red"), str(error))
    stderr_console().print(text)
