"""Scheduling of fused functions: the kernel is found by the annotation its compute carries."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.target import Target
from tvm.tirx import PrimFunc

from .default_schedule import default_schedule
from .epilogue import leaf_blocks
from .kernels import KERNEL, PARAMS, select, table
from .params import ConvParams


def kernel_annotations(func: PrimFunc) -> dict[str, Any] | None:
    """The annotations (see `Kernel.annotations`) of the kernel whose compute `func` holds."""
    sch = s_tir.Schedule(func)
    for block in leaf_blocks(sch):
        notes = sch.get(block).annotations
        if KERNEL in notes:
            return dict(notes)
    return None


def narrow_indices(func: PrimFunc) -> PrimFunc:
    """Index with 32 bits, as te functions do: Relax shapes are 64-bit, and kernels mix with them.

    A function that holds int64 as data (packed words are unsigned), or a buffer that 32 bits cannot
    index, is left alone.
    """
    for parameter in func.params:
        elements = 1
        for extent in parameter.ty.shape:
            elements *= int(extent)
        if str(parameter.ty.dtype) == "int64" or elements >= 2**31:
            return func
    module = IRModule({"main": func.with_attr("global_symbol", "main")})
    narrowed = tirx.transform.ForceNarrowIndexToInt32()(module)["main"]
    return PrimFunc(narrowed.params, narrowed.body, narrowed.ret_type, func.attrs)


def schedule_primfunc(func: PrimFunc, target: Target) -> PrimFunc:
    """Schedule one function out of FuseTIR (or te.create_prim_func) for `target`.

    A function with a kernel's annotation gets that kernel's schedule, any other the default one.
    Attributes of the function are kept. Raises KeyError if the annotation names no kernel.
    """
    func = narrow_indices(func)
    notes = kernel_annotations(func)
    if notes is None:
        done = default_schedule(func, target)
    else:
        name = str(notes[KERNEL])
        rows = table()
        # An operation's name instead of a row's means: whichever row this target runs best.
        row = rows[name] if name in rows else select(name, ConvParams.parse(notes[PARAMS]), target)
        done = row.schedule(func, target)
    for key, value in (func.attrs or {}).items():
        if not done.attrs or key not in done.attrs:
            done = done.with_attr(key, value)
    return done
