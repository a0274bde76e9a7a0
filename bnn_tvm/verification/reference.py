"""onnxruntime as the reference: every tensor asked for, no graph optimiser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend.structure import first_lines

if TYPE_CHECKING:
    import onnx

Arrays = dict[str, np.ndarray]


class Reference:
    """A model of standard operators in onnxruntime, for any number of runs.

    Any tensors of the graph may be asked for as `outputs`; by default the model's outputs.
    Optimisations are off: they fuse BatchNormalization into Conv, which changes the rounding of
    layers.
    """

    def __init__(self, model: onnx.ModelProto, outputs: Iterable[str] | None = None) -> None:
        import onnx
        import onnxruntime as ort

        self._wanted = [o.name for o in model.graph.output] if outputs is None else list(outputs)
        inputs = {value.name for value in model.graph.input}
        self._computed = [name for name in self._wanted if name not in inputs]
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        _expose(copy, self._computed)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """The tensors asked for, by name. Raises `ModelError` if onnxruntime fails on `inputs`."""
        given = {name: inputs[name] for name in self._wanted if name in inputs}
        try:
            values = self._session.run(self._computed, dict(inputs)) if self._computed else []
        except Exception as error:  # onnxruntime raises a class of its own per status code
            from onnxruntime import __version__ as version

            raise ModelError(
                f"onnxruntime {version}, with which the result is compared, fails on the model: "
                + first_lines(error),
                hint="give inputs that the model takes (verify --input), or use a newer "
                "onnxruntime: Python 3.11 and later get one",
            ) from error
        return {**given, **dict(zip(self._computed, values, strict=True))}


def run_reference(
    model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], outputs: Iterable[str] | None = None
) -> Arrays:
    """Run `model` once; see `Reference`."""
    return Reference(model, outputs)(inputs)


def _expose(model: onnx.ModelProto, tensors: list[str]) -> None:
    """Make `tensors` outputs of the graph."""
    graph = model.graph
    known = {value.name: value for value in (*graph.value_info, *graph.output)}
    present = {value.name for value in graph.output}
    for name in dict.fromkeys(tensors):
        if name not in present:
            graph.output.append(known[name])


def random_inputs(model: onnx.ModelProto, seed: int, scale: float = 1.0) -> Arrays:
    """Seeded values for every input: normal floats times `scale`, small integers, booleans."""
    from onnx import helper

    rng = np.random.default_rng(seed)
    constants = {tensor.name for tensor in model.graph.initializer}
    arrays: Arrays = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        if dtype.kind == "f":
            arrays[value.name] = (rng.standard_normal(shape) * scale).astype(dtype)
        elif dtype.kind == "b":
            arrays[value.name] = rng.integers(0, 2, shape).astype(dtype)
        else:
            arrays[value.name] = rng.integers(0, 8, shape).astype(dtype)
    return arrays
