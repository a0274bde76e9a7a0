"""Dense blocks: a binary layer reads the bits of what was concatenated; nothing copies floats."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnn_tvm import pipeline
from bnn_tvm.importer import builder
from bnn_tvm.options import CompileOptions
from bnn_tvm.program import Program
from bnn_tvm.targets import TargetSpec, resolve
from tests.passes.bnn_ops import parse
from tests.pipeline.run_program import run_program

CONV = "bnn_tvm.BinaryConv<strides=[1,1],dilations=[1,1],group=1,pads=[1,1,1,1],pad_value=0>"
BITS = "bnn_tvm.Binarize"
FIRST = f"b = {BITS}(x, zero, up) y1 = {CONV}(b, w1, s, o) m = MaxPool<kernel_shape=[1,1]>(y1)"
# x: float[2,6,9,8]; y1 and m have C channels.
BODIES = {
    "two layers": f"""
        {FIRST} k1 = Concat<axis=1>(y1, m) c1 = {BITS}(k1, t2, d2) z1 = {CONV}(c1, w2, s, o)
        k2 = Concat<axis=1>(k1, z1) c2 = {BITS}(k2, t3, d3) y = {CONV}(c2, w3, s, o)""",
    "one threshold for all": f"""
        {FIRST} k1 = Concat<axis=1>(y1, m, y1) c1 = {BITS}(k1, zero, up)
        y = {CONV}(c1, w3, s, o)""",
    "floats are read too": f"""
        {FIRST} k1 = Concat<axis=1>(y1, m) c1 = {BITS}(k1, t2, d2) z1 = {CONV}(c1, w2, s, o)
        p = MaxPool<kernel_shape=[2,2]>(k1) q = MaxPool<kernel_shape=[2,2]>(z1)
        y = Concat<axis=1>(p, q, p)""",
    "along another axis": f"""
        {FIRST} k1 = Concat<axis=2>(y1, m) c1 = {BITS}(k1, zero, up)
        y = {CONV}(c1, w4, s, o)""",
}


def model_of(name: str, c: int) -> onnx.ModelProto:
    rng = np.random.default_rng(c)

    def signs(*shape: int) -> np.ndarray:
        return rng.choice(np.array([-1, 1], np.int8), shape)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    arrays = {
        "zero": np.zeros((), np.float32),
        "up": np.ones((), np.int8),
        **{f"w{n}": signs(c, channels, 3, 3) for n, channels in enumerate((6, 2 * c, 3 * c, c), 1)},
        "s": normal(c),
        "o": normal(c),
        **{f"t{n}": normal(1, n * c, 1, 1) for n in (2, 3)},
        **{f"d{n}": signs(1, n * c, 1, 1) for n in (2, 3)},
    }
    return parse(BODIES[name], arrays)


def float_copies(program: Program) -> list[str]:
    """The layers of concatenations that write floats."""
    return [
        call.layer
        for call in program.calls
        if call.kind == "concat" and program.tensors[call.args[-1]].dtype == "float32"
    ]


@pytest.fixture(scope="module")
def spec() -> TargetSpec:
    return resolve(CompileOptions())


@pytest.mark.parametrize("channels", (64, 37))
@pytest.mark.parametrize("name", BODIES)
def test_bits_of_parts_are_the_bits_of_the_whole(
    name: str, channels: int, spec: TargetSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(name, channels)
    program = pipeline.build(model, spec)
    with monkeypatch.context() as patch:
        patch.setattr(builder, "whole_words", lambda *args: ())
        whole = pipeline.build(model, spec)
    x = np.random.default_rng(3).normal(size=(2, 6, 9, 8)).astype(np.float32)
    results, expected = (run_program(p, spec.tvm_target(), {"x": x}) for p in (program, whole))
    for result, reference in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, reference)
    if channels == 64:
        # What a pool reads is copied once; the output's copy belongs to its transpose.
        once = name in ("floats are read too", "along another axis")
        assert float_copies(program) == (["k1"] if once else [])
        assert "k1" in float_copies(whole)
    else:
        assert float_copies(program) == float_copies(whole)
