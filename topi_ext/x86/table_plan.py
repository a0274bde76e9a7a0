"""How the look-up kernel walks a convolution: pairs of output pixels and rows of input groups.

`prepare` lays the offsets of the look-up tables out as [groups, row, position]. Two layouts:

shared: a row is a row of the padded input; position x*G + i belongs to input pixels x (for P) and
    x + stride (for Q), group i of G. Pairs are neighbours in an output row and read kh rows.
    Nearly no work, and one table serves all taps that look at it.
gathered: a row is a pair of output pixels in scan order with all its taps. It wastes no half
    pairs in odd rows, and knows no dilation, but repeats every input for each of its taps.

Where that pays, pairs do not run kernel rows that lie in the padding for both of their pixels
(`padded_rows`). Then a gathered row holds its kernel rows one after the other, each filled up to
whole steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from tvm import tirx

from .. import params as _params
from ..padded_rows import outputs_to_run, skipped_share, some_padded

GROUP = 4  # bits of a look-up
STEP = 3  # look-ups of a step
STEPS = 21  # most steps before a byte overflows
LEAST_GAIN = 0.008  # by the model, of skipped kernel rows; less could not be measured on Zen 5

Plan = TypeVar("Plan", bound="TablePlan")


@dataclass(frozen=True)
class TablePlan:
    """The walk over one convolution.

    gathered: which of the two layouts. skips: whether kernel rows in the padding are skipped.
    groups_per_pixel: G, look-up groups of one input pixel and conv group. rows: rows of one pair
    (kh or 1); row_groups: look-up groups in one; row_stride, column_stride: distance from one to
    the next. pairs: pixel pairs. steps: steps of STEP look-ups of one row.
    """

    params: _params.ConvParams
    gathered: bool
    skips: bool = field(default=False, kw_only=True)

    @classmethod
    def of(cls, params: _params.ConvParams) -> TablePlan:
        """The cheaper layout for this shape, with skipped rows where they pay."""
        whole = cls.cheaper(cls(params, False), cls(params, True))
        if not some_padded(params):
            return whole
        skipping = cls.cheaper(cls(params, False, skips=True), cls(params, True, skips=True))
        return skipping if skipping.cost <= (1 - LEAST_GAIN) * whole.cost else whole

    @staticmethod
    def cheaper(shared: Plan, gathered: Plan) -> Plan:
        """Which of the two layouts to take."""
        if shared.params.dilation[1] != 1:
            return gathered
        return min((shared, gathered), key=lambda plan: plan.cost)

    @property
    def cost(self) -> float:
        """Modelled cycles: 2.4 a step of 32 channels, 8 to widen after at most 21 of them, or to
        add what a skipped row adds; 0.4 an offset to prepare.
        """
        blocks = -(-self.params.cog // 32) * self.params.groups
        chunks = -(-self.steps // STEPS)
        row = 2.4 * self.steps + 8 * chunks
        if self.skips:
            share = skipped_share(self.params, 2 if self.gathered else 1)
            row = (1 - share) * row + share * 8
        convolve = self.pairs * blocks * self.rows * row
        return convolve + 0.4 * self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def groups_per_pixel(self) -> int:
        """Look-up groups of one pixel: two a byte."""
        return 2 * self.params.words(8)

    @property
    def rows(self) -> int:
        """Rows that one pair reads."""
        return 1 if self.gathered and not self.skips else self.params.kh

    @property
    def row_stride(self) -> int:
        """Distance of the rows of one pair, in rows of the offsets."""
        return 0 if self.gathered else self.params.dilation[0]

    @property
    def column_stride(self) -> int:
        """Distance of the rows of one pair, in positions."""
        return self.steps * STEP if self.gathered else 0

    @property
    def row_groups(self) -> int:
        """Look-up groups in a row of one pair."""
        return self.params.kh * self.params.kw * self.groups_per_pixel // self.rows

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
    def pair_distance(self) -> int:
        """Positions from a pair to the next one in its output row (shared layout)."""
        return 2 * self.params.stride[1] * self.groups_per_pixel

    @property
    def positions(self) -> int:
        """Input pixels of a row (shared layout)."""
        return (self.pairs_per_row - 1) * 2 * self.params.stride[1] + self.params.kw

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the offsets, uint16; every row ends with room for a filled-up step."""
        p = self.params
        if self.gathered:
            return (p.groups, self.pairs, self.rows * self.column_stride)
        length = self.positions * self.groups_per_pixel
        return (p.groups, p.n * p.hp, -(-(length + STEP) // 16) * 16)

    def locate_pair(self, pair: Any) -> tuple[Any, Any]:
        """First row and position of a pair."""
        if self.gathered:
            return pair, 0
        p = self.params
        line, j = pair // self.pairs_per_row, pair % self.pairs_per_row
        row = line // p.ho * p.hp + line % p.ho * p.stride[0]
        return row, j * self.pair_distance

    def pairs_to_run(self, ky: Any, first: Any, last: Any) -> tuple[Any, Any]:
        """The first pair that row `ky` of the kernel must run for, and the first behind them.

        first, last: the pairs in question. From the first in the image of `first` to the last in
        that of `last`; what lies between two images counts as well.
        """
        p = self.params
        unit = p.wo if self.gathered else self.pairs_per_row  # of an output row
        size = 2 if self.gathered else 1  # units of a pair
        begin, behind = outputs_to_run(p, ky)
        if p.n > 1:
            image, end = p.ho * unit, p.n * p.ho * unit - 1
            begin += first * size // image * p.ho
            behind += tirx.min((last + 1) * size - 1, end) // image * p.ho
        return begin * unit // size, (behind * unit + size - 1) // size

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
