"""The one table of kernels: dispatch, tests, benchmarks and documentation read it.

A module under `topi_ext` adds rows by holding a tuple `KERNELS: tuple[Kernel, ...]`; every module
of the package and of its sub-packages is searched. Nothing else need be edited.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import te
from tvm.target import Target
from tvm.tirx import PrimFunc

from .isa import RUNS_ON, isa_of
from .params import ConvParams

# The annotations that a kernel's computes carry into the fused function.
KERNEL = "bnn.kernel"  # name of the row; or of the op: then the target's best row schedules it
STAGE = "bnn.stage"  # "acc" for the block with the reduction, else the kernel's own word
PARAMS = "bnn.params"  # str(ConvParams)
PACK = "pack"  # the op that packs floats, and the stage of its block


@dataclass(frozen=True)
class Kernel:
    """One way to compute one operation.

    name: its specification: op, ISA, word or table, tile; unique in the table.
    op: "bconv2d", "pack", "conv2d", "dense", "depthwise".
    isa: the instruction set it is written for (a key of `isa.RUNS_ON`).
    dtype: what a float kernel's data, weights and results are: "float32" or "float16".
    word_bits: bits of a packed activation word (0 for float kernels).
    tile: the numbers of its tile; tests take their edge shapes from it.
    supports: (params) -> None, or the reason why this kernel cannot compute that shape.
    pack_weights: weights to the arrays the compute takes after the activations. Binary: int8 +-1
        [co, ci/groups, kh, kw]; float kernels say theirs in their module.
    compute: (data, *packed weights, params) -> te.Tensor, annotated with KERNEL, STAGE, PARAMS
        (see `annotations`).
    schedule: (func, target) -> PrimFunc: schedules the function that holds the compute and the
        epilogue fused behind it.
    prepare: for kernels that read activations in a form too large for a stage of the same
        function: (packed, params) -> te.Tensor, lowered to a PrimFunc of its own; `compute` then
        takes its result as data. None: `compute` takes the packed words.
    counts: binary kernels that can compare instead of writing integers (`threshold`): as compute,
        without the border table among the weights, to the numbers of differing taps, annotated
        as the stage "acc"; `schedule` then meets the stage "words" behind it. None: cannot.
    count_dtype: the signed type its counters are compared in; they hold less than its maximum.
    inverted: whether `pack_weights` inverts bits, so that agreeing taps are counted; then `counts`
        takes packed negated weights.
    fills: bits of the least part of a word that it can write on its own; 0: a whole word.
    beside: whether its loops can write packed words of its float results as well (`beside`).
    reassociates: float kernels that add and subtract before they multiply: they round differently
        from a sum of products, and spread infinities to neighbours.
    rank: among kernels that support a shape on a target the highest wins; a number, or a function
        of (params, target).
    """

    name: str
    op: str
    isa: str
    supports: Callable[[ConvParams], str | None]
    pack_weights: Callable[[np.ndarray, ConvParams], tuple[np.ndarray, ...]]
    compute: Callable[..., te.Tensor]
    schedule: Callable[[PrimFunc, Target], PrimFunc]
    dtype: str = "float32"
    word_bits: int = 0
    tile: dict[str, int] = field(default_factory=dict)
    prepare: Callable[[te.Tensor, ConvParams], te.Tensor] | None = None
    counts: Callable[..., te.Tensor] | None = None
    count_dtype: str = ""
    inverted: bool = False
    fills: int = 0
    beside: bool = False
    reassociates: bool = False
    rank: int | Callable[[ConvParams, Target], int] = 0

    def rank_for(self, params: ConvParams, target: Target) -> int:
        """The kernel's rank for this shape on this target."""
        return self.rank(params, target) if callable(self.rank) else self.rank

    def annotations(self, stage: str, params: ConvParams, **numbers: Any) -> dict[str, Any]:
        """The te.compute attrs of one of the kernel's stages; `numbers` get the prefix `bnn.`."""
        extra = {f"bnn.{key}": value for key, value in numbers.items()}
        return {KERNEL: self.name, STAGE: stage, PARAMS: str(params), **extra}


def short(dtype: str) -> str:
    """How kernel names spell a float type: f32, f16."""
    return dtype.replace("float", "f")


@functools.cache
def table() -> dict[str, Kernel]:
    """All kernels by name, in the order of their modules' names.

    Raises ValueError if two rows share a name.
    """
    package = importlib.import_module(__package__)
    rows: dict[str, Kernel] = {}
    for info in sorted(
        pkgutil.walk_packages(package.__path__, f"{__package__}."), key=lambda m: m.name
    ):
        for kernel in getattr(importlib.import_module(info.name), "KERNELS", ()):
            if kernel.name in rows:
                raise ValueError(f"two kernels are called {kernel.name}")
            rows[kernel.name] = kernel
    return rows


def candidates(op: str, params: ConvParams, target: Target, dtype: str = "float32") -> list[Kernel]:
    """Every kernel that computes `op` on this shape and target, best first.

    dtype: of a float layer's data.
    """
    runs = RUNS_ON[isa_of(target)]
    named = [k for k in table().values() if k.op == op and k.dtype == dtype]
    rows = [k for k in named if k.isa in runs and not k.supports(params)]
    return sorted(rows, key=lambda k: (runs.index(k.isa), -k.rank_for(params, target)))


def select(
    op: str, params: ConvParams, target: Target, dtype: str = "float32", direct: bool = False
) -> Kernel:
    """The best kernel for `op` on this shape and target; of those that do not reassociate, if
    `direct`.

    A generic fallback exists for every op, any legal shape and both float types. Raises KeyError
    if `op` is unknown.
    """
    rows = candidates(op, params, target, dtype)
    rows = [row for row in rows if not (direct and row.reassociates)]
    if not rows:
        raise KeyError(f"no kernel for {op} {params}")
    return rows[0]
