"""Evaluate a region of elementwise nodes as a scalar function per channel, as onnxruntime does.

The region's source is replaced by a probe tensor whose axes have size one but for two: the
channel axis, the only axis along which the region's constants may differ, and one axis that
carries the probes. Plain Sign nodes give 0 for 0; the region is therefore built up to three
times: as it stands, and with sign(0) taken as +1 and as -1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bnn_tvm.recognize.graph import Graph

ZERO_VARIANTS = ("", "plus", "minus")
_FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_KINKED = frozenset(
    [
        *("Abs", "Relu", "LeakyRelu", "PRelu", "Max", "Min", "Div", "Mod", "Pow", "Reciprocal"),
        *("Sqrt", "Log", "Elu", "Selu", "Celu", "ThresholdedRelu"),
    ]
)
_DISCRETE = ("Sign", "Round", "Floor", "Ceil")


class NotEvaluable(Exception):
    """onnxruntime cannot run the region; the message says so."""


class NotPerChannel(Exception):
    """The region's constants differ along more than one axis."""


@dataclass(frozen=True)
class Region:
    """A region in the form that is evaluated: shrunk constants and the channel axis.

    `rank` is the source's, `axis` the channel axis or None, `channels` its size (1 for None).
    """

    source: str
    result: str
    nodes: tuple[onnx.NodeProto, ...]
    rank: int
    axis: int | None
    channels: int
    constants: dict[str, np.ndarray]

    def structure(self) -> bytes:
        """Equal for regions that differ in names and in the values of constants alone."""
        names = self.names()
        parts: list[object] = [self.rank, self.axis]
        for node in self.nodes:
            attributes = sorted(a.SerializeToString() for a in node.attribute)
            parts.append((node.op_type, [names.get(i, "") for i in node.input], attributes))
        parts.append([(a.shape, a.dtype.str) for a in self.constants.values()])
        return repr(parts).encode()

    def signature(self) -> bytes:
        """Equal for regions that compute the same function."""
        values = b"".join(a.tobytes() for a in self.constants.values())
        return self.structure() + repr(self.channels).encode() + values

    def names(self) -> dict[str, str]:
        """Tensor names that depend on the structure alone: x, c0, c1 ..., t0, t1 ..."""
        names = {self.source: "x"}
        names |= {name: f"c{i}" for i, name in enumerate(self.constants)}
        return names | {n.output[0]: f"t{i}" for i, n in enumerate(self.nodes)}


def make_region(graph: Graph, source: str, result: str, nodes: Iterable[onnx.NodeProto]) -> Region:
    """Shrink the constants of a region and find its channel axis.

    Raises NotPerChannel where they differ along two axes or along one that cannot be probed.
    """
    nodes = tuple(nodes)
    shape = graph.shape(source)
    assert shape is not None
    rank = len(shape)
    varying: set[int] = set()
    constants: dict[str, np.ndarray] = {}
    for node in nodes:
        if node.op_type == "BatchNormalization":
            for name in node.input[1:]:
                constants[name] = _constant(graph, name)
            varying.add(1)
            continue
        scalar_inputs = node.op_type == "Clip"
        for position, name in enumerate(node.input):
            if not name or not graph.is_constant(name):
                continue
            array = _constant(graph, name)
            if not (scalar_inputs and position):
                array, axes = _shrink(array, rank)
                varying |= axes
            constants[name] = array
    if len(varying) > 1:
        raise NotPerChannel(f"constants differ along axes {sorted(varying)}")
    axis = varying.pop() if varying else None
    if axis is not None and rank < 2:
        raise NotPerChannel("constants differ along the only axis")
    channels = shape[axis] if axis is not None else 1
    return Region(source, result, nodes, max(rank, 1), axis, channels, constants)


def _constant(graph: Graph, name: str) -> np.ndarray:
    array = graph.constant(name)
    assert array is not None
    return array


def _shrink(array: np.ndarray, rank: int) -> tuple[np.ndarray, set[int]]:
    """Collapse axes along which the constant does not change; name those that stay."""
    offset = rank - array.ndim
    varying = set()
    for axis in range(array.ndim):
        if array.shape[axis] <= 1:
            continue
        first = array.take([0], axis=axis)
        if (array == first).all():
            array = first
        else:
            varying.add(axis + offset)
    return np.ascontiguousarray(array), varying


