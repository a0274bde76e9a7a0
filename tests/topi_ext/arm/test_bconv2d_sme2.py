"""The BMOPA kernel: exact at every vector length, ZA left as found, only where SME2 is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import te
from tvm.target import Target

from benchmarks import arm64_program, sme_qemu
from benchmarks.arm64 import LAYERS
from benchmarks.arm64_program import Case, Program, sme2_target
from bnn_tvm.export.link import runtime_dir
from tests.topi_ext.arm.test_bconv2d_neon import NAMED
from topi_ext import reference
from topi_ext.arm_cpu.bconv2d_sme2 import ROW, supports
from topi_ext.arm_cpu.cores import CORES
from topi_ext.arm_cpu.sme_plan import CHANNELS, COLUMNS, PIXELS, WORD
from topi_ext.kernels import select
from topi_ext.params import ConvParams

needs_sme2 = pytest.mark.skipif(sme_qemu.missing() is not None, reason=str(sme_qemu.missing()))

# Around a chunk of positions and of channels, a vector of each length, and a word; with both
# phases of a stride, images that share a chunk, and channel chunks that are not full.
AROUND = [
    ConvParams(1, 1, PIXELS + 1, WORD + 1, COLUMNS + 1, 1, 1),
    ConvParams(1, 1, PIXELS - 1, WORD - 1, COLUMNS - 1, 1, 1),
    ConvParams(1, 3, 23, 2 * WORD, CHANNELS, 3, 3, pads=(1, 1, 1, 1)),
    ConvParams(1, 9, 7, WORD, CHANNELS + 1, 3, 3, pads=(1, 1, 1, 1)),
    ConvParams(1, 4, 17, WORD, 2 * CHANNELS - 5, 2, 3, pads=(0, 1, 1, 2), pad_value=-1),
    ConvParams(3, 4, 5, 3 * WORD, COLUMNS, 2, 2, stride=(2, 2), pads=(1, 0, 0, 1)),
    ConvParams(2, 11, 10, 40, 20, 3, 3, stride=(3, 2), dilation=(2, 3), pads=(2, 3, 1, 3)),
    ConvParams(1, 6, 7, 2 * WORD, 3 * COLUMNS, 1, 1, stride=(2, 2)),
    ConvParams(1, 28, 30, WORD, 4 * COLUMNS, 3, 3, pads=(1, 1, 1, 1), pad_value=1),
]


def all_cases() -> list[Case]:
    """The shapes that the kernel takes, with integers and floats by turns."""
    shapes = [*AROUND, *map(ConvParams.parse, NAMED)]
    taken = [params for params in shapes if supports(params) is None]
    assert len(taken) >= len(AROUND) + 15
    return [
        Case(f"c{i}", params, ROW, ("integers", "float")[i % 2]) for i, params in enumerate(taken)
    ]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """All shapes in one program, the same for every vector length."""
    return arm64_program.build(all_cases(), sme2_target(), tmp_path_factory.mktemp("sme2"))


@needs_sme2
@pytest.mark.parametrize("bits", sme_qemu.LENGTHS)
def test_every_shape_gives_the_reference_at_every_vector_length(
    program: Program, bits: int
) -> None:
    results = arm64_program.run(program, sme_qemu.command(bits))
    wrong = [
        f"{one.case.params} {one.case.epilogue}"
        for one in program.cases
        if not arm64_program.is_correct(one, results[one.case.name])
    ]
    assert not wrong, "\n".join(wrong)


@needs_sme2
@pytest.mark.parametrize("core", ["apple-m4", "c1-nano"])
def test_code_for_a_core_with_and_without_sve_is_exact(core: str, tmp_path: Path) -> None:
    cases = [case for case in all_cases() if case.params in AROUND[2:6]]
    built = arm64_program.build(cases, sme2_target(core), tmp_path)
    results = arm64_program.run(built, sme_qemu.command(512))
    assert all(arm64_program.is_correct(one, results[one.case.name]) for one in built.cases)


@needs_sme2
@pytest.mark.parametrize("bits", sme_qemu.LENGTHS)
def test_a_callers_live_za_is_saved_and_its_registers_kept(bits: int, za_check: Path) -> None:
    done = subprocess.run([*sme_qemu.command(bits), str(za_check)], timeout=60)
    assert done.returncode == 0, f"za_check.c gives {done.returncode}"


@pytest.fixture(scope="module")
def za_check(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """za_check.c around one kernel."""
    folder = tmp_path_factory.mktemp("za")
    params = ConvParams(1, 8, 8, 64, 40, 3, 3, pads=(1, 1, 1, 1), pad_value=-1)
    arm64_program.compile_cases([Case("kernel", params, ROW)], sme2_target(), folder / "k.o")
    source = Path(__file__).with_name("za_check.c")
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
    flags = ["-O1", "-static", "-no-pie", "-nostdlib", "-ffreestanding", "-fno-sanitize=all"]
    files = [str(source), str(runtime_dir() / "src" / "sme.c"), str(folder / "k.o")]
    subprocess.run([*zig, *flags, *files, "-o", str(folder / "za_check")], check=True)
    return folder / "za_check"


def test_only_a_target_with_sme2_takes_it() -> None:
    for params in LAYERS.values():
        for core in CORES:
            target = arm64_program.arm64_target(core)
            isa = "sme2" if core.startswith("c1-") else "neon"
            assert select("bconv2d", params, target).isa == isa, core
        for core in ("generic", "apple-m4", "c1-pro"):
            assert select("bconv2d", params, sme2_target(core)).name == ROW.name
    fields = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "apple-m4"}
    without = Target(fields | {"mattr": ["-sme2"]})
    assert select("bconv2d", LAYERS["14x14x256 k3"], without).isa == "neon"


def test_what_it_refuses_goes_to_neon() -> None:
    depthwise = ConvParams(1, 8, 8, 12, 12, 3, 3, pads=(1, 1, 1, 1), groups=12)
    reason = supports(depthwise)
    assert reason == "groups of 1 output channels leave the tiles of ZA empty"
    assert select("bconv2d", depthwise, sme2_target()).isa == "neon"
    # Its counters have 32 bits.
    assert supports(ConvParams(1, 5, 5, 3072, 8, 5, 5)) is None


def test_the_inner_loop_loads_once_a_bmopa_and_spills_no_vector() -> None:
    cases = [Case(f"l{i}", params, ROW, "float") for i, params in enumerate(LAYERS.values())]
    for case in cases:
        _, assembly = arm64_program.compile_cases([case], sme2_target())
        text = arm64_program.function_text(assembly, "count_agreeing")
        assert text.count("smstart\tsm") == text.count("smstart\tza") == 1
        loops = arm64_program.loops_with(text, "bmopa")
        assert loops, case.params
        for loop in loops:
            words = [line.split()[0] for line in loop]
            loads = sum(
                word in ("ld1w", "ldr") and "z" in line
                for word, line in zip(words, loop, strict=True)
            )
            assert loads <= words.count("bmopa"), case.params
            assert not [line for line in loop if line.startswith(("str\tz", "str\tp"))]


@pytest.mark.parametrize("core", ["generic", "apple-m4"])
def test_streaming_code_holds_nothing_but_the_counts(core: str) -> None:
    """The epilogue is NEON, which streaming mode does not have. Outside that mode there are no
    scalable vectors: these cores have no SVE, which qemu's does not show.
    """
    case = Case("layer", LAYERS["28x28x128 k3"], ROW, "float")
    _, assembly = arm64_program.compile_cases([case], sme2_target(core))
    streaming = arm64_program.function_text(assembly, "count_agreeing")
    assert "bmopa" in streaming and "fmla" not in streaming and ".4s" not in streaming
    outside = assembly.replace(streaming, "")
    assert ".4s" in outside and "bmopa" not in outside and "smstart" not in outside
    scalable = re.compile(r"\s[zp]\d+(\.|/)|\bcnt[bhwd]\s|\brdvl\b")
    assert scalable.search(streaming) and not scalable.search(outside)


def test_padding_bits_of_the_weights_never_agree() -> None:
    params = ConvParams(1, 2, 2, 3, 9, 1, 1)
    rows, *_ = ROW.pack_weights(-np.ones((9, 3, 1, 1), np.int8), params)
    assert rows.shape[1] == COLUMNS
    assert np.all(rows[0] == 0xFFFFFFFF)
    rows, *_ = ROW.pack_weights(np.ones((9, 3, 1, 1), np.int8), params)
    assert np.all(rows[0, :9] == 0xFFFFFFF8)


@pytest.mark.parametrize("params", [*AROUND[3:5], AROUND[6]], ids=str)
def test_the_definitions_say_what_the_hand_made_loops_do(params: ConvParams) -> None:
    """As written in TE, on this machine: what runs where a reshape is fused behind the kernel."""
    rng = np.random.default_rng(3)
    p = params
    signs, weights = (
        rng.choice(np.array([-1, 1], np.int8), shape)
        for shape in ((p.n, p.h, p.w, p.ci), (p.co, p.cig, p.kh, p.kw))
    )
    arrays = [reference.pack_padded(signs, p, WORD), *ROW.pack_weights(weights, p)]
    packed, *rest = (te.placeholder(a.shape, str(a.dtype), f"in{i}") for i, a in enumerate(arrays))
    assert ROW.prepare is not None
    result = ROW.compute(ROW.prepare(packed, p), *rest, params=p)
    func = te.create_prim_func([packed, *rest, result])
    module = tvm.compile(func.with_attr("global_symbol", "main"), target="llvm")
    out = tvm.runtime.tensor(np.zeros(p.out_shape, np.int32))
    module["main"](*map(tvm.runtime.tensor, arrays), out)
    np.testing.assert_array_equal(out.numpy(), reference.bconv2d(signs, weights, p))
