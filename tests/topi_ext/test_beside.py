"""Words beside floats: what a layer writes beside its result is what `pack` makes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tests.topi_ext.binary_case import activations, call, fused, garbage, host, signs
from topi_ext import kernels, reference
from topi_ext.beside import join, refusal
from topi_ext.bitpack import pack
from topi_ext.kernels import Kernel
from topi_ext.params import ConvParams
from topi_ext.schedule import schedule_primfunc

# Written without intrinsics: they run on any machine.
ROWS = [kernel for kernel in kernels.table().values() if kernel.beside and kernel.tile["lanes"]]
WRITERS = [kernel for kernel in ROWS if kernel.tile["channels"] % 32 == 0]

# Maps of one pixel, of one row or column, tiles that are not whole, a batch, groups.
LAYERS = (
    "1x1x1x8-k1x1x32-s1x1-d1x1-p0,0,0,0-g1-v0",
    "1x5x1x40-k3x3x96-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x1x7x64-k1x1x64-s1x1-d1x1-p0,0,0,0-g1-v0",
    "3x5x7x64-k3x3x64-s1x1-d1x1-p1,1,1,1-g1-v1",
    "2x4x3x128-k3x3x160-s2x1-d1x1-p1,1,1,1-g1-v-1",
    "1x4x6x64-k3x3x128-s1x1-d1x1-p1,1,1,1-g2-v0",
    "1x6x19x37-k2x2x64-s1x2-d1x1-p0,0,1,0-g1-v0",
)
# Of the layer that reads the words: padding, its value, groups.
READERS = (
    ((0, 0, 0, 0), 0, 1),
    ((1, 1, 1, 1), 0, 1),
    ((1, 1, 1, 1), 1, 1),
    ((2, 0, 1, 3), 1, 1),
    ((0, 3, 0, 0), -1, 1),
    ((1, 1, 1, 1), 1, 2),
)
THRESHOLDS = ("0", "-0", "number", "nan", "channels", "channels and directions", "one direction")


def pack_of(
    shape: tuple[int, ...], params: ConvParams, word_bits: int, limit: object, flip: object
) -> tirx.PrimFunc:
    """The function that the importer makes of a pack; what is no array is a number in its code."""
    builder = relax.BlockBuilder()
    arrays = [np.zeros(shape, np.float32), limit, flip]
    used = [a for a in arrays if isinstance(a, np.ndarray)]
    variables = [
        relax.Var(f"v{i}", relax.TensorType(a.shape, a.dtype.name)) for i, a in enumerate(used)
    ]

    def compute(x: object, *rest: object) -> object:
        threshold = rest[0] if isinstance(limit, np.ndarray) else limit
        return pack(x, threshold, None if flip is None else rest[-1], params, word_bits)

    with builder.function("main", variables):
        builder.emit_func_output(builder.emit_te(compute, *variables, primfunc_name_hint="pack"))
    return next(f for _, f in builder.get().functions_items() if isinstance(f, tirx.PrimFunc))


def thresholds(kind: str, channels: int, rng: np.random.Generator) -> tuple[object, object]:
    """A number or float32 [c], and None or uint8 [c]."""
    single = {"0": 0.0, "-0": -0.0, "number": 2.0, "nan": float("nan")}
    if kind in single:
        return single[kind], None
    special = np.array([-3, 0, -0.0, 0.5, 2, np.inf, -np.inf, np.nan, 1e-45], np.float32)
    limit = rng.choice(special, channels) if "channels" in kind else 1.0
    flip = rng.integers(0, 2, channels) if "directions" in kind else np.ones(channels)
    return limit, flip.astype(np.uint8) if "direction" in kind else None


def special_floats(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Shortcuts that make results of every kind: NaN, infinities, both zeros, denormals."""
    x = rng.integers(-3, 4, shape).astype(np.float32)
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, -1e-45], np.float32)
    return np.where(rng.random(shape) < 0.3, rng.choice(special, shape), x).astype(np.float32)


def both(func: tirx.PrimFunc, arrays: list[np.ndarray], outs: list[np.ndarray]) -> list[np.ndarray]:
    """Schedule, compile and run a function with two results."""
    target = host()
    func = schedule_primfunc(func.with_attr("global_symbol", "main"), target)
    results = [tvm.runtime.tensor(out) for out in outs]
    inputs = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays]
    tvm.compile(func, target=target)["main"](*inputs, *results)
    return [result.numpy() for result in results]


