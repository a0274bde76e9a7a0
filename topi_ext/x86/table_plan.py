"""How the look-up kernel walks a convolution: pairs of output pixels and rows of input groups.

`prepare` lays the offsets of the look-up tables out as [groups, row, position]. Two layouts:

shared: a row is a row of the padded input; position x*G + i belongs to input pixels x (for P) and
    x + stride (for Q), group i of G. Pairs are neighbours in an output row and read kh rows.
    Nearly no work, and one table serves all taps that look at it.
gathered: a row is a pair of output pixels in scan order with all its taps. It wastes no half
    pairs in odd rows, and knows no dilation, but repeats every input for each of its taps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from .. import params as _params

GROUP = 4  # bits of a look-up
STEP = 3  # look-ups of a step
STEPS = 21  # most steps before a byte overflows

Plan = TypeVar("Plan", bound="TablePlan")


@dataclass(frozen=True)
class TablePlan:
    """The walk over one convolution.

    gathered: which of the two layouts. groups_per_pixel: G, look-up groups of one input pixel and
    conv group. rows: rows of one pair (kh or 1); row_groups: look-up groups in one; row_stride:
    distance from one to the next. pairs: pixel pairs. steps: steps of STEP look-ups of one row.
    """

    params: _params.ConvParams
    gathered: bool

    @classmethod
    def of(cls, params: _params.ConvParams) -> TablePlan:
        """The cheaper layout for this shape."""
        return cls.cheaper(cls(params, False), cls(params, True))

    @staticmethod
    def cheaper(shared: Plan, gathered: Plan) -> Plan:
        """Which of the two layouts to take."""
        if shared.params.dilation[1] != 1:
            return gathered
        return min((shared, gathered), key=lambda plan: plan.cost)

    @property
    def cost(self) -> float:
        """Modelled cycles: 2.4 a step of 32 channels, 20 a row and block to widen; 0.4 an offset
        to prepare.
        """
        blocks = -(-self.params.cog // 32) * self.params.groups
        chunks = -(-self.steps // 21)
        convolve = self.pairs * blocks * self.rows * (2.4 * self.steps + 8 * chunks)
        return convolve + 0.4 * self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def groups_per_pixel(self) -> int:
        """Look-up groups of one pixel: two a byte."""
        return 2 * self.params.words(8)

    @property
    def rows(self) -> int:
        """Rows that one pair reads."""
        return 1 if self.gathered else self.params.kh

    @property
    def row_stride(self) -> int:
        """Distance of the rows of one pair."""
        return 0 if self.gathered else self.params.dilation[0]

    @property
    def row_groups(self) -> int:
        """Look-up groups in a row of one pair."""
        taps = self.params.kw * (self.params.kh if self.gathered else 1)
        return taps * self.groups_per_pixel

    @property
    def steps(self) -> int:
        """Steps in a row of one pair; the last may be filled up."""
        return -(-self.row_groups // STEP)

    @property
    def pairs_per_row(self) -> int:
        """Pairs in an output row (shared layout)."""
        return -(-self.params.wo // 2)

    @property
    def pairs(self) -> int:
        """Pairs of the whole batch."""
        if self.gathered:
            return -(-self.params.pixels // 2)
        return self.params.n * self.params.ho * self.pairs_per_row

    @property
    def positions(self) -> int:
        """Input pixels of a row (shared layout)."""
        return (self.pairs_per_row - 1) * 2 * self.params.stride[1] + self.params.kw

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the offsets, uint16; every row ends with room for a filled-up step."""
        p = self.params
        if self.gathered:
            return (p.groups, self.pairs, self.steps * STEP)
        length = self.positions * self.groups_per_pixel
        return (p.groups, p.n * p.hp, -(-(length + STEP) // 16) * 16)

    def locate_pair(self, pair: Any) -> tuple[Any, Any]:
        """First row and position of a pair."""
        if self.gathered:
            return pair, 0
        p = self.params
        line, j = pair // self.pairs_per_row, pair % self.pairs_per_row
        row = line // p.ho * p.hp + line % p.ho * p.stride[0]
        return row, j * (2 * p.stride[1] * self.groups_per_pixel)

    def locate(self, n: Any, y: Any, x: Any) -> tuple[Any, Any, Any]:
        """First row and position of an output pixel's pair, and whether it is Q (1) or P (0)."""
        p = self.params
        if self.gathered:
            pixel = (n * p.ho + y) * p.wo + x
            return (*self.locate_pair(pixel // 2), pixel % 2)
        return (*self.locate_pair((n * p.ho + y) * self.pairs_per_row + x // 2), x % 2)

    def pixel(self, pair: Any, second: int) -> tuple[Any, Any, Any, Any]:
        """n, y, x of a pair's P (0) or Q (1), and the condition that it exists (None: always)."""
        p = self.params
        if self.gathered:
            index = pair * 2 + second
            exists = index < p.pixels if second and p.pixels % 2 else None
            return index // (p.ho * p.wo), index // p.wo % p.ho, index % p.wo, exists
        line = pair // self.pairs_per_row
        x = pair % self.pairs_per_row * 2 + second
        exists = x < p.wo if second and p.wo % 2 else None
        return line // p.ho, line % p.ho, x, exists
