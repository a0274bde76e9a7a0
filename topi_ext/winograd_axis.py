"""One axis of a Winograd convolution: its pieces, the points, and the transforms of every piece.

A convolution of stride s is the sum of s convolutions of stride 1, one per phase: its input is
every s-th element, its taps are every s-th tap. A phase of more than three taps is the sum of
pieces of at most three, each on an input that begins later. The outputs y of a piece with r taps g,
m at a time, come from n = m + r - 1 inputs d as

    y = A^T ((G g) * (B^T d))         (Toom-Cook, transposed: Winograd's F(m, r))

with n interpolation points, infinity among them. A row of A^T holds one power of the points, so the
columns of points that two pieces share are equal, and the products of all pieces may be added up
before A^T is applied once. B and G of a piece are those of its own points.

Pieces of three taps and two outputs need the points 0, 1, -1 and infinity only. Then A and B hold
0, 1 and -1, and G halves besides: sums of small multiples of a power of two stay exact, and others
round little. A fourth finite point would bring thirds.

Sources: S. Winograd, Arithmetic Complexity of Computations (1980); A. Lavin and S. Gray, Fast
Algorithms for Convolutional Neural Networks (CVPR 2016); D. Huang et al., DWM: A Decomposable
Winograd Method for Convolution Acceleration (AAAI 2020). See docs/winograd.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

FINITE = (Fraction(0), Fraction(1), Fraction(-1))  # in the order of use
MOST_TAPS = 3  # of a piece

Matrix = tuple[tuple[Fraction, ...], ...]


@dataclass(frozen=True)
class WinogradAxis:
    """F(outputs, taps of a piece), outputs 1 or 2, for a kernel of `kernel` taps and a stride.

    Points are ordered: those that all pieces have, infinity (None) the last of them, then those of
    fewer and fewer pieces.
    """

    kernel: int
    stride: int
    outputs: int

    @cached_property
    def pieces(self) -> tuple[tuple[int, int], ...]:
        """First tap and number of taps of each piece, longest first; they lie a stride apart."""
        found = []
        for phase in range(min(self.stride, self.kernel)):
            taps = -(-(self.kernel - phase) // self.stride)
            for begin in range(0, taps, MOST_TAPS):
                found.append((phase + self.stride * begin, min(MOST_TAPS, taps - begin)))
        return tuple(sorted(found, key=lambda piece: (-piece[1], piece[0])))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Points of each piece, which are also its inputs."""
        return tuple(self.outputs + taps - 1 for _, taps in self.pieces)

    @property
    def size(self) -> int:
        """Points of the longest pieces."""
        return max(self.sizes)

    @cached_property
    def points(self) -> tuple[Fraction | None, ...]:
        """The points in their order; None is infinity."""
        shared = min(self.sizes)
        return (*FINITE[: shared - 1], None, *FINITE[shared - 1 : self.size - 1])

    def pieces_at(self, point: int) -> int:
        """Pieces that have the point of this number: the first ones."""
        return sum(point < size for size in self.sizes)

    @cached_property
    def runs(self) -> tuple[range, ...]:
        """Numbers of the points, in runs that the same pieces have."""
        ends = [p + 1 for p in range(self.size) if self.pieces_at(p) != self.pieces_at(p + 1)]
        return tuple(range(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True))

    @property
    def inputs(self) -> int:
        """Neighbouring inputs that a tile reads."""
        return self.stride * (self.outputs - 1) + self.kernel

    @cached_property
    def output_matrix(self) -> Matrix:
        """A^T: [outputs, points]."""
        last = self.outputs - 1
        return tuple(
            tuple(Fraction(e == last) if a is None else a**e for a in self.points)
            for e in range(self.outputs)
        )

    def input_matrix(self, piece: int) -> Matrix:
        """B^T of a piece: [points, inputs]."""
        size = self.sizes[piece]
        return tuple(
            _padded(_polynomial(self._others(piece, point)), size) for point in range(size)
        )

    def weight_matrix(self, piece: int) -> Matrix:
        """G of a piece: [points, taps]."""
        rows = []
        for point in range(self.sizes[piece]):
            a, taps = self.points[point], self.pieces[piece][1]
            if a is None:
                rows.append((Fraction(0),) * (taps - 1) + (Fraction(1),))
                continue
            norm = Fraction(1)
            for other in self._others(piece, point):
                norm *= a - other
            rows.append(tuple(a**t / norm for t in range(taps)))
        return tuple(rows)

    def _others(self, piece: int, point: int) -> list[Fraction]:
        """The finite points of a piece but one."""
        own = enumerate(self.points[: self.sizes[piece]])
        return [a for index, a in own if a is not None and index != point]


def _polynomial(roots: list[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients, lowest power first, of the product of (x - root)."""
    done: tuple[Fraction, ...] = (Fraction(1),)
    for root in roots:
        moved, scaled = (Fraction(0), *done), (*(root * c for c in done), Fraction(0))
        done = tuple(a - b for a, b in zip(moved, scaled, strict=True))
    return done


def _padded(row: tuple[Fraction, ...], size: int) -> tuple[Fraction, ...]:
    return row + (Fraction(0),) * (size - len(row))
