"""Counters that fall from half the border table, on kernels with channels in vector lanes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te
from tvm.target import Target

from topi_ext import bconv2d_lanes, halves, kernels, reference
from topi_ext.bconv2d import edge_class
from topi_ext.kernels import STAGE
from topi_ext.lanes_writer import LANES
from topi_ext.params import ConvParams
from topi_ext.schedule import schedule_primfunc

# Even channels and whole vectors of them, without and with a table; odd ones, and parts of vectors.
PLAIN = ("1x4x5x64-k3x3x32-s1x1-d1x1-p0,0,0,0-g1-v0", "1x4x5x64-k3x3x32-s1x1-d1x1-p1,1,1,1-g1-v1")
HALVED = ("1x5x6x64-k3x3x32-s1x1-d1x1-p1,1,1,1-g1-v0", "2x4x5x32-k2x3x64-s2x1-d1x1-p0,2,1,0-g2-v0")
WHOLE = ("1x5x6x3-k3x3x32-s1x1-d1x1-p1,1,1,1-g1-v0", "1x5x6x64-k3x3x20-s1x1-d1x1-p1,1,1,1-g1-v0")
ROW = "bconv2d_generic_popcnt_u32_2x16"


def layer(params: ConvParams, scale: np.ndarray) -> tuple[list[te.Tensor], list[np.ndarray], Any]:
    """Tensors and arrays of a layer with scale and offset, and its exact result."""
    p, row, rng = params, kernels.table()[ROW], np.random.default_rng(0)
    x = rng.choice(np.array([-1, 1], np.int8), (p.n, p.h, p.w, p.ci))
    w = rng.choice(np.array([-1, 1], np.int8), (p.co, p.cig, p.kh, p.kw))
    offset = rng.standard_normal(p.co).astype(np.float32)
    bits = reference.pack_bits(x, bconv2d_lanes.WORD, p.groups)
    ones = 2**32 - 1 if p.pad_value > 0 else 0
    width = ((0, 0), p.pads[::2], p.pads[1::2], (0, 0))
    bits = np.pad(bits, width, constant_values=np.uint32(ones))
    arrays = [bits, *row.pack_weights(w, p), scale, offset]
    tensors = [te.placeholder(a.shape, str(a.dtype), f"p{i}") for i, a in enumerate(arrays)]
    *layer_inputs, s, o = tensors
    y = row.compute(*layer_inputs, params=p)
    out = te.compute(
        p.out_shape, lambda *i: y[i].astype("float32") * s[i[3]] + o[i[3]], name="affine"
    )
    exact = reference.bconv2d(x, w, p).astype(np.float64) * scale + offset
    with np.errstate(over="ignore"):
        return [*tensors, out], arrays, exact.astype(np.float32)


@pytest.mark.parametrize("case", [*PLAIN, *HALVED, *WHOLE])
def test_results_are_those_of_the_reference(case: str) -> None:
    p = ConvParams.parse(case)
    scale = np.random.default_rng(1).standard_normal(p.co).astype(np.float32)
    scale[:2] = 1e-44, halves.MOST_SCALE  # subnormal, and the largest allowed
    tensors, arrays, expected = layer(p, scale)
    target = Target("llvm")
    func = schedule_primfunc(te.create_prim_func(tensors), target)
    result = tvm.runtime.tensor(np.zeros(p.out_shape, np.float32))
    built = tvm.compile(func, target=target).jit()
    built["main"](*(tvm.runtime.tensor(a) for a in arrays), result)
    np.testing.assert_allclose(result.numpy(), expected, rtol=2e-7, atol=2e-6)


@pytest.mark.parametrize(
    ("case", "halved"), [(c, True) for c in HALVED] + [(c, False) for c in WHOLE]
)
def test_what_is_even_and_whole_falls_from_halves(case: str, halved: bool) -> None:
    p = ConvParams.parse(case)
    assert halves.halves(p, LANES) == halved
    tensors, _, _ = layer(p, np.ones(p.co, np.float32))
    func = te.create_prim_func(tensors)
    if not halved:
        with pytest.raises(LookupError, match=halves.FALLEN):
            halves.extract_fallen(func)
        return
    found = halves.extract_fallen(func)
    assert found is not None
    epilogue, start = found
    assert "T.float32(2.0)" in str(epilogue.value)
    if case in PLAIN:
        assert int(start) == p.taps // 2
    else:
        assert start.source.ty.dtype == "int32"
    assert STAGE in epilogue.annotations


@pytest.mark.parametrize("case", HALVED)
def test_the_table_is_half_of_what_the_taps_make(case: str) -> None:
    p = ConvParams.parse(case)
    w = np.random.default_rng(2).choice(np.array([-1, 1], np.int8), (p.co, p.cig, p.kh, p.kw))
    table = halves.start_table(w, p)
    y, x = p.ho - 1, 0
    total = 0
    for ky in range(p.kh):
        for kx in range(p.kw):
            row = y * p.stride[0] + ky - p.pads[0]
            column = x * p.stride[1] + kx - p.pads[1]
            inside = 0 <= row < p.h and 0 <= column < p.w
            total += p.cig if inside else p.cig + w[:, :, ky, kx].sum(axis=1, dtype=np.int32)
    np.testing.assert_array_equal(2 * table[edge_class(p, 0, y), edge_class(p, 1, x)], total)
