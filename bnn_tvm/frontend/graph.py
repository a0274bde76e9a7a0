"""Small questions asked of an ONNX graph by every step of the front end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx import helper

ONNX_DOMAINS = ("", "ai.onnx")

# Tensors up to this size travel with the graph through onnx's own tools, which serialise the whole
# model; only their contents can matter to shapes. Larger ones are weights and stay behind.
SMALL_BYTES = 4096

# No tensor of a network for a device has more elements; beyond it a file is wrong or hostile.
MAX_ELEMENTS = 1 << 28

# A network of thousands of layers has some tens of thousands of nodes.
MAX_NODES = 200_000

Shape = tuple[int, ...]


def printable(name: str, limit: int = 120) -> str:
    """A name out of a file, fit for a message: no control characters, of readable length."""
    name = "".join(c if c.isprintable() else "?" for c in name[: limit + 1])
    return name if len(name) <= limit else name[: limit - 3] + "..."


def first_output(node: onnx.NodeProto) -> str:
    """The name a node goes by: its first output, or its own name if it has none."""
    return next((name for name in node.output if name), node.name)


def where(node: onnx.NodeProto) -> str:
    """How messages name a node: its operator and its first output."""
    op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return printable(f"{op} -> {first_output(node)}")


def listing(items: Iterable[str], limit: int = 20) -> str:
    """`items` joined for a message, at most `limit` of them, each cut to a readable length."""
    items = [printable(item, 160) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """Value of the attribute `name` of `node`, or `default`."""
    for candidate in node.attribute:
        if candidate.name == name:
            return helper.get_attribute_value(candidate)
    return default


def has_subgraph(node: onnx.NodeProto) -> bool:
    """Whether `node` holds a graph of its own (If, Loop, Scan, ...)."""
    return any(attr.HasField("g") or attr.graphs for attr in node.attribute)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that the elements of `tensor` take, by its dims and type, not by what it holds."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return 16 * elements(tensor.dims)
    return elements(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def elements(shape: Iterable[int]) -> int:
    """Number of elements of a tensor of this shape."""
    count = 1
    for extent in shape:
        count *= extent
    return count


def static_shape(info: onnx.ValueInfoProto) -> Shape | None:
    """The shape of a value, None unless its rank and every dimension are known."""
    if not info.type.HasField("tensor_type") or not info.type.tensor_type.HasField("shape"):
        return None
    dims = info.type.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
        return None
    return tuple(dim.dim_value for dim in dims)


def opset_version(model: onnx.ModelProto) -> int:
    """Version of the standard operators that `model` imports, 0 if it imports none."""
    return max((o.version for o in model.opset_import if o.domain in ONNX_DOMAINS), default=0)


def replace(repeated: object, items: Sequence[object]) -> None:
    """Make a repeated protobuf field hold `items` (which may come from that field)."""
    kept = list(items)
    del repeated[:]  # type: ignore[attr-defined]
    repeated.extend(kept)  # type: ignore[attr-defined]


def keep_initializers(graph: onnx.GraphProto, names: set[str]) -> None:
    """Drop the initializers that are not in `names`, without copying those that stay."""
    for index in range(len(graph.initializer) - 1, -1, -1):
        if graph.initializer[index].name not in names:
            del graph.initializer[index]


def drop_dead_nodes(graph: onnx.GraphProto) -> int:
    """Remove nodes and initializers that no output needs; return how many nodes went.

    The nodes must be in topological order.
    """
    needed = {output.name for output in graph.output}
    alive = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output if name):
            alive.append(node)
            needed |= reads(node)
    dropped = len(graph.node) - len(alive)
    if dropped:
        replace(graph.node, alive[::-1])
    keep_initializers(graph, needed)
    return dropped


def reads(node: onnx.NodeProto) -> set[str]:
    """Tensors of the main graph that a node needs, captures of its subgraphs included."""
    names = {name for name in node.input if name}
    pending = graphs_of(node)
    inner: set[str] = set()
    used: set[str] = set()
    while pending:
        graph = pending.pop()
        inner |= {v.name for v in graph.input} | {t.name for t in graph.initializer}
        used |= {o.name for o in graph.output}
        for child in graph.node:
            inner |= set(child.output)
            used |= {name for name in child.input if name}
            pending += graphs_of(child)
    return names | (used - inner)


def graphs_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node's attributes hold."""
    graphs = [attr.g for attr in node.attribute if attr.HasField("g")]
    return graphs + [graph for attr in node.attribute for graph in attr.graphs]


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` without its large initializers, which become graph inputs of the same type.

    What onnx's C++ tools get to see: they copy the model several times and refuse 2 GB.
    """
    copy = onnx.ModelProto(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    copy.graph.name = model.graph.name or "graph"
    copy.graph.input.extend(model.graph.input)
    for tensor in model.graph.initializer:
        if tensor_bytes(tensor) <= SMALL_BYTES:
            copy.graph.initializer.append(tensor)
        else:
            copy.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    copy.graph.node.extend(model.graph.node)
    copy.graph.output.extend(model.graph.output)
    copy.graph.value_info.extend(model.graph.value_info)
    return copy
