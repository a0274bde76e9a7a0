"""One range of operator versions: 13 and later, so that the rest reads one spelling of each op."""

from __future__ import annotations

import onnx
from onnx import defs, version_converter

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend.constants import constants_to_initializers
from bnn_tvm.frontend.graph import ONNX_DOMAINS, graphs_of, opset_version, replace, skeleton
from bnn_tvm.frontend.isolate import try_out
from bnn_tvm.frontend.structure import check_structure, check_with_onnx, first_lines

OLDEST = 7
TARGET = 13
OLDEST_IR = 3
IR_VERSION = 10


def check_versions(model: onnx.ModelProto) -> None:
    """Refuse versions of operators or file format that the installed onnx or we don't know.

    Declares the format (IR) version that the clean model has. Raises ModelError.
    """
    if not OLDEST_IR <= model.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"the model has ONNX IR version {model.ir_version}; {OLDEST_IR} to {onnx.IR_VERSION} "
            "are known",
            hint="export it again with a current exporter, or save it with an older onnx package",
        )
    model.ir_version = IR_VERSION
    _spell_domain(model)
    version, newest = opset_version(model), defs.onnx_opset_version()
    if version < OLDEST or version > newest:
        found = f"opset {version}" if version else "no opset"
        raise ModelError(
            f"the model imports {found} of the standard operators; {OLDEST} to {newest} are known",
            hint="export it with opset_version=17, or convert it with onnx.version_converter",
        )


def _spell_domain(model: onnx.ModelProto) -> None:
    """Write the standard domain as "", which is what it is called where it is not "ai.onnx"."""
    for opset in model.opset_import:
        opset.domain = "" if opset.domain in ONNX_DOMAINS else opset.domain
    pending = [model.graph]
    while pending:
        for node in pending.pop().node:
            node.domain = "" if node.domain in ONNX_DOMAINS else node.domain
            pending += graphs_of(node)


def upgrade(model: onnx.ModelProto) -> str | None:
    """Rewrite `model` with operators of opset 13 when it has older ones; return a note if so.

    The nodes must have value_info (some conversions depend on the rank) and be standard ones.
    Raises ModelError where onnx's converter knows no way.
    """
    version = opset_version(model)
    if version >= TARGET:
        return None
    _drop_unused_values(model)

    def conversion() -> onnx.ModelProto:
        return version_converter.convert_version(skeleton(model), TARGET)

    try_out(conversion, "the conversion of the operators")
    try:
        converted = conversion()
    except Exception as error:  # the converter raises RuntimeError, IndexError and bare C++ errors
        raise ModelError(
            f"the operators of opset {version} cannot be converted to opset {TARGET}: "
            f"{first_lines(error)}",
            hint=f"export the model with opset_version={TARGET} or later",
        ) from error
    held = {tensor.name for tensor in model.graph.initializer}
    held |= {value.name for value in model.graph.input}
    replace(model.graph.node, converted.graph.node)
    model.graph.initializer.extend(t for t in converted.graph.initializer if t.name not in held)
    replace(model.opset_import, [onnx.helper.make_opsetid("", TARGET)])
    del model.graph.value_info[:]
    constants_to_initializers(model)
    check_structure(model)
    check_with_onnx(model)  # the converter passes on attributes that the new operators lack
    return f"operators converted from opset {version} to {TARGET}"


def _drop_unused_values(model: onnx.ModelProto) -> None:
    """Take `value` off Pads that repeat or mirror: the converter passes it on, where none is."""
    for node in model.graph.node:
        modes = {a.s for a in node.attribute if a.name == "mode"}
        if node.op_type == "Pad" and modes - {b"constant"}:
            replace(node.attribute, [a for a in node.attribute if a.name != "value"])
