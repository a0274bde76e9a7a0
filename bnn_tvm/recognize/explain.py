"""The evidence behind the decision about one layer, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bnn_tvm.recognize import modes
from bnn_tvm.recognize.bits import Binarized, Bits, Flipped, Moved, Padded
from bnn_tvm.recognize.decide import Found, decide
from bnn_tvm.recognize.graph import Graph
from bnn_tvm.recognize.lists import no_layer
from bnn_tvm.recognize.operands import Operand
from bnn_tvm.recognize.types import Decision
from bnn_tvm.recognize.weights import BinaryWeights

if TYPE_CHECKING:
    from bnn_tvm.frontend import Prepared
    from bnn_tvm.options import CompileOptions

_MAX_NODES = 64
"""Nodes between a binariser's source and the layer that are named."""


@dataclass(frozen=True)
class Explanation:
    """Why one layer is binary or float.

    input: tensor, nodes on the way from what is binarised, the binarisers (source, thresholds,
    where +1 is) and the two values; or why it is not two-valued. weights: name, shape, origin,
    values. padding: pads in ONNX order and what padded taps are. rules: per mode, None where it
    makes the layer binary, else the first condition that fails. remedies: what would make it
    binary (empty where it is).
    """

    decision: Decision
    input: dict[str, Any]
    weights: dict[str, Any]
    padding: dict[str, Any]
    rules: dict[str, str | None]
    remedies: tuple[str, ...]


def explain(prepared: Prepared, options: CompileOptions, name: str) -> Explanation:
    """What the decision about the layer with output `name` rests on.

    Raises UsageError where no layer has that output, with near spellings.
    """
    graph = Graph(prepared.model)
    outcome = decide(graph, prepared.folded, options, prepared.renamed)
    name = prepared.renamed.get(name, name)
    if name not in outcome.found:
        raise no_layer([name], "--explain", outcome.found)
    found = outcome.found[name]
    decision = next(d for d in outcome.decisions if d.output == name)
    first = options.binarize_first or options.dabnn_compatible
    rules: dict[str, str | None] = {}
    for rule in modes.ORDER:
        problem = found.layer.problem
        if found.evidence is not None:
            problem = modes.failing_with_all_before(rule, found.evidence, binarize_first=first)
        rules[rule] = problem
    return Explanation(
        decision,
        _input(graph, found),
        _weights(prepared, found),
        _padding(found),
        rules,
        () if decision.binary else tuple(_remedies(found, rules, options.mode)),
    )


def _input(graph: Graph, found: Found) -> dict[str, Any]:
    name = found.layer.activation
    shape = graph.shape(name)
    result: dict[str, Any] = {"tensor": name, "shape": None if shape is None else list(shape)}
    result["made_by"] = graph.describe(name)
    if not isinstance(found.operand, tuple):
        reason = "not looked at" if found.operand is None else found.operand.reason
        return {**result, "two_valued": False, "reason": reason}
    _, fact = found.operand
    binarisers = _binarisers(fact.bits)
    sources = {str(b["source"]) for b in binarisers}
    return {
        **result,
        "two_valued": True,
        "reason": fact.binariser,
        "nodes": _nodes_between(graph, name, sources),
        "binarisers": binarisers,
        "values": [_numbers(fact.minus), _numbers(fact.plus)],
        "zeros": fact.zeros,
    }


def _binarisers(bits: Bits) -> list[dict[str, Any]]:
    """The comparisons at the bottom of `bits`, each once."""
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    pending, seen = [bits], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Binarized):
            key = (current.source, current.threshold.tobytes(), current.direction.tobytes())
            found[key] = {
                "source": current.source,
                "thresholds": _numbers(current.threshold),
                "plus_where": _numbers(np.where(current.direction > 0, ">=", "<=")),
            }
        elif isinstance(current, Moved):
            pending.extend(reversed(current.children))
        elif isinstance(current, (Padded, Flipped)):
            pending.append(current.child)
    return list(found.values())


def _nodes_between(graph: Graph, name: str, sources: set[str]) -> list[str]:
    """The nodes that make `name` out of `sources`, nearest first, as "Op -> output"."""
    nodes: dict[str, None] = {}
    pending, seen = [name], set(sources)
    while pending and len(nodes) < _MAX_NODES:
        current = pending.pop(0)
        node = graph.producer.get(current)
        if node is None or current in seen:
            continue
        seen.add(current)
        nodes[f"{node.op_type} -> {current}"] = None
        pending.extend(i for i in node.input if i and not graph.is_constant(i))
    return list(nodes)


def _weights(prepared: Prepared, found: Found) -> dict[str, Any]:
    layer, binary = found.layer, found.weights
    result: dict[str, Any] = {"tensor": layer.weight_name}
    if layer.weights is None:
        return {**result, "binary": False, "reason": layer.problem}
    history = prepared.folded.get(layer.weight_name, ())
    made = f"computed from constants by {', '.join(history)}" if history else "stored as they are"
    result |= {"shape": list(layer.weights.shape), "origin": made}
    if not isinstance(binary, BinaryWeights):
        return {**result, "binary": False, "reason": binary or layer.problem}
    up = int((binary.t > 0).sum())
    return {
        **result,
        "binary": True,
        "plus": up,
        "minus": int(binary.t.size) - up,
        "scales": _numbers(binary.alpha),
    }


def _padding(found: Found) -> dict[str, Any]:
    if not found.layer.is_conv:
        return {"kind": "dense", "pads": [], "text": "a dense layer has none"}
    pads, text, kind = found.layer.pads, "zeros", "none"
    if isinstance(found.operand, tuple):
        operand: Operand = found.operand[0]
        pads = operand.pads
        kind = "member" if operand.pad_bit else "third"
        text = f"{operand.pad_real:g}"
        text += ", one of the input's two values" if operand.pad_bit else ", a third value"
    elif any(pads):
        kind = "third"
    if not any(pads):
        return {"kind": "none", "pads": list(pads), "text": "none"}
    return {"kind": kind, "pads": list(pads), "text": text}


def _remedies(found: Found, rules: dict[str, str | None], mode: str) -> list[str]:
    e, name = found.evidence, found.layer.output
    if e is None:
        return [f"nothing as the graph stands: {found.layer.problem}"]
    remedies = [f"--{rule} makes it binary" for rule in modes.ORDER if rules[rule] is None][:1]
    if e.weights is not None:
        remedies.append("write the weights as sign(w), or sign(w) times a scale per output channel")
    elif e.raw_input is not None and not e.proven:
        remedies.append("--binarize-first takes the sign of the model's input")
    if not e.proven:
        remedies.append(
            "binarise the input in the graph: Sign, or Where(x >= 0, 1, -1), as bnn_tvm.torch does"
        )
    elif mode == "strict" and e.weights is None:
        if e.zeros:
            remedies.append(
                "write the binariser as Where(x >= 0, 1, -1), which says what 0 becomes"
            )
        if e.padding == "third":
            remedies.append("pad with one of the two values by a Pad instead of the conv's zeros")
        if not e.signed_weights:
            remedies.append("keep the Sign of the weights in the graph when exporting")
    remedies.append(f"--binary-convs {name} takes the signs of its input and weights as they are")
    return remedies


def _numbers(array: np.ndarray) -> list[Any]:
    """The elements in order, one if all are the same; NaN and infinity as text."""
    flat = array.reshape(-1).tolist()
    if flat and all(str(v) == str(flat[0]) for v in flat):
        flat = flat[:1]
    return [v if not isinstance(v, float) or np.isfinite(v) else str(v) for v in flat]
