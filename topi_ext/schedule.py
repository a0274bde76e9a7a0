"""Scheduling of fused functions: the kernel is found by the annotation its compute carries."""

from __future__ import annotations

from typing import Any

from tvm import s_tir
from tvm.target import Target
from tvm.tirx import IterVar, PrimFunc

from .epilogue import leaf_blocks
from .kernels import KERNEL, PARAMS, select, table
from .params import ConvParams

# Below this many element operations a parallel launch costs more than it gains.
PARALLEL_ELEMENTS = 200_000


def kernel_annotations(func: PrimFunc) -> dict[str, Any] | None:
    """The annotations (see `Kernel.annotations`) of the kernel whose compute `func` holds."""
    sch = s_tir.Schedule(func)
    for block in leaf_blocks(sch):
        notes = sch.get(block).annotations
        if KERNEL in notes:
            return dict(notes)
    return None


def schedule_primfunc(func: PrimFunc, target: Target) -> PrimFunc:
    """Schedule one function out of FuseTIR (or te.create_prim_func) for `target`.

    A function with a kernel's annotation gets that kernel's schedule, any other the default one.
    Attributes of the function are kept. Raises KeyError if the annotation names no kernel.
    """
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


def default_schedule(func: PrimFunc, target: Target) -> PrimFunc:
    """Inline elementwise producers, vectorise the inner axis, parallelise large outer loops.

    Pools, softmax, padding and plain elementwise functions take this way.
    """
    sch = s_tir.Schedule(func)
    blocks = leaf_blocks(sch)
    for block in blocks[:-1]:
        if all(iv.iter_type == IterVar.DataPar for iv in sch.get(block).iter_vars):
            try:
                sch.compute_inline(block)
            except s_tir.ScheduleError:
                continue  # read as a whole by a reduction, or written to an output: stays a stage
    for block in leaf_blocks(sch):
        loops = sch.get_loops(block)
        kinds = [iv.iter_type for iv in sch.get(block).iter_vars]
        if not loops or any(kind != IterVar.DataPar for kind in kinds):
            continue
        extents = [int(sch.get(loop).extent) for loop in loops]
        total = 1
        for extent in extents:
            total *= extent
        inner = loops[-1]
        outer = loops[:-1]
        lanes = next((v for v in (16, 8, 4) if extents[-1] % v == 0), 0)
        if lanes:
            split, inner = sch.split(inner, [None, lanes])
            outer = [*outer, split]
        if outer and total >= PARALLEL_ELEMENTS:
            fused = sch.fuse(*outer) if len(outer) > 1 else outer[0]
            sch.parallel(fused)
        if lanes:
            sch.vectorize(inner)
    return sch.mod["main"]
