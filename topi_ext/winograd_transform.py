"""The transforms around the products of a Winograd convolution, as loops over one tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tvm import tirx
from tvm.tirx import Stmt

from .emit import channel_loops, let, local, loop, seq, vload, vstore
from .epilogue import Epilogue
from .winograd_axis import Matrix
from .winograd_plan import Chunk, WinogradPlan


@dataclass(frozen=True)
class Place:
    """A tile: whether it exists, its image, its numbers down and across, its first output."""

    exists: Any
    n: Any
    number: tuple[Any, Any]
    origin: tuple[Any, Any]


def place_of(plan: WinogradPlan, tile: Any, stmts: list[Stmt]) -> Place:
    """Where tile number `tile` of the batch is; the last one, for numbers beyond.

    A tile that would reach over the edge begins earlier.
    """
    p, exists, at = plan.params, None, tile
    if plan.tiles % plan.tile.tiles:
        exists = tile < plan.tiles
        at = let("at", tirx.min(tile, plan.tiles - 1), stmts)
    line = let("line", at // plan.columns, stmts)
    n, y = let("n", line // plan.rows, stmts), let("ty", line % plan.rows, stmts)
    x = let("tx", at % plan.columns, stmts)
    origin = []
    for number, axis, size in ((y, plan.y, p.ho), (x, plan.x, p.wo)):
        begin = number * axis.outputs
        if size % axis.outputs:
            begin = tirx.min(begin, size - axis.outputs)
        origin.append(let("origin", begin, stmts))
    return Place(exists, n, (y, x), (origin[0], origin[1]))


@dataclass(frozen=True)
class InputTransform:
    """B^T d B of a chunk of input channels.

    data: the padded input; rows: room for one tile's rows between both transforms; inputs: the
    results, of all tiles of a block.
    """

    chunk: Chunk
    data: tirx.Buffer
    rows: tirx.Buffer
    inputs: tirx.Buffer

    def tile(self, place: Place, t: Any, first_channel: Any) -> Stmt:
        """Tile t of a block: down the columns into `rows`, then along them."""
        plan = self.chunk.plan
        p, channels = plan.params, self.chunk.channels
        stmts: list[Stmt] = []
        top = let("top", place.origin[0] * p.stride[0], stmts)
        left = let("left", place.origin[1] * p.stride[1], stmts)
        if channels == p.ci:
            # All channels of neighbouring pixels are neighbours: one run of numbers.
            stmts += self._columns(place.n, top, left, 0, 0, self.chunk.run)
        else:

            def pixel(x: Any) -> Stmt:
                at = left + x
                return seq(self._columns(place.n, top, at, first_channel, x * channels, channels))

            stmts.append(loop(plan.x.inputs, pixel, "x"))
        row = 0
        for piece, size in enumerate(plan.y.sizes):
            for u in range(size):
                stmts += self._row(row * self.chunk.row_stride, t, piece, u)
                row += 1
        return seq(stmts)

    def _columns(self, n: Any, top: Any, left: Any, begin: Any, to: Any, extent: int) -> list[Stmt]:
        """`extent` numbers from number `begin` of pixel `left` on, to number `to` of each row."""
        plan = self.chunk.plan
        lanes = plan.tile.lanes
        while lanes > extent:
            lanes //= 2

        def vector(at: Any) -> Stmt:
            done: list[Stmt] = []
            row = 0
            for piece, size in enumerate(plan.y.sizes):
                first = plan.y.pieces[piece][0]
                # A last index may reach beyond its dimension: rows of a tensor are contiguous.
                loaded = [
                    let(
                        "d",
                        vload(
                            self.data,
                            [n, top + plan.params.stride[0] * a + first, left, begin + at],
                            lanes,
                        ),
                        done,
                    )
                    for a in range(size)
                ]
                for form in _forms(plan.y.input_matrix(piece), loaded):
                    done.append(
                        vstore(self.rows, form, [row * self.chunk.row_stride + to + at], lanes)
                    )
                    row += 1
            return seq(done)

        return _vectors(extent, lanes, vector)

    def _row(self, row: int, t: Any, py: int, u: int) -> list[Stmt]:
        """One row of a tile along x, to the transformed positions of row `u`."""
        chunk, plan = self.chunk, self.chunk.plan
        axis, lanes = plan.x, chunk.lanes
        stmts: list[Stmt] = []
        for px, size in enumerate(axis.sizes):

            def vector(c: Any, px: int = px, size: int = size) -> Stmt:
                done: list[Stmt] = []
                loaded = []
                for b in range(size):
                    column = plan.params.stride[1] * b + axis.pieces[px][0]
                    at = [row + column * chunk.channels + c]
                    loaded.append(let("d", vload(self.rows, at, lanes), done))
                for j, form in enumerate(_forms(axis.input_matrix(px), loaded)):
                    one = plan.locate(u, j)
                    depth = (py * one.pieces[1] + px) * chunk.channels
                    at = [chunk.place(one, one.number(u, j), t) + depth + c]
                    done.append(vstore(self.inputs, form, at, lanes))
                return seq(done)

            stmts += _vectors(max(chunk.channels, lanes), lanes, vector)
        return stmts


@dataclass(frozen=True)
class OutputTransform:
    """A^T m A and the epilogue. products: [group held, position, tile, channel], flat."""

    plan: WinogradPlan
    products: tirx.Buffer
    epilogue: Epilogue

    def tile(self, place: Place, t: Any, slot: Any, group: Any, channels: int) -> Stmt:
        """Tile t of a block: `channels` outputs of a block of channels that is held at `slot`."""
        plan, lanes = self.plan, self.plan.tile.lanes
        stmts: list[Stmt] = []
        my, mx = plan.y.outputs, plan.x.outputs
        for begin in range(0, channels, lanes):
            out = local("out", (my * mx * lanes,), plan.tile.dtype, stmts)
            held = plan.product_bytes // plan.tile.itemsize
            source = slot * held + t * plan.group_channels + begin
            stmts += self._back(out, source)
            for dy in range(my):
                for dx in range(mx):

                    def store(i: Any, dy: int = dy, dx: int = dx, at: int = begin) -> Stmt:
                        y, x = place.origin[0] + dy, place.origin[1] + dx
                        value = tirx.BufferLoad(out, [(dy * mx + dx) * lanes + i])  # noqa: B023
                        channel = group * plan.group_channels + at + i
                        return self.epilogue.store((place.n, y, x, channel), value)

                    done = seq(channel_loops(store, min(lanes, channels - begin), lanes))
                    stmts.append(self._once(done, place, (dy, dx)))
        body = seq(stmts)
        return body if place.exists is None else tirx.IfThenElse(place.exists, body, None)

    def _once(self, stmt: Stmt, place: Place, offset: Sequence[int]) -> Stmt:
        """What the tile before has written is not written again."""
        p, plan = self.plan.params, self.plan
        for axis, size, number, begin, d in zip(
            (plan.y, plan.x), (p.ho, p.wo), place.number, place.origin, offset, strict=True
        ):
            if size % axis.outputs and d < axis.outputs - 1:
                stmt = tirx.IfThenElse(begin + d >= number * axis.outputs, stmt, None)
        return stmt

    def _back(self, out: tirx.Buffer, source: Any) -> list[Stmt]:
        """The outputs of one tile and vector of channels: along x at every row, then along y."""
        plan, lanes = self.plan, self.plan.tile.lanes
        pitch = plan.tile.tiles * plan.group_channels
        stmts: list[Stmt] = []
        halves: list[list[Any]] = [[] for _ in range(plan.x.outputs)]
        for i in range(plan.y.size):
            values = []
            for j in range(plan.x.size):
                one = plan.locate(i, j)
                at = [(one.first + one.number(i, j)) * pitch + source]
                values.append(let("m", vload(self.products, at, lanes), stmts))
            for dx, value in enumerate(_back_forms(plan.x.output_matrix, values, stmts)):
                halves[dx].append(let("half", value, stmts))
        for dx, values in enumerate(halves):
            for dy, value in enumerate(_back_forms(plan.y.output_matrix, values, stmts)):
                stmts.append(vstore(out, value, [(dy * plan.x.outputs + dx) * lanes], lanes))
        return stmts


def _vectors(extent: int, lanes: int, body: Callable[[Any], Stmt]) -> list[Stmt]:
    """`body` at every vector of `lanes` below extent; the last one overlaps where it must."""
    whole, rest = divmod(extent, lanes)
    done = [loop(whole, lambda v: body(v * lanes), "v")]
    if rest:
        done.append(body(extent - lanes))
    return done


def _forms(matrix: Matrix, values: Sequence[Any]) -> list[Any]:
    """The rows of a matrix times a vector of vectors."""
    return [_form(row, values) for row in matrix]


def _form(row: Sequence[Fraction], values: Sequence[Any]) -> Any:
    """One row times a vector. All coefficients are 0, 1 or -1, and one is 1."""
    added = [v for c, v in zip(row, values, strict=True) if c == 1]
    taken = [v for c, v in zip(row, values, strict=True) if c == -1]
    total = sum(added[1:], added[0])
    for v in taken:
        total = total - v
    return total


def _back_forms(matrix: Matrix, values: Sequence[Any], stmts: list[Stmt]) -> list[Any]:
    """A^T times a vector: sum and difference of the values at 1 and -1 are made once."""
    rows = [list(row) for row in matrix]
    found = list(values)
    if len(rows) > 1:
        plus = [i for i in range(len(found)) if all(row[i] == 1 for row in rows)]
        minus = [
            i for i in range(len(found)) if all(row[i] == (-1) ** e for e, row in enumerate(rows))
        ]
        if plus and minus:
            (i,), (j,) = plus, minus
            a, b = found[i], found[j]
            found += [let("sum", a + b, stmts), let("difference", a - b, stmts)]
            for e, row in enumerate(rows):
                row[i] = row[j] = Fraction(0)
                row += [Fraction(e % 2 == 0), Fraction(e % 2)]
    return [_form(row, found) for row in rows]
