"""Decide about every Conv, Gemm and MatMul, with a reason, and plan the binary ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from bnn_tvm.recognize import modes, operands, origin, weights
from bnn_tvm.recognize.graph import Graph
from bnn_tvm.recognize.layers import Layer, layers
from bnn_tvm.recognize.lists import listed
from bnn_tvm.recognize.operands import Operand
from bnn_tvm.recognize.types import (
    BINARIZED_INPUT,
    BINARIZED_WEIGHTS,
    PADDING_MINUS_ONE,
    SIGN_OF_ZERO,
    Decision,
)
from bnn_tvm.recognize.values import Facts, TwoValued
from bnn_tvm.recognize.weights import BinaryWeights

if TYPE_CHECKING:
    from bnn_tvm.options import CompileOptions


@dataclass(frozen=True)
class Plan:
    """A layer to be rewritten: its activation and weights in terms of +-1."""

    layer: Layer
    operand: Operand
    weights: BinaryWeights


@dataclass(frozen=True)
class Found:
    """What a decision about one layer rests on; only `layer` where it can never be binary."""

    layer: Layer
    weights: BinaryWeights | str = ""
    operand: tuple[Operand, TwoValued] | operands.Unproven | None = None
    evidence: modes.Evidence | None = None


@dataclass(frozen=True)
class Outcome:
    """Decisions in graph order, plans of the binary layers by output name, warnings.

    found: what was found out about every layer, by output name.
    """

    decisions: tuple[Decision, ...]
    plans: dict[str, Plan]
    warnings: tuple[str, ...]
    found: dict[str, Found]


def decide(
    graph: Graph,
    folded: Mapping[str, tuple[str, ...]],
    options: CompileOptions,
    renamed: Mapping[str, str] | None = None,
) -> Outcome:
    """Decide about all layers of a clean graph.

    folded: op types behind each folded initializer (Prepared.folded). renamed: names of the file
    that are others now (Prepared.renamed): list options may use either. Raises UsageError or
    FileError for list options that are wrong.
    """
    found = layers(graph)
    decider = _Decider(graph, folded, options, listed(options, found, renamed or {}))
    for layer in found:
        decider.decide(layer)
    return Outcome(tuple(decider.decisions), decider.plans, tuple(decider.warnings), decider.found)


class _Decider:
    def __init__(
        self,
        graph: Graph,
        folded: Mapping[str, tuple[str, ...]],
        options: CompileOptions,
        forced: frozenset[str],
    ) -> None:
        self.graph, self.folded, self.options, self.forced = graph, folded, options, forced
        self.sign_zero = "minus" if options.dabnn_compatible else options.sign_zero
        self.facts = Facts(graph, self.sign_zero)
        self.decisions: list[Decision] = []
        self.plans: dict[str, Plan] = {}
        self.found: dict[str, Found] = {}
        self.warnings: list[str] = []

    def decide(self, layer: Layer) -> None:
        if layer.problem is not None:
            self.found[layer.output] = Found(layer)
            self._float(layer, layer.problem)
            return
        assert layer.weights is not None
        binary = weights.factor(layer.weights)
        shown = operands.proven(self.graph, self.facts, layer)
        evidence = self._evidence(layer, binary, shown)
        self.found[layer.output] = Found(layer, binary, shown, evidence)
        first = self.options.binarize_first or self.options.dabnn_compatible
        rule, reason = modes.choose(self.options.mode, evidence, binarize_first=first)
        implied: list[str] = []
        if rule is None and layer.output in self.forced:
            rule, reason = "list", "named by a list option"
        if rule is None:
            self._float(layer, reason)
            self._note_integers(layer, binary, evidence)
            return
        if isinstance(binary, str):
            binary = weights.by_sign(layer.weights, self.sign_zero)
            implied.append(BINARIZED_WEIGHTS)
        if isinstance(shown, tuple):
            operand, fact = shown
            if fact.zeros and not fact.zeros_exact:
                implied.append(SIGN_OF_ZERO)
            self._warn_zeros(layer, fact)
        else:
            operand = operands.implicit(self.graph, self.facts, layer, self.sign_zero)
            implied.append(BINARIZED_INPUT)
        if self.options.dabnn_compatible:
            operand = self._as_dabnn(layer, operand, implied)
        self._warn_implied(layer, evidence, implied)
        order = (BINARIZED_INPUT, PADDING_MINUS_ONE, SIGN_OF_ZERO, BINARIZED_WEIGHTS)
        self.plans[layer.output] = Plan(layer, operand, binary)
        self.decisions.append(
            Decision(
                layer.output,
                layer.op,
                True,
                rule,
                reason,
                tuple(name for name in order if name in implied),
            )
        )
        self._note_integers(layer, binary, evidence)

    def _float(self, layer: Layer, reason: str) -> None:
        self.decisions.append(Decision(layer.output, layer.op, False, None, reason))

    def _evidence(
        self,
        layer: Layer,
        binary: BinaryWeights | str,
        shown: tuple[Operand, TwoValued] | operands.Unproven,
    ) -> modes.Evidence:
        graph = self.graph
        raw = origin.reads_raw_input(graph, layer.activation)
        padding, zeros = "none" if layer.is_conv else "dense", None
        if isinstance(shown, tuple):
            operand, fact = shown
            description, zeros = fact.binariser, fact.zeros
            if operand.padded:
                padding = "member" if operand.pad_bit else "third"
        else:
            description = shown.reason
        return modes.Evidence(
            weights=binary if isinstance(binary, str) else None,
            signed_weights=weights.from_binariser(self.folded.get(layer.weight_name, ())),
            evident_weights=not isinstance(binary, str) and binary.evident,
            proven=isinstance(shown, tuple),
            input=description,
            padding=padding,
            pad_value=operands.explicit_pad(graph, layer),
            zeros=zeros,
            raw_input=raw,
            integer_input=raw is not None
            and graph.elem_type(raw) in (TensorProto.INT8, TensorProto.UINT8),
        )

    def _as_dabnn(self, layer: Layer, operand: Operand, implied: list[str]) -> Operand:
        """The operand with dabnn's run-time values: signs of the input, padding with -1."""
        assert layer.weights is not None
        ci = layer.weights.shape[1] * layer.group
        if (operand.mid != 0).any() or (operand.half != 1).any():
            if BINARIZED_INPUT not in implied:
                implied.append(BINARIZED_INPUT)
            operand = operands.implicit(self.graph, self.facts, layer, self.sign_zero)
        if operand.padded and (operand.pad_bit != -1 or operand.pad_real != -1):
            implied.append(PADDING_MINUS_ONE)
        return replace(
            operand,
            mid=np.zeros(ci),
            half=np.ones(layer.group),
            pad_real=-1.0 if operand.padded else 0.0,
            pad_bit=-1 if operand.padded else 0,
        )

    def _warn_zeros(self, layer: Layer, fact: TwoValued) -> None:
        if not fact.zeros:
            return
        if fact.zeros_exact:
            effect = "its 0 is kept as one of the two values of the input"
        else:
            sign = "+1" if self.sign_zero == "plus" else "-1"
            effect = f"sign(0) becomes {sign} (--sign-zero chooses)"
        self.warnings.append(f"{layer.output}: the Sign of its input {fact.zeros}; {effect}")

    def _warn_implied(self, layer: Layer, e: modes.Evidence, implied: list[str]) -> None:
        what, why = [], ""
        if BINARIZED_INPUT in implied:
            what.append("its input is binarised implicitly")
            if not e.proven:
                why = f" (the input is {e.input}; it may be that the {modes.LOST})"
        if BINARIZED_WEIGHTS in implied:
            what.append("its weights are binarised by their sign")
        if PADDING_MINUS_ONE in implied:
            what.append("its padding becomes -1")
        if what:
            self.warnings.append(
                f"{layer.output}: {' and '.join(what)}{why}; the result differs from the ONNX graph"
            )

    def _note_integers(self, layer: Layer, binary: BinaryWeights | str, e: modes.Evidence) -> None:
        """Remember layers whose outputs are integers: a Sign of them meets exact zeros."""
        if isinstance(binary, str) or layer.addend is not None:
            return
        plan = self.plans.get(layer.output)
        if plan is not None:
            operand = plan.operand
            plain = (operand.mid == 0).all() and (operand.half == 1).all()
        else:
            plain = e.integer_input
        scaled = (binary.alpha != 1).any() or layer.factor != 1
        bias = layer.bias if layer.bias is not None else np.zeros(1)
        if not plain or scaled or (bias != np.round(bias)).any():
            return
        terms = int(binary.t[0].size)
        if plan is None:
            terms, parity = terms * 255, -1
        else:
            third = operand.padded and not operand.pad_bit
            parity = -1 if third or (np.mod(bias, 2) != bias[0] % 2).any() else terms
        if parity >= 0:
            parity = (terms + int(bias[0])) % 2
        self.facts.integers[layer.output] = (terms + int(np.abs(bias).max()), parity)
