"""Packing of float signs with NEON: 2.25 vector instructions per four numbers.

A compare leaves each number's answer in 32 bits; `uzp1` narrows sixteen of them to bytes, `and`
keeps one bit of each, and a tree of `addp` gathers eight bytes into one: for 64 numbers 16 fcmge,
12 uzp1, 4 and, 4 addp. Bits come out in the common order, first channel lowest. The comparison
says true for -0.0 >= 0 and false for NaN, as IEEE 754 does. Halves are compared eight at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import bitpack
from ..bitpack import Conditions
from ..kernels import PACK, Kernel
from . import neon


@dataclass(frozen=True)
class NeonWriter(bitpack.Writer):
    """The loops of `bitpack` with masks gathered by pairwise addition."""

    def _mask(self, conditions: Conditions, at: Any, size: int) -> Any:
        if size < neon.LANES or size > 4 * neon.LANES:
            return super()._mask(conditions, at, size)
        parts = range(0, size, neon.LANES)
        return neon.gather([neon.bit_of_byte(conditions(at + i, neon.LANES)) for i in parts])


KERNELS = (
    Kernel(
        name="pack_neon_addp",
        op=PACK,
        isa="neon",
        supports=lambda params: None,
        pack_weights=lambda weights, params: (),
        compute=bitpack.pack,
        schedule=lambda func, target: bitpack.schedule(func, target, NeonWriter),
    ),
)
