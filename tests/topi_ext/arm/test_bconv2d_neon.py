"""The arm64 kernels give the reference's integers on every shape, and spill nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tvm.target.codegen import llvm_get_cpu_archlist

from benchmarks import arm64_program
from benchmarks.arm64 import LAYERS, OUTPUTS, best_of_family, family_of
from benchmarks.arm64_program import Case, Program
from topi_ext import threshold
from topi_ext.arm_cpu import bconv2d_cnt, bconv2d_tbl
from topi_ext.arm_cpu.agreement import MAX_TAPS, supports
from topi_ext.arm_cpu.cores import CORES as CORES_TABLE
from topi_ext.arm_cpu.cores import core_of
from topi_ext.kernels import Kernel, select
from topi_ext.params import ConvParams

# What no layer may assume: channel counts off every word, maps of one pixel, strides, dilation,
# asymmetric pads, groups, batches. A failing one can be run alone by its case string.
NAMED = [
    "1x5x6x1-k3x3x1-s1x1-d1x1-p1,1,1,1-g1-v-1",
    "1x5x6x1-k3x3x16-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x5x6x3-k3x3x5-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x6x5x16-k3x3x8-s1x1-d1x1-p1,1,1,1-g1-v1",
    "1x5x6x37-k3x3x12-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x5x6x37-k1x1x40-s1x1-d1x1-p0,0,0,0-g1-v0",
    "1x5x6x48-k3x3x17-s1x1-d1x1-p1,1,1,1-g1-v-1",
    "1x4x4x64-k3x3x64-s1x1-d1x1-p1,1,1,1-g1-v1",
    "1x3x3x960-k1x1x24-s1x1-d1x1-p0,0,0,0-g1-v0",
    "1x4x5x960-k3x3x10-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x1x1x100-k1x1x10-s1x1-d1x1-p0,0,0,0-g1-v0",
    "1x1x1x96-k3x3x16-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x1x1x784-k1x1x256-s1x1-d1x1-p0,0,0,0-g1-v0",
    "1x1x3x64-k1x1x232-s1x1-d1x1-p0,0,0,0-g1-v0",
    "1x9x7x16-k3x3x24-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x1x5x130-k1x1x37-s1x1-d1x1-p0,0,0,0-g1-v0",
    "2x9x8x24-k5x5x24-s1x1-d1x1-p2,2,2,2-g1-v0",
    "2x7x9x24-k5x5x24-s3x2-d1x2-p2,3,1,4-g1-v0",
    "1x9x9x40-k3x3x16-s3x3-d2x2-p2,1,0,3-g1-v0",
    "1x9x9x64-k3x3x16-s1x1-d2x2-p2,2,2,2-g1-v1",
    "2x8x8x32-k3x3x48-s1x1-d1x1-p1,1,1,1-g2-v0",
    "1x8x8x66-k3x3x33-s1x1-d1x1-p1,1,1,1-g3-v1",
    "1x8x8x12-k3x3x12-s1x1-d1x1-p1,1,1,1-g12-v0",
    "1x2x2x3072-k5x5x8-s1x1-d1x1-p0,0,3,3-g1-v-1",
    "1x6x1x20-k3x1x9-s2x1-d1x1-p1,0,1,0-g1-v0",
]
# Each family as it is compiled for a core that takes it.
FAMILIES = {
    "cortex-a72": bconv2d_cnt.KERNELS,
    "cortex-a76": bconv2d_tbl.KERNELS[:1],
    "cortex-a510": bconv2d_tbl.KERNELS[1:],
}
WORDS = (64, 32, 16, 8)
CORES = ["generic", "cortex-a53", "cortex-a72", "cortex-x1"]

needs_qemu = pytest.mark.skipif(
    arm64_program.missing_tool() is not None, reason=str(arm64_program.missing_tool())
)


def around_the_tile(kernel: Kernel) -> list[ConvParams]:
    """Shapes just below, at and above the kernel's pixels, channels and word."""
    pixels, channels, word = kernel.tile["pixels"], kernel.tile["channels"], kernel.word_bits
    same = {"pads": (1, 1, 1, 1), "pad_value": 0}
    return [
        ConvParams(1, 1, pixels + 1, word + 1, channels + 1, 1, 1),
        ConvParams(1, 1, max(1, pixels - 1), word - 1, channels - 1, 1, 1),
        ConvParams(2, pixels, 3, 2 * word, 2 * channels, 3, 3, **same),
        ConvParams(1, 4, pixels, 3 * word, channels, 2, 3, pads=(0, 1, 1, 2), pad_value=-1),
    ]


