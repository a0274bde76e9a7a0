"""The way out for operators without a converter of our own: TVM's, in ONNX's own order."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from bnn_tvm.errors import ModelError
from bnn_tvm.importer.builder import Builder
from bnn_tvm.importer.value import Value, natural
from bnn_tvm.passes.graph import shape_of


def convert(b: Builder, node: ir.Node, args: Sequence[relax.Expr | None]) -> list[relax.Expr]:
    """Bind TVM's translation of `node` on operands in ONNX's order; one expression per output.

    Raises ModelError where TVM's importer does not take the node.
    """
    importer = onnx_frontend.ONNXGraphImporter({}, "float32")
    importer.bb = b.bb
    importer.opset = node.graph.opset_imports.get("", 17) if node.graph is not None else 17
    proto = ir.to_proto(node)
    attributes = importer._parse_attr(proto.attribute)
    attributes["tvm_custom"] = {"name": node.name, "num_outputs": len(node.outputs)}
    operands = onnx_frontend.onnx_input()
    operands.extend(args)
    try:
        result = importer._convert_operator(node.op_type, operands, attributes, importer.opset)
    except Exception as error:
        raise ModelError(
            f"{node.op_type} cannot be imported in this form: {str(error).splitlines()[0]}",
            node=node.name,
            hint="simplify the node before the export, or report the model",
        ) from error
    if isinstance(result, relax.Tuple):  # beside the result, TVM puts placeholders for others
        return [b.emit(result.fields[i]) for i in range(len(node.outputs))]
    if isinstance(result.ty, relax.TupleType):
        bound = b.emit(result)
        count = len(bound.ty.fields)
        return [b.emit(relax.TupleGetItem(bound, i)) for i in range(count)]
    return [b.emit(result)]


def generic(b: Builder, node: ir.Node, inputs: list[Value | None]) -> list[Value]:
    """Any operator that TVM's ONNX frontend knows."""
    args = [None if v is None else b.stored(v) for v in inputs]
    results = convert(b, node, args)
    values = []
    for output, expr in zip(node.outputs, results, strict=False):
        shape = shape_of(output)
        values.append(b.new(expr, shape, expr.ty.dtype.dtype, natural(len(shape))))
    return values
