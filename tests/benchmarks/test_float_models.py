"""Single float layers as models: their shapes, and that what follows them is fused."""

from __future__ import annotations

import re

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.arm64_models import compile_program
from benchmarks.float_models import EPILOGUES, LAYERS, model
from benchmarks.networks import sample_input


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_a_model_with_the_shape_of_its_name(name: str) -> None:
    proto = model(LAYERS[name], EPILOGUES["relu"])
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = sample_input(proto)
    (y,) = session.run(None, {"input": x})
    assert np.all(y >= 0)
    if name.startswith("dense"):
        ci, co = map(int, re.findall(r"\d+", name))
        assert (x.shape, y.shape) == ((1, ci), (1, co))
        return
    size, ci = map(int, re.search(r"(\d+)x\1x(\d+)", name).groups())  # type: ignore[union-attr]
    to = re.search(r"to (\d+)", name)
    out = -(-size // (2 if " s2" in name else 1))
    assert x.shape == (1, ci, size, size)
    assert y.shape == (1, int(to[1]) if to else ci, out, out)
    assert name.endswith(", direct") == LAYERS[name].direct
    assert re.search(r"\dx(\d)", name)[1] == str(LAYERS[name].params.kh)  # type: ignore[index]


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("name", ["depthwise 3x3 s2, 13x13x256", "dense, 512 to 1000"])
def test_what_follows_is_fused_into_the_kernel(name: str, epilogue: str) -> None:
    program = compile_program(model(LAYERS[name], EPILOGUES[epilogue]), "cortex-a76")
    kinds = [call.kind for call in program.calls if not call.macs]
    assert set(kinds) <= {"transpose"}, kinds
    assert len(program.calls) - len(kinds) == 1
