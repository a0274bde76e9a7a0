"""Winograd tiles: the algebra in exact numbers, the kernels on edge shapes, errors, choice."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import tvm
from tvm.target import Target

from tests.topi_ext import float_case
from topi_ext import reference
from topi_ext.isa import RUNS_ON, isa_of
from topi_ext.kernels import Kernel, select, table
from topi_ext.params import ConvParams
from topi_ext.scalar import schedule_scalar
from topi_ext.schedule import narrow_indices
from topi_ext.winograd import sums_exactly
from topi_ext.winograd_axis import WinogradAxis
from topi_ext.winograd_plan import STACK_BYTES, Chunk, WinogradPlan, WinogradTile

HOST = float_case.host()
STEM = ConvParams(1, 224, 224, 3, 64, 7, 7, (2, 2), pads=(2, 2, 3, 3))
pytestmark = pytest.mark.skipif(
    isa_of(HOST) in ("generic", "neon32"), reason="no row of the table runs on this machine"
)
TILE = WinogradTile(tiles=4, channels=8, lanes=4)


def _rows() -> list[Kernel]:
    """The rows that this machine runs."""
    runs = RUNS_ON[isa_of(HOST)]
    return [row for row in table().values() if row.reassociates and row.isa in runs]


AXES = [
    WinogradAxis(kernel, stride, outputs)
    for kernel, stride, outputs in itertools.product(range(1, 12), range(1, 5), (1, 2))
]


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_the_transforms_of_all_pieces_add_up_to_the_convolution(axis: WinogradAxis) -> None:
    rng = np.random.default_rng(axis.kernel)
    d = [Fraction(int(v)) for v in rng.integers(-9, 10, axis.inputs + axis.stride)]
    g = [Fraction(int(v)) for v in rng.integers(-9, 10, axis.kernel)]

    def product(matrix, vector):  # type: ignore[no-untyped-def]
        return [sum(c * v for c, v in zip(row, vector, strict=True)) for row in matrix]

    sums = [Fraction(0)] * axis.size
    for piece, ((first, taps), size) in enumerate(zip(axis.pieces, axis.sizes, strict=True)):
        inputs = [d[axis.stride * i + first] for i in range(size)]
        weights = [g[axis.stride * t + first] for t in range(taps)]
        both = zip(
            product(axis.weight_matrix(piece), weights),
            product(axis.input_matrix(piece), inputs),
            strict=True,
        )
        for point, (a, b) in enumerate(both):
            sums[point] += a * b
    expected = [
        sum(g[t] * d[axis.stride * e + t] for t in range(axis.kernel)) for e in range(axis.outputs)
    ]
    assert product(axis.output_matrix, sums) == expected


def test_transforms_of_inputs_and_outputs_only_add_and_those_of_weights_halve() -> None:
    # Sums of small multiples of a power of two then stay exact.
    for axis in AXES:
        for piece in range(len(axis.sizes)):
            for row in axis.input_matrix(piece):
                assert set(row) <= {0, 1, -1} and 1 in row
            for row in axis.weight_matrix(piece):
                assert {abs(value) for value in row} <= {0, Fraction(1, 2), 1}
        for row in axis.output_matrix:
            assert set(row) <= {0, 1, -1} and 1 in row


def test_products_are_as_few_as_the_algorithm_says() -> None:
    # (4 + 4 + 2)^2 of 4 * 49 products per input channel; F(2x2, 3x3) needs 16 of 36.
    assert WinogradPlan(STEM, TILE).depth == 100
    classical = ConvParams(1, 8, 8, 5, 8, 3, 3)
    assert WinogradPlan(classical, TILE).depth == 16
    assert WinogradPlan(classical, TILE).positions[0].count == 16


def test_input_channels_come_in_chunks_that_fit_the_stack() -> None:
    few = WinogradPlan(ConvParams(1, 8, 8, 64, 64, 3, 3), TILE)
    assert (few.chunk_size, few.chunks, few.held_groups) == (64, 1, 1)
    for ci in (600, 601, 1024, 1031, 4096):
        many = WinogradPlan(ConvParams(1, 8, 8, ci, 256, 3, 3), TILE)
        assert many.chunks > 1 and many.held_groups >= 1
        last = ci - (many.chunks - 1) * many.chunk_size
        assert TILE.lanes <= last <= many.chunk_size
        held = many.held_groups * many.product_bytes
        assert 4 * Chunk(many, many.chunk_size).floats + held <= STACK_BYTES


# Odd outputs, one tile, one row of tiles, strides and pads that differ, channels off every vector.
SHAPES = [
    "1x4x4x1-k3x3x1-s1x1-d1x1-p0,0,0,0-g1-v0",
    "1x3x3x3-k3x3x16-s1x1-d1x1-p1,1,1,1-g1-v0",
    "2x5x9x16-k3x3x37-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x7x6x37-k3x3x3-s1x1-d1x1-p0,2,1,0-g1-v0",
    "1x9x8x37-k3x3x37-s2x2-d1x1-p1,0,0,1-g1-v0",
    "1x11x12x1-k5x5x16-s2x2-d1x1-p2,1,2,3-g1-v0",
    "1x9x9x3-k5x5x37-s1x1-d1x1-p2,2,2,2-g1-v0",
    "1x17x14x3-k7x7x64-s2x2-d1x1-p2,2,3,3-g1-v0",
    "2x13x15x16-k7x7x5-s2x2-d1x1-p3,3,3,3-g1-v0",
    "1x12x16x5-k7x7x16-s3x3-d1x1-p0,0,0,0-g1-v0",
    "1x8x10x6-k3x5x16-s2x1-d1x1-p1,2,0,2-g1-v0",
    "1x10x7x8-k5x3x9-s1x2-d1x1-p0,1,0,1-g1-v0",
    "1x11x10x8-k7x7x16-s1x1-d1x1-p3,3,3,3-g1-v0",
    "1x1x19x7-k1x3x16-s1x1-d1x1-p0,1,0,1-g1-v0",
    "1x19x1x7-k5x1x16-s2x1-d1x1-p1,0,1,0-g1-v0",
    "1x19x4x1-k5x1x8-s1x1-d1x1-p0,0,0,0-g1-v0",
    "1x1x19x2-k1x3x2-s1x1-d1x1-p0,0,0,0-g1-v0",
    "1x8x8x4-k4x4x8-s2x2-d1x1-p1,1,1,1-g1-v0",
    "1x9x9x2-k3x3x8-s4x4-d1x1-p3,3,3,3-g1-v0",
    "3x4x4x100-k3x3x33-s1x1-d1x1-p1,1,1,1-g1-v0",
    # More input channels than have room at a time: chunks, equal ones and a last one.
    "1x4x5x300-k3x3x70-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x3x4x256-k3x3x160-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x9x9x150-k7x7x9-s2x2-d1x1-p3,3,3,3-g1-v0",
]


@pytest.mark.parametrize("kernel", [row.name for row in _rows()])
@pytest.mark.parametrize(("index", "case"), list(enumerate(SHAPES)))
def test_kernels_match_the_reference_on_edge_shapes(kernel: str, index: int, case: str) -> None:
    params = ConvParams.parse(case)
    assert table()[kernel].supports(params) is None
    epilogue = float_case.EPILOGUES[index % len(float_case.EPILOGUES)]
    float_case.run(table()[kernel], params, epilogue, HOST)


@pytest.mark.parametrize("epilogue", float_case.EPILOGUES)
@pytest.mark.parametrize("kernel", [row.name for row in _rows()])
def test_every_epilogue_is_fused_behind_the_last_transform(kernel: str, epilogue: str) -> None:
    params = ConvParams(1, 21, 18, 3, 2 * table()[kernel].tile["channels"] + 5, 7, 7, (2, 2))
    float_case.run(table()[kernel], params, epilogue, HOST)


@pytest.mark.parametrize(
    "case", [SHAPES[2], SHAPES[5], "1x3x2x300-k3x3x9-s1x1-d1x1-p1,1,1,1-g1-v0"]
)
def test_a_function_that_tiles_cannot_compute_is_still_right(case: str) -> None:
    params = ConvParams.parse(case)
    made = float_case.make(_rows()[0], params, "prelu")
    module = tvm.IRModule({"main": schedule_scalar(narrow_indices(made.func))})
    result = tvm.runtime.tensor(np.full(made.expected.shape, np.nan, np.float32))
    operands = [tvm.runtime.tensor(array) for array in made.operands]
    tvm.compile(module, target=HOST).jit()["main"](*operands, result)
    made.check(result.numpy(), case)


def _run(kernel: Kernel, params: ConvParams, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The kernel's result for padded data, without an epilogue."""
    func = float_case.make(kernel, params, "none").func
    operands = [np.ascontiguousarray(x), *kernel.pack_weights(w, params)]
    return float_case.build_and_run(func, operands, params.out_shape, HOST)


