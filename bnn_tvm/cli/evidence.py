"""The evidence about one layer, for people and for `--json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bnn_tvm.cli.console import show
from bnn_tvm.cli.tables import table
from bnn_tvm.inspection import decision_dict

if TYPE_CHECKING:
    from bnn_tvm.recognize.explain import Explanation


def as_dict(explanation: Explanation) -> dict[str, Any]:
    """`{"decision", "input", "weights", "padding", "rules", "remedies"}`."""
    fields = {f.name: getattr(explanation, f.name) for f in dataclasses.fields(explanation)}
    return {
        **fields,
        "decision": decision_dict(explanation.decision),
        "remedies": list(explanation.remedies),
    }


def show_explanation(explanation: Explanation) -> None:
    """Print the evidence as a table of questions and answers."""
    show(table(("about", "evidence"), _rows(explanation)))


def _rows(e: Explanation) -> Iterator[tuple[str, str]]:
    decision = e.decision
    yield "layer", f"{decision.output} ({decision.op})"
    by = f"binary, {decision.rule}" if decision.binary else "float"
    yield "runs as", f"{by}: {decision.reason}"
    if decision.implied:
        yield "differs from ONNX", ", ".join(decision.implied)
    yield "input", f"{e.input['tensor']} {e.input['shape'] or ''}, made by {e.input['made_by']}"
    if e.input["two_valued"]:
        low, high = (_span(v) for v in e.input["values"])
        yield "input values", f"two: {low} and {high}"
        yield "binariser", e.input["reason"]
        for node in e.input["nodes"]:
            yield "", node
        for binariser in e.input["binarisers"]:
            where, at = _span(binariser["plus_where"]), _span(binariser["thresholds"])
            yield "threshold", f"the upper value where {binariser['source']} {where} {at}"
        if e.input["zeros"]:
            yield "zeros", f"the Sign {e.input['zeros']}"
    else:
        yield "binariser", f"none: the input is {e.input['reason']}"
    w = e.weights
    yield (
        "weights",
        " ".join(
            str(part) for part in (w["tensor"], w.get("shape", ""), w.get("origin", "")) if part
        ),
    )
    if w["binary"]:
        yield "weight values", f"+-{_span(w['scales'])}: {w['plus']} plus, {w['minus']} minus"
    else:
        yield "weight values", f"not +-1: {w['reason']}"
    pads = f" {e.padding['pads']}" if e.padding["pads"] else ""
    yield "padding", f"{e.padding['text']}{pads}"
    for rule, problem in e.rules.items():
        yield f"--{rule}", problem or "binary"
    for remedy in e.remedies:
        yield "to make it binary", remedy


def _span(values: list[Any]) -> str:
    """One value, a few, or the range of many."""
    if len(values) <= 4:
        return ", ".join(_number(v) for v in values)
    numbers = [v for v in values if isinstance(v, (int, float))]
    if not numbers:
        return f"{', '.join(sorted({_number(v) for v in values}))} (per channel)"
    return f"{_number(min(numbers))} to {_number(max(numbers))} ({len(values)} channels)"


def _number(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
