"""Which instruction set a TVM target offers to the kernels."""

from __future__ import annotations

from typing import Literal

from tvm.target import Target
from tvm.target.codegen import target_has_features

Isa = Literal["avx512_vpopcntdq", "avx2", "sme2", "neon", "neon32", "generic"]

# Every ISA a kernel may name, with those whose kernels run on it too, best first.
RUNS_ON: dict[str, tuple[str, ...]] = {
    "avx512_vpopcntdq": ("avx512_vpopcntdq", "avx2", "generic"),
    "avx2": ("avx2", "generic"),
    "sme2": ("sme2", "neon", "generic"),
    "neon": ("neon", "generic"),
    "neon32": ("neon32", "generic"),
    "generic": ("generic",),
}


def isa_of(target: Target) -> Isa:
    """The best instruction set of `target` that some kernel is written for.

    Decided from the target alone: architecture by `mtriple`, features by `mcpu` and `mattr` as
    LLVM resolves them.
    """
    triple = str(target.attrs.get("mtriple", ""))
    arch = triple.split("-")[0]
    if arch in ("x86_64", "amd64"):
        # BW for byte operations next to the popcount; every core with VPOPCNTDQ that is not a
        # Xeon Phi has it.
        if target_has_features(["avx512vpopcntdq", "avx512bw", "avx512vl"], target):
            return "avx512_vpopcntdq"
        return "avx2" if target_has_features(["avx2"], target) else "generic"
    if arch in ("aarch64", "arm64"):
        return "sme2" if target_has_features(["sme2"], target) else "neon"
    if arch.startswith("arm") and target_has_features(["neon"], target):
        return "neon32"
    return "generic"