# Root mean square of the error, relative to that of a direct float32 kernel (docs/winograd.md).
RATIO = 1.5


@pytest.mark.parametrize(
    "case",
    [
        "1x40x40x3-k7x7x32-s2x2-d1x1-p2,2,3,3-g1-v0",
        "1x20x20x64-k3x3x32-s1x1-d1x1-p1,1,1,1-g1-v0",
        "1x20x20x16-k3x3x32-s2x2-d1x1-p1,1,1,1-g1-v0",
        "1x40x40x3-k5x5x32-s2x2-d1x1-p2,2,2,2-g1-v0",
        "1x20x20x16-k5x5x32-s1x1-d1x1-p2,2,2,2-g1-v0",
        "1x20x20x16-k7x7x32-s1x1-d1x1-p3,3,3,3-g1-v0",
    ],
)
def test_errors_are_no_larger_than_half_as_much_again_as_the_direct_kernels(case: str) -> None:
    params = ConvParams.parse(case)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, params.h, params.w, params.ci)).astype(np.float32)
    w = rng.standard_normal((params.co, params.ci, params.kh, params.kw)).astype(np.float32)
    exact = reference.conv2d(x.astype(np.float64), w.astype(np.float64), params)
    padded = reference.pad_nhwc(x, params, 0.0)

    def error(kernel: Kernel) -> float:
        return float(np.sqrt(np.mean((_run(kernel, params, padded, w) - exact) ** 2)))

    direct = error(select("conv2d", params, HOST, direct=True))
    for kernel in _rows():
        assert 0 < error(kernel) <= RATIO * direct, kernel.name


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_stays_within_the_tiles_that_read_it(poison: float) -> None:
    params = ConvParams(1, 24, 24, 4, 16, 3, 3)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((1, 24, 24, 4)).astype(np.float32)
    w = rng.standard_normal((16, 4, 3, 3)).astype(np.float32)
    clean = _run(_rows()[0], params, x, w)
    x[0, 10, 11, 2] = poison
    spoilt = _run(_rows()[0], params, x, w)
    # The windows of outputs 8 to 10 and 9 to 11 hold it; so do the tiles of 8 to 11 and 8 to 11.
    inside = np.zeros(params.out_shape, bool)
    inside[:, 8:12, 8:12] = True
    assert not np.isfinite(spoilt[:, 8:11, 9:12]).any()
    np.testing.assert_array_equal(spoilt[~inside], clean[~inside])


