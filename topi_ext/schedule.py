"""Scheduling of fused functions: the kernel is found by the annotation its compute carries."""

from __future__ import annotations

from typing import Any

from tvm import s_tir
from tvm.target import Target
from tvm.tirx import PrimFunc

from .default_schedule import PARALLEL_ELEMENTS as PARALLEL_ELEMENTS
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
