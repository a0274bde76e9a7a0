"""Scales near the largest float: doubling them would overflow where the layer's result does not."""

from __future__ import annotations

import numpy as np
import pytest

from bnn_tvm import pipeline
from bnn_tvm.options import CompileOptions
from bnn_tvm.targets import resolve
from tests.passes.bnn_ops import parse
from tests.pipeline.run_program import run_program

CHANNELS = 64
BODY = """
    b = bnn_tvm.Binarize(x, t0, up)
    y = bnn_tvm.BinaryConv<strides=[1,1],dilations=[1,1],group=1,pads=[0,0,0,0],pad_value=0>(
        b, w, s, o)"""


@pytest.mark.parametrize("exponent", [125, 127])
def test_a_result_of_zero_or_two_is_finite(exponent: int) -> None:
    """x holds two channels: the integers are -2, 0 and 2."""
    rng = np.random.default_rng(0)
    w = rng.choice(np.array([-1, 1], np.int8), (CHANNELS, 2, 1, 1))
    scale = np.full(CHANNELS, 2.0**exponent, np.float32)
    arrays = {
        "t0": np.zeros((), np.float32),
        "up": np.ones((), np.int8),
        "w": w,
        "s": scale,
        "o": np.zeros(CHANNELS, np.float32),
    }
    text = "float[1,2,3,4] x"
    program = pipeline.build(parse(BODY, arrays, text), resolve(CompileOptions()))
    x = rng.standard_normal((1, 2, 3, 4)).astype(np.float32)
    (got,) = run_program(program, resolve(CompileOptions()).tvm_target(), {"x": x})
    signs = np.where(x >= 0, 1, -1)
    with np.errstate(over="ignore"):
        exact = np.einsum("nchw,oc->nohw", signs, w[:, :, 0, 0]).astype(np.float32)
        expected = exact * scale.reshape(1, -1, 1, 1)
    assert (expected == 0).any() and np.isfinite(expected).all() == (exponent < 127)
    np.testing.assert_array_equal(got, expected)
    assert not np.signbit(got[got == 0]).any()
