"""Maxima and minima of float vectors as the one instruction that AArch64 has for them.

TVM writes `max(a, b)` as a comparison and a selection, since LLVM's own maximum treats NaN
differently. LLVM joins the two to `fmaxnm` only where it can tell that one operand is no NaN, as
the zero of a ReLU; a max pool or a PReLU written as a maximum would take two instructions. Here
both are `fmaxnm`: of NaN and a number, the number. (Max pools drop or keep a NaN by its place in
the window otherwise.)
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.target import Target
from tvm.tirx import PrimFunc
from tvm_ffi import structural_map

from ..isa import isa_of
from . import neon


def join_maxima(func: PrimFunc, target: Target) -> PrimFunc:
    """`func`, whose loops are vectorised, with its maxima and minima of float vectors joined.

    As it is for what is no 64-bit Arm target: AArch32 has the instruction from Armv8 on only.
    """
    if isa_of(target) not in ("neon", "sme2"):
        return func

    def joined(make: Any) -> Any:
        def change(node: Any) -> Any:
            dtype = node.a.ty.dtype
            vector = dtype.startswith("float") and "x" in dtype
            return make(node.a, node.b) if vector else node

        return change

    changes = [(tirx.Max, joined(neon.maxnum)), (tirx.Min, joined(neon.minnum))]
    return PrimFunc(func.params, structural_map(func.body, changes), func.ret_type, func.attrs)
