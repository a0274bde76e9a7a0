"""Every binary convolution kernel that this machine can run is exact, on shapes around its tile.

Kernels for wider vectors than this machine's run too: LLVM splits their vectors, so the schedule
is proved, if not the instructions. Kernels with intrinsics of another ISA do not.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import te

from tests.topi_ext.binary_case import (
    EPILOGUES,
    PARAMS,
    activations,
    call,
    check,
    garbage,
    host,
    placeholders,
    rows,
    signs,
)
from topi_ext import kernels, reference
from topi_ext.bconv2d import border_correction, edge_class, needs_correction
from topi_ext.kernels import Kernel
from topi_ext.params import ConvParams


def around(size: int) -> list[int]:
    """Sizes equal to, under, over, a multiple of, and prime next to a tile's size."""
    prime = next(
        v for v in range(size + 2, 4 * size + 9) if all(v % d for d in range(2, int(v**0.5) + 1))
    )
    return sorted({size, max(1, size - 1), size + 1, 2 * size, prime})


def shapes(kernel: Kernel) -> list[ConvParams]:
    """Edge shapes of a kernel: pixels and channels around the tile, then the corners by name."""
    p1 = (1, 1, 1, 1)
    cases = [
        ConvParams(1, 1, pixels, 40, 8, 1, 1, pad_value=-1)
        for pixels in around(kernel.tile["pixels"])
    ]
    cases += [ConvParams(1, 3, 3, 24, co, 3, 3, pads=p1) for co in around(kernel.tile["channels"])]
    cases += [
        ConvParams(1, 5, 4, ci, 20, 3, 3, pads=p1, pad_value=value)
        for value, ci in zip((0, 1, -1) * 3, (1, 3, 16, 31, 32, 33, 37, 48, 64), strict=True)
    ]
    cases += [
        ConvParams(1, 1, 1, 960, 10, 1, 1),  # a map of one pixel
        ConvParams.dense(5, 100, 37),
        ConvParams(1, 7, 7, 64, 64, 5, 5, pads=(2, 2, 2, 2)),
        ConvParams(1, 11, 13, 8, 8, 3, 3, stride=(3, 3), pads=(0, 1, 2, 0)),
        ConvParams(1, 9, 10, 8, 8, 3, 3, dilation=(2, 2), pads=(2, 2, 2, 2)),
        ConvParams(1, 9, 10, 8, 40, 3, 2, (2, 1), (1, 3), (3, 0, 1, 2), pad_value=1),
        ConvParams(3, 5, 7, 20, 12, 3, 3, pads=p1),  # batch, odd rows
        ConvParams(2, 6, 6, 12, 18, 3, 3, pads=p1, groups=3),
        ConvParams(1, 5, 6, 80, 140, 3, 3, pads=p1, groups=2, pad_value=1),
        ConvParams(1, 6, 5, 9, 9, 3, 3, pads=p1, groups=9),  # depthwise
        ConvParams(1, 2, 2, 16, 8, 3, 3, pads=(2, 2, 2, 2)),  # every output on the border
        ConvParams(1, 1, 9, 6, 7, 1, 4, pads=(0, 3, 0, 2)),  # one spatial axis
        # Several words a pixel, which are not neighbours of the next pixel's.
        ConvParams(1, 7, 6, 260, 40, 3, 3, dilation=(1, 2), pads=(1, 2, 1, 2), groups=2),
        ConvParams(1, 2, 5, 800, 8, 1, 2, dilation=(1, 2), groups=2),
    ]
    return cases


ROWS = rows()
CASES = [(k, p) for k in ROWS for p in shapes(k)]


@pytest.mark.parametrize(("kernel", "params"), CASES, ids=lambda v: getattr(v, "name", str(v)))
def test_exact_integers(kernel: Kernel, params: ConvParams) -> None:
    assert kernel.supports(params) is None
    check(kernel, params, "none")


@pytest.mark.parametrize("epilogue", EPILOGUES[1:])
@pytest.mark.parametrize("kernel", ROWS, ids=lambda k: k.name)
@pytest.mark.parametrize(
    "case",
    [
        "1x7x7x37-k3x3x70-s1x1-d1x1-p1,1,1,1-g1-v0",
        "2x4x6x32-k3x3x130-s2x2-d1x1-p1,1,1,1-g1-v-1",
    ],
)
def test_fused_epilogue(kernel: Kernel, case: str, epilogue: str) -> None:
    check(kernel, ConvParams.parse(case), epilogue)


