"""What must hold of a graph before any tool may be trusted with it; linear in the file's size."""

from __future__ import annotations

import re
from collections import Counter, deque

import onnx
from onnx import TensorProto, checker, helper

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend.graph import (
    MAX_ELEMENTS,
    MAX_NODES,
    elements,
    first_output,
    listing,
    printable,
    reads,
    replace,
    skeleton,
    tensor_bytes,
    where,
)

_DAMAGED = "the file is damaged or its exporter is; export the model again"

_PACKED = (
    TensorProto.INT4,
    TensorProto.UINT4,
    TensorProto.FLOAT4E2M1,
    TensorProto.INT2,
    TensorProto.UINT2,
)

_TYPED_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.STRING: "string_data",
}


def check_structure(model: onnx.ModelProto) -> None:
    """Refuse graphs that contradict themselves: names, edges, cycles, sizes of constants.

    Sorts the nodes topologically when they are not, and names each after its output. Raises
    ModelError with all problems found.
    """
    graph = model.graph
    if len(graph.node) > MAX_NODES:
        raise ModelError(
            f"the model has {len(graph.node)} nodes",
            hint=f"at most {MAX_NODES} nodes can be compiled",
        )
    problems = [*_bad_tensors(model), *_bad_inputs(graph), *_bad_names(graph)]
    if problems:
        raise ModelError(f"the model is not valid ONNX: {listing(problems, 10)}", hint=_DAMAGED)
    _sort(graph)
    for node in graph.node:  # messages of onnx and onnxruntime speak of node names
        node.name = first_output(node)


def check_with_onnx(model: onnx.ModelProto) -> None:
    """onnx's own checker, on everything but the large weights; raises ModelError.

    Types and shapes of outputs, which inference finds, and shapes of inputs, which the user may
    give, need not be there, though the checker would ask for them.
    """
    bare = skeleton(model)
    del bare.graph.value_info[:]
    for value in (*bare.graph.input, *bare.graph.output):
        value.type.tensor_type.shape.SetInParent()
        value.type.tensor_type.elem_type = value.type.tensor_type.elem_type or TensorProto.FLOAT
    try:
        checker.check_model(bare, full_check=False)
    except Exception as error:  # the checker raises ValidationError and, rarely, bare C++ errors
        raise ModelError(
            f"the model is not valid ONNX: {first_lines(error)}",
            node=blamed_node(error),
            hint="run onnx.checker.check_model on it; export the model again",
        ) from error


def first_lines(error: BaseException, limit: int = 400) -> str:
    """An error of a C++ library in one line of readable length."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    text = text.split("==> Context")[0].strip()
    return text if len(text) <= limit else text[: limit - 3] + "..."


def blamed_node(error: BaseException) -> str | None:
    """The name of the node that onnx's checker or shape inference complains about."""
    for pattern in (r"node name: (.*?)\)?:", r"Bad node spec for node\. Name: (.*?) OpType"):
        found = re.search(pattern, str(error))
        if found and found[1]:
            return printable(found[1])
    return None


def constants_in(node: onnx.NodeProto) -> list[TensorProto]:
    """Tensors held by the attributes of a node."""
    return [attr.t for attr in node.attribute if attr.HasField("t")]


def _bad_tensors(model: onnx.ModelProto) -> list[str]:
    """Constants whose size, type and data do not agree, before anything allocates them."""
    graph = model.graph
    problems = [f"sparse initializer {s.values.name!r}" for s in graph.sparse_initializer]
    held = [(t.name, t) for t in graph.initializer]
    held += [(where(node), t) for node in graph.node for t in constants_in(node)]
    for name, tensor in held:
        problem = _bad_tensor(tensor)
        if problem:
            problems.append(f"constant {name!r} {problem}")
    return problems


def _bad_tensor(tensor: TensorProto) -> str | None:
    if any(extent < 0 for extent in tensor.dims):
        return f"has negative dimensions {list(tensor.dims)[:8]}"
    if len(tensor.dims) > 64 or elements(tensor.dims) > 8 * MAX_ELEMENTS:
        return f"claims the impossible shape {list(tensor.dims)[:8]}"
    if tensor.data_type == TensorProto.STRING:
        return None
    try:
        helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, TypeError, ValueError):
        return f"has the unknown element type {tensor.data_type}"
    if tensor.data_type in _PACKED:
        return None  # types of less than a byte are packed; onnx's checker counts them
    count = elements(tensor.dims)
    if tensor.HasField("raw_data"):
        have, want, unit = len(tensor.raw_data), tensor_bytes(tensor), "bytes"
    else:
        field = _TYPED_FIELDS.get(tensor.data_type, "int32_data")
        complex_types = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
        if tensor.data_type in complex_types:
            return "has complex elements"
        have, want, unit = len(getattr(tensor, field)), count, "elements"
    if have != want:
        return f"of shape {list(tensor.dims)} needs {want} {unit} and holds {have}"
    return None


def _bad_inputs(graph: onnx.GraphProto) -> list[str]:
    problems = []
    constants = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name in constants:
            continue
        if not value.type.HasField("tensor_type"):
            kind = value.type.WhichOneof("value") or "nothing"
            problems.append(f"input {value.name!r} is no tensor ({kind})")
            continue
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value > MAX_ELEMENTS:
                problems.append(f"input {value.name!r} has a dimension of {dim.dim_value}")
    if not graph.output:
        problems.append("the graph has no outputs")
    return problems


def _bad_names(graph: onnx.GraphProto) -> list[str]:
    """Tensors defined twice, and tensors used but never defined."""
    defined = Counter(v.name for v in graph.input)
    initializers = Counter(t.name for t in graph.initializer)
    made = Counter(name for node in graph.node for name in node.output if name)
    problems = []
    for name in {**defined, **initializers, **made}:
        # An initializer listed as an input too is how files before IR 4 spell every constant.
        if made[name] + max(defined[name], initializers[name]) > 1:
            problems.append(f"tensor {name!r} is defined more than once")
    problems += [
        f"output {name!r} is listed more than once"
        for name, count in Counter(o.name for o in graph.output).items()
        if count > 1
    ]
    known = {**defined, **initializers, **made}
    for node in graph.node:
        for name in reads(node):
            if name not in known:
                problems.append(f"{where(node)} reads {name!r}, which nothing produces")
    problems += [
        f"output {o.name!r} is produced by nothing" for o in graph.output if o.name not in known
    ]
    return problems


def _sort(graph: onnx.GraphProto) -> None:
    """Put the nodes into topological order (Kahn), keeping the given order where it is one."""
    available = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    users: dict[int, list[int]] = {}
    waiting = []
    for index, node in enumerate(graph.node):
        sources = {producer[name] for name in reads(node) if name not in available}
        waiting.append(len(sources))
        for source in sources:
            users.setdefault(source, []).append(index)
    ready = deque(index for index, count in enumerate(waiting) if count == 0)
    order: list[int] = []
    while ready:
        index = ready.popleft()
        order.append(index)
        for user in users.get(index, ()):
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    if len(order) < len(graph.node):
        stuck = [where(graph.node[i]) for i, count in enumerate(waiting) if count]
        raise ModelError(
            f"the graph has a cycle through or before {listing(stuck, 8)}", hint=_DAMAGED
        )
    if _unsorted(graph, producer, available):
        replace(graph.node, [graph.node[i] for i in order])


def _unsorted(graph: onnx.GraphProto, producer: dict[str, int], available: set[str]) -> bool:
    return any(
        producer[name] >= index
        for index, node in enumerate(graph.node)
        for name in reads(node)
        if name not in available
    )
