"""The float kernels on arm64: right under qemu, multiplying by lane, spilling nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm

from benchmarks import arm64_program
from benchmarks.arm64_program import Case, Prepared
from bnn_tvm.export.kernels_abi import lower
from tests.topi_ext import float_case
from topi_ext.arm_cpu.depthwise_tiles import suits
from topi_ext.arm_cpu.short_conv import is_short
from topi_ext.kernels import Kernel, select, table
from topi_ext.params import ConvParams
from topi_ext.schedule import schedule_primfunc

CORES = [(core, "float32") for core in ("cortex-a53", "cortex-a72", "cortex-a76", "cortex-x1")]
CORES += [(core, "float16") for core in ("cortex-a55", "cortex-a76")]

# The float layers of Bi-Real-Net-18 that matter, and a 3x3 one.
LAYERS = [
    ConvParams(1, 224, 224, 3, 64, 7, 7, (2, 2), (1, 1), (2, 2, 3, 3)),
    ConvParams(1, 28, 28, 64, 128, 1, 1),
    ConvParams(1, 7, 7, 256, 512, 1, 1),
    ConvParams(1, 28, 28, 128, 128, 3, 3, pads=(1, 1, 1, 1)),
]

# Odd outputs, strides, pads and channels for the rows that transform tiles.
WINOGRAD = [
    "1x4x4x1-k3x3x1-s1x1-d1x1-p0,0,0,0-g1-v0",
    "2x5x9x16-k3x3x37-s1x1-d1x1-p1,1,1,1-g1-v0",
    "1x9x8x37-k3x3x16-s2x2-d1x1-p1,0,0,1-g1-v0",
    "1x11x12x1-k5x5x16-s2x2-d1x1-p2,1,2,3-g1-v0",
    "1x9x9x3-k5x5x37-s1x1-d1x1-p2,2,2,2-g1-v0",
    "1x17x14x3-k7x7x64-s2x2-d1x1-p2,2,3,3-g1-v0",
    "1x1x19x7-k1x3x16-s1x1-d1x1-p0,1,0,1-g1-v0",
    "1x4x5x300-k3x3x140-s1x1-d1x1-p1,1,1,1-g1-v0",
]

# Rows of one tile and of several, with and without tiles inside and at either border; rows above
# and below the input; channels that fill no vector; rows enough for several threads. The last four
# the tiles leave to the channel tile, or take with few taps inside.
DEPTHWISE = [
    "1x1x1x5-k1x1x5-s1x1-d1x1-p0,0,0,0-g5-v0",
    "1x1x1x12-k3x3x12-s1x1-d1x1-p1,1,1,1-g12-v0",
    "1x3x3x37-k3x3x37-s1x1-d1x1-p0,0,0,0-g37-v0",
    "1x4x9x8-k3x3x8-s1x1-d1x1-p1,1,1,1-g8-v0",
    "2x6x34x20-k3x3x20-s1x1-d1x1-p1,1,1,1-g20-v0",
    "1x55x55x36-k3x3x36-s2x2-d1x1-p1,1,1,1-g36-v0",
    "1x8x34x16-k3x3x16-s2x2-d1x1-p0,0,1,1-g16-v0",
    "1x7x7x13-k5x5x13-s1x1-d1x1-p2,2,2,2-g13-v0",
    "2x9x30x9-k5x5x9-s3x3-d1x1-p1,2,0,2-g9-v0",
    "1x9x20x8-k3x3x8-s1x1-d3x2-p3,2,3,2-g8-v0",
    "1x5x11x36-k1x4x36-s1x2-d1x3-p0,4,0,3-g36-v0",
    "1x11x5x66-k4x1x66-s3x1-d2x1-p5,0,2,0-g66-v0",
    "1x3x20x17-k7x7x17-s1x1-d1x1-p3,3,3,3-g17-v0",
    "1x4x4x8-k3x3x8-s1x1-d1x1-p4,0,0,5-g8-v0",
    "1x3x20x8-k3x9x8-s1x1-d1x1-p1,4,1,4-g8-v0",
    "1x3x3x6-k3x3x6-s1x1-d9x9-p9,9,9,9-g6-v0",
    "1x4x70x5-k3x7x5-s1x1-d1x9-p1,27,1,27-g5-v0",
]

# Short reductions: with copies of what is added and without, whole tiles and rests of rows, images
# and channels, inputs of a tile shared or each pixel's own, fewer than a vector of them.
SHORT = [
    "1x31x45x3-k3x3x8-s2x2-d1x1-p0,0,1,1-g1-v0",
    "2x3x5x16-k1x1x8-s1x1-d1x1-p0,0,0,0-g1-v0",
    "1x16x17x16-k1x1x8-s1x1-d1x1-p0,0,0,0-g1-v0",
    "2x5x9x8-k1x1x8-s2x2-d1x1-p0,0,0,0-g1-v0",
    "2x4x13x1-k3x3x8-s1x3-d2x2-p2,1,0,2-g1-v0",
    "1x3x10x3-k1x3x8-s1x1-d1x1-p0,1,0,1-g1-v0",
    "1x2x9x4-k1x3x8-s2x1-d1x2-p0,2,1,2-g1-v0",
    "1x1x1x2-k1x1x8-s1x1-d1x1-p0,0,0,0-g1-v0",
    "1x9x4x9-k4x1x8-s2x1-d1x1-p1,0,2,0-g1-v0",
]

needs_qemu = pytest.mark.skipif(
    arm64_program.missing_tool() is not None, reason=str(arm64_program.missing_tool())
)


def _shapes(kernel: Kernel) -> Iterator[ConvParams]:
    if kernel.op == "depthwise":
        for c in (3, 8, 37, 64):
            yield ConvParams(1, 5, 6, c, c, 3, 3, (2, 1), pads=(1, 0, 1, 2), groups=c)
        yield ConvParams(1, 4, 4, 4, 12, 3, 3, pads=(1, 1, 1, 1), groups=4)
        # Half precision has the same loops: every second shape.
        yield from map(ConvParams.parse, DEPTHWISE[:: 1 if kernel.dtype == "float32" else 2])
        return
    pixels, channels = kernel.tile["pixels"], kernel.tile["channels"]
    if kernel.reassociates:
        yield from map(ConvParams.parse, WINOGRAD)
        return
    lanes = 16 // np.dtype(kernel.dtype).itemsize  # a multiple of it is read by vectors
    if kernel.op == "dense":
        yield ConvParams.dense(1, 5 * lanes, 2 * channels)
        yield ConvParams.dense(pixels + 1, 7, channels + 5)
        return
    for number, short in enumerate(SHORT):
        co = 2 * channels + 3 if (number + channels // lanes) % 2 else channels
        yield replace(ConvParams.parse(short), co=co)
    yield ConvParams(1, 2, pixels + 1, 3 * lanes, channels, 1, 1)
    yield ConvParams(1, 1, 2 * pixels, 5, 2 * channels + 3, 1, 1)
    yield ConvParams(1, 3, pixels + 2, lanes, channels + 8, 3, 3, pads=(1, 1, 1, 1))
    yield ConvParams(2, 7, 9, 6, 2 * channels, 3, 2, (2, 1), (1, 2), (1, 0, 2, 1))
    yield ConvParams(1, 6, 11, 3, channels, 5, 3, (2, 2), (1, 1), (0, 1, 3, 2))
    yield ConvParams(1, 4, 5, 2 * lanes, 2 * channels, 3, 3, pads=(1, 1, 1, 1), groups=2)


def _cases() -> list[tuple[Kernel, ConvParams, str]]:
    found: list[tuple[Kernel, ConvParams, str]] = []
    for kernel in table().values():
        if kernel.isa == "neon" and kernel.op in ("conv2d", "depthwise", "dense"):
            for params in _shapes(kernel):
                if kernel.supports(params) is not None:
                    continue
                every = float_case.EPILOGUES
                # With pixels enough, depthwise kernels keep copies of what epilogues add.
                # So do short ones, whose loops are the same for all rows of the table.
                copied = kernel.op == "depthwise" or (
                    kernel.name in ("conv2d_f32_neon_8x8", "conv2d_f16_neon_8x16")
                    and is_short(params)
                )
                copied = copied and params.pixels > 200
                each = every if copied else [every[len(found) % len(every)]]
                found += [(kernel, params, epilogue) for epilogue in each]
    return found


@needs_qemu
def test_float_kernels_match_the_reference_under_qemu(tmp_path: Path) -> None:
    chosen = _cases()
    rows = {(kernel.op, kernel.dtype) for kernel, _, _ in chosen}
    assert len(rows) == 6, rows
    _check(chosen, "cortex-a76", tmp_path)  # it has FullFP16


@needs_qemu
def test_short_reductions_match_the_reference_on_a_core_in_order(tmp_path: Path) -> None:
    every = float_case.EPILOGUES
    kernel = table()["conv2d_f32_neon_8x8"]
    shapes = [replace(ConvParams.parse(short), co=co) for short in SHORT for co in (8, 19)]
    chosen = [(kernel, params, every[n % len(every)]) for n, params in enumerate(shapes)]
    _check(chosen, "cortex-a53", tmp_path)


def _check(chosen: list[tuple[Kernel, ConvParams, str]], core: str, tmp_path: Path) -> None:
    """Build all cases for `core` into one program, run it, and compare with the reference."""
    target = arm64_program.arm64_target(core)
    made, prepared, functions = {}, [], {}
    for i, (kernel, params, epilogue) in enumerate(chosen):
        name = f"f{i}"
        case = float_case.make(kernel, params, epilogue, 2 if kernel.op == "dense" else 4)
        made[name] = case, f"{kernel.name} {params} {epilogue}"
        func = schedule_primfunc(case.func, target).with_attr("global_symbol", name)
        functions[name] = func
        like = case.expected.astype(kernel.dtype)
        prepared.append(
            Prepared(Case(name, params, kernel), {name: func}, tuple(case.operands), 0, like)
        )
    built = tvm.get_global_func("target.build.llvm")(lower(tvm.IRModule(functions), target), target)
    built.write_to_file(str(tmp_path / "kernels.o"), "o")
    program = arm64_program.link(tuple(prepared), str(built.inspect_source("s")), tmp_path)
    outputs = arm64_program.run(program)
    for name, (case, what) in made.items():
        case.check(outputs[name], what)


def _assembly(
    core: str,
    params: ConvParams,
    dtype: str = "float32",
    direct: bool = False,
    op: str = "conv2d",
    epilogue: str = "relu",
) -> str:
    target = arm64_program.arm64_target(core)
    kernel = select(op, params, target, dtype, direct)
    case = float_case.make(kernel, params, epilogue)
    func = schedule_primfunc(case.func, target).with_attr("global_symbol", "layer")
    built = tvm.get_global_func("target.build.llvm")(
        lower(tvm.IRModule({"layer": func}), target), target
    )
    return arm64_program.function_text(str(built.inspect_source("s")), "layer")


@pytest.mark.parametrize(("core", "dtype"), CORES)
@pytest.mark.parametrize("params", LAYERS, ids=str)
def test_inner_loops_multiply_by_lane_and_spill_no_register(
    core: str, dtype: str, params: ConvParams
) -> None:
    loops = arm64_program.loops_with(_assembly(core, params, dtype, direct=True), "fmla")
    assert loops
    element, lanes = ("s", 4) if dtype == "float32" else ("h", 8)
    for loop in loops:
        lines = [line for line in loop if line.startswith("fmla")]
        by_lane = [line for line in lines if re.search(rf"\.{element}\[\d\]$", line)]
        # Where a vector of a pixel's inputs are no neighbours, one may be loaded to all lanes.
        assert len(by_lane) == len(lines) or params.ci % lanes, lines
        assert all(
            line.split()[1].startswith("v") and f".{lanes}{element}" in line for line in lines
        )
        stack = [line for line in loop if "[sp" in line]
        assert not [line for line in stack if re.search(r"\bq\d+", line)], stack


# In half precision LLVM writes out the short sums of the 7x7 layer and spills there, and on cores
# that issue in order everywhere; they are still faster than without tiles.
@pytest.mark.parametrize(
    ("core", "dtype", "params"),
    [
        *(
            (core, "float32", LAYERS[layer])
            for core in ("cortex-a72", "cortex-a76", "cortex-x1")
            for layer in (0, 3)
        ),
        ("cortex-a76", "float16", LAYERS[3]),
    ],
    ids=str,
)
def test_products_of_tiles_multiply_by_lane_and_spill_no_register(
    core: str, dtype: str, params: ConvParams
) -> None:
    assert select("conv2d", params, arm64_program.arm64_target(core), dtype).reassociates
    loops = arm64_program.loops_with(_assembly(core, params, dtype), "fmla")
    element = "s" if dtype == "float32" else "h"
    lane = re.compile(rf"fmla.*\.{element}\[\d\]$")
    by_lane = [loop for loop in loops if any(lane.match(line) for line in loop)]
    # Epilogues multiply too; the loops of products have a lane of an input in each.
    products = [loop for loop in by_lane if sum(line.startswith("fmla") for line in loop) > 40]
    assert products
    for loop in products:
        lines = [line for line in loop if line.startswith("fmla")]
        assert all(lane.match(line) for line in lines)
        assert not [line for line in loop if re.match(r"(ld|st)[rp]\s+q.*\[sp", line)]


@pytest.mark.parametrize(
    ("core", "dtype"),
    [
        ("cortex-a72", "float32"),
        ("cortex-a76", "float32"),
        ("cortex-a76", "float16"),
        ("neoverse-n1", "float32"),
        ("neoverse-n1", "float16"),
    ],
)
@pytest.mark.parametrize(
    ("params", "epilogue"),
    [
        ("1x55x55x64-k3x3x64-s2x2-d1x1-p1,1,1,1-g64-v0", "none"),
        ("1x55x55x64-k3x3x64-s2x2-d1x1-p1,1,1,1-g64-v0", "relu"),
        ("1x56x56x64-k3x3x64-s2x2-d1x1-p1,1,1,1-g64-v0", "bias"),
        ("1x55x55x64-k3x3x64-s2x2-d1x1-p1,1,1,1-g64-v0", "prelu"),
        ("1x55x55x64-k3x3x64-s2x2-d1x1-p1,1,1,1-g64-v0", "added"),
        ("1x56x56x64-k3x3x64-s2x2-d1x1-p1,1,1,1-g64-v0", "bare bias"),
        ("1x56x56x64-k3x3x64-s1x1-d1x1-p1,1,1,1-g64-v0", "shortcut"),
        ("1x28x28x32-k5x5x32-s1x1-d1x1-p2,2,2,2-g32-v0", "relu"),
    ],
)
def test_depthwise_tiles_share_their_loads_and_spill_no_register(
    core: str, dtype: str, params: str, epilogue: str
) -> None:
    text = _assembly(core, ConvParams.parse(params), dtype, op="depthwise", epilogue=epilogue)
    loops = arm64_program.loops_with(text, "fmla")
    assert loops
    for loop in loops:
        products = [line for line in loop if re.match(r"fm(la|ul)\s", line)]
        loaded = [line for line in loop if re.match(r"ld[rp]\s+q", line)]
        registers = sum(2 if line.startswith("ldp") else 1 for line in loaded)
        # Two a product without sharing; an epilogue loads what it adds for each pixel.
        assert registers <= 1.3 * len(products), (registers, len(products))
        assert not [line for line in loop if re.match(r"(ld|st)[rp]\s+q.*\[sp", line)]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ("1x9x9x4-k3x3x8-s1x1-d1x1-p1,1,1,1-g4-v0", "two filters for an input channel"),
        ("1x3x20x8-k3x9x8-s1x1-d1x1-p1,4,1,4-g8-v0", "a wide kernel"),
        ("1x4x4x8-k3x3x8-s1x1-d1x1-p4,0,0,5-g8-v0", "pixels that see only padding"),
        ("1x4x70x5-k3x7x5-s1x1-d1x9-p1,27,1,27-g5-v0", "many tiles at the borders"),
    ],
)
def test_depthwise_tiles_leave_odd_shapes_to_the_channel_tile(params: str, reason: str) -> None:
    assert not suits(ConvParams.parse(params)), reason


def test_depthwise_tiles_take_the_shapes_of_networks() -> None:
    for size, channels, stride in ((112, 16, 2), (55, 64, 2), (13, 256, 2), (7, 960, 1)):
        pads = (1, 1, 1, 1)
        strides = (stride, stride)
        shape = (1, size, size, channels, channels, 3, 3, strides, (1, 1), pads, channels)
        assert suits(ConvParams(*shape))


@pytest.mark.parametrize("params", [*LAYERS[1:], ConvParams.dense(1, 512, 1000)], ids=str)
def test_loops_on_a_core_in_order_load_no_pairs_of_vectors(params: ConvParams) -> None:
    loops = arm64_program.loops_with(_assembly("cortex-a53", params, "float32"), "fmla")
    assert any(re.match(r"ldu?r\s+q", line) for loop in loops for line in loop)
    assert not any(re.match(r"ldp\s+q", line) for loop in loops for line in loop)
