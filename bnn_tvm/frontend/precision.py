"""One float type inside: networks of float16, bfloat16 or double are computed in float32.

Kernels, thresholds and scales are float32. Inputs and outputs keep their types, with a Cast behind
or before. The results differ from the original's by rounding, which a note says.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bnn_tvm.frontend.graph import attribute, replace

_OTHER_FLOATS: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "double",
}
_FLOATS = (*_OTHER_FLOATS, TensorProto.FLOAT)


def use_float32(
    model: onnx.ModelProto, known: dict[str, onnx.ValueInfoProto]
) -> tuple[dict[str, str], str | None]:
    """Compute in float32 what `model` computes in another float type.

    known: the type of every tensor. Returns the tensors that got another name (graph inputs and
    outputs of such types keep theirs, the float32 values beside them need new ones) and a note.
    """
    graph = model.graph
    dtypes = {name: value.type.tensor_type.elem_type for name, value in known.items()}
    dtypes.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    found = {_OTHER_FLOATS[dtype] for dtype in dtypes.values() if dtype in _OTHER_FLOATS}
    if not found:
        return {}, None
    for tensor in graph.initializer:
        if tensor.data_type in _OTHER_FLOATS:
            with np.errstate(over="ignore"):
                array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node in graph.node:
        if node.op_type == "Cast" and attribute(node, "to") in _FLOATS:
            _cast_to_float32(node, from_float=dtypes.get(node.input[0]) in _FLOATS)
    renamed = _keep_interface(graph, dtypes)
    names = " and ".join(sorted(found))
    note = f"the model's {names} tensors are computed in float32: results differ by rounding"
    return renamed, note


def _cast_to_float32(node: onnx.NodeProto, from_float: bool) -> None:
    del node.attribute[:]
    if from_float:
        node.op_type = "Identity"
    else:
        node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))


def _keep_interface(graph: onnx.GraphProto, dtypes: dict[str, int]) -> dict[str, str]:
    """Casts at the inputs and outputs, which keep names and types; old -> new name inside."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [v.name for v in graph.input if dtypes[v.name] in _OTHER_FLOATS]
    made = [
        output.name
        for output in graph.output
        if dtypes[output.name] in _OTHER_FLOATS and output.name not in constants
    ]
    outputs = [name for name in made if name not in inputs]
    inside: dict[str, str] = {}
    for name in (*inputs, *outputs):
        fresh = f"{name}_float32"
        while fresh in dtypes:
            fresh += "_"
        inside[name] = fresh
    for node in graph.node:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = inside.get(name, name)
    first = [helper.make_node("Cast", [n], [inside[n]], to=TensorProto.FLOAT) for n in inputs]
    last = [helper.make_node("Cast", [inside[n]], [n], to=dtypes[n]) for n in outputs]
    replace(graph.node, [*first, *graph.node, *last])
    for tensor in graph.initializer:
        if any(o.name == tensor.name for o in graph.output) and tensor.name in dtypes:
            _restore_type(tensor, dtypes[tensor.name])
    return {name: inside[name] for name in outputs}


def _restore_type(tensor: onnx.TensorProto, dtype: int) -> None:
    """A constant that is a graph output keeps its type."""
    array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(dtype))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
