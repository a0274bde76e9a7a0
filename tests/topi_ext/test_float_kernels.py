"""Every float kernel of the table that runs here, on shapes around its own tile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tvm

from tests.topi_ext import float_case
from topi_ext.isa import RUNS_ON, isa_of
from topi_ext.kernels import Kernel, candidates, select, table
from topi_ext.parallel import PARALLEL_FLOAT_MACS
from topi_ext.params import ConvParams
from topi_ext.schedule import schedule_primfunc

HOST = float_case.host()


def _kernels(op: str) -> list[Kernel]:
    runs = RUNS_ON[isa_of(HOST)]
    return [kernel for kernel in table().values() if kernel.op == op and kernel.isa in runs]


def _conv_cases() -> Iterator[tuple[str, str, str]]:
    for kernel in _kernels("conv2d"):
        pixels, channels = kernel.tile["pixels"], kernel.tile["channels"]
        widths = sorted({1, max(1, pixels - 1), pixels, pixels + 1, 2 * pixels + 1})
        shapes = [ConvParams(1, 2, w, 5, channels, 1, 1) for w in widths]
        shapes += [
            ConvParams(1, 3, pixels + 2, 4, co, 3, 3, pads=(1, 1, 1, 1))
            for co in (1, 3, channels - 1, channels, channels + 1, 2 * channels, 2 * channels + 5)
            if co > 0
        ]
        shapes += [
            # Asymmetric everything, batch of two.
            ConvParams(2, 7, 9, 6, channels, 3, 2, (2, 1), (1, 2), (1, 0, 2, 1)),
            ConvParams(1, 6, 11, 3, channels, 5, 3, (2, 2), (1, 1), (0, 1, 3, 2)),
            ConvParams(1, 5, 5, 16, 2 * channels, 1, 1, (2, 2)),
            # Groups with whole tiles and with channels that fill none.
            ConvParams(1, 4, 5, 8, 2 * channels, 3, 3, pads=(1, 1, 1, 1), groups=2),
            ConvParams(1, 4, 5, 6, 21, 3, 3, groups=3),
        ]
        for i, params in enumerate(shapes):
            if kernel.supports(params) is None:
                yield kernel.name, str(params), float_case.EPILOGUES[i % 5]


@pytest.mark.parametrize(("kernel", "case", "epilogue"), list(_conv_cases()))
def test_conv2d_kernels_match_the_reference_around_their_tile(
    kernel: str, case: str, epilogue: str
) -> None:
    float_case.run(table()[kernel], ConvParams.parse(case), epilogue, HOST)


@pytest.mark.parametrize("epilogue", float_case.EPILOGUES)
@pytest.mark.parametrize(
    "params",
    [
        ConvParams(1, 32, 30, 3, 64, 7, 7, (2, 2), (1, 1), (2, 2, 3, 3)),
        ConvParams(1, 7, 7, 96, 24, 1, 1),
        ConvParams(2, 3, 5, 1, 19, 1, 1),
        ConvParams(2, 7, 7, 64, 128, 3, 3, pads=(1, 1, 1, 1)),
        ConvParams(1, 9, 9, 12, 37, 3, 3, pads=(1, 1, 1, 1)),
    ],
    ids=str,
)
def test_selected_conv2d_matches_the_reference_with_every_epilogue(
    params: ConvParams, epilogue: str
) -> None:
    float_case.run(select("conv2d", params, HOST), params, epilogue, HOST)


def _dense_cases() -> Iterator[tuple[str, str, str]]:
    for kernel in _kernels("dense"):
        pixels, channels = kernel.tile["pixels"], kernel.tile["channels"]
        for i, (rows, n) in enumerate(
            [
                (1, 1),
                (1, channels - 1),
                (1, 3 * channels),
                (pixels, channels),
                (pixels + 1, 2 * channels),
                (2 * pixels + 1, channels + 7),
            ]
        ):
            params = ConvParams.dense(rows, 20 + i, max(1, n))
            if kernel.supports(params) is None:
                yield kernel.name, str(params), float_case.EPILOGUES[i % 5]


@pytest.mark.parametrize(("kernel", "case", "epilogue"), list(_dense_cases()))
def test_dense_kernels_match_the_reference_around_their_tile(
    kernel: str, case: str, epilogue: str
) -> None:
    float_case.run(table()[kernel], ConvParams.parse(case), epilogue, HOST, rank=2)


def _depthwise_cases() -> Iterator[tuple[str, str, str]]:
    for kernel in _kernels("depthwise"):
        shapes = [
            ConvParams(1, 5, 6, c, c, 3, 3, pads=(1, 1, 1, 1), groups=c)
            for c in (1, 3, 7, 8, 16, 37, 63, 64, 65, 96, 200)
        ]
        shapes += [
            ConvParams(2, 9, 8, 16, 16, 3, 5, (2, 1), (1, 2), (0, 3, 2, 1), 16),
            ConvParams(1, 6, 6, 32, 32, 2, 2, (2, 2), groups=32),
            ConvParams(1, 5, 5, 6, 18, 3, 3, pads=(1, 1, 1, 1), groups=6),
            ConvParams(1, 5, 5, 4, 64, 3, 3, pads=(1, 1, 1, 1), groups=4),
        ]
        for i, params in enumerate(shapes):
            yield kernel.name, str(params), float_case.EPILOGUES[i % 5]


@pytest.mark.parametrize(("kernel", "case", "epilogue"), list(_depthwise_cases()))
def test_depthwise_kernels_match_the_reference(kernel: str, case: str, epilogue: str) -> None:
    float_case.run(table()[kernel], ConvParams.parse(case), epilogue, HOST)


def test_depthwise_refuses_ordinary_groups() -> None:
    params = ConvParams(1, 4, 4, 8, 8, 3, 3, groups=2)
    assert "not depthwise" in str(table()["depthwise_f32_generic"].supports(params))


@pytest.fixture
def two_threads() -> Iterator[None]:
    """TVM's thread pool with two threads, so that parallel loops are really split."""
    configure = tvm.get_global_func("runtime.config_threadpool")
    configure(1, 2)
    yield
    configure(1, 1)


@pytest.mark.parametrize("op", ["conv2d", "dense"])
@pytest.mark.parametrize("generic", [False, True])
def test_layers_large_enough_for_threads_match_the_reference(
    op: str, generic: bool, two_threads: None
) -> None:
    shapes = {
        "dense": [ConvParams.dense(1, 512, 1000), ConvParams.dense(5, 300, 203)],
        "conv2d": [
            ConvParams(1, 30, 31, 32, 40, 1, 1),
            ConvParams(1, 30, 31, 16, 28, 1, 1),
            ConvParams(1, 20, 23, 16, 24, 3, 3, pads=(1, 1, 1, 1)),
            # More weights than the cache holds, and a last block of four channels.
            ConvParams(1, 7, 7, 256, 100, 3, 3),
        ],
    }[op]
    for params in shapes:
        assert params.macs >= PARALLEL_FLOAT_MACS
        rows = [k for k in candidates(op, params, HOST) if (k.isa == "generic") == generic]
        float_case.run(rows[0], params, "shortcut", HOST, 2 if op == "dense" else 4)


def test_threads_split_large_layers_only() -> None:
    for rows, parallel in ((1, False), (400, True)):
        params = ConvParams.dense(rows, 64, 64)
        case = float_case.make(select("dense", params, HOST), params, "relu", 2)
        assert ("T.parallel" in schedule_primfunc(case.func, HOST).script()) == parallel
