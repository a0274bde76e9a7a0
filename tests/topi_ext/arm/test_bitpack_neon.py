"""NEON packing gives the reference's words for every width, threshold and border."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import arm64_program
from benchmarks.arm64_program import PackCase
from topi_ext.kernels import select
from topi_ext.params import ConvParams

needs_qemu = pytest.mark.skipif(
    arm64_program.missing_tool() is not None, reason=str(arm64_program.missing_tool())
)

# Around the vectors of 4, 16 and 64 numbers, a word and the border.
CHANNELS = {
    16: [1, 3, 15, 16, 17, 37, 80],
    32: [31, 32, 37, 48, 96],
    64: [64, 65, 100, 128, 192, 960],
}


def all_cases() -> list[PackCase]:
    cases = []
    for word, channels in CHANNELS.items():
        for i, ci in enumerate(channels):
            for j, limits in enumerate(("zero", "channel", "turned", "zero", "turned")):
                dtype = "float32" if j < 3 else "float16"
                pads = ((1, 1, 1, 1), (0, 0, 0, 0), (2, 0, 1, 3))[i % 3]
                p = ConvParams(2, 3, 2, ci, 8, 1, 1, pads=pads, pad_value=(-1, 0, 1)[i % 3])
                cases.append(PackCase(f"p{len(cases)}", p, word, limits, dtype))
    grouped = ConvParams(1, 3, 4, 96, 8, 1, 1, pads=(1, 1, 1, 1), groups=4, pad_value=1)
    cases += [PackCase(f"p{len(cases) + i}", grouped, w, "turned") for i, w in enumerate(CHANNELS)]
    return cases


@needs_qemu
def test_every_width_gives_the_reference(tmp_path: Path) -> None:
    target = arm64_program.arm64_target("cortex-a76")  # it compares halves
    program = arm64_program.build(all_cases(), target, tmp_path)
    results = arm64_program.run(program)
    wrong = [
        one.case
        for one in program.cases
        if not arm64_program.is_correct(one, results[one.case.name])
    ]
    assert not wrong


@pytest.mark.parametrize("limits", ("zero", "channel", "turned"))
@pytest.mark.parametrize(
    ("dtype", "core", "lanes", "most"),
    [("float32", "cortex-a72", 4, 2.3), ("float16", "cortex-a76", 8, 1.3)],
)
def test_four_numbers_take_few_vector_instructions(
    dtype: str, core: str, lanes: int, most: float, limits: str
) -> None:
    target = arm64_program.arm64_target(core)
    p = ConvParams(1, 56, 56, 64, 64, 3, 3, pads=(1, 1, 1, 1), pad_value=-1)
    assert select("pack", p, target).name == "pack_neon_addp"
    _, assembly = arm64_program.compile_cases([PackCase("pack", p, 64, limits, dtype)], target)
    (loop,) = arm64_program.loops_with(arm64_program.function_text(assembly, "pack"), "fcmge")
    numbers = lanes * sum(line.startswith("fcmge") for line in loop)
    vector = [t for t in loop if is_vector(t)]
    # With turned channels one exclusive or of a whole word comes on top.
    assert len(vector) - (limits == "turned") * numbers / 64 <= most * numbers / 4, vector


def is_vector(line: str) -> bool:
    """Whether an instruction works on vector registers and is neither a load nor a store."""
    return re.search(r"\b[vqd]\d+", line) is not None and not line.startswith(("ld", "st"))
