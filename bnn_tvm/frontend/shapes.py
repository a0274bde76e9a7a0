"""Every shape a number: freeze the inputs, infer the rest, name what stays unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches

import onnx
from onnx import helper, shape_inference

from bnn_tvm.errors import ModelError, UsageError
from bnn_tvm.frontend.graph import (
    MAX_ELEMENTS,
    Shape,
    attribute,
    elements,
    first_output,
    listing,
    printable,
    replace,
    skeleton,
    static_shape,
    where,
)
from bnn_tvm.frontend.isolate import try_out
from bnn_tvm.frontend.structure import blamed_node, first_lines

Types = Mapping[str, onnx.ValueInfoProto]
ShapeOptions = Mapping[str, Sequence[int]] | Iterable[tuple[str, Sequence[int]]]


def freeze_inputs(model: onnx.ModelProto, batch: int, shapes: ShapeOptions) -> tuple[str, ...]:
    """Give every input a static shape: from `shapes`, else dynamic first dimensions are `batch`.

    Forgets all other shapes of the model, which may speak of the dynamic ones. Returns notes.
    Raises UsageError for shapes that contradict the model, ModelError naming all inputs that stay
    dynamic, with the `--shape` options that would settle them.
    """
    inputs = {value.name: value for value in model.graph.input}
    wanted = {name: tuple(shape) for name, shape in dict(shapes).items()}
    _check_options(inputs, wanted, batch)
    symbols = _symbols(inputs, wanted, batch)
    dynamic, notes, has_batch = [], [], False
    for name, value in inputs.items():
        before = describe(value)
        if name in wanted:
            frozen: list[int | None] = list(wanted[name])
        elif value.type.tensor_type.HasField("shape"):
            frozen = [
                dim.dim_value if _fixed(dim) else symbols.get(dim.dim_param)
                for dim in value.type.tensor_type.shape.dim
            ]
            dims = value.type.tensor_type.shape.dim
            if dims and not _fixed(dims[0]):
                frozen[0] = frozen[0] or batch
        else:
            frozen = [None]
        if None in frozen:
            dynamic.append((name, before, frozen))
            continue
        static = tuple(extent for extent in frozen if extent is not None)
        has_batch |= bool(static) and static[0] == batch
        _check_size(name, static)
        _set_shape(value, static)
        if describe(value) != before:
            notes.append(f"input {name} {before} compiled for {describe(value)}")
    if dynamic:
        raise _dynamic_error(dynamic, batch)
    if batch != 1 and not has_batch:
        fixed = listing([f"{name} {describe(value)}" for name, value in inputs.items()], 5)
        raise UsageError(
            f"batch {batch} was asked for, but the model's batch is fixed: {fixed}",
            node="--batch",
            hint="export the model with a dynamic first dimension, or leave --batch away",
        )
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
        if not output.type.tensor_type.elem_type:
            output.ClearField("type")
    return tuple(notes)


def infer(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Type and shape of every tensor, as far as onnx's strict inference can tell.

    The values of shapes are not followed (data_prop): onnx writes out every element of a
    ConstantOfShape and never ends on some Slices. Folding rounds find the same shapes.

    Raises ModelError, naming the node, where shapes or types contradict one another, and without
    a name where the inference itself crashes or does not end.
    """
    bare = skeleton(model)
    del bare.graph.value_info[:]

    def inference() -> onnx.ModelProto:
        return shape_inference.infer_shapes(
            bare, check_type=True, strict_mode=True, data_prop=False
        )

    try_out(inference, "shape inference")
    try:
        inferred = inference()
    except Exception as error:  # InferenceError, or what a C++ schema throws at broken attributes
        raise ModelError(
            f"the shapes or types of the model contradict one another: {first_lines(error)}",
            node=blamed_node(error),
            hint="check --shape and --batch if you gave them; else export the model again",
        ) from error
    known = {}
    # Inputs last: an output that is an input has its shape from there alone.
    for value in (*inferred.graph.output, *inferred.graph.value_info, *inferred.graph.input):
        known[value.name] = value
    for tensor in bare.graph.initializer:
        known[tensor.name] = helper.make_tensor_value_info(
            tensor.name, tensor.data_type, tensor.dims
        )
    return known


