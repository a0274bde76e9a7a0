"""A use-def index of one ONNX graph: producers, users, constants, shapes, element types."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

FLOAT = onnx.TensorProto.FLOAT


class Graph:
    """Read-only index of a clean model (see frontend.prepare: static shapes, sorted nodes)."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.initializers = {t.name: t for t in graph.initializer}
        self.outputs = {o.name for o in graph.output}
        self.inputs = {i.name for i in graph.input if i.name not in self.initializers}
        self.producer: dict[str, onnx.NodeProto] = {}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.output:
                if name:
                    self.producer[name] = node
            for name in dict.fromkeys(node.input):
                if name:
                    self.users.setdefault(name, []).append(node)
        self._arrays: dict[str, np.ndarray] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, int] = {}
        for info in (*graph.value_info, *graph.input, *graph.output):
            tensor = info.type.tensor_type
            self._types[info.name] = tensor.elem_type
            if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
                self._shapes[info.name] = tuple(d.dim_value for d in tensor.shape.dim)
        for t in graph.initializer:
            self._types[t.name] = t.data_type
            self._shapes[t.name] = tuple(t.dims)

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return next(o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx"))

    def constant(self, name: str) -> np.ndarray | None:
        """The value of an initializer, None for everything else. Do not write to it."""
        if name not in self.initializers:
            return None
        if name not in self._arrays:
            self._arrays[name] = numpy_helper.to_array(self.initializers[name])
        return self._arrays[name]

    def is_constant(self, name: str) -> bool:
        """Whether the tensor is an initializer."""
        return name in self.initializers

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Static shape, None where it is not known."""
        return self._shapes.get(name)

    def elem_type(self, name: str) -> int:
        """TensorProto data type, 0 where it is not known."""
        return self._types.get(name, 0)

    def describe(self, name: str) -> str:
        """What a tensor is, for reasons: the op that makes it, or the model's input."""
        node = self.producer.get(name)
        if node is not None:
            return node.op_type
        return "a constant" if name in self.initializers else "the model's input"


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value (lists as lists, strings as str), or the default."""
    for a in node.attribute:
        if a.name == name:
            value = onnx.helper.get_attribute_value(a)
            return value.decode() if isinstance(value, bytes) else value
    return default


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether the node's operator is one of ONNX's own."""
    return node.domain in ("", "ai.onnx")
