"""Pools and the default schedule, against NumPy and onnxruntime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tvm import te, tirx, topi

from tests.topi_ext import float_case
from tests.topi_ext.binary_case import call
from topi_ext import conv2d, reference, softmax
from topi_ext.params import ConvParams
from topi_ext.pool import avg_pool2d_nhwc, max_pool2d_nhwc, pooled_size

HOST = float_case.host()


def _data(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def _run(build: Callable[..., te.Tensor], *arrays: np.ndarray) -> np.ndarray:
    places = [te.placeholder(a.shape, str(a.dtype), f"in{i}") for i, a in enumerate(arrays)]
    out = build(*places)
    func = te.create_prim_func([*places, out], index_dtype_override="int64")
    shape = tuple(int(extent) for extent in out.shape)
    return float_case.build_and_run(func, list(arrays), shape, HOST)


def _onnx_pool(op: str, x: np.ndarray, **attributes: object) -> np.ndarray:
    node = helper.make_node(op, ["x"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.transpose(0, 3, 1, 2).shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    model.ir_version = 9
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    return y.transpose(0, 2, 3, 1)


# h, w, c, kernel, stride, pads, dilation, ceil_mode
POOLS = [
    (8, 8, 16, (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False),
    (9, 7, 64, (3, 3), (2, 2), (0, 0, 1, 1), (1, 1), False),
    (9, 7, 37, (3, 2), (1, 2), (1, 0, 2, 1), (1, 1), False),
    (10, 11, 3, (3, 3), (2, 3), (1, 1, 1, 1), (1, 1), True),
    (7, 7, 96, (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), True),
    (7, 7, 130, (7, 7), (7, 7), (0, 0, 0, 0), (1, 1), False),
    (12, 9, 8, (2, 3), (1, 1), (1, 2, 0, 1), (2, 2), False),
    (5, 5, 8, (2, 2), (3, 3), (1, 1, 1, 1), (1, 1), True),
]


@pytest.mark.parametrize("case", POOLS, ids=str)
def test_max_pool_matches_onnxruntime(case: tuple) -> None:
    h, w, c, kernel, stride, pads, dilation, ceil_mode = case
    x = _data(2, h, w, c)
    expected = _onnx_pool(
        "MaxPool",
        x,
        kernel_shape=kernel,
        strides=stride,
        pads=pads,
        dilations=dilation,
        ceil_mode=int(ceil_mode),
    )
    actual = _run(lambda t: max_pool2d_nhwc(t, kernel, stride, pads, dilation, ceil_mode), x)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_average_pool_matches_onnxruntime(case: tuple, include: bool) -> None:
    h, w, c, kernel, stride, pads, dilation, ceil_mode = case
    x = _data(2, h, w, c)
    expected = _onnx_pool(
        "AveragePool",
        x,
        kernel_shape=kernel,
        strides=stride,
        pads=pads,
        dilations=dilation,
        ceil_mode=int(ceil_mode),
        count_include_pad=int(include),
    )
    actual = _run(
        lambda t: avg_pool2d_nhwc(t, kernel, stride, pads, dilation, include, ceil_mode), x
    )
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_average_pool_of_halves_rounds_about_once(case: tuple, include: bool) -> None:
    h, w, c, kernel, stride, pads, dilation, ceil_mode = case
    x = _data(2, h, w, c).astype(np.float16)
    expected = _onnx_pool(
        "AveragePool",
        x.astype(np.float32),
        kernel_shape=kernel,
        strides=stride,
        pads=pads,
        dilations=dilation,
        ceil_mode=int(ceil_mode),
        count_include_pad=int(include),
    )
    actual = _run(
        lambda t: avg_pool2d_nhwc(t, kernel, stride, pads, dilation, include, ceil_mode), x
    )
    assert actual.dtype == np.float16
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-3)


def test_an_average_of_large_halves_is_finite() -> None:
    x = np.full((1, 4, 4, 8), 60000, np.float16)
    for size in (2, 4):
        actual = _run(lambda t, k=size: avg_pool2d_nhwc(t, (k, k), (k, k)), x)
        np.testing.assert_allclose(actual.astype(np.float32), 60000, rtol=2e-3)


def test_a_window_larger_than_its_input_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        pooled_size(3, 5, 1, 1, 0, 1, False)


def test_relu_before_a_pool_and_affine_behind_it_fuse() -> None:
    x, scale = _data(1, 9, 9, 48), _data(48)
    actual = _run(
        lambda t, s: topi.multiply(max_pool2d_nhwc(topi.nn.relu(t), (3, 3), (2, 2)), s), x, scale
    )
    windows = np.lib.stride_tricks.sliding_window_view(np.maximum(x, 0), (3, 3), (1, 2))
    np.testing.assert_array_equal(actual, windows[:, ::2, ::2].max((-1, -2)) * scale)


@pytest.mark.parametrize("shape", [(1, 1000), (1, 10), (3, 37), (2, 5, 4, 16), (1, 1), (400, 8)])
def test_softmax_matches_float64(shape: tuple[int, ...]) -> None:
    x = _data(*shape) * 10
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    expected = e / e.sum(-1, keepdims=True)
    for build in (softmax.softmax_last_axis, lambda t: topi.nn.softmax(t, -1)):
        np.testing.assert_allclose(_run(build, x), expected, rtol=2e-6, atol=1e-12)


def test_softmax_keeps_extremes_finite() -> None:
    x = np.array([[0, -1e30, 1e30, 88, -88], [-200, -87, -103.9, -104.1, 0]], np.float32)
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    expected = e / e.sum(-1, keepdims=True)
    np.testing.assert_allclose(_run(softmax.softmax_last_axis, x), expected, rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize("c", [3, 8, 37, 64])
def test_padding_and_transposed_padding(c: int) -> None:
    params = ConvParams(2, 6, 5, c, 8, 3, 3, pads=(2, 0, 1, 3))
    x = _data(2, 6, 5, c)
    expected = reference.pad_nhwc(x, params, 0.5)
    np.testing.assert_array_equal(_run(lambda t: conv2d.pad_nhwc(t, params, 0.5), x), expected)
    nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    moved = _run(lambda t: conv2d.pad_nhwc(topi.transpose(t, [0, 2, 3, 1]), params, 0.5), nchw)
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_padding_of_64_bit_integers(dtype: str) -> None:
    params = ConvParams(2, 6, 5, 37, 8, 3, 3, pads=(2, 0, 1, 3))
    x = np.random.default_rng(5).integers(0, 2**62, (2, 6, 5, 37)).astype(dtype)
    source = te.placeholder(x.shape, dtype, "x")
    func = te.create_prim_func(
        [source, conv2d.pad_nhwc(source, params)], index_dtype_override="int64"
    )
    expected = reference.pad_nhwc(x, params, 0)
    np.testing.assert_array_equal(call(func, [x], np.ones_like(expected)), expected)


def test_large_padding_runs_in_parallel_and_is_exact() -> None:
    params = ConvParams(2, 112, 112, 16, 8, 3, 3, pads=(1, 1, 1, 1))
    x = _data(2, 112, 112, 16)
    expected = reference.pad_nhwc(x, params, 0.0)
    np.testing.assert_array_equal(_run(lambda t: conv2d.pad_nhwc(t, params), x), expected)


@pytest.mark.parametrize("widths", [(16, 16), (3, 5), (64, 37), (1, 64, 7)])
@pytest.mark.parametrize("axis", [-1, 1])
def test_concatenation(widths: tuple[int, ...], axis: int) -> None:
    shapes = [(2, 4, 3, c) if axis == -1 else (2, c, 3, 8) for c in widths]
    parts = [_data(*shape) + i for i, shape in enumerate(shapes)]
    actual = _run(lambda *t: topi.concatenate(list(t), axis), *parts)
    np.testing.assert_array_equal(actual, np.concatenate(parts, axis))


@pytest.mark.parametrize("widths", [(16, 32), (37, 3, 64), (1, 1)])
def test_arithmetic_behind_a_concatenation(widths: tuple[int, ...]) -> None:
    parts, slope = [_data(2, 40, 30, c) for c in widths], _data(sum(widths))
    whole = np.concatenate(parts, -1)

    def build(*tensors: te.Tensor) -> te.Tensor:
        *given, s = tensors
        joined = topi.concatenate(list(given), -1)
        above = topi.greater(joined, tirx.const(0, "float32"))
        return topi.add(topi.where(above, joined, topi.multiply(joined, s)), joined)

    expected = np.where(whole > 0, whole, whole * slope) + whole
    np.testing.assert_allclose(_run(build, *parts, slope), expected, rtol=1e-6)


def test_segments_that_are_too_many_stay_together() -> None:
    shape = (2, 3, 4, 5)
    x = _data(*shape)

    def build(t: te.Tensor) -> te.Tensor:
        padded = topi.nn.pad(t, [1] * 4, [1] * 4, 0.5)
        return topi.nn.pad(padded, [2] * 4, [2] * 4, -1.0)

    expected = np.pad(np.pad(x, 1, constant_values=0.5), 2, constant_values=-1.0)
    np.testing.assert_array_equal(_run(build, x), expected)


REDUCTIONS: list[tuple[str, Callable[..., te.Tensor], Callable[[np.ndarray], np.ndarray]]] = [
    ("sum of all", lambda t: topi.sum(t), lambda x: x.sum()),
    ("sum over channels", lambda t: topi.sum(t, -1), lambda x: x.sum(-1)),
    ("max over channels", lambda t: topi.max(t, -1, True), lambda x: x.max(-1, keepdims=True)),
    ("sum over space", lambda t: topi.sum(t, [1, 2], True), lambda x: x.sum((1, 2), keepdims=True)),
    ("sum over batch and columns", lambda t: topi.sum(t, [0, 2]), lambda x: x.sum((0, 2))),
    (
        "centred over space",
        lambda t: topi.subtract(t, topi.divide(topi.sum(t, [1, 2], True), 35.0)),
        lambda x: x - x.sum((1, 2), keepdims=True) / 35,
    ),
    (
        "layer mean with an affine",
        lambda t: topi.add(topi.multiply(topi.sum(t, -1, True), 0.5), 1.0),
        lambda x: x.sum(-1, keepdims=True) * 0.5 + 1,
    ),
    ("transposed", lambda t: topi.transpose(t, [0, 3, 1, 2]), lambda x: x.transpose(0, 3, 1, 2)),
    (
        "a chain",
        lambda t: topi.tanh(topi.nn.relu(topi.add(t, 1.0))),
        lambda x: np.tanh(np.maximum(x + 1, 0)),
    ),
]


@pytest.mark.parametrize("c", [1, 5, 16, 48])
@pytest.mark.parametrize(("name", "build", "truth"), REDUCTIONS, ids=[r[0] for r in REDUCTIONS])
def test_default_schedule_is_right(
    name: str,
    build: Callable[..., te.Tensor],
    truth: Callable[[np.ndarray], np.ndarray],
    c: int,
) -> None:
    x = _data(2, 7, 5, c)
    np.testing.assert_allclose(_run(build, x), truth(x.astype(np.float64)), rtol=1e-5, atol=1e-5)
