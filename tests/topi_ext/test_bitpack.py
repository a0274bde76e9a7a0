"""Packing: every word size, border, threshold and flip; and what the bits mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import te

from tests.topi_ext.binary_case import placeholders, run_te, signs
from topi_ext import reference
from topi_ext.bitpack import half_limits, pack
from topi_ext.params import ConvParams

WORDS = (8, 16, 32, 64)
CHANNELS = (1, 3, 7, 8, 9, 31, 32, 33, 37, 63, 64, 65, 96, 127, 128, 129)


def values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Floats around the thresholds, with NaN, infinities and both zeros among them."""
    x = rng.integers(-3, 4, shape).astype(np.float32)
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0], np.float32)
    return np.where(rng.random(shape) < 0.3, rng.choice(special, shape), x).astype(np.float32)


def check(x: np.ndarray, params: ConvParams, word_bits: int, threshold, flip) -> None:
    """Assert that `pack` stores what the reference stores."""
    arrays = [x]
    arrays += [threshold] if isinstance(threshold, np.ndarray) else []
    arrays += [] if flip is None else [flip]
    tensors = placeholders(arrays)
    limit = tensors[1] if isinstance(threshold, np.ndarray) else threshold
    out = pack(tensors[0], limit, None if flip is None else tensors[-1], params, word_bits)
    got = run_te([*tensors, out], arrays)
    s = reference.binarize(x, threshold, False if flip is None else flip.astype(bool))
    np.testing.assert_array_equal(got, reference.pack_padded(s, params, word_bits))


@pytest.mark.parametrize("word_bits", WORDS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_channels_and_words(channels: int, word_bits: int) -> None:
    rng = np.random.default_rng(channels)
    p = ConvParams(2, 3, 5, channels, 1, 1, 1, pads=(1, 2, 0, 1), pad_value=channels % 3 - 1)
    check(values(rng, (2, 3, 5, channels)), p, word_bits, 0.0, None)


@pytest.mark.parametrize("word_bits", WORDS)
@pytest.mark.parametrize("channels", (5, 32, 37, 64))
@pytest.mark.parametrize("flipped", (False, True))
def test_thresholds_and_flips_per_channel(channels: int, word_bits: int, flipped: bool) -> None:
    rng = np.random.default_rng(channels)
    p = ConvParams(1, 3, 4, channels, 1, 1, 1, pads=(1, 1, 1, 1), pad_value=1)
    threshold = rng.choice(np.array([-1, 0, 0.5, np.inf, -np.inf, np.nan], np.float32), channels)
    flip = rng.integers(0, 2, channels).astype(np.uint8) if flipped else None
    check(values(rng, (1, 3, 4, channels)), p, word_bits, threshold, flip)


@pytest.mark.parametrize("threshold", (0.3, -2.0, float("inf"), float("-inf"), float("nan")))
def test_scalar_thresholds(threshold: float) -> None:
    p = ConvParams(1, 2, 3, 40, 1, 1, 1)
    check(
        values(np.random.default_rng(0), (1, 2, 3, 40)), p, 32, float(np.float32(threshold)), None
    )


@pytest.mark.parametrize("dtype", ("int8", "int32"))
def test_integer_inputs(dtype: str) -> None:
    x = np.random.default_rng(0).integers(-3, 4, (1, 2, 3, 40)).astype(dtype)
    check(x, ConvParams(1, 2, 3, 40, 1, 1, 1), 8, 1.0, None)


@pytest.mark.parametrize("word_bits", WORDS)
@pytest.mark.parametrize(("channels", "groups"), ((6, 3), (48, 3), (80, 2), (9, 9)))
def test_groups_start_on_fresh_words(channels: int, groups: int, word_bits: int) -> None:
    p = ConvParams(1, 3, 3, channels, channels, 1, 1, pads=(1, 0, 1, 1), groups=groups, pad_value=1)
    check(values(np.random.default_rng(0), (1, 3, 3, channels)), p, word_bits, 0.0, None)


def test_elementwise_work_fused_before_is_inlined() -> None:
    x = values(np.random.default_rng(0), (1, 2, 3, 10))
    (source,) = placeholders([x])
    p = ConvParams(1, 2, 3, 10, 1, 1, 1, pads=(1, 1, 1, 1))
    negated = te.compute(x.shape, lambda *i: -source[i], name="negated")
    got = run_te([source, pack(negated, 0.0, None, p, 32)], [x])
    np.testing.assert_array_equal(got, reference.pack_padded(reference.binarize(-x), p, 32))


@given(st.integers(1, 200), st.sampled_from(WORDS), st.sampled_from((1, 2, 3)), st.integers(0, 999))
def test_unpack_is_the_inverse_of_pack(cig: int, word_bits: int, groups: int, seed: int) -> None:
    s = signs(np.random.default_rng(seed), (2, 3, cig * groups))
    words = reference.pack_bits(s, word_bits, groups)
    assert words.shape[-1] == groups * -(-cig // word_bits)
    np.testing.assert_array_equal(reference.unpack_bits(words, cig * groups, groups), s)


@given(st.integers(1, 300), st.sampled_from(WORDS), st.integers(0, 999))
def test_popcount_of_xor_is_the_dot_product(k: int, word_bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = signs(rng, (k,)), signs(rng, (k,))
    differ = reference.pack_bits(a, word_bits) ^ reference.pack_bits(b, word_bits)
    ones = sum(int(word).bit_count() for word in differ)
    assert k - 2 * ones == int(a.astype(int) @ b.astype(int))


@settings(max_examples=50)
@given(st.integers(1, 70), st.integers(0, 999))
def test_filler_bits_are_zero(channels: int, seed: int) -> None:
    s = signs(np.random.default_rng(seed), (1, 2, 2, channels))
    p = ConvParams(1, 2, 2, channels, 1, 1, 1, pads=(1, 1, 1, 1), pad_value=1)
    words = reference.pack_padded(s, p, 32)
    bits = np.unpackbits(words.view(np.uint8).reshape(4, 4, -1), axis=-1, bitorder="little")
    assert not bits[..., channels:].any()
    assert bits[0, 0, :channels].all()  # the border is +1


def test_halves_compare_with_their_limits_as_with_float32_thresholds() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    rng = np.random.default_rng(6)
    ends = [0.0, -0.0, 1e-9, -1e-9, 65504, 65520, 7e4, -65504, -7e4, np.inf, -np.inf, np.nan, 1e38]
    with np.errstate(invalid="ignore"):
        some = halves[rng.integers(0, 2**16, 40)].astype(np.float32)
        thresholds = np.concatenate([ends, rng.normal(size=40), some]).astype(np.float32)
        wide = halves.astype(np.float32)[:, None] >= thresholds
    assert half_limits(thresholds).dtype == np.float16
    np.testing.assert_array_equal(halves[:, None] >= half_limits(thresholds), wide)
