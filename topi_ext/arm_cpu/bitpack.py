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
from tvm.target import Target
from tvm.tirx import PrimFunc

from .. import bitpack
from ..bitpack import PACK
from ..emit import splat, vload
from ..epilogue import find_stage, leaf_blocks
from ..kernels import PARAMS, Kernel
from ..params import ConvParams
from . import neon


@dataclass(frozen=True)
class NeonWriter(bitpack._Writer):
    """The loops of `bitpack` with masks gathered by pairwise addition."""

    def _mask(self, n: Any, row: Any, xx: Any, channel: Any, size: int) -> Any:
        if size < neon.LANES or size > 4 * neon.LANES:
            return super()._mask(n, row, xx, channel, size)
        return neon.gather(
            [self._bits(n, row, xx, channel + at) for at in range(0, size, neon.LANES)]
        )

    def _bits(self, n: Any, row: Any, xx: Any, channel: Any) -> Any:
        """uint8x16: for sixteen channels, one bit each, in place within its byte."""
        x, limit = self._compared(n, row, xx, channel, neon.LANES)
        bits = neon.bit_of_byte(x >= limit)
        if self.flip is None:
            return bits
        turned = tirx.NE(vload(self.flip, [channel], neon.LANES), splat(0, "uint8x16"))
        return bits ^ neon.bit_of_byte(turned)


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
