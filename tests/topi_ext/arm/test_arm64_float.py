"""The table of float layers in half precision: models, gains, the text."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.arm64_float import LAYERS, Row, as_json, model, table
from benchmarks.networks import sample_input

ROWS = [Row("stem", 16_000, "conv2d_f32", "conv2d_f16", 2500.0, 1250.0, 3e-3)]


@pytest.mark.parametrize("name", [n for n in LAYERS if not n.startswith("3x3")])
def test_every_layer_is_a_model_with_the_shape_of_its_name(name: str) -> None:
    shape = LAYERS[name]
    proto = model(shape)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"input": sample_input(proto)})
    size = -(-shape.size // shape.stride)
    assert y.shape == ((1, shape.co, size, size) if shape.k else (1, shape.co))
    assert np.all(y >= 0)


def test_the_gain_and_the_parts_of_both_peaks_are_said() -> None:
    assert as_json(ROWS)[0]["gain"] == 2.0 and as_json(ROWS)[0]["core"] == "cortex-a76"
    assert table(ROWS)[-1] == "| stem | 2 | 80% | 1 | 80% | 2.00x | 3e-03 |"
