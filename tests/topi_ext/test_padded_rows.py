"""Kernel rows in the padding: who skips them, and that the integers stay what they are."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.topi_ext.binary_case import PARAMS, check, plain_vector_rows, rows
from topi_ext import kernels, padded_rows
from topi_ext.kernels import Kernel
from topi_ext.params import ConvParams
from topi_ext.x86 import table_plan
from topi_ext.x86.table_plan import TablePlan

TABLE = kernels.table()["bconv2d_avx2_pshufb_table_2x128"]
LANES_ROWS = plain_vector_rows()
TABLE_ROWS = [row for row in rows() if row is TABLE]
# Shapes where kernel rows in the padding are skipped: the layer it is made for; images that share
# a tile; every pad value; strides, dilations, groups; no row of some tiles left.
SKIPPING = (
    "1x7x7x512-k3x3x40-s1x1-d1x1-p1,1,1,1-g1-v0",
    "2x7x7x416-k3x3x70-s1x1-d1x1-p1,1,1,1-g1-v1",
    "3x3x5x300-k3x3x20-s1x1-d1x1-p1,1,1,1-g1-v-1",
    "1x7x7x128-k5x5x33-s1x1-d1x1-p2,2,2,2-g1-v0",
    "1x9x10x160-k4x3x24-s2x1-d1x1-p3,0,2,1-g1-v0",
    "2x6x6x520-k3x3x36-s1x1-d2x2-p2,2,2,2-g2-v0",
    "1x9x7x600-k3x2x20-s2x2-d3x1-p4,1,5,0-g1-v1",
    "1x2x3x512-k1x1x20-s1x1-d1x1-p2,0,1,1-g1-v0",
)
# More for the look-up kernel: a map of one pixel; strips of half a row, of several rows, of an odd
# number of pairs; one, two and four vectors of channels; words that are not whole.
LOOKED_UP = (
    "1x1x1x960-k3x3x40-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x14x14x37-k3x3x37-s1x1-d1x1-p1,1,1,1-g1-v-1",
    "1x13x13x96-k5x5x133-s3x3-d1x1-p2,2,2,2-g1-v0",
    "3x5x8x64-k3x3x64-s1x1-d2x1-p2,1,2,1-g1-v0",
    "2x5x34x64-k3x3x170-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x5x84x64-k3x3x200-s1x1-d1x1-p1,1,1,1-g1-v1",
    "1x14x14x256-k5x5x96-s1x1-d1x1-p2,2,2,2-g1-v0",
    "1x7x8x1-k3x3x64-s1x1-d1x1-p1,1,1,1-g1-v0",
)


def params_of(values: tuple) -> ConvParams | None:
    """None if there is no such convolution."""
    try:
        return ConvParams(*values)
    except ValueError:
        return None


def skip_always(patch: pytest.MonkeyPatch) -> None:
    """Let kernels skip whatever can be skipped."""
    patch.setattr(padded_rows, "LEAST_SHARE", 0.0)
    patch.setattr(padded_rows, "LEAST_WORDS", 0.0)
    patch.setattr(table_plan, "LEAST_GAIN", float("-inf"))


@pytest.mark.parametrize("kernel", LANES_ROWS, ids=lambda k: k.name)
@pytest.mark.parametrize("case", SKIPPING)
def test_skipped_rows_keep_the_integers(kernel: Kernel, case: str) -> None:
    p = ConvParams.parse(case)
    assert padded_rows.skipping_pays(p, kernel.tile["pixels"], kernel.word_bits)
    check(kernel, p, "scale" if p.groups > 1 else "none")


@pytest.mark.parametrize("kernel", TABLE_ROWS, ids=lambda k: k.name)
@pytest.mark.parametrize("case", SKIPPING + LOOKED_UP)
def test_rows_skipped_by_pairs_keep_the_integers(
    kernel: Kernel, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_always(monkeypatch)
    p = ConvParams.parse(case)
    assert TablePlan.of(p).skips
    check(kernel, p, "scale" if p.groups > 1 else "none")


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=PARAMS, which=st.integers(0, len(LANES_ROWS) - 1), seed=st.integers(0, 999))
def test_any_shape_with_every_padded_row_skipped(values: tuple, which: int, seed: int) -> None:
    params = params_of(values)
    if params is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        skip_always(patch)
        check(LANES_ROWS[which], params, "none", seed)


@pytest.mark.skipif(not TABLE_ROWS, reason="this machine has no AVX2")
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=PARAMS, gathered=st.booleans(), seed=st.integers(0, 999))
def test_any_shape_in_both_layouts_with_every_padded_row_skipped(
    values: tuple, gathered: bool, seed: int
) -> None:
    params = params_of(values)
    if params is None:
        return
    gathered = gathered or params.dilation[1] != 1
    with pytest.MonkeyPatch.context() as patch:
        skip_always(patch)
        patch.setattr(TablePlan, "cheaper", staticmethod(lambda *plans: plans[gathered]))
        check(TABLE, params, "none", seed)


@settings(max_examples=200, deadline=None)
@given(values=PARAMS, pixels=st.integers(1, 5))
def test_a_skipped_row_is_padding_for_every_pixel(values: tuple, pixels: int) -> None:
    p = params_of(values)
    if p is None:
        return
    total = skipped = 0
    for first in range(0, p.pixels, pixels):
        tile = [q // p.wo % p.ho for q in range(first, min(first + pixels, p.pixels))]
        begin, end = padded_rows.rows_to_run(p, min(tile), max(tile), min, max)
        assert 0 <= begin <= end <= p.kh
        needed = {ky for y in tile for ky in range(p.kh) if inside(p, y, ky)}
        assert needed <= set(range(begin, end))
        if len(set(tile)) == 1:
            assert needed == set(range(begin, end))
        total += p.kh
        skipped += p.kh - (end - begin)
    assert padded_rows.skipped_share(p, pixels) == skipped / total


@settings(max_examples=200, deadline=None)
@given(values=PARAMS)
def test_the_outputs_that_a_kernel_row_runs_for_have_it_inside(values: tuple) -> None:
    p = params_of(values)
    if p is None:
        return
    for ky in range(p.kh):
        begin, behind = padded_rows.outputs_to_run(p, ky, min, max)
        assert [y for y in range(p.ho) if inside(p, y, ky)] == list(range(begin, behind))


@settings(max_examples=200, deadline=None)
@given(values=PARAMS, gathered=st.booleans(), strip=st.integers(1, 9))
def test_pairs_run_what_they_need_and_no_more_in_one_image(
    values: tuple, gathered: bool, strip: int
) -> None:
    p = params_of(values)
    if p is None:
        return
    plan = TablePlan(p, gathered, skips=True)
    skipped = 0
    for first in range(0, plan.pairs, strip):
        pairs = range(first, min(first + strip, plan.pairs))
        for ky in range(p.kh):
            found = plan.pairs_to_run(ky, pairs[0], pairs[-1])
            begin, behind = (int(at) for at in found)
            run = {pair for pair in pairs if begin <= pair < behind}
            needed = {pair for pair in pairs if any(inside(p, y, ky) for y in lines(plan, pair))}
            assert needed <= run
            skipped += len(pairs) - len(run)
    if p.n == 1 and not gathered:
        assert skipped == round(padded_rows.skipped_share(p, 1) * p.kh * plan.pairs)


def inside(p: ConvParams, y: int, ky: int) -> bool:
    """Whether row `ky` of the kernel lies in the map for output row `y`."""
    return 0 <= y * p.stride[0] + ky * p.dilation[0] - p.pads[0] < p.h


def lines(plan: TablePlan, pair: int) -> list[int]:
    """The output rows of a pair's pixels."""
    found = [plan.pixel(pair, second) for second in (0, 1)]
    return [int(y) for n, y, _, _ in found if n < plan.params.n]