@pytest.mark.parametrize("kernel", ROWS, ids=lambda k: k.name)
def test_reshape_behind_the_kernel_takes_the_scalar_schedule(kernel: Kernel) -> None:
    p = ConvParams(1, 3, 4, 10, 6, 3, 3, pads=(1, 1, 1, 1))
    rng = np.random.default_rng(1)
    s, w = signs(rng, (p.n, p.h, p.w, p.ci)), signs(rng, (p.co, p.cig, p.kh, p.kw))
    arrays = [activations(kernel, s, p), *kernel.pack_weights(w, p)]
    inputs = placeholders(arrays)
    y = kernel.compute(*inputs, params=p)
    size = p.pixels * p.co
    flat = te.compute(
        (size,), lambda i: y[0, i // (p.wo * p.co), i // p.co % p.wo, i % p.co], name="flat"
    )
    got = call(te.create_prim_func([*inputs, flat]), arrays, garbage((size,), "int32"))
    np.testing.assert_array_equal(got, reference.bconv2d(s, w, p).reshape(-1))


def test_counters_do_not_overflow_at_3072_channels_5x5() -> None:
    p = ConvParams(1, 5, 5, 3072, 3, 5, 5)
    kernel = kernels.select("bconv2d", p, host())
    assert p.taps > 65535
    ones = np.ones((1, 5, 5, 3072), np.int8)
    w = np.ones((3, 3072, 5, 5), np.int8)
    w[0] = -1  # every bit differs
    w[1, ::2] = -1
    arrays = [activations(kernel, ones, p), *kernel.pack_weights(w, p)]
    inputs = placeholders(arrays)
    func = te.create_prim_func([*inputs, kernel.compute(*inputs, params=p)])
    got = call(func, arrays, garbage((1, 1, 1, 3), "int32"))
    assert got.reshape(-1).tolist() == [-76800, 0, 76800]


@pytest.mark.parametrize("kernel", ROWS, ids=lambda k: k.name)
def test_most_taps_a_kernel_supports_do_not_overflow(kernel: Kernel) -> None:
    channels = 65535 // 15
    p = ConvParams(1, 3, 5, channels, 2, 3, 5)
    assert kernel.supports(p) is None
    ones = np.ones((1, 3, 5, channels), np.int8)
    w = np.stack([np.ones((channels, 3, 5), np.int8), -np.ones((channels, 3, 5), np.int8)])
    arrays = [activations(kernel, ones, p), *kernel.pack_weights(w, p)]
    inputs = placeholders(arrays)
    func = te.create_prim_func([*inputs, kernel.compute(*inputs, params=p)])
    got = call(func, arrays, garbage((1, 1, 1, 2), "int32"))
    assert got.reshape(-1).tolist() == [p.taps, -p.taps]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=PARAMS, which=st.integers(0, len(ROWS) - 1), seed=st.integers(0, 999))
def test_any_shape(values: tuple, which: int, seed: int) -> None:
    try:
        params = ConvParams(*values)
    except ValueError:
        return  # the kernel does not fit into the input
    check(ROWS[which], params, "none", seed)


@settings(max_examples=200, deadline=None)
@given(values=PARAMS, seed=st.integers(0, 999))
def test_border_correction_is_the_padded_taps(values: tuple, seed: int) -> None:
    try:
        p = ConvParams(*values)
    except ValueError:
        return
    if not needs_correction(p):
        return
    rng = np.random.default_rng(seed)
    w = signs(rng, (p.co, p.cig, p.kh, p.kw))
    # With all inputs 0 and padding 1, what remains of a convolution is the padded taps.
    nothing = np.zeros((p.n, p.h, p.w, p.ci), np.int64)
    padded = reference.conv2d(nothing, w.astype(np.int64), p, 1)
    table = border_correction(w, p)
    for y in range(p.ho):
        for x in range(p.wo):
            entry = table[edge_class(p, 0, y), edge_class(p, 1, x)]
            np.testing.assert_array_equal(entry - p.taps, padded[0, y, x])
