"""Changes of layout on arm64: right under qemu, by zip and st3."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import te, topi
from tvm.tirx import PrimFunc

from benchmarks import arm64_program
from benchmarks.arm64_program import Case, Prepared
from bnn_tvm.export.kernels_abi import lower
from topi_ext.kernels import select
from topi_ext.params import ConvParams
from topi_ext.schedule import schedule_primfunc

needs_qemu = pytest.mark.skipif(
    arm64_program.missing_tool() is not None, reason=str(arm64_program.missing_tool())
)
TARGET = arm64_program.arm64_target("cortex-a76")


def _function(
    name: str, order: list[int], pads: list[int], shape: tuple[int, ...], dtype: str
) -> PrimFunc:
    x = te.placeholder(shape, dtype, "x")
    moved = topi.transpose(x, order)
    out = topi.nn.pad(moved, pads, pads) if any(pads) else moved
    func = te.create_prim_func([x, out], index_dtype_override="int64")
    return schedule_primfunc(func, TARGET).with_attr("global_symbol", name)


def _assembly(func: PrimFunc) -> tuple[object, str]:
    module = lower(tvm.IRModule({str(func.attrs["global_symbol"]): func}), TARGET)
    built = tvm.get_global_func("target.build.llvm")(module, TARGET)
    return built, str(built.inspect_source("s"))


@needs_qemu
def test_every_shape_gives_the_elements_under_qemu(tmp_path: Path) -> None:
    # Only names and data of a case are used; it wants a layer of some shape.
    params = ConvParams(1, 1, 1, 4, 4, 1, 1)
    kernel = select("conv2d", params, TARGET)
    prepared, functions = [], {}
    rng = np.random.default_rng(1)
    for c in (1, 2, 3, 4, 16, 17, 64, 100):
        for n, h, w in ((2, 1, 3), (1, 5, 7), (2, 3, 17)):
            for to_last in (True, False):
                name = f"t{len(prepared)}"
                dtype = "float16" if (len(prepared) // 2) % 5 == 4 else "float32"
                pads = [0, 1, 2, 0] if to_last and w != 7 else [0, 0, 0, 0]
                order = [0, 2, 3, 1] if to_last else [0, 3, 1, 2]
                x = rng.standard_normal((n, c, h, w) if to_last else (n, h, w, c)).astype(dtype)
                expected = np.pad(x.transpose(order), [(p, p) for p in pads])
                func = functions[name] = _function(name, order, pads, x.shape, dtype)
                case = Case(name, params, kernel)
                prepared.append(Prepared(case, {name: func}, (x,), 0, expected))
    built = tvm.get_global_func("target.build.llvm")(lower(tvm.IRModule(functions), TARGET), TARGET)
    built.write_to_file(str(tmp_path / "kernels.o"), "o")
    program = arm64_program.link(tuple(prepared), str(built.inspect_source("s")), tmp_path)
    outputs = arm64_program.run(program)
    for one in prepared:
        np.testing.assert_array_equal(outputs[one.case.name], one.expected, one.case.name)


def test_four_numbers_take_a_load_two_zips_and_a_store() -> None:
    func = _function("turn", [0, 2, 3, 1], [0, 0, 0, 0], (1, 64, 28, 28), "float32")
    text = arm64_program.function_text(_assembly(func)[1], "turn")
    (tile,) = arm64_program.loops_with(text, "zip1")
    count = {kind: sum(line.startswith(kind) for line in tile) for kind in ("zip", "str", "stp")}
    vectors = 16  # of a tile of 16 x 4 numbers
    moved = sum(line.startswith("mov") and ".d[1]" in line for line in tile)  # zip1 of halves
    assert count["zip"] + moved == 2 * vectors
    assert count["str"] + 2 * count["stp"] == vectors
    assert len(tile) < 5 * vectors


def test_a_stem_stores_three_channels_by_st3() -> None:
    func = _function("stem", [0, 2, 3, 1], [0, 1, 1, 0], (1, 3, 224, 224), "float32")
    text = arm64_program.function_text(_assembly(func)[1], "stem")
    assert arm64_program.loops_with(text, "st3")
