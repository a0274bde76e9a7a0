"""The one table of standard operators that can stand in a compiled model, and the check by it.

The importer takes its list from here. An operator that appears only where the value does not
depend on an input needs no row: it is computed at compile time (`fold.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend.domains import BIPOLAR_DOMAINS, is_bipolar_quant
from bnn_tvm.frontend.graph import (
    ONNX_DOMAINS,
    attribute,
    first_output,
    has_subgraph,
    listing,
    reads,
    where,
)
from bnn_tvm.frontend.masks import masked_nodes


@dataclass(frozen=True)
class Operator:
    """A supported standard operator.

    name: the ONNX op_type. kind: how the importer treats it: "layer" (weights, own NHWC
    converter), "spatial" (N, C, spatial axes; own NHWC converter), "elementwise" (layout free),
    "reduce", "shape" (moves or selects elements), "head" (what ends a classifier).
    """

    name: str
    kind: str


_KINDS = {
    "layer": "Conv Gemm MatMul",
    "spatial": (
        "AveragePool BatchNormalization DepthToSpace GlobalAveragePool GlobalMaxPool "
        "InstanceNormalization MaxPool Pad Resize SpaceToDepth Upsample"
    ),
    "elementwise": (
        "Abs Add And Cast CastLike Ceil Clip Div Elu Equal Erf Exp Floor Gelu Greater "
        "GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean "
        "Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign "
        "Softplus Softsign Sqrt Sub Sum Tanh ThresholdedRelu Where Xor"
    ),
    "reduce": (
        "ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
    ),
    "shape": ("Concat Expand Flatten Gather Reshape Slice Split Squeeze Tile Transpose Unsqueeze"),
    "head": "ArgMax ArgMin LayerNormalization LogSoftmax Softmax",
}
OPERATORS: dict[str, Operator] = {
    name: Operator(name, kind) for kind, names in _KINDS.items() for name in names.split()
}

# Never reach the importer: removed, or turned into constants, by the front end itself.
TRANSPARENT = ("Identity", "Dropout")
STATIC = ("Shape", "Size")

# No value of their own: their results change from run to run, so they cannot be constants.
RANDOM = (
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
)


def check_operators(model: onnx.ModelProto, *, masks_may_vanish: bool = False) -> None:
    """Refuse, in one message, every node that can be neither compiled nor folded.

    masks_may_vanish: before shapes are known, let NonZero and ScatterND pass where they may turn
    out to be an assignment under a mask (`masks.py`).

    Raises ModelError: nodes of foreign domains first, with how to export without them.
    """
    passing = masked_nodes(model.graph) if masks_may_vanish else set()
    foreign: list[onnx.NodeProto] = []
    missing: list[onnx.NodeProto] = []
    training: list[onnx.NodeProto] = []
    variable = {value.name for value in model.graph.input}
    variable -= {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        depends = any(name in variable for name in node.input)
        captures = has_subgraph(node) and not variable.isdisjoint(reads(node))
        # The shape of a static tensor is a constant, whatever the tensor's values are.
        if ((depends or captures) and node.op_type not in STATIC) or node.op_type in RANDOM:
            variable.update(name for name in node.output if name)
        if node.domain not in ONNX_DOMAINS:
            if not is_bipolar_quant(node):
                foreign.append(node)
        elif _unsupported(node, depends) and first_output(node) not in passing:
            missing.append(node)
        elif depends and _trains(node):
            training.append(node)
    _refuse(foreign, missing, training)


def _unsupported(node: onnx.NodeProto, depends: bool) -> bool:
    if node.op_type in RANDOM:
        return True
    if has_subgraph(node):
        return depends or node.op_type != "If"  # an If of a constant becomes its branch
    return depends and node.op_type not in (*OPERATORS, *TRANSPARENT, *STATIC)


def _trains(node: onnx.NodeProto) -> bool:
    if node.op_type == "BatchNormalization":
        statistics = any(name for name in node.output[1:])
        return bool(attribute(node, "training_mode", 0)) or statistics
    return False


def _refuse(
    foreign: list[onnx.NodeProto], missing: list[onnx.NodeProto], training: list[onnx.NodeProto]
) -> None:
    parts, hints = [], []
    if foreign:
        domains = sorted({node.domain for node in foreign})
        names = sorted({node.op_type for node in foreign})
        parts.append(
            f"custom operators that only their author's code can run: "
            f"{listing([where(node) for node in foreign])}"
        )
        hints.append(
            f"export without {', '.join(names)} of domain {', '.join(domains)}: remove the "
            "`symbolic` method of the torch.autograd.Function (or its custom_translation_table "
            "entry), so that the exporter writes the standard operators of its forward, or let "
            "symbolic write Sign, or Where(x >= 0, 1, -1); of foreign domains only BipolarQuant "
            f"({', '.join(BIPOLAR_DOMAINS)}) is known"
        )
    if missing:
        parts.append(f"unsupported operators: {listing([where(node) for node in missing])}")
        if any(has_subgraph(node) for node in missing):
            hints.append("If, Loop and Scan cannot be compiled: export without control flow")
        else:
            hints.append(
                "compute them outside the model, or write them with supported operators: "
                + " ".join(sorted(OPERATORS))
            )
        if any(node.op_type in ("NonZero", "ScatterND") for node in missing):
            hints.append(
                "of assignments under a mask only x[mask] = constant, with a mask of x's shape, is "
                "supported: write torch.where(mask, value, x)"
            )
    if training:
        parts.append(f"nodes in training mode: {listing([where(node) for node in training])}")
        hints.append("export the network in inference mode: model.eval()")
    if parts:
        first = (foreign + missing + training)[0]
        raise ModelError(
            "the model has " + "; and ".join(parts),
            node=first_output(first),
            hint="; ".join(hints),
        )
