"""What LLVM makes of thresholds on x86: compares, masks, stores; nothing else per channel."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import te

from tests.topi_ext.test_x86_code import (
    CARRY_SAVE_LAYERS,
    LAYERS,
    POPCNT,
    TABLE,
    assembly,
    check_carry_save,
    count,
)
from topi_ext import kernels, reference, threshold
from topi_ext.kernels import Kernel
from topi_ext.params import ConvParams


def words_assembly(kernel: Kernel, params: ConvParams, core: str) -> list[str]:
    """The kernel with thresholds behind it, compiled for `core`."""
    p = params
    words = reference.pack_padded(np.ones((p.n, p.h, p.w, p.ci), np.int8), p, kernel.word_bits)
    data = te.placeholder(words.shape, words.dtype.name, "data")
    if kernel.prepare is not None:
        made = kernel.prepare(data, p)
        data = te.placeholder(made.shape, str(made.dtype), "prepared")
    weights = np.ones((p.co, p.cig, p.kh, p.kw), np.int8)
    limit, sign = np.zeros(p.co, np.int32), np.ones(p.co, np.int32)
    arrays = threshold.pack_weights(kernel, weights, limit, sign, p)
    inputs = [data]
    inputs += [te.placeholder(a.shape, a.dtype.name, f"w{i}") for i, a in enumerate(arrays)]
    out = threshold.threshold_words(*inputs, params=p, kernel=kernel, word_bits=kernel.word_bits)
    return assembly([*inputs, out], core).splitlines()


@pytest.mark.parametrize("case", LAYERS[1:3])
def test_sixteen_counters_a_compare_and_thirty_two_a_mask(case: str) -> None:
    text = words_assembly(kernels.table()[TABLE], ConvParams.parse(case), "znver3")
    compares, masks = count(text, "vpcmpgtw"), count(text, "vpmovmskb")
    assert masks and compares == 2 * masks
    assert count(text, "vpacksswb") == masks
    assert not any("Spill" in line or "AllocWorkspace" in line for line in text)
    assert not any(line.startswith("\tvcvt") for line in text)


@pytest.mark.parametrize("case", LAYERS[1:3])
def test_avx512_compares_into_masks(case: str) -> None:
    text = words_assembly(kernels.table()[POPCNT], ConvParams.parse(case), "znver4")
    assert count(text, "vpcmpgtd") + count(text, "vpcmpltd") >= 4
    assert not any("Spill" in line or "AllocWorkspace" in line for line in text)
    assert not any(line.startswith("\tvcvt") for line in text)


@pytest.mark.parametrize(("case", "name"), CARRY_SAVE_LAYERS)
def test_thresholds_leave_carry_save_loops_as_they_are(case: str, name: str) -> None:
    text = words_assembly(kernels.table()[name], ConvParams.parse(case), "znver4")
    check_carry_save("\n".join(text))