class Sessions:
    """onnxruntime sessions by structure: constants are inputs, so that layers share them."""

    def __init__(self) -> None:
        self._made: dict[tuple[bytes, bool, bool], tuple[Any, list[str], list[bool]]] = {}

    def __len__(self) -> int:
        """How many sessions were made."""
        return len(self._made)

    def get(
        self, graph: Graph, region: Region, *, double: bool = False, search: bool = True
    ) -> tuple[Any, list[str], list[bool]]:
        """A session, the Sign variants it computes, and for each state whether it is exact."""
        key = (region.structure(), double, search)
        if key not in self._made:
            builder = _Builder(graph, region, double)
            signs = search and any(n.op_type == "Sign" for n in region.nodes)
            variants = list(ZERO_VARIANTS if signs else ZERO_VARIANTS[:1])
            results = [builder.add(variant) for variant in variants]
            states = builder.states() if search and not double else []
            try:
                session = builder.session(results, [name for name, _ in states])
            except Exception as problem:  # its errors have no base class of their own
                kinds = ", ".join(dict.fromkeys(n.op_type for n in region.nodes))
                raise NotEvaluable(f"cannot be evaluated: {kinds}") from problem
            self._made[key] = (session, variants, [exact for _, exact in states])
        return self._made[key]


class Evaluator:
    """Evaluates a region on probes, with onnxruntime's optimiser off.

    With `search`, all variants of sign(0) are computed, and a hash of the values at which the
    function may break, for the search of its pieces. `double` computes in float64, to tell
    rounding from function.
    """

    def __init__(
        self,
        graph: Graph,
        region: Region,
        sessions: Sessions,
        *,
        double: bool = False,
        search: bool = True,
    ) -> None:
        _refuse_integer_division(graph, region)
        self.region = region
        self.dtype = np.float64 if double else np.float32
        self._session, self.variants, self._exact = sessions.get(
            graph, region, double=double, search=search
        )
        self._feeds = {
            f"c{i}": a.astype(np.float64) if double and a.dtype.kind == "f" else a
            for i, a in enumerate(region.constants.values())
        }

    def __call__(self, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray | None]:
        """Values of every variant, [probes, channels], and a hash of the discrete state.

        x is [probes, channels] in the evaluator's dtype.
        """
        axis, rank = self.region.axis, self.region.rank
        shape = [1] * rank
        probes, channels = x.shape
        along = 1 if axis == 0 else 0
        shape[along] = probes
        if axis is not None:
            shape[axis] = channels
        flip = axis is not None and axis < along
        feed = (x.T if flip else x).reshape(shape)
        feeds = {"x": np.ascontiguousarray(feed, self.dtype), **self._feeds}
        try:
            raw = self._session.run(None, feeds)
        except Exception as problem:  # its errors have no base class of their own
            raise NotEvaluable("fails for some inputs") from problem

        def back(y: np.ndarray) -> np.ndarray:
            y = np.broadcast_to(y, shape)
            return y.reshape(channels, probes).T if flip else y.reshape(probes, channels)

        count = len(self.variants)
        values = [back(y) for y in raw[:count]]
        if not self._exact:
            return values, None
        state = np.zeros((probes, channels), np.int64)
        for index, (y, exact) in enumerate(zip(raw[count:], self._exact, strict=True)):
            state += _discrete(back(y), exact) * np.int64((2 * index + 1) * 0x9E3779B97F4A7)
        return values, state


def _refuse_integer_division(graph: Graph, region: Region) -> None:
    """Raise NotEvaluable where integers may be divided by 0 or -1: both can end the process."""
    for node in region.nodes:
        if node.op_type in ("Div", "Mod") and graph.elem_type(node.output[0]) not in _FLOAT_TYPES:
            divisor = region.constants.get(node.input[1])
            if divisor is None or ((divisor == 0) | (divisor == -1)).any():
                raise NotEvaluable("divides integers by what may be 0 or -1")


