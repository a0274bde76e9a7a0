"""Shapes: case strings, sizes, refusals; the table and its dispatch."""

from __future__ import annotations

import pytest
from tvm.target import Target

from topi_ext import kernels
from topi_ext.isa import isa_of
from topi_ext.params import ConvParams


def x86(core: str) -> Target:
    return Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": core})


def test_case_string_reads_back() -> None:
    p = ConvParams(2, 9, 11, 12, 18, 3, 5, (2, 1), (1, 2), (1, 0, 2, 3), 3, -1)
    assert ConvParams.parse(str(p)) == p
    with pytest.raises(ValueError, match="not a convolution case: 'x'"):
        ConvParams.parse("x")


def test_output_size_follows_onnx() -> None:
    p = ConvParams(1, 14, 15, 4, 4, 3, 3, stride=(2, 3), dilation=(2, 1), pads=(1, 0, 1, 2))
    assert (p.ho, p.wo) == (6, 5)
    assert p.macs == 6 * 5 * 4 * 9 * 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 0, 5, 4, 4, 1, 1), "must be positive"),
        ((1, 5, 5, 4, 4, 1, 1, (1, 1), (1, 1), (0, 0, -1, 0)), "pads not negative"),
        ((1, 5, 5, 4, 6, 1, 1, (1, 1), (1, 1), (0, 0, 0, 0), 3), "3 groups do not divide"),
        ((1, 5, 5, 4, 4, 1, 1, (1, 1), (1, 1), (0, 0, 0, 0), 1, 2), "pad_value must be"),
        ((1, 2, 5, 4, 4, 3, 3), "larger than the padded input"),
    ],
)
def test_impossible_shapes_are_refused(values: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvParams(*values)


@pytest.mark.parametrize(
    ("triple", "core", "isa"),
    [
        ("x86_64-linux-gnu", "znver4", "avx512_vpopcntdq"),
        ("x86_64-linux-gnu", "icelake-server", "avx512_vpopcntdq"),
        ("x86_64-linux-gnu", "cascadelake", "avx2"),
        ("x86_64-linux-gnu", "x86-64-v3", "avx2"),
        ("x86_64-linux-gnu", "x86-64", "generic"),
        ("aarch64-linux-gnu", "cortex-a53", "neon"),
        ("aarch64-linux-gnu", "neoverse-v2", "neon"),
        ("aarch64-linux-gnu", "apple-m4", "sme2"),
        ("armv7-linux-gnueabihf", "cortex-a7", "neon32"),
        ("riscv64-linux-gnu", "generic-rv64", "generic"),
    ],
)
def test_instruction_set_of_a_target(triple: str, core: str, isa: str) -> None:
    assert isa_of(Target({"kind": "llvm", "mtriple": triple, "mcpu": core})) == isa


def test_the_best_row_of_a_target_is_taken() -> None:
    p = ConvParams(1, 14, 14, 256, 256, 3, 3, pads=(1, 1, 1, 1))
    assert kernels.select("bconv2d", p, x86("znver4")).isa == "avx512_vpopcntdq"
    assert kernels.select("bconv2d", p, x86("haswell")).isa == "avx2"
    assert kernels.select("bconv2d", p, x86("x86-64")).isa == "generic"
    with pytest.raises(KeyError, match="no kernel for bpool"):
        kernels.select("bpool", p, x86("znver4"))


@pytest.mark.parametrize(
    ("case", "row"),
    [
        # Chains of three words pay from about 100 channels on; deepest kernels take a narrow tile.
        ("1x56x56x64-k3x3x64-s1x1-d1x1-p1,1,1,1-g1-v0", "popcnt_u32_4x64"),
        ("1x28x28x128-k3x3x128-s1x1-d1x1-p1,1,1,1-g1-v0", "carry_save_u32_2x64"),
        ("1x14x14x256-k3x3x256-s2x2-d1x1-p1,1,1,1-g1-v0", "carry_save_u32_2x64"),
        ("1x7x7x512-k3x3x512-s1x1-d1x1-p1,1,1,1-g1-v0", "carry_save_u32_2x64"),
        ("1x14x14x256-k5x5x256-s1x1-d1x1-p2,2,2,2-g1-v0", "carry_save_u32_4x32"),
        ("1x28x28x256-k1x1x256-s1x1-d1x1-p0,0,0,0-g1-v0", "popcnt_u32_4x64"),
        ("1x1x1x4096-k1x1x1024-s1x1-d1x1-p0,0,0,0-g1-v0", "popcnt_u32_4x64"),  # weights read once
    ],
)
def test_avx512_counts_with_adders_where_words_are_many(case: str, row: str) -> None:
    chosen = kernels.select("bconv2d", ConvParams.parse(case), x86("znver4"))
    assert chosen.name == f"bconv2d_avx512_vpopcntdq_{row}"


def test_a_refusing_kernel_is_passed_over() -> None:
    wide = ConvParams(1, 5, 5, 3072, 8, 5, 5)
    table = kernels.table()["bconv2d_avx2_pshufb_table_2x128"]
    assert table.supports(wide) == "76800 taps overflow a 16-bit counter"
    assert kernels.select("bconv2d", wide, x86("haswell")).isa == "generic"


def test_every_row_says_its_isa_in_its_name_or_runs_anywhere() -> None:
    for name, row in kernels.table().items():
        assert row.name == name
        assert row.isa in name or row.isa == "generic"
