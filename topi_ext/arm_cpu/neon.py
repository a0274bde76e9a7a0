"""NEON instructions that plain vector expressions do not reach, each a small function."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Stmt

from ..emit import bitcast, splat

LANES = 16  # bytes of a register


def addp(a: Any, b: Any) -> Any:
    """uint8x16: sums of neighbouring bytes, those of `a` first."""
    return _call("addp.v16i8", "uint8x16", a, b)


def uaddlp(a: Any) -> Any:
    """int16x8: sums of neighbouring bytes of uint8x16. LLVM fuses an addition behind: uadalp."""
    return _call("uaddlp.v8i16.v16i8", "int16x8", a)


def tbl(registers: list[Any], index: Any) -> Any:
    """uint8x16: the bytes at `index` of one or two registers; 0 for an index beyond them."""
    return _call(f"tbl{len(registers)}.v16i8", "uint8x16", *registers, index)


def ushl(a: Any, shifts: Any) -> Any:
    """uint16x8 shifted left, lane by lane, by int16 `shifts`; right where they are negative."""
    return _call("ushl.v8i16", "uint16x8", a, shifts)


def sli(low: Any, high: Any, place: int) -> Any:
    """uint16x8: the bits of `low` below bit `place`, above them `high` shifted there."""
    return _call("vsli.v8i16", "uint16x8", low, high, tirx.const(place, "int32"))


def maxnum(a: Any, b: Any) -> Any:
    """The larger of two floats, lane by lane; of a NaN and a number the number."""
    return _float("maxnum", a, b)


def minnum(a: Any, b: Any) -> Any:
    """The smaller of two floats, lane by lane; of a NaN and a number the number."""
    return _float("minnum", a, b)


def constant(octets: bytes, dtype: str) -> Any:
    """A constant of 16 bytes as a vector of `dtype`."""
    halves = [tirx.const(int(v), "uint64") for v in np.frombuffer(octets, "<u8")]
    return bitcast(tirx.Shuffle(halves, [0, 1]), dtype)


def store_pair(low: Any, high: Any, buffer: tirx.Buffer, indices: list[Any]) -> Stmt:
    """Store two registers to neighbours in `buffer`, from the element at `indices` on.

    In one instruction: LLVM joins stores of its own to a pair only near their base, and single
    ones take two vector micro-operations each in its model of Cortex-A76 and Neoverse N1.
    """
    address = tirx.address_of(tirx.BufferLoad(buffer, indices))
    return tirx.Evaluate(
        tirx.call_llvm_intrin("void", "llvm.aarch64.neon.st1x2", low, high, address)
    )


def barrier(value: Any) -> Stmt:
    """No instruction, but LLVM's schedulers move no load nor store across, and have `value`, a
    vector, ready before it.
    """
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.fake.use", value))


def concat(a: Any, b: Any, lanes: int) -> Any:
    """The `lanes` lanes of `a`, then those of `b`."""
    return tirx.Shuffle([a, b], [tirx.const(i, "int32") for i in range(2 * lanes)])


def bit_of_byte(condition: Any) -> Any:
    """uint8x16: of sixteen conditions, one bit each, in place within its byte."""
    bits = bitcast(tirx.Broadcast(tirx.const(0x8040201008040201, "uint64"), 2), "uint8x16")
    return tirx.Select(condition, bits, splat(0, "uint8x16"))


def gather(bits: list[Any]) -> Any:
    """The bits of one to four `bit_of_byte` as an unsigned integer, the first lowest.

    Its width is 16 bits for each, for one, two or four of them; three are filled up with 0.
    """
    vectors = [*bits, splat(0, "uint8x16")] if len(bits) == 3 else list(bits)
    size = LANES * len(vectors)
    while len(vectors) > 1:
        vectors = [addp(a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    total = vectors[0]
    # Three additions bring eight bytes to one; with fewer vectors the sum repeats itself.
    for _ in range(4 - (size // LANES).bit_length()):
        total = addp(total, total)
    return tirx.Shuffle([bitcast(total, f"uint{size}x{128 // size}")], [0])


def join(conditions: list[Any], lanes: int, unit: int) -> Any:
    """Vectors of sixteen conditions side by side as an unsigned integer of `unit` bits."""
    value = gather([bit_of_byte(condition) for condition in conditions])
    return value if value.ty.dtype == f"uint{unit}" else value.astype(f"uint{unit}")


def _float(name: str, a: Any, b: Any) -> Any:
    intrinsic = T.llvm_lookup_intrinsic_id(f"llvm.{name}")
    return T.call_llvm_pure_intrin(intrinsic, a, b, dtype=a.ty.dtype)


def _call(name: str, dtype: str, *args: Any) -> Any:
    intrinsic = T.llvm_lookup_intrinsic_id(f"llvm.aarch64.neon.{name}")
    return T.call_llvm_pure_intrin(intrinsic, *args, dtype=dtype)
