"""Which tensors are two-valued, proven on values: steps by evaluation, then propagation.

A fact about a tensor says that every element is one of two numbers (per channel) and how the +-1
tensor behind it is computed: a = (plus + minus)/2 + (plus - minus)/2 * s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from bnn_tvm.recognize import movement, origin
from bnn_tvm.recognize.bits import Binarized, Bits, Flipped, Padded, spatial_pads
from bnn_tvm.recognize.elementwise import INEXACT, MAX_NODES, Elementwise
from bnn_tvm.recognize.graph import FLOAT, Graph
from bnn_tvm.recognize.monotone import chain_back, pull_back
from bnn_tvm.recognize.probe import (
    Evaluator,
    NotEvaluable,
    NotPerChannel,
    Region,
    Sessions,
    make_region,
)
from bnn_tvm.recognize.step import NOT_FINITE, NotAStep, Step, find_step

_MAX_TRIALS = 16
_MAX_CHAIN = 64


@dataclass(frozen=True)
class TwoValued:
    """Every element is `minus` where s is -1 and `plus` where s is +1.

    minus and plus are float32 arrays of the tensor's rank, with size 1 along axes on which they
    do not depend; equal where a channel is constant. `binariser` says what was found, for
    reasons. `zeros` says why exact zeros are likely at a plain Sign (None: they are not), and
    `zeros_exact` whether the 0 is kept as one of the two values rather than taken as +-1.
    """

    bits: Bits
    minus: np.ndarray
    plus: np.ndarray
    binariser: str
    zeros: str | None = None
    zeros_exact: bool = False


@dataclass(frozen=True)
class Unproven:
    """Why a tensor is not known to be two-valued, as the end of "the input is ..."."""

    reason: str


@dataclass(frozen=True)
class BorderedByThird:
    """`inner` with a constant border of a third value, as Sign(Pad(x, 0)) is.

    pads: widths for all axes, begins then ends.
    """

    inner: TwoValued
    pads: tuple[int, ...]
    value: float
    reason: str = "two-valued, but for its padding"


Fact = TwoValued | Unproven | BorderedByThird


class Facts:
    """Facts about tensors, found on demand and remembered."""

    def __init__(self, graph: Graph, sign_zero: str = "plus") -> None:
        self.graph = graph
        self.elementwise = Elementwise(graph)
        self.sign_zero = sign_zero
        self.sessions = Sessions()
        self.integers: dict[str, tuple[int, int]] = {}
        self._non_negative: dict[str, bool] = {}
        self._facts: dict[str, Fact] = {}
        self._steps: dict[bytes, Step | str] = {}

    def of(self, name: str) -> Fact:
        """The fact about one tensor. Deep graphs are walked without recursion."""
        todo = [name]
        while todo:
            current = todo[-1]
            if current in self._facts:
                todo.pop()
                continue
            missing = [d for d in self._needs(current) if d not in self._facts]
            if missing:
                todo.extend(missing)
                continue
            self._facts[current] = self._find(current)
            todo.pop()
        return self._facts[name]

    def _needs(self, name: str) -> list[str]:
        node = self.graph.producer.get(name)
        if node is None:
            return []
        if movement.moves(node):
            return movement.moved_inputs(self.graph, node)
        chain = self.elementwise.dominators(name)
        if chain and chain[-1] in self.graph.producer:
            return [chain[-1]] if movement.moves(self.graph.producer[chain[-1]]) else []
        return []

    def _find(self, name: str) -> Fact:
        graph = self.graph
        node = graph.producer.get(name)
        if graph.elem_type(name) != FLOAT:
            return Unproven("not float32")
        if node is None:
            return Unproven(f"{graph.describe(name)}: no binariser found")
        if movement.moves(node):
            children = [self._facts[i] for i in movement.moved_inputs(graph, node)]
            return movement.move(graph, node, name, children)
        chain = self.elementwise.dominators(name)
        if not chain:
            return Unproven(f"{node.op_type}: no binariser found")
        root = self._facts.get(chain[-1])
        if isinstance(root, TwoValued):
            return self._map(name, chain[-1], root)
        return self._search(name, chain)

    # Steps -----------------------------------------------------------------------------------

    def _search(self, name: str, chain: list[str]) -> Fact:
        """Look for a tensor of which `name` is a step, then go back from there.

        Regions without constants per channel come first, farthest first: they are cheap, and
        layers share them. Of the others the nearest is taken.
        """
        graph = self.graph
        nearest = graph.producer[name].op_type
        refusal = ""
        shared: list[Region] = []
        apart: list[Region] = []
        for source in chain[:_MAX_CHAIN]:
            nodes = self.elementwise.region(source, name)
            if len(nodes) > MAX_NODES:
                break
            if graph.elem_type(source) != FLOAT or not self.elementwise.can_jump(nodes):
                continue
            try:
                region = make_region(graph, source, name, nodes)
            except NotPerChannel as problem:
                refusal = refusal or f"{nearest}, whose {problem}"
                break
            (shared if region.axis is None else apart).append(region)
        shared.sort(key=lambda r: self._is_private(r), reverse=True)
        private = sum(self._is_private(r) for r in shared)
        shared[:private] = shared[:private][::-1]
        for region in [*shared, *apart][:_MAX_TRIALS]:
            found = self._step(region)
            if isinstance(found, Step) and not self._is_fixed(region, found):
                found = "depends on a function that is not rounded the same everywhere"
            if isinstance(found, Step):
                return self._stepped(name, region, found)
            refusal = f"{nearest}: as a function of {region.source} it {found}"
            if found == NOT_FINITE:
                break
        return Unproven(refusal or f"{nearest}: no binariser found")

    def _is_fixed(self, region: Region, step: Step) -> bool:
        """Whether the step does not depend on functions without an exact value.

        In a straight-through sum, y - tanh(x) + tanh(x), it does not: anything may stand in
        tanh's place.
        """
        if not any(n.op_type in INEXACT for n in region.nodes):
            return True
        nodes = [
            onnx.helper.make_node("Identity", n.input[:1], n.output) if n.op_type in INEXACT else n
            for n in region.nodes
        ]
        other = self._step(replace(region, nodes=tuple(nodes)))
        return (
            isinstance(other, Step)
            and np.array_equal(step.threshold, other.threshold, equal_nan=True)
            and np.array_equal(step.direction, other.direction)
            and np.allclose(step.low, other.low, rtol=1e-5, atol=1e-6)
            and np.allclose(step.high, other.high, rtol=1e-5, atol=1e-6)
        )

    def _is_private(self, region: Region) -> bool:
        """Whether nothing outside uses what lies between the source and the result."""
        inside = {id(n) for n in region.nodes}
        between = [n.output[0] for n in region.nodes if n.output[0] != region.result]
        return not any(
            out in self.graph.outputs
            or any(id(user) not in inside for user in self.graph.users.get(out, ()))
            for out in between
        )

    def _step(self, region: Region) -> Step | str:
        positive = origin.non_negative(self.graph, region.source, self._non_negative)
        key = region.signature() + bytes([positive])
        if key not in self._steps:
            try:
                self._steps[key] = find_step(
                    self.graph,
                    region,
                    self.sessions,
                    sign_zero=self.sign_zero,
                    non_negative=positive,
                )
            except (NotAStep, NotEvaluable) as problem:
                self._steps[key] = str(problem)
        return self._steps[key]

    def _stepped(self, name: str, region: Region, step: Step) -> Fact:
        shape = self.graph.shape(name)
        assert shape is not None
        kinds = [n.op_type for n in region.nodes]
        inside = {id(n) for n in region.nodes}
        bits, source, step, crossed = self.go_back(region.source, step, inside)
        kinds = list(dict.fromkeys([*(n.op_type for n in reversed(crossed)), *kinds]))
        zeros, exact = self._zeros(source, step)
        fact = TwoValued(
            bits,
            along(step.low, step.axis, len(shape)),
            along(step.high, step.axis, len(shape)),
            f"{', '.join(kinds)} of {source}",
            zeros,
            exact,
        )
        return self._with_zero_border(name, source, step) or fact

    def _with_zero_border(self, name: str, source: str, step: Step) -> BorderedByThird | None:
        """Sign(Pad(x, 0)), whose border is 0, as Pad(Sign(x), 0)."""
        graph = self.graph
        node = graph.producer.get(source)
        if node is None or node.op_type != "Pad" or step.zero_low is None:
            return None
        value, pads = origin.pad_value(graph, node), origin.pad_widths(graph, node)
        inner, rank = graph.shape(node.input[0]), len(graph.shape(source) or ())
        assert step.zero_high is not None
        if value is None or pads is None or inner is None or spatial_pads(pads) is None:
            return None
        if not ((step.zero_low <= value) & (value <= step.zero_high)).all():
            return None
        region = make_region(graph, source, name, self.elementwise.region(source, name))
        evaluate = Evaluator(graph, region, self.sessions, search=False)
        border = evaluate(np.full((1, region.channels), value, np.float32))[0][0]
        if not (border == border.flat[0]).all():
            return None
        bits, source, step, _ = self.go_back(node.input[0], step, {id(node)})
        zeros, exact = self._zeros(source, step)
        fact = TwoValued(
            bits,
            along(step.low, step.axis, rank),
            along(step.high, step.axis, rank),
            f"a binariser of {source}",
            zeros,
            exact,
        )
        return BorderedByThird(fact, pads, float(border.flat[0]))

    def go_back(
        self, source: str, step: Step, inside: set[int]
    ) -> tuple[Bits, str, Step, list[onnx.NodeProto]]:
        """Move a step's source back through monotone nodes and constant Pads.

        inside: ids of the nodes between source and result. Returns the bits, the source that
        they read, the step in terms of it, and the nodes crossed, nearest first.
        """
        graph = self.graph
        crossed: list[onnx.NodeProto] = []
        pads: list[tuple[tuple[int, ...], tuple[int, ...], int]] = []
        while True:
            nodes = chain_back(graph, self.elementwise, source, inside)
            # Where the whole chain cannot be crossed, a shorter one may be.
            for count in range(len(nodes), 0, -1):
                pulled = pull_back(
                    graph, self.elementwise, self.sessions, source, nodes[:count], step
                )
                if pulled is not None:
                    source, step = pulled
                    crossed += nodes[:count]
                    break
            padded = self._below_pad(source, step)
            if padded is None:
                break
            shape = graph.shape(source)
            assert shape is not None
            inside = {id(graph.producer[source])}
            pads.append((shape, *padded))
            source = graph.producer[source].input[0]
        shape = graph.shape(source)
        assert shape is not None
        rank = len(shape)
        bits: Bits = Binarized(
            shape,
            source,
            along(step.threshold, step.axis, rank),
            along(step.direction, step.axis, rank),
        )
        for padded_shape, widths, side in reversed(pads):
            bits = Padded(padded_shape, bits, widths, side)
        return bits, source, step, crossed

    def _below_pad(self, source: str, step: Step) -> tuple[tuple[int, ...], int] | None:
        """Widths and bit of a constant Pad that makes `source`, where all its taps get one bit."""
        graph = self.graph
        node = graph.producer.get(source)
        if node is None or node.op_type != "Pad":
            return None
        value, pads = origin.pad_value(graph, node), origin.pad_widths(graph, node)
        shape, inner = graph.shape(source), graph.shape(node.input[0])
        if value is None or pads is None or shape is None or inner is None:
            return None
        if step.axis is not None and (pads[step.axis] or pads[step.axis + len(shape)]):
            return None
        if step.zero_low is not None and step.zero_high is not None:
            at_zero = (step.zero_low <= value) & (value <= step.zero_high)
            if at_zero.any():
                return None  # a plain Sign makes 0 of the border: a third value
        side = apply(np.float32(value), step.threshold, step.direction)
        if not (side == side.flat[0]).all():
            return None
        return pads, int(side.flat[0])

    def _zeros(self, source: str, step: Step) -> tuple[str | None, bool]:
        """Why exact zeros are likely at a plain Sign of this step, and whether they stay."""
        if step.zero_used:
            return "reads a tensor that is never negative, where 0 is likely", True
        if step.zero_low is None or step.zero_high is None:
            return None, False
        integers = origin.integer_range(self.graph, source, self.integers)
        if integers and origin.holds_integer(step.zero_low, step.zero_high, *integers):
            return "reads integers, where 0 is likely", False
        at_zero = (step.zero_low <= 0) & (step.zero_high >= 0)
        if at_zero.any() and origin.non_negative(self.graph, source, self._non_negative):
            return "reads a tensor that is never negative, where 0 is likely", False
        return None, False

    # Functions of two values -----------------------------------------------------------------

    def _map(self, name: str, source: str, fact: TwoValued) -> Fact:
        """Any function of a two-valued tensor is two-valued: evaluate it at both values."""
        graph = self.graph
        nodes = self.elementwise.region(source, name)
        shape = graph.shape(name)
        assert shape is not None
        try:
            region = make_region(graph, source, name, nodes)
        except NotPerChannel as problem:
            return Unproven(f"{graph.describe(name)}, whose {problem}")
        if graph.elem_type(source) != FLOAT:
            return Unproven(f"{graph.describe(name)} of a tensor that is not float32")
        varying = {a for v in (fact.minus, fact.plus) for a in range(v.ndim) if v.shape[a] > 1}
        if region.axis is not None:
            varying.add(region.axis)
        if len(varying) > 1:
            return Unproven(f"{graph.describe(name)}, whose values differ along two axes")
        axis = varying.pop() if varying else None
        if axis is not None and region.axis is None:
            region = replace(region, axis=axis, channels=shape[axis])
        both = np.stack(
            [np.broadcast_to(v.reshape(-1), (region.channels,)) for v in (fact.minus, fact.plus)]
        )
        try:
            evaluate = Evaluator(graph, region, self.sessions, search=False)
            y = evaluate(both.astype(np.float32))[0][0]
        except NotEvaluable as problem:
            return Unproven(f"{graph.describe(name)}: it {problem}")
        if not np.isfinite(y).all():
            return Unproven(f"{graph.describe(name)}, which is not finite")
        gap = np.abs(y[1] - y[0])
        constant = gap <= 1e-6 * np.abs(y).max(axis=0)
        if constant.all():
            return Unproven(f"{graph.describe(name)}, which is a constant")
        y = np.where(constant, y[:1], y).astype(np.float32)
        return replace(
            fact,
            minus=along(y[0], region.axis, len(shape)),
            plus=along(y[1], region.axis, len(shape)),
        )


def along(values: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """[channels] values as an array of the given rank, along `axis` (None: one value)."""
    shape = [1] * rank
    if axis is not None:
        shape[axis] = -1
    return values.reshape(shape) if rank else values.reshape(())


def apply(x: np.ndarray | np.floating, threshold: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Binarize in NumPy: +1 or -1, int8."""
    with np.errstate(invalid="ignore"):
        up = np.where(direction > 0, x >= threshold, x <= threshold)
    return np.where(up, 1, -1).astype(np.int8)


def ordered(fact: TwoValued) -> TwoValued:
    """The same fact with plus >= minus everywhere."""
    sign = np.where(fact.plus < fact.minus, -1, 1).astype(np.int8)
    if (sign > 0).all():
        return fact
    low, high = np.minimum(fact.minus, fact.plus), np.maximum(fact.minus, fact.plus)
    return replace(fact, bits=Flipped(fact.bits.shape, fact.bits, sign), minus=low, plus=high)