def check(
    kernel: Kernel,
    p: ConvParams,
    reader: ConvParams,
    epilogue: str,
    kind: str,
    word_bits: int = 32,
    seed: int = 0,
) -> None:
    """Assert that floats and words are those of the layer alone and of the reference's packing."""
    rng = np.random.default_rng(seed)
    s, w = signs(rng, (p.n, p.h, p.w, p.ci)), signs(rng, (p.co, p.cig, p.kh, p.kw))
    if epilogue == "shortcut":
        w[::3] = w[0]  # some channels agree, so that the scale below gives equal results
    func, extra, floats = fused(kernel, p, epilogue, reference.bconv2d(s, w, p), rng)
    if epilogue == "shortcut":
        scale, offset, shortcut = extra
        extra = [scale * (rng.random(p.co) < 0.5), 0 * offset, special_floats(rng, shortcut.shape)]
        extra = [array.astype(np.float32) for array in extra]
    limit, flip = thresholds(kind, p.co, rng)
    packing = pack_of(p.out_shape, reader, word_bits, limit, flip)
    assert refusal(func, packing) is None
    arrays = [activations(kernel, s, p), *kernel.pack_weights(w, p), *extra]
    alone = call(func, arrays, garbage(floats.shape, "float32"))
    if epilogue != "shortcut":
        np.testing.assert_array_equal(alone, floats)
    bits = reference.binarize(alone, limit, False if flip is None else flip.astype(bool))
    words = reference.pack_padded(bits, reader, word_bits)
    more = [a for a in (limit, flip) if isinstance(a, np.ndarray)]
    outs = [garbage(floats.shape, "float32"), garbage(words.shape, words.dtype.name)]
    stored, packed = both(join(func, packing), [*arrays, *more], outs)
    np.testing.assert_array_equal(stored.view(np.uint32), alone.view(np.uint32))
    np.testing.assert_array_equal(packed, words, err_msg=f"{kernel.name} {p} {reader} {kind}")


def reading(p: ConvParams, pads: tuple[int, ...], value: int, groups: int) -> ConvParams:
    """A layer of 3x3, stride 2, that reads the result of `p`."""
    top, left, bottom, right = pads
    return ConvParams(
        p.n,
        p.ho,
        p.wo,
        p.co,
        p.co,
        min(3, p.ho + top + bottom),
        min(3, p.wo + left + right),
        stride=(2, 2),
        pads=(top, left, bottom, right),
        groups=groups,
        pad_value=value,
    )


@pytest.mark.parametrize("kernel", WRITERS, ids=lambda k: k.name)
@pytest.mark.parametrize("layer", LAYERS)
def test_shapes(kernel: Kernel, layer: str) -> None:
    p, index = ConvParams.parse(layer), LAYERS.index(layer)
    whole = [r for r in READERS if p.co // r[2] % 32 == 0]
    reader = reading(p, *whole[index % len(whole)])
    kind = THRESHOLDS[(index + WRITERS.index(kernel)) % len(THRESHOLDS)]
    check(kernel, p, reader, "shortcut", kind, seed=index)


@pytest.mark.parametrize("kind", THRESHOLDS)
@pytest.mark.parametrize("reader", READERS, ids=str)
def test_thresholds_and_borders(kind: str, reader: tuple[tuple[int, ...], int, int]) -> None:
    kernel = WRITERS[THRESHOLDS.index(kind) % len(WRITERS)]
    p = ConvParams.parse(LAYERS[3])
    check(kernel, p, reading(p, *reader), "shortcut", kind)


@pytest.mark.parametrize("epilogue", ("scale", "prelu"))
@pytest.mark.parametrize("kernel", WRITERS, ids=lambda k: k.name)
def test_epilogues(kernel: Kernel, epilogue: str) -> None:
    p = ConvParams.parse(LAYERS[4])
    check(kernel, p, reading(p, *READERS[3]), epilogue, "channels and directions")


@pytest.mark.parametrize("word_bits", (8, 16))
def test_shorter_words_of_another_kernel(word_bits: int) -> None:
    p = ConvParams.parse(LAYERS[4])
    check(WRITERS[0], p, reading(p, *READERS[3]), "shortcut", "channels", word_bits)


def test_many_threads_write_each_word_once() -> None:
    p = ConvParams(1, 28, 28, 128, 128, 3, 3, pads=(1, 1, 1, 1))
    for kernel in WRITERS:
        check(kernel, p, reading(p, *READERS[2]), "shortcut", "0")


def refused(p: ConvParams, reader: ConvParams, word_bits: int = 32, row: int = 0) -> str | None:
    kernel, rng = WRITERS[row], np.random.default_rng(0)
    func, _, _ = fused(kernel, p, "scale", np.zeros(p.out_shape, np.int64), rng)
    shape = (reader.n, reader.h, reader.w, reader.ci)
    return refusal(func, pack_of(shape, reader, word_bits, 0.0, None))


def test_what_does_not_fit_is_refused() -> None:
    p = ConvParams.parse(LAYERS[3])
    reader = reading(p, *READERS[1])
    assert refused(p, reader) is None
    assert refused(p, reader, 64) == "64 channels do not fill words of 64 bits"
    odd = replace(p, co=48)
    assert refused(odd, reading(odd, *READERS[1])) == "48 channels do not fill words of 32 bits"
    assert refused(p, replace(reader, groups=4)) == "64 channels do not fill words of 32 bits"
    assert refused(p, replace(reader, h=p.ho * p.wo, w=1, kw=1)) == "the tensors have other shapes"


def test_other_kernels_and_second_packs_are_refused() -> None:
    p = ConvParams.parse(LAYERS[3])
    reader, rng = reading(p, *READERS[1]), np.random.default_rng(0)
    packing = pack_of(p.out_shape, reader, 32, 0.0, None)
    other = next(k for k in kernels.table().values() if k.op == "bconv2d" and not k.beside)
    func, _, _ = fused(other, p, "scale", np.zeros(p.out_shape, np.int64), rng)
    assert refusal(func, packing) == "the kernel has no such epilogue"
    func, _, _ = fused(WRITERS[0], p, "scale", np.zeros(p.out_shape, np.int64), rng)
    assert refusal(func, func) == "something else is fused with the pack"
    assert refusal(join(func, packing), packing) == "the function writes words already"
