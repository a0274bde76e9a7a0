"""The walk of the TBL kernels over a convolution, and the offsets of their tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc, Stmt

from ..emit import PARALLEL, SERIAL, bitcast, let, loop, seq, splat, vstore
from ..epilogue import find_stage
from ..kernels import PARAMS
from ..params import ConvParams
from ..x86.table_plan import STEP, TablePlan
from . import neon

WORD = 64  # bits of a packed word
PARALLEL_OFFSETS = 100_000


@dataclass(frozen=True)
class TblPlan(TablePlan):
    """`TablePlan` with groups of `bits` bits that do not cross a 64-bit word."""

    bits: int = 5

    @classmethod
    def of(cls, params: ConvParams, bits: int = 5) -> TblPlan:
        """The cheaper layout for this shape."""
        return cls.cheaper(cls(params, False, bits), cls(params, True, bits))

    @property
    def table(self) -> int:
        """Bytes of one table: a register, or two for five bits."""
        return 1 << self.bits

    @property
    def per_word(self) -> int:
        """Look-ups of a word; with five bits the last takes four."""
        return -(-WORD // self.bits)

    @property
    def most_steps(self) -> int:
        """Most steps before a byte overflows."""
        return 255 // (STEP * self.bits)

    @property
    def groups_per_pixel(self) -> int:
        """Look-up groups of one pixel and conv group."""
        full, rest = divmod(self.params.cig, WORD)
        return full * self.per_word + -(-rest // self.bits)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the offsets, uint16: whole pixels, with room for a filled-up step, and for what
        two vectors of offsets write behind those of a word.
        """
        p, depth = self.params, self.groups_per_pixel
        pixels = p.kh * p.kw if self.gathered else self.positions
        rows = self.pairs if self.gathered else p.n * p.hp
        room = 16 - self.per_word if p.cig % WORD == 0 else 0
        return (p.groups, rows, (pixels + -(-(STEP - 1) // depth)) * depth + room)


def prepare(packed: te.Tensor, params: ConvParams, bits: int, attrs: dict[str, Any]) -> te.Tensor:
    """uint64 words [n, hp, wp, groups*cw] to uint16 offsets [groups, rows, positions].

    With T = 2**bits an offset is T * (aP + T * aQ), aP and aQ `bits` bits of a pair's two pixels.
    """
    p = params
    plan = TblPlan.of(p, bits)
    depth, cw = plan.groups_per_pixel, p.words(WORD)

    def offset(g: Any, row: Any, position: Any) -> Any:
        x, i = position // depth, position % depth
        word = g * cw + i // plan.per_word
        found = [packed[(*pixel, word)] for pixel in _input_pixels(plan, row, x)]
        shift = (i % plan.per_word * bits).astype("uint64")
        mask = tirx.const(plan.table - 1, "uint64")
        a, b = ((value >> shift) & mask for value in found)
        scale = tirx.const(plan.table, "uint64")
        return ((a + b * scale) * scale).astype("uint16")

    return te.compute(plan.shape, offset, name="offsets", attrs=attrs)


def _input_pixels(plan: TablePlan, row: Any, x: Any) -> list[tuple[Any, Any, Any]]:
    """n, y, x in the padded input of P and Q at pixel `x` of an offset row; any pixel past the
    last ones, whose offsets meet index bytes that answer 0.
    """
    p = plan.params
    found = []
    for second in (0, 1):
        if plan.gathered:
            tap = tirx.min(x, p.kh * p.kw - 1)
            at = tirx.min(row * 2 + second, p.pixels - 1)
            y = at // p.wo % p.ho * p.stride[0] + tap // p.kw * p.dilation[0]
            column = at % p.wo * p.stride[1] + tap % p.kw * p.dilation[1]
            found.append((at // (p.ho * p.wo), y, column))
        else:
            column = tirx.min(x + second * p.stride[1], p.wp - 1)
            found.append((row // p.hp, row % p.hp, column))
    return found


def schedule_prepare(func: PrimFunc, bits: int) -> PrimFunc:
    """Rows in parallel; whole words by vectors, others by two bit-field extracts an offset."""
    sch = Schedule(func)
    block = find_stage(sch, "prepare")
    params = ConvParams.parse(str(sch.get(block).annotations[PARAMS]))
    plan = TblPlan.of(params, bits)
    groups, rows, length = plan.shape
    parallel = groups * rows * length >= PARALLEL_OFFSETS
    if params.cig % WORD == 0:
        packed, offsets = sch.get(block).reads[0].source, sch.get(block).writes[0].source
        body = _vector_loops(plan, packed, offsets, PARALLEL if parallel else SERIAL)
        return PrimFunc(func.params, body, func.ret_type, func.attrs)
    g, row, position = sch.get_loops(block)
    sch.split(position, [None, plan.groups_per_pixel])
    if parallel:
        sch.parallel(sch.fuse(g, row))
    return sch.mod["main"]


def _vector_loops(
    plan: TblPlan, packed: tirx.Buffer, offsets: tirx.Buffer, kind: tirx.ForKind
) -> Stmt:
    """A word becomes two vectors of eight offsets; with five bits the three beyond its thirteen
    are 0 and are overwritten by the next word.
    """
    groups, rows, length = plan.shape
    depth = plan.groups_per_pixel
    cw = depth // plan.per_word
    bits, mask = plan.bits, (plan.table**2 - 1) * plan.table

    def row(index: Any) -> Stmt:
        stmts: list[Stmt] = []
        g, r = let("g", index // rows, stmts), let("r", index % rows, stmts)

        def pixel(x: Any) -> Stmt:
            body: list[Stmt] = []
            places = [
                tuple(let("at", at, body) for at in place) for place in _input_pixels(plan, r, x)
            ]

            def word(j: Any) -> Stmt:
                inner: list[Stmt] = []
                loads = [tirx.BufferLoad(packed, [*place, g * cw + j]) for place in places]
                p, q = (let("bits", _low_half(load), inner) for load in loads)
                for half in (0, 1):
                    low, high = _fields(p, half, bits, bits), _fields(q, half, bits, 0)
                    value = neon.sli(low, high, 2 * bits) & splat(mask, "uint16x8")
                    at = x * depth + j * plan.per_word + half * 8
                    inner.append(vstore(offsets, value, [g, r, at], 8))
                return seq(inner)

            body.append(loop(cw, word, "j"))
            return seq(body)

        stmts.append(loop(length // depth, pixel, "x"))
        return seq(stmts)

    return loop(groups * rows, row, "row", kind)


def _low_half(word: Any) -> Any:
    """uint8x16: the eight bytes of a word, then zeros."""
    return bitcast(tirx.Shuffle([word, tirx.const(0, "uint64")], [0, 1]), "uint8x16")


def _fields(word: Any, half: int, bits: int, place: int) -> Any:
    """uint16x8: groups 0..7 (half 0) or 8..15 of a word, each shifted to bit `place`, other bits
    around it; 0 beyond the word's last group.
    """
    begin = [bits * i for i in range(8 * half, 8 * half + 8)]
    octets = [[bit // 8, bit // 8 + 1] if bit < WORD else [255, 255] for bit in begin]
    index = bytes(min(octet, 255) for pair in octets for octet in pair)
    shifts = np.array([place - bit % 8 for bit in begin], np.int16).tobytes()
    windows = neon.tbl([word], neon.constant(index, "uint8x16"))
    return neon.ushl(bitcast(windows, "uint16x8"), neon.constant(shifts, "uint16x8"))
