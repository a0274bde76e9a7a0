"""The shape of a Winograd convolution: positions, and what is stored where."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .params import ConvParams
from .winograd_axis import Matrix, WinogradAxis

OUTPUTS = 2  # outputs of a tile along an axis; more of them would round worse
STEP = 4  # products of one step where inputs are broadcast
# What a block of tiles may take of a thread's stack.
STACK_BYTES = 96 * 1024


@dataclass(frozen=True)
class WinogradTile:
    """The register tile of the products: `tiles` x `channels` sums in vectors of `lanes` floats.

    `by_lane`: multiply by one lane of a loaded vector of inputs (the Arm form); else inputs are
    broadcast one by one. `stream_cycles`: cycles of a byte of weights from beyond the second-level
    cache. `dtype`: of data, weights, sums and results.
    """

    tiles: int
    channels: int
    lanes: int
    by_lane: bool = False
    stream_cycles: float = 0.02
    dtype: str = "float32"

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @property
    def step(self) -> int:
        """Products of one step of a sum: what a vector of inputs holds."""
        return self.lanes if self.by_lane else STEP


@dataclass(frozen=True)
class Positions:
    """A rectangle of transformed positions at which the same pieces contribute.

    rows, columns: ranges of point numbers. pieces: of y and of x. first: number of its first
    position in the order of storage. rows_before: products of one input channel at all positions
    before it.
    """

    rows: range
    columns: range
    pieces: tuple[int, int]
    first: int
    rows_before: int

    @property
    def count(self) -> int:
        """Positions of the rectangle."""
        return len(self.rows) * len(self.columns)

    @property
    def depth(self) -> int:
        """Products of one input channel at each position."""
        return self.pieces[0] * self.pieces[1]

    def number(self, row: int, column: int) -> int:
        """The number of a position in the rectangle."""
        return (row - self.rows[0]) * len(self.columns) + column - self.columns[0]


@dataclass(frozen=True)
class WinogradPlan:
    """A convolution of groups 1 and dilation 1 by tiles of y.outputs x x.outputs.

    The products of a position run over pieces of y, then of x, then input channels. Input
    channels are taken in chunks where all of them would take too much of the stack.
    """

    params: ConvParams
    tile: WinogradTile

    @cached_property
    def y(self) -> WinogradAxis:
        """The vertical axis."""
        p = self.params
        return WinogradAxis(p.kh, p.stride[0], 1 if p.kh == 1 else OUTPUTS)

    @cached_property
    def x(self) -> WinogradAxis:
        """The horizontal axis."""
        p = self.params
        return WinogradAxis(p.kw, p.stride[1], 1 if p.kw == 1 else OUTPUTS)

    @property
    def rows(self) -> int:
        """Rows of tiles of one image."""
        return -(-self.params.ho // self.y.outputs)

    @property
    def columns(self) -> int:
        """Tiles of one row."""
        return -(-self.params.wo // self.x.outputs)

    @property
    def tiles(self) -> int:
        """Tiles of the batch."""
        return self.params.n * self.rows * self.columns

    @property
    def blocks(self) -> int:
        """Blocks of `tile.tiles` tiles; the last may be partly filler."""
        return -(-self.tiles // self.tile.tiles)

    @cached_property
    def positions(self) -> tuple[Positions, ...]:
        """All positions: shared points of both axes, then those of fewer pieces."""
        found: list[Positions] = []
        first = before = 0
        for rows in self.y.runs:
            for columns in self.x.runs:
                pieces = self.y.pieces_at(rows[0]), self.x.pieces_at(columns[0])
                found.append(Positions(rows, columns, pieces, first, before))
                first += found[-1].count
                before += found[-1].count * found[-1].depth
        return tuple(found)

    def locate(self, row: int, column: int) -> Positions:
        """The rectangle that holds a position."""
        return next(one for one in self.positions if row in one.rows and column in one.columns)

    @property
    def count(self) -> int:
        """Positions of a tile."""
        return self.y.size * self.x.size

    @cached_property
    def depth(self) -> int:
        """Products of one tile, output and input channel."""
        return sum(one.count * one.depth for one in self.positions)

    @property
    def group_channels(self) -> int:
        """Output channels of one block of the weights."""
        lanes = self.tile.lanes
        return min(self.tile.channels, -(-self.params.co // lanes) * lanes)

    @property
    def groups(self) -> int:
        """Blocks of output channels; the last may be partly filler."""
        return -(-self.params.co // self.group_channels)

    @property
    def product_bytes(self) -> int:
        """What the products of a block of tiles and of output channels take."""
        return self.tile.itemsize * self.count * self.tile.tiles * self.group_channels

    def _bytes(self, channels: int) -> int:
        """What the inputs of a block of tiles take, before and after the transform along x."""
        chunk = Chunk(self, channels)
        return self.tile.itemsize * (chunk.floats + sum(self.y.sizes) * chunk.row_stride)

    @cached_property
    def chunk_size(self) -> int:
        """Input channels that are transformed at a time: all, or equal parts (the last smaller,
        but no less than a vector). 0 if no part is small enough.
        """
        ci, lanes = self.params.ci, self.tile.lanes
        if self._bytes(ci) + self.product_bytes <= STACK_BYTES:
            return ci
        room = STACK_BYTES * 5 // 6  # the rest is for products of more blocks of channels
        for parts in range(2, max(2, ci // lanes) + 1):
            for unit in (lanes, 1):
                size = math.ceil(ci / (parts * unit)) * unit
                last = ci - (parts - 1) * size
                if last >= lanes and self._bytes(size) + self.product_bytes <= room:
                    return size
        return 0

    @property
    def chunks(self) -> int:
        """Parts of the input channels."""
        return -(-self.params.ci // self.chunk_size)

    @property
    def held_groups(self) -> int:
        """Blocks of output channels whose products are held while chunks follow one another."""
        if self.chunks == 1:
            return 1
        room = STACK_BYTES - self._bytes(self.chunk_size)
        return min(self.groups, room // self.product_bytes)

    def supports(self) -> str | None:
        """None, or why this shape is not computed by tiles."""
        p = self.params
        if p.groups > 1 or p.dilation != (1, 1):
            return "Winograd tiles want one group and no dilation"
        if (p.kh, p.kw) == (1, 1):
            return "a 1x1 kernel has nothing to save"
        if p.ho < self.y.outputs or p.wo < self.x.outputs:
            return f"an output of {p.ho}x{p.wo} is smaller than a tile"
        if not self.chunk_size:
            return f"a block of tiles takes more than {STACK_BYTES} bytes of stack"
        return None

    def weight_row(self, one: Positions, at: int, py: int, px: int, c: int) -> int:
        """Where in the weights the products of a position, two pieces and a channel begin."""
        first = c // self.chunk_size * self.chunk_size
        size = min(self.chunk_size, self.params.ci - first)
        row = one.rows_before + at * one.depth + py * one.pieces[1] + px
        return self.depth * first + row * size + c - first

    def pack_weights(self, w: np.ndarray) -> np.ndarray:
        """float32 [co, ci, kh, kw] to [groups, ci * depth, channels] of the tile's dtype: G w G^T,
        rounded once.
        """
        p, width = self.params, self.group_channels
        out = np.zeros((self.depth * p.ci, self.groups * width), self.tile.dtype)
        for py, (top, high) in enumerate(self.y.pieces):
            gy = _floats(self.y.weight_matrix(py), "float64")
            ys = slice(top, top + p.stride[0] * high, p.stride[0])
            for px, (left, wide) in enumerate(self.x.pieces):
                gx = _floats(self.x.weight_matrix(px), "float64")
                xs = slice(left, left + p.stride[1] * wide, p.stride[1])
                taps = w[:, :, ys, xs].astype(np.float64)
                u = np.einsum("ia,jb,ocab->ijco", gy, gx, taps)
                for i in range(len(gy)):
                    for j in range(len(gx)):
                        one = self.locate(i, j)
                        at = one.number(i, j)
                        for c in range(0, p.ci, self.chunk_size):
                            row = self.weight_row(one, at, py, px, c)
                            part = u[i, j, c : c + self.chunk_size]
                            out[row : row + len(part), : p.co] = part
        return np.ascontiguousarray(out.reshape(-1, self.groups, width).transpose(1, 0, 2))

    def coefficients(self) -> np.ndarray:
        """[.] of the tile's dtype: A^T of y and x, then B^T of y and x by piece, filled up with
        zeros.
        """
        parts = []
        for axis in (self.y, self.x):
            parts.append(_floats(axis.output_matrix, self.tile.dtype))
        for axis in (self.y, self.x):
            both = np.zeros((len(axis.sizes), axis.size, axis.size), self.tile.dtype)
            for piece, size in enumerate(axis.sizes):
                both[piece, :size, :size] = _floats(axis.input_matrix(piece), self.tile.dtype)
            parts.append(both)
        return np.concatenate([part.reshape(-1) for part in parts])


@dataclass(frozen=True)
class Chunk:
    """How the inputs of a block of tiles and of some input channels are stored."""

    plan: WinogradPlan
    channels: int

    @property
    def lanes(self) -> int:
        """Lanes of the transform along x: fewer where the channels are few."""
        lanes = self.plan.tile.lanes
        while lanes > 4 and lanes // 2 >= self.channels:
            lanes //= 2
        return lanes

    @property
    def run(self) -> int:
        """Floats of one input row of a tile."""
        return self.plan.x.inputs * self.channels

    @property
    def row_stride(self) -> int:
        """Floats from one row between both transforms to the next; a vector may reach over."""
        return self.run + self.plan.tile.lanes

    def depth(self, one: Positions) -> int:
        """Products at each position of a rectangle."""
        return one.depth * self.channels

    def stride(self, one: Positions) -> int:
        """Floats of one tile's inputs at a position, with what the last vector adds."""
        spill = max(0, self.lanes - self.channels)
        step = self.plan.tile.step
        return -(-(self.depth(one) + spill) // step) * step

    def place(self, one: Positions, at: int, t: int) -> int:
        """Where the inputs of tile t begin at a position of a rectangle."""
        tiles = self.plan.tile.tiles
        before = sum(
            other.count * self.stride(other)
            for other in self.plan.positions
            if other.first < one.first
        )
        return before * tiles + (at * tiles + t) * self.stride(one)

    @property
    def floats(self) -> int:
        """Floats of all transformed inputs of a block of tiles."""
        each = sum(one.count * self.stride(one) for one in self.plan.positions)
        return each * self.plan.tile.tiles


def _floats(matrix: Matrix, dtype: str) -> np.ndarray:
    return np.array([[float(value) for value in row] for row in matrix], dtype)
