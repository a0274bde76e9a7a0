"""Verification accepts what is equal, and names what is not.

The "compiled" models here are the rewritten graphs run by onnxruntime in standard operators, so
that faults can be put into them at will.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnn_tvm import pipeline
from bnn_tvm.frontend import prepare
from bnn_tvm.options import CompileOptions
from bnn_tvm.recognize import recognize
from bnn_tvm.recognize.expand import expand
from bnn_tvm.verification import VerifyReport, verify
from bnn_tvm.verification.reference import random_inputs, run_reference

Fault = Callable[[onnx.ModelProto], None]
BLOCK2 = "/block2/conv/Conv_output_0"


class Standin:
    emulated = False
    place = ""

    def __init__(self, model: onnx.ModelProto, fault: Fault | None) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        if fault is not None:
            fault(self.model)
        self.model = expand(self.model)

    def run_many(self, samples):
        return [run_reference(self.model, sample) for sample in samples]


def check(
    model, fault: Fault | None = None, options: CompileOptions | None = None, samples: int = 2
) -> VerifyReport:
    options = options or CompileOptions()
    prepared = prepare(model)
    recognition = recognize(prepared, options)
    inputs = [random_inputs(prepared.model, seed) for seed in range(samples)]
    return verify(
        prepared, recognition, inputs, lambda part: {"": Standin(part, fault)}, "stand-in"
    )


def test_samples_of_any_number_of_batches_are_all_compared(
    monkeypatch: pytest.MonkeyPatch, digits: Path
) -> None:
    sizes: list[int] = []

    class Counting(Standin):
        def run_many(self, samples):
            sizes.append(len(samples))
            results = super().run_many(samples)
            if len(sizes) == 7:  # the whole model, fourth sample
                results[0] = {name: value + 1000 for name, value in results[0].items()}
            return results

    prepared = prepare(digits)
    recognition = recognize(prepared, CompileOptions())
    inputs = [random_inputs(prepared.model, seed) for seed in range(7)]
    module = import_module("bnn_tvm.verification.verify")
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    report = verify(
        prepared, recognition, inputs, lambda part: {"": Counting(part, None)}, "stand-in"
    )
    assert sizes == [1] * 14
    assert report.samples == 7 and not report.ok
    monkeypatch.undo()
    sizes.clear()
    report = verify(
        prepared, recognition, inputs, lambda part: {"": Counting(part, None)}, "stand-in"
    )
    assert sizes == [7, 7]
    assert report.ok


def initializer(model: onnx.ModelProto, node_output: str, index: int) -> onnx.TensorProto:
    node = next(n for n in model.graph.node if node_output in n.output)
    return next(t for t in model.graph.initializer if t.name == node.input[index])


def change(tensor: onnx.TensorProto, edit: Callable[[np.ndarray], None]) -> None:
    array = numpy_helper.to_array(tensor).copy()
    edit(array)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def flip_a_weight(model: onnx.ModelProto) -> None:
    def edit(weights: np.ndarray) -> None:
        weights[0, 0, 1, 1] *= -1

    change(initializer(model, BLOCK2, 1), edit)


def test_equal_models_verify(digits) -> None:
    report = check(digits)
    assert report.ok, report
    assert report.first_difference is None
    binary = [layer for layer in report.layers if layer.binary]
    assert len(binary) == 3 and all(layer.exact for layer in binary)
    assert len(report.layers) == 6
    assert report.max_abs_error < 1e-3
    assert report.top1_agreement == 1.0
    assert report.design_difference is None


def test_one_flipped_weight_is_found_and_named(digits) -> None:
    report = check(digits, flip_a_weight)
    assert not report.ok
    assert report.first_difference is not None
    assert report.first_difference.output == BLOCK2
    # Only that layer: the others are fed with onnxruntime's values.
    assert [layer.output for layer in report.layers if not layer.ok] == [BLOCK2]


def test_a_wrong_float_layer_is_found(digits) -> None:
    def edit(array: np.ndarray) -> None:
        array *= 1.01

    report = check(digits, lambda model: change(initializer(model, "logits", 1), edit))
    assert not report.ok
    assert [layer.output for layer in report.layers if not layer.ok] == ["logits"]


def test_a_fault_between_the_layers_shows_end_to_end(digits) -> None:
    def edit(array: np.ndarray) -> None:
        array += 3.0

    def fault(model: onnx.ModelProto) -> None:
        norm = "/block3/bn/BatchNormalization_output_0"
        if any(norm in node.output for node in model.graph.node):
            change(initializer(model, norm, 2), edit)

    report = check(digits, fault)
    assert all(layer.ok for layer in report.layers)
    assert not report.ok and report.first_difference is None


@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 1, 2, 0]])
def test_what_is_implied_differs_by_design(pads: list[int]) -> None:
    rng = np.random.default_rng(0)
    weights = rng.choice(np.array([-1, 1], np.float32), (4, 3, 3, 3))
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["r"]),
        onnx.helper.make_node("Conv", ["r", "w"], ["y"], pads=pads),
    ]
    size = 8 + pads[0] + pads[2] - 2, 8 + pads[1] + pads[3] - 2
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", 1, [1, 4, *size])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    report = check(model)
    assert report.ok, report
    layer = report.layers[0]
    assert layer.binary and "binarized-input" in layer.implied
    assert report.design_difference is not None and report.design_difference > 0.5
    assert report.as_dict()["layers"][0]["implied"] == list(layer.implied)


def halved(model, fault: Fault | None = None) -> VerifyReport:
    """`check` of a model that is said to compute in half precision."""
    prepared = prepare(model)
    recognition = pipeline.with_float16(recognize(prepared, CompileOptions()))
    inputs = [random_inputs(prepared.model, seed) for seed in range(2)]
    return verify(
        prepared, recognition, inputs, lambda part: {"": Standin(part, fault)}, "stand-in"
    )


def scaled(name: str, index: int, factor: float) -> Fault:
    def edit(array: np.ndarray) -> None:
        array *= factor

    return lambda model: change(initializer(model, name, index), edit)


def test_half_precision_has_a_tolerance_of_its_own(digits) -> None:
    report = halved(digits, scaled("logits", 1, 1.01))
    assert report.ok and report.relative_tolerance == 0.5
    assert report.relative_error is not None and 0.005 < report.relative_error < 0.02
    logits = report.layers[-1]
    assert logits.ok and not logits.exact and logits.tolerance == 0.02
    assert logits.implied == ("float16",) and report.design_difference is None
    assert report.as_dict()["layers"][-1]["tolerance"] == 0.02
    assert report.as_dict()["relative_error"] == report.relative_error


def test_half_precision_hides_no_wrong_layer_and_no_wrong_integer(digits) -> None:
    report = halved(digits, scaled("logits", 1, 1.05))
    assert not report.ok and [layer.output for layer in report.layers if not layer.ok] == ["logits"]
    report = halved(digits, flip_a_weight)
    assert not report.ok and report.first_difference is not None
    assert report.first_difference.output == BLOCK2


def test_half_precision_hides_no_wrong_whole(digits) -> None:
    def edit(array: np.ndarray) -> None:
        array += np.linspace(-20, 20, array.size, dtype=np.float32)

    def fault(model: onnx.ModelProto) -> None:
        norm = "/block3/bn/BatchNormalization_output_0"
        if any(norm in node.output for node in model.graph.node):
            change(initializer(model, norm, 2), edit)

    report = halved(digits, fault)
    assert all(layer.ok for layer in report.layers)
    assert not report.ok and report.relative_error is not None and report.relative_error > 0.5


def test_a_model_without_signs_must_be_close_in_half_precision() -> None:
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", 1, [1, 4, 6, 6])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    assert halved(model).relative_tolerance == 0.05
    assert halved(model, scaled("y", 1, 1.01)).ok
    assert not halved(model, scaled("y", 1, 1.06)).ok
