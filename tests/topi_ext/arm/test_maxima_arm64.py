"""Maxima and minima of float vectors on arm64 are one instruction each, and right."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc

from benchmarks import arm64_program
from benchmarks.arm64_program import Case, Prepared
from bnn_tvm.export.kernels_abi import lower
from topi_ext.arm_cpu.maxima import join_maxima
from topi_ext.kernels import select
from topi_ext.params import ConvParams

COUNT = 64
needs_qemu = pytest.mark.skipif(
    arm64_program.missing_tool() is not None, reason=str(arm64_program.missing_tool())
)


def _function(dtype: str, name: str, lanes: int) -> PrimFunc:
    """The smaller of `a` and the larger of `a` and `b`, `b`, in vectors of `lanes`."""
    a, b = (te.placeholder((COUNT,), dtype, f"in{i}") for i in range(2))
    larger = te.compute((2, COUNT), lambda k, i: _either(k, a[i], b[i]), name="both")
    sch = Schedule(te.create_prim_func([a, b, larger]).with_attr("global_symbol", name))
    *_, i = sch.get_loops(sch.get_sblock("both"))
    if lanes > 1:
        sch.vectorize(sch.split(i, [None, lanes])[1])
    return sch.mod["main"]


def _either(k: tirx.Var, a: tirx.PrimExpr, b: tirx.PrimExpr) -> tirx.PrimExpr:
    return tirx.if_then_else(k == 0, te.max(a, b), te.min(a, b))


def _lowered(core: str, func: PrimFunc) -> str:
    target = arm64_program.arm64_target(core)
    module = lower(tvm.IRModule({"f": func}), target)
    return str(tvm.get_global_func("target.build.llvm")(module, target).inspect_source("s"))


@pytest.mark.parametrize(("dtype", "lanes"), [("float32", 4), ("float32", 16), ("float16", 8)])
def test_vectors_take_one_instruction(dtype: str, lanes: int) -> None:
    text = _lowered("cortex-a76", _function(dtype, "f", lanes))  # it has FullFP16
    assert re.search(r"\tfmaxnm\tv", text)
    assert re.search(r"\tfminnm\tv", text)
    assert not re.search(r"\tfcm", text)


def test_other_types_and_targets_stay_as_they_are() -> None:
    for dtype, lanes, target in (
        ("int32", 4, arm64_program.arm64_target("cortex-a76")),
        ("float32", 1, arm64_program.arm64_target("cortex-a76")),
        ("float32", 4, tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu"})),
    ):
        func = _function(dtype, "f", lanes)
        tvm.ir.assert_structural_equal(join_maxima(func, target), func)


@needs_qemu
def test_results_are_those_of_numpy_and_numbers_win_over_nan(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    a, b = rng.standard_normal((2, COUNT)).astype(np.float32)
    a[:6] = [np.nan, 1, np.inf, -np.inf, 2, np.nan]
    b[:6] = [1, np.nan, 3, 3, 2, np.nan]
    wanted = np.stack([np.fmax(a, b), np.fmin(a, b)])
    target = arm64_program.arm64_target("cortex-a76")
    func = _function("float32", "f0", 4)
    params = ConvParams(1, 1, 1, 1, 1, 1, 1)
    case = Case("f0", params, select("conv2d", params, target))
    prepared = Prepared(case, {"f0": func}, (a, b), 0, wanted)
    module = lower(tvm.IRModule({"f0": func}), target)
    built = tvm.get_global_func("target.build.llvm")(module, target)
    built.write_to_file(str(tmp_path / "kernels.o"), "o")
    program = arm64_program.link((prepared,), str(built.inspect_source("s")), tmp_path)
    np.testing.assert_array_equal(arm64_program.run(program)["f0"].reshape(2, COUNT), wanted)