def all_cases(core: str) -> list[Case]:
    """Every row of the core's family around its own tile; the named shapes on its best row."""
    target = arm64_program.arm64_target(core)
    rows = FAMILIES[core]
    cases = []
    for j, kernel in enumerate(rows):
        # Where rows differ by little, half of the shapes each.
        shapes = around_the_tile(kernel)
        for i, params in enumerate(shapes if len(rows) == 1 else shapes[j % 2 :: 2]):
            epilogue = ("integers", "float")[i % 2]
            cases.append(Case(f"c{len(cases)}", params, kernel, epilogue))
            if i % 2:
                cases += words(kernel, params, WORDS[::-1], len(cases))
    for i, params in enumerate(map(ConvParams.parse, NAMED)):
        if supports(params) is None:
            best = max(rows, key=lambda k: k.rank_for(params, target))
            cases.append(Case(f"c{len(cases)}", params, best))
            cases += words(best, params, WORDS[i % 3 :], len(cases))
    # So many pixels that every one of a tile gets its own copy of the offsets.
    many = ConvParams.parse("1x8x9x64-k3x3x20-s1x1-d1x1-p1,1,1,1-g1-v0")
    best = max(rows, key=lambda k: k.rank_for(many, target))
    return [*cases, Case(f"c{len(cases)}", many, best, "float")]


def words(kernel: Kernel, params: ConvParams, sizes: Sequence[int], number: int) -> list[Case]:
    """One case with packed bits behind it, of the first of `sizes` that the kernel can write."""
    fitting = [bits for bits in sizes if threshold.refusal(kernel, params, bits) is None]
    return [Case(f"c{number}", params, kernel, "words", bits) for bits in fitting[:1]]


@pytest.fixture(scope="module", params=list(FAMILIES))
def outputs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Program, dict[str, np.ndarray]]:
    """All cases in one program: linking and starting qemu once is most of the cost."""
    directory = tmp_path_factory.mktemp("arm64")
    target = arm64_program.arm64_target(request.param)
    program = arm64_program.build(all_cases(request.param), target, directory)
    return program, arm64_program.run(program)


@needs_qemu
def test_every_shape_gives_the_reference(
    outputs: tuple[Program, dict[str, np.ndarray]],
) -> None:
    program, results = outputs
    wrong = [
        f"{one.case.kernel.name} {one.case.epilogue} {one.case.params}"
        for one in program.cases
        if not arm64_program.is_correct(one, results[one.case.name])
    ]
    assert not wrong, "\n".join(wrong)


@needs_qemu
def test_a_wrong_result_is_noticed(outputs: tuple[Program, dict[str, np.ndarray]]) -> None:
    program, results = outputs
    for one in program.cases[:2]:
        broken = results[one.case.name].copy()
        broken.reshape(-1)[-1] += 1
        assert not arm64_program.is_correct(one, broken)


def test_counts_beyond_sixteen_bits_are_refused() -> None:
    most = ConvParams(1, 1, 1, MAX_TAPS, 8, 1, 1)
    assert supports(most) is None
    over = ConvParams(1, 5, 5, 3072, 8, 5, 5)
    reason = supports(over)
    assert reason is not None and "76800 taps" in reason
    chosen = select("bconv2d", over, arm64_program.arm64_target("cortex-a72"))
    assert chosen.isa == "generic"


def test_the_table_chooses_these_kernels_for_arm64() -> None:
    for core in CORES:
        target = arm64_program.arm64_target(core)
        params = ConvParams(1, 14, 14, 256, 256, 3, 3, pads=(1, 1, 1, 1), pad_value=-1)
        assert select("bconv2d", params, target).word_bits == 64
        narrow = ConvParams(1, 14, 14, 16, 16, 3, 3)
        assert select("bconv2d", narrow, target).word_bits == 16


