"""The walk over the graph: one table says which converter takes which operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from tvm import relax
from tvm.ir import IRModule
from tvm.target import Target

from bnn_tvm.importer import bits, elementwise, head, layers, pool, reduce, structure
from bnn_tvm.importer.builder import Builder
from bnn_tvm.importer.generic import generic
from bnn_tvm.importer.value import Value, natural
from bnn_tvm.passes.graph import BNN_DOMAIN, constant, shape_of

Converter = Callable[..., "list[Value] | Value | None"]

# A converter that returns None leaves the node to the generic one.
CONVERTERS: dict[tuple[str, str], Converter] = {
    (BNN_DOMAIN, "Binarize"): layers.binarize,
    (BNN_DOMAIN, "BinaryConv"): layers.binary_conv,
    (BNN_DOMAIN, "BinaryDense"): layers.binary_dense,
    ("", "Conv"): layers.conv,
    ("", "Gemm"): layers.gemm,
    ("", "MatMul"): layers.matmul,
    ("", "MaxPool"): pool.pool,
    ("", "AveragePool"): pool.pool,
    ("", "GlobalAveragePool"): pool.global_pool,
    ("", "GlobalMaxPool"): pool.global_pool,
    ("", "Transpose"): structure.transpose,
    ("", "Reshape"): structure.reshape,
    ("", "Flatten"): structure.reshape,
    ("", "Squeeze"): structure.reshape,
    ("", "Unsqueeze"): structure.reshape,
    ("", "Concat"): structure.concat,
    ("", "Pad"): structure.pad,
    ("", "Split"): structure.split,
    ("", "Slice"): structure.slices,
    ("", "Gather"): structure.gather,
    ("", "Softmax"): head.softmax,
    **{("", op): reduce.reduce for op in reduce.REDUCTIONS},
    **{("", op): elementwise.unary for op in elementwise.UNARY},
    **{("", op): elementwise.broadcast for op in elementwise.BROADCAST},
}
# What a layer's time is charged as.
KINDS = {"BinaryConv": "binary-conv", "BinaryDense": "binary-dense", "Gemm": "dense"}


@dataclass(frozen=True)
class Imported:
    """A Relax module whose `main` takes the ONNX inputs and returns a tuple of the outputs.

    `origins` maps the name of a binding to its (layer, kind); `opaque` names the PrimFuncs that
    fuse with nothing.
    """

    module: IRModule
    origins: dict[str, tuple[str, str]]
    opaque: frozenset[str]


def import_graph(model: ir.Model, target: Target, winograd: bool = True) -> Imported:
    """Translate a recognised graph whose shapes are static.

    Without `winograd`, float convolutions add up plain products.

    Raises
    ------
    ModelError: TVM's importer does not take a node.
    """
    graph = model.graph
    b = Builder(target, winograd)
    parameters = []
    for index, value in enumerate(graph.inputs):
        dtype = value.dtype.numpy().name if value.dtype is not None else "float32"
        var = relax.Var(f"input{index}", relax.TensorType(shape_of(value), dtype))
        parameters.append(var)
        b.values[str(value.name)] = b.new(var, shape_of(value), dtype, natural(var.ty.ndim))
    with b.bb.function("main", parameters):
        with b.bb.dataflow():
            for node in graph:
                _convert_node(b, node)
            outputs = relax.Tuple([_output(b, value) for value in graph.outputs])
            result = b.bb.emit_output(outputs)
        b.bb.emit_func_output(result)
    return Imported(b.bb.get(), b.origins, frozenset(b.opaque))


def _convert_node(b: Builder, node: ir.Node) -> None:
    b.begin(node, KINDS.get(node.op_type, node.op_type.lower()))
    inputs = [_input(b, value) for value in node.inputs]
    while inputs and inputs[-1] is None:
        inputs.pop()
    converter = CONVERTERS.get((node.domain, node.op_type))
    results: list[Value] | Value | None = None
    if inputs and inputs[0] is not None and inputs[0].bits is not None:
        results = bits.follow(b, node, inputs[0])
    if results is None and converter is not None:
        results = converter(b, node, inputs)
    if results is None:
        results = generic(b, node, inputs)
    if isinstance(results, Value):
        results = [results]
    for output, value in zip(node.outputs, results, strict=False):
        b.values[str(output.name)] = value


def _input(b: Builder, value: ir.Value | None) -> Value | None:
    if value is None or not value.name:
        return None
    if value.name not in b.values:
        array = constant(value)
        assert array is not None, f"{value.name} is read before it is computed"
        b.values[value.name] = b.constant(np.asarray(array))
    return b.values[value.name]


def _output(b: Builder, value: ir.Value) -> relax.Expr:
    known = _input(b, value)
    assert known is not None
    b.begin_output(str(value.name))
    return b.stored(known)
