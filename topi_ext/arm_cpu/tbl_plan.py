"""The walk of the TBL kernels over a convolution, and the offsets of their tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc

from ..epilogue import find_stage
from ..params import ConvParams
from ..x86.table_plan import STEP, TablePlan

GROUP = 5  # bits of a look-up: a table of two registers
WORD = 64  # bits of a packed word
PER_WORD = -(-WORD // GROUP)  # look-ups of a word; the last takes four bits
TABLE = 1 << GROUP  # bytes of one table
PARALLEL_OFFSETS = 100_000


@dataclass(frozen=True)
class TblPlan(TablePlan):
    """`TablePlan` with groups of five bits that do not cross a 64-bit word."""

    @property
    def groups_per_pixel(self) -> int:
        """Look-up groups of one pixel and conv group."""
        full, rest = divmod(self.params.cig, WORD)
        return full * PER_WORD + -(-rest // GROUP)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the offsets, uint16: whole pixels, with room for a filled-up step."""
        p, depth = self.params, self.groups_per_pixel
        pixels = p.kh * p.kw if self.gathered else self.positions
        rows = self.pairs if self.gathered else p.n * p.hp
        return (p.groups, rows, (pixels + -(-(STEP - 1) // depth)) * depth)


def prepare(packed: te.Tensor, params: ConvParams, attrs: dict[str, Any]) -> te.Tensor:
    """uint64 words [n, hp, wp, groups*cw] to uint16 offsets [groups, rows, positions].

    An offset is 32 * (aP + 32 * aQ), aP and aQ five bits of the two pixels of a pair.
    """
    p = params
    plan = TblPlan.of(p)
    depth, cw = plan.groups_per_pixel, p.words(WORD)

    def offset(g: Any, row: Any, position: Any) -> Any:
        x, i = position // depth, position % depth
        word = g * cw + i // PER_WORD
        found = []
        for second in (0, 1):
            if plan.gathered:
                tap = tirx.min(x, p.kh * p.kw - 1)
                at = tirx.min(row * 2 + second, p.pixels - 1)
                y = at // p.wo % p.ho * p.stride[0] + tap // p.kw * p.dilation[0]
                column = at % p.wo * p.stride[1] + tap % p.kw * p.dilation[1]
                found.append(packed[at // (p.ho * p.wo), y, column, word])
            else:
                column = tirx.min(x + second * p.stride[1], p.wp - 1)
                found.append(packed[row // p.hp, row % p.hp, column, word])
        shift = (i % PER_WORD * GROUP).astype("uint64")
        mask = tirx.const(TABLE - 1, "uint64")
        a, b = ((value >> shift) & mask for value in found)
        scale = tirx.const(TABLE, "uint64")
        return ((a + b * scale) * scale).astype("uint16")

    return te.compute(plan.shape, offset, name="offsets", attrs=attrs)


def schedule_prepare(func: PrimFunc, params: ConvParams) -> PrimFunc:
    """Rows in parallel, the shifts of one word unrolled: two bit-field extracts an offset."""
    sch = Schedule(func)
    depth = TblPlan.of(params).groups_per_pixel
    g, row, position = sch.get_loops(find_stage(sch, "prepare"))
    _, i = sch.split(position, [None, depth])
    if depth % PER_WORD == 0 or depth < PER_WORD:
        _, i = sch.split(i, [None, min(depth, PER_WORD)])
        sch.unroll(i)
    groups, rows, length = TblPlan.of(params).shape
    if groups * rows * length >= PARALLEL_OFFSETS:
        sch.parallel(sch.fuse(g, row))
    return sch.mod["main"]