def _discrete(y: np.ndarray, exact: bool) -> np.ndarray:
    if exact or y.dtype.kind != "f":
        y = y.astype(np.float32, copy=False)
        return (y + np.float32(0)).view(np.int32).astype(np.int64)
    return (y > 0).astype(np.int64) - (y < 0) + 2 * np.isnan(y)


class _Builder:
    """Makes the little model: region nodes, constants as inputs, Sign variants."""

    def __init__(self, graph: Graph, region: Region, double: bool) -> None:
        self.graph = graph
        self.region = region
        self.double = double
        self.names = region.names()
        self.nodes: list[onnx.NodeProto] = []
        self.type = TensorProto.DOUBLE if double else TensorProto.FLOAT
        dtype = np.float64 if double else np.float32
        self.initializers = [
            numpy_helper.from_array(np.array(value, dtype), f"k:{name}")
            for value, name in ((1.0, "one"), (-1.0, "minus_one"), (0.0, "zero"))
        ]

    def add(self, variant: str) -> str:
        """Add the region's nodes with sign(0) as `variant` says; the name of its result."""
        names = self.names

        def renamed(name: str) -> str:
            new = names.get(name, "")
            return f"{new}{variant}" if new.startswith("t") else new

        for node in self.region.nodes:
            new = onnx.NodeProto()
            new.CopyFrom(node)
            del new.input[:], new.output[:]
            new.input.extend(renamed(i) for i in node.input)
            new.output.append(renamed(node.output[0]))
            new.name = new.output[0]
            if self.double and new.op_type == "Cast":
                for a in new.attribute:
                    if a.name == "to" and a.i in _FLOAT_TYPES:
                        a.i = TensorProto.DOUBLE
            if variant and new.op_type == "Sign":
                self._sign(new, variant)
            else:
                self.nodes.append(new)
        return renamed(self.region.result)

    def _sign(self, node: onnx.NodeProto, variant: str) -> None:
        x, out = node.input[0], node.output[0]
        compare = "GreaterOrEqual" if variant == "plus" else "Greater"
        self.nodes.append(helper.make_node(compare, [x, "k:zero"], [out + "?"]))
        self.nodes.append(helper.make_node("Where", [out + "?", "k:one", "k:minus_one"], [out]))

    def states(self) -> list[tuple[str, bool]]:
        """Tensors whose sign (or, where True, whose value) tells the pieces of the function.

        The sign of a float counts where an op with a kink or a pole at 0 reads it; elsewhere it
        would be the noise of a straight-through sum.
        """
        constants = self.region.constants
        kinked = {
            name
            for node in self.region.nodes
            if node.op_type in _KINKED
            or (node.op_type == "Mul" and not any(i in constants for i in node.input))
            for name in node.input
        }
        states = []
        for node in self.region.nodes:
            name = node.output[0]
            exact = self.graph.elem_type(name) not in _FLOAT_TYPES or node.op_type in _DISCRETE
            if exact or name in kinked:
                states.append((self.names[name], exact))
        return states

    def session(self, results: list[str], states: list[str]) -> Any:
        """An onnxruntime session with the results first, then the states, as outputs."""
        import onnxruntime as ort

        region = self.region
        info = helper.make_tensor_value_info
        inputs = [info("x", self.type, [None] * region.rank)]
        for i, array in enumerate(region.constants.values()):
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            if self.double and array.dtype.kind == "f":
                kind = TensorProto.DOUBLE
            inputs.append(info(f"c{i}", kind, [None] * array.ndim))
        nodes = [*self.nodes]
        nodes += [helper.make_node("Identity", [n], [f"r{i}"]) for i, n in enumerate(results)]
        outputs = [info(f"r{i}", self.type, None) for i in range(len(results))]
        outputs += [onnx.ValueInfoProto(name=n) for n in states]
        model = helper.make_model(
            helper.make_graph(nodes, "region", inputs, outputs, self.initializers),
            opset_imports=[helper.make_opsetid("", self.graph.opset)],
            ir_version=min(self.graph.model.ir_version or 8, 10),
        )
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
