"""Small models as ONNX text, and what onnxruntime computes with its optimiser off."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser

from bnn_tvm.frontend import Prepared, prepare


def parse(
    signature: str, body: str, opset: int = 13, ir: int = 8, more: str = ""
) -> onnx.ModelProto:
    """A model out of `signature`: inputs => outputs <initializers>, and `body`: its nodes."""
    header = f'<ir_version: {ir}, opset_import: ["" : {opset}, "local" : 1]>'
    model = parser.parse_model(f"{header} g {signature} {{ {body} }} {more}")
    if not more:
        del model.opset_import[1:]
    return model


def with_initializers(model: onnx.ModelProto, **arrays: np.ndarray) -> onnx.ModelProto:
    """`model` with initializers of types or sizes that are awkward in text."""
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    # Constant weights are repacked for another loop order, and sums then round differently.
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def random_feeds(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of a static model, exact zeros among them."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        array = rng.normal(size=shape) * 2 * (rng.random(shape) > 0.05)
        feeds[value.name] = array.astype(dtype)
    return feeds


def assert_same_bits(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def assert_same_function(original: onnx.ModelProto, prepared: Prepared, runs: int = 2) -> None:
    """Both models compute the same bits; the prepared one keeps inputs and outputs by name."""
    clean = prepared.model
    constants = {tensor.name for tensor in original.graph.initializer}
    names = [value.name for value in original.graph.input if value.name not in constants]
    assert [value.name for value in clean.graph.input] == names
    assert [v.name for v in clean.graph.output] == [v.name for v in original.graph.output]
    for seed in range(runs):
        feeds = random_feeds(clean, seed)
        assert_same_bits(run(clean, feeds), run(original, feeds))


def prepare_and_compare(model: onnx.ModelProto, **options: object) -> Prepared:
    """Prepare `model`, prove that it is clean and that it computes the same; return it."""
    prepared = prepare(model, **options)  # type: ignore[arg-type]
    assert_clean(prepared.model)
    assert_same_function(model, prepared)
    return prepared


def assert_clean(model: onnx.ModelProto) -> None:
    """Every promise that `Prepared` makes about its model."""
    onnx.checker.check_model(model, full_check=True)
    graph = model.graph
    assert [o.domain for o in model.opset_import] == [""] and model.opset_import[0].version >= 13
    constants = {tensor.name for tensor in graph.initializer}
    inputs = {value.name for value in graph.input}
    assert not constants & inputs
    typed = {value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}
    variable = set(inputs)
    for node in graph.node:
        assert node.domain == "" and node.op_type not in ("Constant", "Dropout", "Shape", "Size")
        assert node.name == next(name for name in node.output if name)
        assert any(name in variable for name in node.input), f"{node.name} is constant"
        variable.update(node.output)
        for name in filter(None, node.output):
            dims = typed[name].type.tensor_type.shape.dim
            assert all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims)
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    assert constants <= used


def ops(prepared: Prepared) -> list[str]:
    return [node.op_type for node in prepared.model.graph.node]


def initializer(prepared: Prepared, name: str) -> np.ndarray:
    found = [t for t in prepared.model.graph.initializer if t.name == name]
    assert len(found) == 1
    return numpy_helper.to_array(found[0])