def record_shapes(model: onnx.ModelProto) -> None:
    """Write the inferred type and shape of every tensor into the model, which must be static.

    Raises ModelError naming the nodes whose result shapes depend on values or make no sense.
    """
    known = infer(model)
    for test, message, hint in _SHAPE_RULES:
        faulty = [node for node in model.graph.node if test(node, known)]
        if faulty:
            raise ModelError(
                f"{message}: {listing([_described(node, known) for node in faulty], 8)}",
                node=printable(first_output(faulty[0])),
                hint=hint,
            )
    outputs = {output.name for output in model.graph.output}
    replace(model.graph.output, [known[output.name] for output in model.graph.output])
    made = [name for node in model.graph.node for name in node.output if name]
    replace(model.graph.value_info, [known[name] for name in made if name not in outputs])


def _result_shapes(node: onnx.NodeProto, known: Types) -> list[Shape | None]:
    return [static_shape(known[n]) if n in known else None for n in node.output if n]


def _is_unknown(node: onnx.NodeProto, known: Types) -> bool:
    return any(shape is None for shape in _result_shapes(node, known))


def _is_huge(node: onnx.NodeProto, known: Types) -> bool:
    return any(elements(shape or ()) > MAX_ELEMENTS for shape in _result_shapes(node, known))


def _is_empty(node: onnx.NodeProto, known: Types) -> bool:
    return any(0 in (shape or ()) for shape in _result_shapes(node, known))


def _changes_count(node: onnx.NodeProto, known: Types) -> bool:
    """A Reshape to a constant shape that onnx's inference takes at its word."""
    if node.op_type != "Reshape" or node.input[0] not in known:
        return False
    before, after = static_shape(known[node.input[0]]), _result_shapes(node, known)[0]
    return before is not None and after is not None and elements(before) != elements(after)


def _is_misgrouped(node: onnx.NodeProto, known: Types) -> bool:
    """A Conv whose groups contradict its channels; onnx's inference does not look at them."""
    if node.op_type != "Conv" or not {node.input[0], node.input[1]} <= set(known):
        return False
    data, weights = static_shape(known[node.input[0]]), static_shape(known[node.input[1]])
    group = attribute(node, "group", 1)
    if data is None or weights is None or min(len(data), len(weights)) < 2:
        return False
    return (
        not isinstance(group, int)
        or group < 1
        or data[1] != weights[1] * group
        or weights[0] % group != 0
    )


def _described(node: onnx.NodeProto, known: Types) -> str:
    names = [name for name in (*node.input[:1], *node.output[:1]) if name in known]
    return f"{where(node)} ({' to '.join(describe(known[name]) for name in names)})"


_SHAPE_RULES: tuple[tuple[Callable[[onnx.NodeProto, Types], bool], str, str], ...] = (
    (
        _is_unknown,
        "shapes that depend on values cannot be compiled",
        "the shape of every tensor must follow from the shapes of the inputs",
    ),
    (
        _is_misgrouped,
        "the groups of a Conv must divide its channels",
        "input channels are weight channels times group; export the model again",
    ),
    (
        _changes_count,
        "Reshape cannot change the number of elements",
        "the model fixes a size that differs from --batch or --shape; leave these away, "
        "or export it with dynamic axes",
    ),
    (
        _is_empty,
        "tensors without elements cannot be compiled",
        "choose larger inputs with --shape, or export the model again",
    ),
    (
        _is_huge,
        f"tensors of more than {MAX_ELEMENTS} elements cannot be compiled",
        "choose smaller inputs with --shape or --batch",
    ),
)


