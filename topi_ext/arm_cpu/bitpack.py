"""Packing of float signs with NEON: 2.25 vector instructions per four numbers.

A compare leaves each number's answer in 32 bits; `uzp1` narrows sixteen of them to bytes, `and`
keeps one bit of each, and a tree of `addp` gathers eight bytes into one: for 64 numbers 16 fcmge,
12 uzp1, 4 and, 4 addp. Bits come out in the common order, first channel lowest. The comparison
says true for -0.0 >= 0 and false for NaN, as IEEE 754 does. Halves are compared eight at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx
from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import PrimFunc

from .. import bitpack
from ..bitpack import PACK
from ..emit import bitcast, splat, vload
from ..epilogue import find_stage, leaf_blocks
from ..kernels import PARAMS, Kernel
from ..params import ConvParams

_LANES = 16  # bytes of a register


@dataclass(frozen=True)
class NeonWriter(bitpack._Writer):
    """The loops of `bitpack` with masks gathered by pairwise addition."""

    def _mask(self, n: Any, row: Any, xx: Any, channel: Any, size: int) -> Any:
        if size < _LANES or size > 4 * _LANES:
            return super()._mask(n, row, xx, channel, size)
        vectors = [self._bits(n, row, xx, channel + at) for at in range(0, size, _LANES)]
        while len(vectors) > 1:
            vectors = [_addp(a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
        total = vectors[0]
        # Three additions bring eight bytes to one; with fewer vectors the sum repeats itself.
        for _ in range(4 - (size // _LANES).bit_length()):
            total = _addp(total, total)
        return tirx.Shuffle([bitcast(total, f"uint{size}x{128 // size}")], [0])

    def _bits(self, n: Any, row: Any, xx: Any, channel: Any) -> Any:
        """uint8x16: for sixteen channels, one bit each, in place within its byte."""
        x, limit = self._compared(n, row, xx, channel, _LANES)
        zero = splat(0, "uint8x16")
        bits = tirx.Select(x >= limit, _bit_of_byte(), zero)
        if self.flip is None:
            return bits
        turned = tirx.NE(vload(self.flip, [channel], _LANES), zero)
        return bits ^ tirx.Select(turned, _bit_of_byte(), zero)


def _bit_of_byte() -> Any:
    """uint8x16: 1, 2, 4 ... 128, twice."""
    words = tirx.Broadcast(tirx.const(0x8040201008040201, "uint64"), 2)
    return bitcast(words, "uint8x16")


def _addp(a: Any, b: Any) -> Any:
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.addp.v16i8")
    return T.call_llvm_pure_intrin(intrinsic, a, b, dtype="uint8x16")


def schedule(func: PrimFunc, target: Target) -> PrimFunc:
    """Write the loops of a pack that stands alone; fused ones go the common way."""
    sch = s_tir.Schedule(func)
    if len(leaf_blocks(sch)) > 1:
        return bitpack.schedule(func, target)
    block = sch.get(find_stage(sch, "pack"))
    notes = block.annotations
    by_type = {(len(r.source.ty.shape), str(r.source.ty.dtype)): r.source for r in block.reads}
    writer = NeonWriter(
        params=ConvParams.parse(str(notes[PARAMS])),
        word_bits=int(notes["bnn.word_bits"]),
        x=next(buffer for (rank, _), buffer in by_type.items() if rank == 4),
        threshold=bitpack.threshold_of(block, by_type),
        flip=by_type.get((1, "uint8")),
        out=block.writes[0].source,
    )
    return PrimFunc(func.params, writer.write(), func.ret_type, func.attrs)


KERNELS = (
    Kernel(
        name="pack_neon_addp",
        op=PACK,
        isa="neon",
        supports=lambda params: None,
        pack_weights=lambda weights, params: (),
        compute=bitpack.pack,
        schedule=schedule,
    ),
)
