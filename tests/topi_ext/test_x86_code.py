"""What LLVM makes of the x86 kernels: no spills, no allocator calls, the instructions intended.

Code is read, not run, so that kernels for AVX512 are judged on any machine.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from tvm import te, tirx, topi
from tvm.target import Target

from topi_ext import bconv2d_lanes, kernels, reference
from topi_ext.bitpack import pack
from topi_ext.kernels import Kernel
from topi_ext.params import ConvParams
from topi_ext.schedule import schedule_primfunc
from topi_ext.x86 import table_plan

POPCNT = "bconv2d_avx512_vpopcntdq_popcnt_u32_4x64"
CARRY_SAVE = "bconv2d_avx512_vpopcntdq_carry_save_u32_2x64"
CARRY_SAVE_DEEP = "bconv2d_avx512_vpopcntdq_carry_save_u32_4x32"
TABLE = "bconv2d_avx2_pshufb_table_2x128"
LAYERS = (
    "1x56x56x64-k3x3x64-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x28x28x128-k3x3x128-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x14x14x256-k3x3x256-s2x2-d1x1-p1,1,1,1-g1-v0",
    "1x7x7x512-k3x3x512-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x14x14x256-k5x5x256-s1x1-d1x1-p2,2,2,2-g1-v0",
)
CARRY_SAVE_LAYERS = [
    *((case, CARRY_SAVE) for case in LAYERS[1:4]),
    *((case, CARRY_SAVE_DEEP) for case in LAYERS[3:]),
]


def assembly(tensors: list[te.Tensor], core: str) -> str:
    """The scheduled function of `tensors`, compiled for `core`."""
    target = Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": core})
    func = schedule_primfunc(te.create_prim_func(tensors), target)
    return tvm.compile(func, target=target).mod.inspect_source("asm")


def layer_assembly(kernel: Kernel, params: ConvParams, core: str) -> str:
    """The kernel with scale and offset behind it, compiled for `core`."""
    p = params
    words = reference.pack_padded(np.ones((p.n, p.h, p.w, p.ci), np.int8), p, kernel.word_bits)
    data = te.placeholder(words.shape, words.dtype.name, "data")
    if kernel.prepare is not None:
        made = kernel.prepare(data, p)
        data = te.placeholder(made.shape, str(made.dtype), "prepared")
    arrays = kernel.pack_weights(np.ones((p.co, p.cig, p.kh, p.kw), np.int8), p)
    weights = [te.placeholder(a.shape, a.dtype.name, f"w{i}") for i, a in enumerate(arrays)]
    scale, offset = (te.placeholder((p.co,), "float32", name) for name in ("scale", "offset"))
    y = kernel.compute(data, *weights, params=p)
    out = te.compute(p.out_shape, lambda *i: y[i].astype("float32") * scale[i[3]] + offset[i[3]])
    return assembly([data, *weights, scale, offset, out], core)


def inner_loops(text: str, instruction: str) -> list[list[str]]:
    """The bodies of the innermost loops that use `instruction`."""
    lines = [line for line in text.splitlines() if not line.startswith((".Ltmp", "\t.", "#"))]
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.startswith(".LBB")}
    found = []
    for i, line in enumerate(lines):
        jump = re.match(r"\tj\w+\t(\.LBB\w+)", line)
        start = labels.get(jump.group(1), i) if jump else i
        body = lines[start + 1 : i]
        innermost = start < i and not any(other.startswith(".LBB") for other in body)
        if innermost and any(instruction in other for other in body):
            found.append(body)
    return found


def count(body: list[str], instruction: str) -> int:
    return sum(line.startswith(f"\t{instruction}\t") for line in body)


@pytest.mark.parametrize("case", LAYERS)
def test_popcount_loop_is_xor_popcount_add_without_spills(case: str) -> None:
    text = layer_assembly(kernels.table()[POPCNT], ConvParams.parse(case), "znver4")
    assert "%rsp, %rbp" not in text  # then rbp is no frame but any register
    loops = inner_loops(text, "vpopcntd")
    assert loops
    full = [body for body in loops if count(body, "vpopcntd") == 16]
    assert full  # 4 pixels x 4 vectors of 16 channels
    for body in loops:
        tile = count(body, "vpopcntd")
        added = count(body, "vpaddd") + count(body, "vpsubd")  # counters may fall from their start
        assert count(body, "vpxord") == added == tile
        assert not any("(%rsp" in line for line in body)
    for body in full:
        assert len(body) <= 3 * 16 + 4 + 4 + 5  # trios, weights, broadcasts, loop control
        assert not any("%ymm" in line or "%xmm" in line for line in body)


@pytest.mark.parametrize(("case", "name"), CARRY_SAVE_LAYERS)
def test_carry_save_loop_takes_eight_vector_instructions_for_three_words(
    case: str, name: str
) -> None:
    check_carry_save(layer_assembly(kernels.table()[name], ConvParams.parse(case), "znver4"))


def check_carry_save(text: str) -> None:
    """The loops over chains are all that the algorithm needs."""
    chains = inner_loops(text, "vpternlogd")
    full = [body for body in chains if count(body, "vpternlogd") == 8]
    assert full  # 8 vectors of counts, 3 words
    for body in full:
        assert count(body, "vpxord") == 24
        assert count(body, "vpopcntd") == 16
        assert count(body, "vpaddd") + count(body, "vpsubd") == 16
        assert len(body) <= 64 + 6 + 12 + 5  # weights, broadcasts, loop control
        assert not any("(%rsp" in line or "(%rbp)" in line for line in body)


@pytest.mark.parametrize(
    ("case", "name", "skips"),
    [
        (LAYERS[0], POPCNT, False),
        (LAYERS[1], CARRY_SAVE, False),
        (LAYERS[3], CARRY_SAVE_DEEP, True),
        ("1x14x14x128-k3x3x128-s2x2-d1x1-p1,1,1,1-g1-v0", TABLE, False),
        (LAYERS[1], TABLE, True),
        (LAYERS[3], TABLE, True),
    ],
)
def test_code_to_skip_padded_rows_is_where_it_pays_alone(
    case: str, name: str, skips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, p = kernels.table()[name], ConvParams.parse(case)
    text = layer_assembly(kernel, p, "znver4")
    monkeypatch.setattr(bconv2d_lanes, "skipping_pays", lambda *_: False)
    monkeypatch.setattr(table_plan, "some_padded", lambda *_: False)
    assert (text != layer_assembly(kernel, p, "znver4")) == skips


@pytest.mark.parametrize("core", ("znver3", "haswell"))
@pytest.mark.parametrize("case", LAYERS)
def test_look_up_loop_takes_eight_vector_instructions_a_step(case: str, core: str) -> None:
    text = layer_assembly(kernels.table()[TABLE], ConvParams.parse(case), core)
    loops = inner_loops(text, "vpshufb")
    assert loops
    for body in loops:
        steps, rest = divmod(count(body, "vpshufb"), 3)
        assert rest == 0
        assert count(body, "vpaddb") == 4 * steps
        assert count(body, "vpsrlw") == steps
        assert not any("(%rsp" in line for line in body)


@pytest.mark.parametrize(
    ("name", "core"), ((POPCNT, "znver4"), (CARRY_SAVE, "znver4"), (TABLE, "znver3"))
)
@pytest.mark.parametrize("case", LAYERS)
def test_no_kernel_asks_for_workspace(case: str, name: str, core: str) -> None:
    assert "AllocWorkspace" not in layer_assembly(
        kernels.table()[name], ConvParams.parse(case), core
    )


@pytest.mark.parametrize("word_bits", (8, 32, 64))
def test_packing_compares_vectors_and_takes_their_mask(word_bits: int) -> None:
    p = ConvParams(1, 14, 14, 64, 64, 3, 3, pads=(1, 1, 1, 1))
    x = te.placeholder((1, 14, 14, 64), "float32", "x")
    text = assembly([x, pack(x, 0.0, None, p, word_bits)], "haswell")
    assert "vcmpleps" in text or "vcmpgeps" in text
    assert "vpmovmskb" in text or "vmovmskps" in text
    assert "AllocWorkspace" not in text


def test_a_concatenation_with_arithmetic_behind_it_runs_in_vectors() -> None:
    parts = [te.placeholder((1, 28, 28, c), "float32", f"x{c}") for c in (64, 96)]
    slope = te.placeholder((160,), "float32", "slope")
    joined = topi.concatenate(parts, -1)
    above = topi.greater(joined, tirx.const(0, "float32"))
    out = topi.where(above, joined, topi.multiply(joined, slope))
    text = assembly([*parts, slope, out], "znver4")
    assert "mulps" in text
    assert not re.search(r"mulss|comiss", text)
