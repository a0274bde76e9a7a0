"""The front end's one door: a file or proto in, a `Prepared` model out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend.clean import name_nodes, remove_transparent
from bnn_tvm.frontend.constants import constants_to_initializers
from bnn_tvm.frontend.domains import spell, stand_in, stood_in
from bnn_tvm.frontend.fold import Folder
from bnn_tvm.frontend.inline import inline_functions
from bnn_tvm.frontend.load import load
from bnn_tvm.frontend.masks import spell_masks
from bnn_tvm.frontend.narrow import narrow_constants
from bnn_tvm.frontend.operators import check_operators
from bnn_tvm.frontend.opset import check_versions, upgrade
from bnn_tvm.frontend.pads import spell_auto_pads
from bnn_tvm.frontend.precision import use_float32
from bnn_tvm.frontend.shapes import ShapeOptions, freeze_inputs, infer, record_shapes
from bnn_tvm.frontend.structure import check_structure, check_with_onnx


@dataclass(frozen=True)
class Prepared:
    """A model that the rest of the compiler can read without asking questions.

    model: checked; opset 13 or later; every tensor has a static shape in value_info; every constant
    is an initializer and no input; nothing left that could be computed without an input; standard
    operators of `operators.OPERATORS` only; node.name is the name of the first output.
    source: file name, or "<proto>". sha256: of the file's bytes, or of the serialised proto.
    notes: what was changed that a user may want to know.
    folded: initializer -> op types of the constant subgraph that made it, nearest first.
    renamed: tensors of the file that carry the name of a graph output now: old -> new.
    """

    model: onnx.ModelProto
    source: str
    sha256: str
    notes: tuple[str, ...] = ()
    folded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)


def prepare(
    model: str | Path | onnx.ModelProto, *, batch: int = 1, shapes: ShapeOptions = ()
) -> Prepared:
    """Check a model, make it static and constant-folded, and spell it in one dialect.

    model: path of an ONNX file, or a ModelProto (left as it is). batch: for dynamic first
    dimensions. shapes: input name -> dims, for inputs with other dynamic dimensions.

    Computes what the original computes, bit for bit, in onnxruntime without graph optimiser;
    networks in float16, bfloat16 or double become float32 inside, which `notes` says.

    Raises FileError (unreadable, no ONNX), ModelError (invalid or unsupported; all unsupported
    operators in one message) or UsageError (`batch` or `shapes` that don't fit the model).
    """
    proto, source, digest = load(model)
    check_versions(proto)
    check_structure(proto)
    constants_to_initializers(proto)
    if not proto.graph.input:
        raise ModelError(
            "the model has no inputs: its outputs are constants",
            hint="export the network with an example input that it really uses",
        )
    inline_functions(proto)
    check_operators(proto, masks_may_vanish=True)
    stand_in(proto)
    bipolar = stood_in(proto)
    check_with_onnx(proto)
    notes = list(freeze_inputs(proto, batch, shapes))
    _type_everything(proto)
    notes += filter(None, [upgrade(proto)])
    dtypes = {name: v.type.tensor_type.elem_type for name, v in infer(proto).items()}
    spell(proto, bipolar, dtypes)
    folded = Folder(proto, dict.fromkeys(bipolar, "BipolarQuant")).fold()
    known = infer(proto)
    if spell_masks(proto, known):
        known = infer(proto)
    check_operators(proto)  # again: of known branches, the nodes are in sight only now
    spell_auto_pads(proto, known)
    narrow_constants(proto, known)
    renamed, note = use_float32(proto, known)
    notes += filter(None, [note])
    renamed |= remove_transparent(proto)
    name_nodes(proto)
    record_shapes(proto)
    return Prepared(proto, source, digest, tuple(notes), folded, renamed)


def _type_everything(model: onnx.ModelProto) -> None:
    """Write what is known of shapes into the model: some opset conversions depend on ranks."""
    known = infer(model)
    made = [name for node in model.graph.node for name in node.output if name]
    outputs = {output.name for output in model.graph.output}
    model.graph.value_info.extend(
        known[name] for name in made if name in known and name not in outputs
    )
