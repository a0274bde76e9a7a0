"""Where the benchmarks print their tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def table_console(width: int) -> Console:
    """A console; `width` columns wide where the output is no terminal that has a width."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)
