"""NEON tensor intrinsic of the eor/cnt kernels: one pixel, eight channels, one word each.

Products sit in vectors of 128 / word channels of `word` bits each. `eor` and `cnt` leave a count
in every byte, a tree of `addp` brings eight channels down to two bytes each, and `uadalp` adds
those pairs to eight 16-bit accumulators: with word/16 products that is word/16 - 1 `addp` and one
`uadalp`, so exactly one addition per product, three vector instructions per 128 binary MACs, and
no overflow before 65535 counts.
"""

from __future__ import annotations

import functools
from typing import Any

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

CHANNELS = 8  # 16-bit accumulators in one register


@functools.cache
def cnt_intrin(word: int) -> str:
    """Register the intrinsic for words of 16, 32 or 64 bits and return its name.

    It computes, for c in 0..8, acc[c] += popcount(a[c % lanes] xor w[c]) with lanes = 128 / word;
    a: uint<word>[lanes], w: uint<word>[8], acc: int16[8]. In the data all `lanes` words of `a` are
    the same: a broadcast that costs no instruction.
    """
    lanes = 128 // word
    dtype = f"uint{word}"
    vector = f"{dtype}x{lanes}"

    @T.prim_func(s_tir=True)
    def desc(a: T.handle, w: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (lanes,), dtype=dtype, offset_factor=1)
        W = T.match_buffer(w, (8,), dtype=dtype, offset_factor=1)
        C = T.match_buffer(c, (8,), dtype="int16", offset_factor=1)
        with T.sblock("root"):
            T.reads(C[0:8], A[0:lanes], W[0:8])
            T.writes(C[0:8])
            for i in T.serial(0, 8):
                with T.sblock("update"):
                    vi = T.axis.remap("S", [i])
                    C[vi] = C[vi] + T.cast(T.popcount(A[vi % lanes] ^ W[vi]), "int16")

    def counts(a: Any, w: Any) -> Any:
        """int16x8: the counts of the eight channels."""
        left = T.reinterpret(a.vload([0], vector), dtype="uint8x16")
        parts = [
            T.popcount(left ^ T.reinterpret(w.vload([lanes * i], vector), dtype="uint8x16"))
            for i in range(CHANNELS // lanes)
        ]
        addp = T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.addp.v16i8")
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [T.call_llvm_pure_intrin(addp, x, y, dtype="uint8x16") for x, y in pairs]
        # LLVM makes uadalp of this and the addition to the accumulator.
        uaddlp = T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.uaddlp.v8i16.v16i8")
        return T.call_llvm_pure_intrin(uaddlp, parts[0], dtype="int16x8")

    @T.prim_func(s_tir=True)
    def impl(a: T.handle, w: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (lanes,), dtype=dtype, offset_factor=1)
        W = T.match_buffer(w, (8,), dtype=dtype, offset_factor=1)
        C = T.match_buffer(c, (8,), dtype="int16", offset_factor=1)
        with T.sblock("root"):
            T.reads(C[0:8], A[0:lanes], W[0:8])
            T.writes(C[0:8])
            C[T.ramp(T.int32(0), 1, 8)] = C.vload([0], "int16x8") + counts(A, W)

    name = f"bnn.neon.cnt{word}"
    TensorIntrin.register(name, desc, impl, override=True)
    return name