def test_two_threads_compute_the_same() -> None:
    params = ConvParams(1, 31, 45, 16, 40, 3, 3, pads=(1, 1, 1, 1))
    made = float_case.make(_rows()[0], params, "shortcut")
    configure = tvm.get_global_func("runtime.config_threadpool")
    results = []
    for threads in (1, 2):
        configure(1, threads)
        arguments = (made.func, made.operands, made.expected.shape, HOST)
        results.append(float_case.build_and_run(*arguments))
    configure(1, 1)
    made.check(results[0], "threads")
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("1x4x5x8-k3x3x8-s1x1-d1x1-p1,1,1,1-g2-v0", "one group and no dilation"),
        ("1x9x9x8-k3x3x8-s1x1-d2x2-p1,1,1,1-g1-v0", "one group and no dilation"),
        ("1x9x9x8-k1x1x8-s1x1-d1x1-p0,0,0,0-g1-v0", "nothing to save"),
        ("1x3x3x8-k3x3x8-s1x1-d1x1-p0,0,0,0-g1-v0", "an output of 1x1 is smaller than a tile"),
        ("1x40x40x16-k14x14x8-s7x7-d1x1-p0,0,0,0-g1-v0", "bytes of stack"),
    ],
)
def test_a_shape_that_is_not_supported_has_a_reason(case: str, reason: str) -> None:
    for row in _rows():
        assert reason in str(row.supports(ConvParams.parse(case)))


