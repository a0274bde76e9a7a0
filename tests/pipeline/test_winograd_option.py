"""Which float convolutions are computed by Winograd tiles, and how to have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import bnn_tvm
from bnn_tvm import pipeline
from bnn_tvm.options import CompileOptions
from bnn_tvm.targets import resolve
from tests.pipeline.run_program import run_program

X = np.random.default_rng(2).standard_normal((1, 16, 24, 24)).astype(np.float32)


def _model(weights: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,16,24,24] x) => (float[1,32,24,24] y) {
            c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), "w"))
    return onnx.shape_inference.infer_shapes(model)


def _weights() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((32, 16, 3, 3))


def _kernel(model: onnx.ModelProto, winograd: bool = True) -> str:
    """The kernel of the convolution; the program's result is checked."""
    spec = resolve(CompileOptions())
    program = pipeline.build(model, spec, winograd=winograd)
    (result,) = run_program(program, spec.tvm_target(), {"x": X})
    providers = ["CPUExecutionProvider"]
    session = ort.InferenceSession(model.SerializeToString(), providers=providers)
    (expected,) = session.run(None, {"x": X})
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
    return next(call.kernel for call in program.calls if call.macs)


needs_rows = pytest.mark.skipif(
    resolve(CompileOptions()).isa not in ("avx2", "avx512_vpopcntdq", "neon"),
    reason="no Winograd kernel runs on this machine",
)


@needs_rows
def test_the_option_turns_winograd_off() -> None:
    model = _model(_weights())
    assert "winograd" in _kernel(model)
    assert "winograd" not in _kernel(model, winograd=False)


@needs_rows
def test_eight_bit_weights_stay_direct_and_ternary_ones_do_not() -> None:
    for levels, tiles in ((1, True), (127, False)):
        weights = np.random.default_rng(4).integers(-levels, levels + 1, (32, 16, 3, 3))
        assert ("winograd" in _kernel(_model(weights))) == tiles


@needs_rows
def test_the_metadata_records_the_option_and_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(_model(_weights()), path)
    for winograd in (True, False):
        compiled = bnn_tvm.compile_model(path, winograd=winograd)
        compiled.save(tmp_path / "m")
        found = bnn_tvm.load(tmp_path / "m.so", self_test=True).metadata
        assert dict(found.options)["winograd"] == str(winograd)
        kernels = [layer.kernel for layer in found.layers]
        assert any("winograd" in kernel for kernel in kernels) == winograd