@pytest.mark.parametrize(
    ("core", "family"),
    [
        *((core, "cnt") for core in ("generic", "cortex-a53", "cortex-a55", "cortex-a72")),
        *((core, "cnt") for core in ("cortex-a73", "cortex-x1", "thunderx2t99")),
        *((core, "tbl") for core in ("cortex-a76", "cortex-a78", "cortex-a710", "cortex-x2")),
        *((core, "tbl") for core in ("neoverse-n1", "neoverse-n2", "neoverse-v2", "apple-m3")),
        *((core, "tbl4") for core in ("cortex-a510", "cortex-a520")),
    ],
)
def test_every_core_takes_its_family_on_all_benchmark_layers(core: str, family: str) -> None:
    target = arm64_program.arm64_target(core)
    for params in LAYERS.values():
        form = family + ("5" if family == "tbl" else "")
        assert select("bconv2d", params, target).name.startswith(f"bconv2d_neon_{form}"), params


def test_a_core_that_llvm_does_not_know_is_no_row() -> None:
    known = set(llvm_get_cpu_archlist(arm64_program.arm64_target("generic")))
    assert set(CORES_TABLE) <= known, set(CORES_TABLE) - known


def test_a_single_pixel_has_no_pair_to_look_up() -> None:
    one_pixel = ConvParams.parse("1x1x1x1024-k1x1x1024-s1x1-d1x1-p0,0,0,0-g1-v0")
    target = arm64_program.arm64_target("cortex-a76")
    assert family_of(select("bconv2d", one_pixel, target).name) == "cnt"


OFTEN = ("cortex-a53", "cortex-a72", "cortex-a76", "cortex-a510")
SELDOM = ("generic", "cortex-a55", "cortex-x1", "cortex-a710", "cortex-x3", "cortex-x4")
SELDOM += ("cortex-a520", "neoverse-n1", "neoverse-v2", "apple-m4")


@pytest.mark.parametrize(
    "core", [*OFTEN, *(pytest.param(core, marks=pytest.mark.slow) for core in SELDOM)]
)
def test_inner_loops_spill_no_register(core: str) -> None:
    """To floats and to packed bits, by the form that the core takes."""
    target = arm64_program.arm64_target(core)
    bits = core_of(target).table_bits
    form = f"tbl{bits}" if bits else "cnt"
    cases = [
        Case(f"l{i}_{output}", params, best_of_family(params, form, core), output)
        for i, params in enumerate(LAYERS.values())
        for output in OUTPUTS
    ]
    _, assembly = arm64_program.compile_cases(cases, target)
    for case in cases:
        text = arm64_program.function_text(assembly, case.name)
        loops = arm64_program.loops_with(text, form[:3])
        assert loops, case
        for loop in loops:
            assert not spills(loop), f"{case}: {spills(loop)}"


def spills(loop: list[str]) -> list[str]:
    """What a loop stores or reads from the stack; a whole reduction in one turn stores results."""
    results = any(text.startswith(("scvtf", "cmgt", "cmhi")) for text in loop)
    return [t for t in loop if "[sp" in t or (t.startswith("st") and not results)]


def test_a_spill_is_noticed() -> None:
    text = ".LBB0_1:\n\tcnt\tv0.16b, v0.16b\n\tstr\tq0, [sp, #16]\n\tb.ne\t.LBB0_1\n"
    (loop,) = arm64_program.loops_with(text, "cnt")
    assert spills(loop)


def test_a_loop_is_found_where_its_blocks_are_scattered() -> None:
    text = """
    f:
        cbz x1, .L9
    .L1:
        str q0, [sp, #16]
        cbnz x3, .L3
    .L2:
        cbnz x2, .L1
        ret
    .L3:
        tbl v0.16b, { v1.16b }, v2.16b
        b.ne .L3
        b .L2
    .L9:
        ret
    """
    (loop,) = arm64_program.loops_with(text, "tbl")
    assert loop == ["tbl v0.16b, { v1.16b }, v2.16b", "b.ne .L3"]