def _targets() -> dict[str, Target]:
    def target(triple: str, mcpu: str) -> Target:
        return Target({"kind": "llvm", "mtriple": triple, "mcpu": mcpu})

    cores = {core: target("aarch64-linux-gnu", core) for core in ("cortex-a53", "cortex-a76")}
    x86 = {core: target("x86_64-linux-gnu", core) for core in ("x86-64-v3", "znver4")}
    return {**cores, **x86, "generic": target("aarch64-linux-gnu", "generic")}


@pytest.mark.parametrize("core", list(_targets()))
def test_the_table_takes_them_where_they_save_time(core: str) -> None:
    target = _targets()[core]
    pays = [STEM, ConvParams(1, 56, 56, 64, 64, 3, 3, pads=(1, 1, 1, 1))]
    for params in pays:
        assert select("conv2d", params, target).reassociates, params
        assert not select("conv2d", params, target, direct=True).reassociates, params
    # Few output channels to share the transform of the input, or nothing to save.
    for params in [
        ConvParams(1, 224, 224, 3, 16, 3, 3, (2, 2), pads=(0, 0, 1, 1)),
        ConvParams(1, 28, 28, 64, 128, 1, 1),
    ]:
        assert not select("conv2d", params, target).reassociates, params


def test_weights_whose_whole_sums_quarters_might_spoil_are_known() -> None:
    rng = np.random.default_rng(1)
    shape = (8, 4, 3, 3)
    eight_bits = rng.integers(-127, 128, shape)
    per_channel = 2.0 ** rng.integers(-9, 9, (8, 1, 1, 1))
    for whole in (eight_bits, eight_bits * per_channel, np.full(shape, np.inf)):
        assert sums_exactly(whole.astype(np.float32))
    for other in (
        np.sign(rng.standard_normal(shape)) * per_channel,
        rng.integers(-1, 2, shape) * 0.25,
        rng.standard_normal(shape),
        eight_bits * 0.0123,
    ):
        assert not sums_exactly(other.astype(np.float32))


@pytest.mark.parametrize("case", ["1x40x40x3-k7x7x32-s2x2-d1x1-p3,3,3,3-g1-v0", SHAPES[2]])
def test_ternary_weights_lose_nothing(case: str) -> None:
    params = ConvParams.parse(case)
    rng = np.random.default_rng(9)
    x = rng.integers(-255, 256, (params.n, params.h, params.w, params.ci)).astype(np.float32) / 8
    w = rng.integers(-1, 2, (params.co, params.ci, params.kh, params.kw)).astype(np.float32)
    exact = reference.conv2d(x.astype(np.float64), w.astype(np.float64), params)
    for kernel in _rows():
        result = _run(kernel, params, reference.pad_nhwc(x, params, 0.0), w)
        np.testing.assert_array_equal(result, exact.astype(np.float32))
