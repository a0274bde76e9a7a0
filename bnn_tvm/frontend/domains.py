"""BipolarQuant of QONNX, Brevitas and FINN, spelled with standard operators.

BipolarQuant(x, scale) is `scale` where x >= 0 and `-scale` elsewhere, NaN included
(https://github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops/bipolar_quant_op.md).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend.graph import ONNX_DOMAINS, replace, where

BIPOLAR_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")

_MARK = "bnn_tvm.BipolarQuant"


def is_bipolar_quant(node: onnx.NodeProto) -> bool:
    """Whether `node` is a BipolarQuant of one of the domains that define it."""
    return node.op_type == "BipolarQuant" and node.domain in BIPOLAR_DOMAINS


def stand_in(model: onnx.ModelProto) -> None:
    """Replace every BipolarQuant by a marked Mul, which has its shape and type in any opset.

    onnx's checker, shape inference and opset converter stop at nodes of a domain they don't know;
    `spell` writes the true meaning once comparisons of the target opset exist.
    """
    for node in model.graph.node:
        if is_bipolar_quant(node):
            if len(node.input) != 2 or len(node.output) != 1:
                raise ModelError(
                    f"{where(node)} needs the two inputs x and scale and has {len(node.input)}",
                    node=node.output[0] if node.output else node.name,
                    hint="export the model again with a current version of QONNX or Brevitas",
                )
            node.op_type, node.domain = "Mul", ""
            node.doc_string = _MARK
            del node.attribute[:]
    replace(model.opset_import, [o for o in model.opset_import if o.domain in ONNX_DOMAINS])


def stood_in(model: onnx.ModelProto) -> set[str]:
    """Outputs of the nodes that `stand_in` marked."""
    return {node.output[0] for node in model.graph.node if node.doc_string == _MARK}


def spell(model: onnx.ModelProto, outputs: set[str], dtypes: dict[str, int]) -> None:
    """Replace the stand-ins by Where(x >= 0, scale, -scale). `dtypes`: element type per tensor."""
    if not outputs:
        return
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in graph.initializer}
    zeros: dict[int, str] = {}

    def fresh(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    nodes = []
    for node in graph.node:
        if node.output[0] not in outputs:
            nodes.append(node)
            continue
        x, scale = node.input
        y = node.output[0]
        dtype = dtypes[y]
        if dtype not in zeros:
            zeros[dtype] = fresh(f"bipolar_zero_{dtype}")
            value = np.zeros((), helper.tensor_dtype_to_np_dtype(dtype))
            graph.initializer.append(numpy_helper.from_array(value, zeros[dtype]))
        at_least, negative = fresh(f"{y}_ge_zero"), fresh(f"{y}_minus_scale")
        nodes += [
            helper.make_node("GreaterOrEqual", [x, zeros[dtype]], [at_least]),
            helper.make_node("Neg", [scale], [negative]),
            helper.make_node("Where", [at_least, scale, negative], [y]),
        ]
    replace(graph.node, nodes)
