"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()
) -> Table:
    """A plain table; the columns named in `right` are numbers and aligned so."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        if column in right:
            result.add_column(column, justify="right", no_wrap=True)
        else:
            result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return result


def decision_table(decisions: Iterable[Mapping[str, Any]]) -> Table:
    """One row per conv and dense layer: binary or float, the rule, and why.

    The last column, what was implied, is left out where nothing was.
    """
    decisions = list(decisions)
    columns = ("layer", "op", "runs as", "rule", "reason", "differs from ONNX")
    shown = None if any(decision["implied"] for decision in decisions) else -1
    rows = [
        (
            decision["output"],
            decision["op"],
            _runs_as(decision),
            decision["rule"] or "",
            decision["reason"],
            ", ".join(decision["implied"]),
        )
        for decision in decisions
    ]
    return table(columns[:shown], [row[:shown] for row in rows])


def _runs_as(decision: Mapping[str, Any]) -> Text:
    if decision["binary"]:
        return Text("binary", style="green")
    return Text("float16" if "float16" in decision["implied"] else "float")


def size(nbytes: int) -> str:
    """A number of bytes for people."""
    if nbytes < 1024:
        return f"{nbytes} B"
    return f"{nbytes / 1024:.1f} KiB" if nbytes < 1024**2 else f"{nbytes / 1024**2:.2f} MiB"
