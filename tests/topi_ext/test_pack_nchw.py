"""Words packed from NCHW are those of the reference: -0.0, NaN, infinities, borders, flips."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import te
from tvm.target import Target

from tests.topi_ext import float_case
from topi_ext import reference
from topi_ext.pack_nchw import pack_nchw, packs_nchw
from topi_ext.params import ConvParams
from topi_ext.schedule import schedule_primfunc

HOST = float_case.host()

# n, h, w, ci, pads, pad_value, groups: tiles of 4, 8, 16 pixels, with a rest, several threads.
CASES = [
    ConvParams(1, 5, 4, 64, 8, 1, 1),
    ConvParams(2, 3, 7, 64, 8, 3, 3, pads=(1, 1, 1, 1)),
    ConvParams(1, 2, 16, 128, 8, 1, 1, pads=(2, 0, 1, 3), pad_value=1),
    ConvParams(1, 4, 19, 256, 8, 3, 3, pads=(0, 2, 0, 2), pad_value=-1),
    ConvParams(1, 3, 14, 512, 8, 3, 3, pads=(1, 1, 1, 1)),
    ConvParams(1, 4, 9, 128, 8, 1, 1, pads=(1, 1, 1, 1), groups=4, pad_value=1),
    ConvParams(1, 31, 65, 64, 8, 3, 3, pads=(1, 1, 1, 1)),
    ConvParams(1, 3, 5, 96, 8, 1, 1),
    ConvParams(1, 3, 2, 64, 8, 1, 1),
]


@pytest.mark.parametrize("limits", ["zero", "channel", "turned"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("params", CASES, ids=str)
def test_the_words_are_those_of_the_reference(params: ConvParams, dtype: str, limits: str) -> None:
    p = params
    rng = np.random.default_rng(2)
    x = rng.integers(-3, 4, (p.n, p.ci, p.h, p.w)).astype(dtype)
    x[rng.random(x.shape) < 0.1] = -0.0
    x[rng.random(x.shape) < 0.1] = np.nan
    arrays = [x]
    if limits != "zero":
        special = np.array([-1, -0.0, 0, 2, np.inf, -np.inf, np.nan], dtype)
        arrays.append(rng.choice(special, p.ci))
    if limits == "turned":
        arrays.append(rng.integers(0, 2, p.ci, np.uint8))
    given = [*arrays[:2], *(np.packbits(a, bitorder="little").view("<u4") for a in arrays[2:])]
    places = [te.placeholder(a.shape, str(a.dtype), f"in{i}") for i, a in enumerate(given)]
    limit = places[1] if len(places) > 1 else 0.0
    out = pack_nchw(places[0], limit, places[2] if len(places) > 2 else None, p, 32)
    func = te.create_prim_func([*places, out], index_dtype_override="int64")
    library = tvm.compile(tvm.IRModule({"main": schedule_primfunc(func, HOST)}), target=HOST)
    signs = reference.binarize(
        x.transpose(0, 2, 3, 1),
        arrays[1] if len(arrays) > 1 else 0.0,
        arrays[2] if len(arrays) > 2 else False,
    )
    expected = reference.pack_padded(signs, p, 32)
    result = tvm.runtime.tensor(np.full(expected.shape, 0xDEADBEEF, np.uint32))
    library.jit()["main"](*[tvm.runtime.tensor(a) for a in given], result)
    np.testing.assert_array_equal(result.numpy(), expected)


def test_words_that_are_not_whole_are_refused() -> None:
    p = ConvParams(1, 4, 4, 40, 8, 1, 1)
    with pytest.raises(ValueError, match="40 channels of a group are no multiple of 32 bits"):
        pack_nchw(te.placeholder((1, 40, 4, 4), "float32", "x"), 0.0, None, p, 32)
    avx512 = Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "znver4"})
    assert not packs_nchw(p, 32, avx512)
    assert packs_nchw(ConvParams(1, 4, 4, 64, 8, 1, 1), 32, avx512)
