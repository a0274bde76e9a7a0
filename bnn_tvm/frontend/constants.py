"""One way to hold a constant: an initializer that is not listed as an input."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend.graph import ONNX_DOMAINS, replace, where

_FORMS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def constants_to_initializers(model: onnx.ModelProto) -> None:
    """Turn Constant nodes into initializers and take initializers out of the graph's inputs.

    Raises ModelError for constants that hold strings or sparse tensors.
    """
    graph = model.graph
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ONNX_DOMAINS:
            _add_initializer(graph, node)
        else:
            nodes.append(node)
    if len(nodes) < len(graph.node):
        replace(graph.node, nodes)
    held = {tensor.name for tensor in graph.initializer}
    replace(graph.input, [value for value in graph.input if value.name not in held])


def _add_initializer(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    for attr in node.attribute:
        if attr.name == "value" and attr.HasField("t"):
            tensor = graph.initializer.add()
            tensor.CopyFrom(attr.t)
            tensor.name = node.output[0]
            return
        if attr.name in _FORMS:
            value = onnx.helper.get_attribute_value(attr)
            array = np.asarray(value, _FORMS[attr.name])
            graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
            return
    held = ", ".join(attr.name for attr in node.attribute) or "nothing"
    raise ModelError(
        f"{where(node)} holds {held}; only dense numbers can be compiled",
        node=node.output[0],
        hint="export the constant as a dense tensor",
    )
