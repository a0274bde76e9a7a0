"""Evaluate a region of elementwise nodes as a scalar function per channel, as onnxruntime does.

The region's source is replaced by a probe tensor whose axes have size one but for two: the
channel axis, the only axis along which the region's constants may differ, and one axis that
carries the probes. Plain Sign nodes give 0 for 0; the region is therefore built up to three
times: as it stands, and with sign(0) taken as +1 and as -1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bnn_tvm.recognize.graph import Graph

ZERO_VARIANTS = ("", "plus", "minus")
_FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_DISCRETE = ("Sign", "Round", "Floor", "Ceil")


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

    def signature(self) -> bytes:
        """Equal for regions that compute the same function, whatever their tensors are called."""
        names = {self.source: "x"}
        parts: list[object] = [self.rank, self.axis, self.channels]
        for index, node in enumerate(self.nodes):
            inputs = []
            for name in node.input:
                if name in self.constants:
                    array = self.constants[name]
                    inputs.append((array.shape, array.dtype.str, array.tobytes()))
                else:
                    inputs.append(names.get(name, ""))
            attributes = sorted(a.SerializeToString() for a in node.attribute)
            parts.append((node.op_type, inputs, attributes))
            names[node.output[0]] = f"t{index}"
        return repr(parts).encode()


def make_region(
    graph: Graph, source: str, result: str, nodes: Iterable[onnx.NodeProto]
) -> Region:
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


class Evaluator:
    """One onnxruntime session (optimiser off) that evaluates a region on probes.

    `states` adds the values at which the function may break, for the search of its pieces.
    `double` computes in float64, to tell rounding from function.
    """

    def __init__(self, graph: Graph, region: Region, *, double: bool = False) -> None:
        self.region = region
        self.dtype = np.float64 if double else np.float32
        self.variants = (
            ZERO_VARIANTS if any(n.op_type == "Sign" for n in region.nodes) else ZERO_VARIANTS[:1]
        )
        builder = _Builder(graph, region, double)
        self.results = [builder.add(variant) for variant in self.variants]
        self.state_names = [] if double else builder.state_names()
        self._session = builder.session(self.results, self.state_names)

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
        with np.errstate(all="ignore"):
            raw = self._session.run(None, {"x": np.ascontiguousarray(feed, self.dtype)})

        def back(y: np.ndarray) -> np.ndarray:
            y = np.broadcast_to(y, shape)
            return y.reshape(channels, probes).T if flip else y.reshape(probes, channels)

        values = [back(y) for y in raw[: len(self.results)]]
        if not self.state_names:
            return values, None
        state = np.zeros((probes, channels), np.int64)
        for index, y in enumerate(raw[len(self.results) :]):
            exact = self.state_names[index][1]
            state += _discrete(back(y), exact) * np.int64(2 * index + 1) * np.int64(0x9E3779B97F4A7C1)
        return values, state


def _discrete(y: np.ndarray, exact: bool) -> np.ndarray:
    if exact or y.dtype.kind != "f":
        y = y.astype(np.float32, copy=False)
        return (y + np.float32(0)).view(np.int32).astype(np.int64)
    with np.errstate(invalid="ignore"):
        sign = np.sign(y)
    return np.where(np.isnan(sign), 2, sign).astype(np.int64)


class _Builder:
    """Makes the little model: region nodes, shrunk constants, Sign variants."""

    def __init__(self, graph: Graph, region: Region, double: bool) -> None:
        self.graph = graph
        self.region = region
        self.double = double
        self.nodes: list[onnx.NodeProto] = []
        self.type = TensorProto.DOUBLE if double else TensorProto.FLOAT
        self.initializers = [
            numpy_helper.from_array(self._cast(a), f"c:{n}") for n, a in region.constants.items()
        ]
        for value, name in ((1.0, "one"), (-1.0, "minus_one"), (0.0, "zero")):
            array = np.array(value, np.float64 if double else np.float32)
            self.initializers.append(numpy_helper.from_array(array, f"k:{name}"))

    def _cast(self, array: np.ndarray) -> np.ndarray:
        return array.astype(np.float64) if self.double and array.dtype.kind == "f" else array

    def add(self, variant: str) -> str:
        region = self.region
        names = {region.source: "x"} | {n: f"c:{n}" for n in region.constants}
        for node in region.nodes:
            new = onnx.NodeProto()
            new.CopyFrom(node)
            out = f"{variant}:{node.output[0]}"
            del new.input[:], new.output[:]
            new.input.extend(names[i] if i else "" for i in node.input)
            new.output.append(out)
            new.name = out
            names[node.output[0]] = out
            if self.double and new.op_type == "Cast":
                for a in new.attribute:
                    if a.name == "to" and a.i in _FLOAT_TYPES:
                        a.i = TensorProto.DOUBLE
            if variant and new.op_type == "Sign":
                self._sign(new, variant)
            else:
                self.nodes.append(new)
        return names[region.result]

    def _sign(self, node: onnx.NodeProto, variant: str) -> None:
        x, out = node.input[0], node.output[0]
        compare = "GreaterOrEqual" if variant == "plus" else "Greater"
        self.nodes.append(helper.make_node(compare, [x, "k:zero"], [out + "?"]))
        self.nodes.append(helper.make_node("Where", [out + "?", "k:one", "k:minus_one"], [out]))

    def state_names(self) -> list[tuple[str, bool]]:
        """Tensors whose sign (or, where True, whose value) tells the pieces of the function."""
        names = []
        for node in self.region.nodes:
            kind = self.graph.elem_type(node.output[0])
            exact = kind not in _FLOAT_TYPES or node.op_type in _DISCRETE
            names.append((f":{node.output[0]}", exact))
        return names

    def session(self, results: list[str], states: list[tuple[str, bool]]) -> object:
        import onnxruntime as ort

        rank = self.region.rank
        outputs = [helper.make_tensor_value_info(f"r:{i}", self.type, None) for i in range(len(results))]
        nodes = [*self.nodes]
        nodes += [helper.make_node("Identity", [n], [f"r:{i}"]) for i, n in enumerate(results)]
        taken = dict.fromkeys(n for n, _ in states)
        outputs += [onnx.ValueInfoProto(name=n) for n in taken]
        little = helper.make_graph(
            nodes,
            "region",
            [helper.make_tensor_value_info("x", self.type, [None] * rank)],
            outputs,
            self.initializers,
        )
        model = helper.make_model(
            little,
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
