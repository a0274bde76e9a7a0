"""The walk in chunks of tiles, and what a thread writes for a chunk (`x86.prefixes`)."""

from __future__ import annotations

import dataclasses

import pytest
from tvm.target import Target

from tests.topi_ext.binary_case import check, plain_vector_rows
from topi_ext import kernels
from topi_ext.kernels import Kernel
from topi_ext.params import ConvParams
from topi_ext.pixel_tiles import chunk_tiles

# Several chunks of tiles: of whole rows, across images, of less than a row, a smaller last one;
# strides, dilations, groups; channels and blocks that are no multiples; on one thread and on all.
CHUNKS = (
    "2x16x16x128-k3x3x130-s1x1-d1x1-p1,1,1,1-g1-v0",
    "3x9x11x37-k3x3x70-s1x1-d1x1-p1,1,1,1-g1-v-1",
    "1x3x150x70-k3x3x20-s1x1-d1x1-p1,1,1,1-g1-v1",
    "2x37x19x100-k5x3x40-s2x1-d1x2-p2,0,3,4-g1-v0",
    "2x14x13x130-k3x2x66-s1x1-d2x1-p2,1,2,0-g2-v0",
    "1x12x12x33-k1x1x200-s1x1-d1x1-p0,0,0,0-g1-v0",
    "1x47x29x16-k3x3x8-s3x2-d1x1-p0,1,2,0-g1-v0",
)


@pytest.mark.parametrize("kernel", plain_vector_rows(), ids=lambda k: k.name)
@pytest.mark.parametrize("case", CHUNKS)
def test_chunks_of_tiles(kernel: Kernel, case: str) -> None:
    p = ConvParams.parse(case)
    assert chunk_tiles(-(-p.pixels // kernel.tile["pixels"])) * kernel.tile["pixels"] < p.pixels
    check(kernel, p, "shortcut")


def test_sums_too_large_for_a_stack_leave_the_shape_to_plain_popcounts() -> None:
    p = ConvParams(1, 112, 112, 2048, 64, 3, 3, pads=(1, 1, 1, 1))
    target = Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "znver4"})
    row = kernels.table()["bconv2d_avx512_vpopcntdq_carry_save_u32_2x64"]
    assert row.supports(p) == (
        "the sums of a chunk take 350208 bytes of the stack, the limit is 65536"
    )
    assert kernels.candidates("bconv2d", p, target)[0].name.endswith("popcnt_u32_4x64")
    assert row.supports(dataclasses.replace(p, h=28, w=28, ci=512)) is None
