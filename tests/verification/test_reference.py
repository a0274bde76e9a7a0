"""onnxruntime failing on a model, at which compile warns and verify ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import bnn_tvm
from bnn_tvm.api import verify
from bnn_tvm.errors import DeviceError, ModelError
from bnn_tvm.verification.reference import Reference

FAILS = f"onnxruntime {ort.__version__}, with which the result is compared, fails on the model"
MODEL = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[3] x) => (float[3] y) { y = Exp(x) }"""


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """A model on which onnxruntime's runs fail."""

    def run(self: ort.InferenceSession, names: object, inputs: object) -> object:
        raise RuntimeError("[ONNXRuntimeError] : 6 : count == 1 was false.")

    monkeypatch.setattr(ort.InferenceSession, "run", run)
    return onnx.parser.parse_model(MODEL)


def test_a_failing_run_is_said_with_its_reason(failing: onnx.ModelProto) -> None:
    with pytest.raises(ModelError, match=f"{FAILS}: .*count == 1 was false") as caught:
        Reference(failing)({"x": np.zeros(3, np.float32)})
    assert "newer onnxruntime" in (caught.value.hint or "")


def test_verify_ends_with_it(failing: onnx.ModelProto) -> None:
    with pytest.raises(ModelError, match=FAILS):
        verify(failing)


def test_compile_warns_and_leaves_the_test_vector_out(
    failing: onnx.ModelProto, tmp_path: Path
) -> None:
    compiled = bnn_tvm.compile_model(failing)
    assert any(
        w.startswith(f"the result carries no test vector: {FAILS}") for w in compiled.warnings
    )
    so = compiled.save(tmp_path / "m").so
    x = np.array([0, 1, 2], np.float32)
    np.testing.assert_allclose(bnn_tvm.load(so).run(x)["y"], np.exp(x), rtol=1e-5)
    with pytest.raises(DeviceError, match="no test vector"):
        bnn_tvm.load(so, self_test=True)