def describe(value: onnx.ValueInfoProto) -> str:
    """A shape as people write it: [N,3,?,?]; `of unknown rank` where there is none."""
    if not value.type.tensor_type.HasField("shape"):
        return "of unknown rank"
    dims = value.type.tensor_type.shape.dim
    written = [str(d.dim_value) if _fixed(d) else d.dim_param or "?" for d in dims]
    return "[" + ",".join(written) + "]"


def _fixed(dim: onnx.TensorShapeProto.Dimension) -> bool:
    """Whether a dimension is a number; some exporters write 0 or -1 for a dynamic one."""
    return dim.HasField("dim_value") and dim.dim_value > 0


def _check_options(
    inputs: dict[str, onnx.ValueInfoProto], wanted: dict[str, tuple[int, ...]], batch: int
) -> None:
    if batch < 1:
        raise UsageError(
            f"the batch must be at least 1, not {batch}", node="--batch", hint="give --batch 1"
        )
    for name, shape in wanted.items():
        given = f"{name}={','.join(map(str, shape))}"
        if name not in inputs:
            near = get_close_matches(name, inputs, 1)
            raise UsageError(
                f"--shape names the input {name!r}, which the model does not have",
                node="--shape",
                hint=(f"did you mean {near[0]}? " if near else "")
                + f"its inputs are {listing(inputs)}",
            )
        if any(extent < 1 for extent in shape):
            raise UsageError(
                f"--shape {given} has a dimension below 1",
                node="--shape",
                hint="dimensions are >= 1",
            )
        declared = inputs[name].type.tensor_type
        if not declared.HasField("shape"):
            continue
        dims = declared.shape.dim
        fits = len(dims) == len(shape) and all(
            not _fixed(dim) or dim.dim_value == extent
            for dim, extent in zip(dims, shape, strict=False)
        )
        if not fits:
            raise UsageError(
                f"--shape {given} contradicts the model, whose input {name} is "
                f"{describe(inputs[name])}",
                node="--shape",
                hint="only dynamic dimensions can be chosen; export the model with others",
            )


def _symbols(
    inputs: dict[str, onnx.ValueInfoProto], wanted: dict[str, tuple[int, ...]], batch: int
) -> dict[str, int]:
    """What each dimension name stands for; an explicit shape beats the batch."""
    symbols: dict[str, int] = {}
    for name, shape in wanted.items():
        for dim, extent in zip(inputs[name].type.tensor_type.shape.dim, shape, strict=False):
            if dim.dim_param and symbols.setdefault(dim.dim_param, extent) != extent:
                raise UsageError(
                    f"--shape gives the dimension {dim.dim_param!r} of the model two values, "
                    f"{symbols[dim.dim_param]} and {extent}",
                    node="--shape",
                    hint="dimensions of one name are equal in the model",
                )
    for value in inputs.values():
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_param:
            symbols.setdefault(dims[0].dim_param, batch)
    return symbols


def _check_size(name: str, shape: tuple[int, ...]) -> None:
    if any(extent < 1 for extent in shape) or elements(shape) > MAX_ELEMENTS:
        raise ModelError(
            f"input {name} has the impossible shape {list(shape)}",
            node=name,
            hint=f"an input has 1 to {MAX_ELEMENTS} elements; choose dynamic ones with --shape",
        )


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    dtype = value.type.tensor_type.elem_type
    value.CopyFrom(helper.make_tensor_value_info(value.name, dtype, shape))


def _dynamic_error(dynamic: list[tuple[str, str, list[int | None]]], batch: int) -> ModelError:
    options = []
    for name, before, frozen in dynamic:
        if before == "of unknown rank":
            frozen = [batch, 3, None, None]
        options.append(f"--shape {name}=" + ",".join(str(d) if d else "224" for d in frozen))
    return ModelError(
        "inputs with dynamic dimensions: "
        + listing([f"{name} {before}" for name, before, _ in dynamic]),
        node=dynamic[0][0],
        hint="say the size to compile for, such as " + " ".join(options),
    )
