"""Binarisation as an integer comparison: equal to the float path bit for bit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.topi_ext.binary_case import activations, host, placeholders, run_te, signs
from topi_ext import kernels, reference, threshold, words
from topi_ext.isa import RUNS_ON, isa_of
from topi_ext.params import ConvParams
from topi_ext.pool import max_pool2d_nhwc, or_pool2d_nhwc

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
THRESHOLDS = st.floats(width=32, allow_nan=True, allow_infinity=True)
RUNNABLE = [
    kernel
    for kernel in kernels.table().values()
    if kernel.counts is not None and kernel.isa in RUNS_ON[isa_of(host())]
]
# Maps of one pixel, odd sizes, every border; channels around words and tiles.
CASES = (
    "1x1x1x1-k1x1x1-s1x1-d1x1-p0,0,0,0-g1-v0",
    "1x1x1x64-k3x3x16-s1x1-d1x1-p1,1,1,1-g1-v0",
    "2x5x7x37-k3x3x37-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x6x5x48-k3x2x33-s2x1-d1x1-p1,0,2,1-g1-v1",
    "1x9x8x64-k5x5x128-s3x2-d1x1-p2,2,2,2-g1-v-1",
    "1x7x9x32-k3x3x96-s1x1-d2x2-p2,2,2,2-g1-v0",
    "1x4x4x160-k3x3x130-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x3x3x64-k1x1x200-s1x1-d1x1-p0,0,0,0-g1-v0",
    "2x4x3x64-k3x3x128-s1x1-d1x1-p1,1,1,1-g2-v0",
    "1x1x3x1024-k1x1x1000-s1x1-d1x1-p0,0,0,0-g1-v0",
    "2x7x7x260-k3x3x96-s1x1-d1x1-p1,1,1,1-g1-v0",  # AVX512 skips rows in the padding
)


def bits(
    scale: np.ndarray,
    acc: np.ndarray,
    offset: np.ndarray,
    limit: np.ndarray,
    up: np.ndarray,
    fused: bool = False,
) -> np.ndarray:
    """The float comparison: as NumPy does it, or behind a fused multiply-add."""
    with np.errstate(over="ignore", under="ignore"):
        if fused:
            y = threshold.affine(scale, acc.astype(np.float32), offset, fused=True)
        else:
            y = scale * acc.astype(np.float32) + offset
    return np.where(up, y >= limit, y <= limit)


def agree(
    scale: np.ndarray, offset: np.ndarray, limit: np.ndarray, up: np.ndarray, taps: int
) -> None:
    """Assert that the integers answer as the floats do, for every possible sum and rounding."""
    acc = np.arange(-taps, taps + 1)[:, None]
    for fused in (False, True):
        limits, sign = threshold.integer_limits(scale, offset, limit, up, taps, fused)
        expected = bits(scale, acc, offset, limit, up, fused)
        np.testing.assert_array_equal(sign * acc >= limits, expected)


@settings(max_examples=300, deadline=None)
@given(FLOAT32, FLOAT32, THRESHOLDS, st.booleans(), st.integers(1, 300))
def test_any_scale_offset_and_threshold(
    scale: float, offset: float, limit: float, up: bool, taps: int
) -> None:
    agree(*(np.array([v], np.float32) for v in (scale, offset, limit)), np.array([up]), taps)


@pytest.mark.parametrize("seed", range(20))
def test_ties_are_met_exactly(seed: int) -> None:
    """Thresholds that some sum reaches, and their float neighbours."""
    rng = np.random.default_rng(seed)
    taps, co = int(rng.integers(1, 5000)), 300
    scale = (rng.normal(size=co) * 10.0 ** rng.integers(-42, 30, co)).astype(np.float32)
    scale[:10] = (1, -1, 0, -0.0, 1e-45, -1e-45, 1.17e-38, 3e38, -3e38, 0.5)
    offset = (scale * rng.normal(size=co) * taps).astype(np.float32)
    offset[rng.random(co) < 0.3] = 0
    offset = np.where(np.isfinite(offset), offset, 1).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        tie = scale * rng.integers(-taps, taps + 1, co).astype(np.float32) + offset
    limit = np.nextafter(tie, rng.choice(np.array([-np.inf, np.inf], np.float32), co))
    limit = np.where(rng.random(co) < 0.5, tie, limit).astype(np.float32)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45], np.float32)
    limit[10:60] = rng.choice(special, 50)
    agree(scale, offset, limit, rng.random(co) < 0.5, taps)


def test_infinite_scales_are_refused() -> None:
    one = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="finite"):
        threshold.integer_limits(one * np.inf, one, one, one > 0, 9, False)


@settings(max_examples=300, deadline=None)
@given(FLOAT32, st.integers(-70000, 70000), FLOAT32)
def test_fused_affine_rounds_once(scale: float, x: int, offset: float) -> None:
    exact = Fraction(scale) * x + Fraction(offset)
    got = threshold.affine(*(np.array([v], np.float32) for v in (scale, x, offset)), fused=True)[0]
    if not np.isfinite(got):
        assert abs(exact) > Fraction(float(np.finfo(np.float32).max))
        return
    ulp = [Fraction(float(np.nextafter(got, np.float32(s)))) for s in (-3.4e38, 3.4e38)]
    error = abs(Fraction(float(got)) - exact)
    assert all(error <= abs(other - exact) for other in ulp)


@pytest.mark.parametrize("word_bits", (8, 16, 32, 64))
@pytest.mark.parametrize("kernel", RUNNABLE, ids=lambda k: k.name)
@pytest.mark.parametrize("case", CASES)
def test_kernels_write_the_bits_of_the_reference(
    case: str, kernel: kernels.Kernel, word_bits: int
) -> None:
    p = ConvParams.parse(case)
    if kernel.supports(p) or threshold.refusal(kernel, p, word_bits):
        pytest.skip("the kernel does not take this shape")
    rng = np.random.default_rng(5)
    s, w = signs(rng, (p.n, p.h, p.w, p.ci)), signs(rng, (p.co, p.cig, p.kh, p.kw))
    acc = reference.bconv2d(s, w, p)
    scale = rng.choice(np.array([1, -0.5, 0.3, 0], np.float32), p.co)
    offset = rng.normal(size=p.co).astype(np.float32)
    # Each channel's threshold is a value that it takes somewhere: a tie.
    rows = acc.reshape(-1, p.co)
    limit = scale * rows[rng.integers(0, len(rows), p.co), np.arange(p.co)] + offset
    limit = np.where(rng.random(p.co) < 0.1, np.float32(np.nan), limit).astype(np.float32)
    up = rng.random(p.co) < 0.5
    expected = np.where(bits(scale, acc, offset, limit, up), 1, -1).astype(np.int8)
    limits, sign = threshold.integer_limits(scale, offset, limit, up, p.taps, fused=False)
    arrays = [
        activations(kernel, s, p),
        *threshold.pack_weights(kernel, w, limits, sign, p),
    ]
    tensors = placeholders(arrays)
    out = threshold.threshold_words(*tensors, params=p, kernel=kernel, word_bits=word_bits)
    got = run_te([*tensors, out], arrays)
    np.testing.assert_array_equal(got, reference.pack_bits(expected, word_bits))


def test_kernels_say_what_they_cannot_write() -> None:
    lanes = kernels.table()["bconv2d_generic_popcnt_u32_2x16"]
    p = ConvParams(1, 4, 4, 64, 64, 3, 3)
    assert "16 channels" in str(threshold.refusal(lanes, p, 32))
    assert threshold.refusal(lanes, p, 16) is None
    grouped = ConvParams(1, 4, 4, 48, 48, 3, 3, groups=4)
    assert "12 channels" in str(threshold.refusal(lanes, grouped, 8))
    wide = ConvParams(1, 9, 9, 800, 8, 7, 7)
    table = kernels.table()["bconv2d_avx2_pshufb_table_2x128"]
    assert "overflow" in str(threshold.refusal(table, wide, 8))


@pytest.mark.parametrize("word_bits", (8, 16, 32, 64))
@pytest.mark.parametrize(("channels", "groups"), ((5, 1), (64, 1), (96, 2), (70, 1)))
@pytest.mark.parametrize("pad_value", (-1, 1))
def test_padding_words_is_packing_with_padding(
    channels: int, groups: int, pad_value: int, word_bits: int
) -> None:
    s = signs(np.random.default_rng(1), (2, 3, 4, channels))
    pads = (1, 0, 2, 3)
    p = ConvParams(2, 3, 4, channels, groups, 1, 1, pads=pads, groups=groups, pad_value=pad_value)
    plain = reference.pack_bits(s, word_bits, groups)
    (source,) = placeholders([plain])
    got = run_te([source, words.pad_words(source, p, word_bits)], [plain])
    np.testing.assert_array_equal(got, reference.pack_padded(s, p, word_bits))


@pytest.mark.parametrize("word_bits", (8, 32))
@pytest.mark.parametrize("channels", (3, 64, 70))
@pytest.mark.parametrize(
    "window",
    (
        ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False),
        ((3, 2), (2, 1), (1, 0, 1, 1), (1, 2), False),
        ((3, 3), (2, 2), (0, 0, 0, 0), (1, 1), True),
    ),
)
def test_pools_of_words_are_pools_of_signs(channels: int, word_bits: int, window: tuple) -> None:
    s = signs(np.random.default_rng(1), (2, 6, 7, channels))
    (plain,) = placeholders([s])
    expected = run_te([plain, max_pool2d_nhwc(plain, *window)], [s])
    packed = reference.pack_bits(s, word_bits)
    (source,) = placeholders([packed])
    got = run_te([source, or_pool2d_nhwc(source, *window)], [packed])
    np.testing.assert_array_equal(got, reference.pack_bits(expected, word_bits))


@pytest.mark.parametrize("channels", (1, 8, 40, 64))
def test_negated_channels(channels: int) -> None:
    rng = np.random.default_rng(channels)
    s, turned = signs(rng, (1, 2, 3, channels)), rng.random(channels) < 0.5
    packed = reference.pack_bits(s, 8)
    (source,) = placeholders([packed])
    got = run_te([source, words.negate_channels(source, turned, 8)], [packed])
    expected = reference.pack_bits(np.where(turned, -s, s).astype(np.int8), 8)
    np.testing.assert_array_equal(got, expected)
