"""Tiles of a change of layout, turned in registers.

The values of a tile are computed in vectors along the source's innermost axis, `a`, and leave it in
vectors along the result's last axis, `c`:

- From 4 channels on a tile is turned by shuffles. Rows of four numbers, the channels c, c+4, c+8,
  c+12, make one long vector; four such vectors are transposed as 4x4 matrices within their 128-bit
  lanes, by two rounds of unpacking (zip on arm64). So a vector of 4, 8 or 16 numbers costs two
  shuffles of its own, whatever its length, and loads that insert.
- Two or three channels, or few vectors that were costly to compute, are interleaved whole (of three
  LLVM makes NEON's st3).

A tile reads 16 numbers, a cache line of the source, of each row; the tiles of one line follow each
other along `c`, so that the lines of the result are filled one after the other. Where a side is no
multiple of the tile, the last tile begins earlier: it stores some elements twice, the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.ir import TensorLoad
from tvm.tirx import Stmt
from tvm_ffi import structural_map, structural_walk

from .emit import SERIAL, VECTORIZED, let, local, loop, seq, vload, vstore

LINE = 16  # numbers of a source row that a tile reads
QUAD = 4


def loads(value: Any) -> list[TensorLoad]:
    """What an expression reads with an index, one of a flat buffer."""
    found: list[TensorLoad] = []
    structural_walk(value, [(TensorLoad, found.append)])
    return [node for node in found if node.indices]


class Tiles:
    """One rectangle of the last two axes."""

    def __init__(
        self,
        store: tirx.BufferStore,
        axes: list[tirx.Var],
        index: list[Any],
        inner: tuple[int, int],
        last: tuple[int, int],
        vector: int,
        kind: tirx.ForKind,
    ) -> None:
        self.store, self.axes, self.index = store, axes, index
        self.inner, self.last, self.vector, self.kind = inner, last, vector, kind
        self.dtype = str(store.buffer.ty.dtype)
        self.copies = isinstance(store.value, TensorLoad)

    def write(self) -> list[Stmt]:
        """All tiles; element by element where there is no tile for the rectangle."""
        rows = self.inner[1] - self.inner[0]
        channels = self.last[1] - self.last[0]
        turned = bool(loads(self.store.value))
        lanes = next((n for n in (LINE, 8, QUAD) if n <= rows), 0)
        if not turned or not lanes or channels < 2:
            return [self._plain(rows, channels)]
        body = self._along_last(channels, lanes)
        return _covered(rows, lanes, lambda a: seq(body(a)), "a", self.kind)

    def _along_last(self, channels: int, lanes: int) -> Callable[[Any], list[Stmt]]:
        """What writes `lanes` rows from a given one on."""
        if channels < QUAD or (channels in (4, 8) and not self.copies):
            return lambda a: [self._interleaved(a, 0, channels, lanes)]
        sizes = [n for n in (16, 8, QUAD) if n <= min(self.vector, channels)]
        if not self.copies:  # no value twice, if that can be
            sizes = [n for n in sizes if channels % n == 0] or sizes[-1:]
        size = sizes[0]
        return lambda a: _covered(
            channels, size, lambda c: self._turned(a, c, size, lanes), "c", SERIAL
        )

    def _plain(self, rows: int, channels: int) -> Stmt:
        """Element by element; in vectors along the last axis where nothing is read."""
        kind = SERIAL if loads(self.store.value) or channels not in (4, 8, 16) else VECTORIZED

        def row(a: Any) -> Stmt:
            return loop(channels, lambda c: self._element(a, c), "c", kind)

        return loop(rows, row, "a", self.kind)

    def _element(self, a: Any, c: Any) -> Stmt:
        return structural_map(self.store, (tirx.Var, self._at(a, c)))

    def _at(self, a: Any, c: Any) -> Callable[[tirx.Var], Any]:
        """What puts row a and channel c of the rectangle in the place of the axes."""
        places = [*self.index, a + self.inner[0], c + self.last[0]]
        values = {}
        for axis, value in zip(self.axes, places, strict=True):
            dtype = axis.ty.dtype
            number = isinstance(value, int)
            values[axis] = tirx.const(value, dtype) if number else value.astype(dtype)
        return lambda var: values.get(var, var)

    def _computed(
        self, tile: tirx.Buffer, a: Any, c: Any, channels: int, lanes: int, step: int
    ) -> list[Stmt]:
        """The values of rows a .. a+lanes-1 and of `channels` channels into `tile`."""
        stmts: list[Stmt] = []
        for q in range(0, lanes, step):
            for k in range(channels):

                def element(i: Any, q: int = q, k: int = k) -> Stmt:
                    value = structural_map(self.store.value, (tirx.Var, self._at(a + q + i, c + k)))
                    return tirx.BufferStore(tile, value, [k, q + i])

                stmts.append(loop(step, element, "i", VECTORIZED))
        return stmts

    def _turned(self, a: Any, c: Any, channels: int, lanes: int) -> Stmt:
        """A tile of lanes x channels by 4x4 transposes."""
        stmts: list[Stmt] = []
        step = QUAD if self.copies else lanes
        for q in range(0, lanes, step):
            tile = local("tile", (channels, step), self.dtype, stmts)
            stmts += self._computed(tile, a + q, c, channels, step, step)
            for part in range(0, step, QUAD):
                quads = [
                    self._joined([vload(tile, [k, part], QUAD) for k in range(j, channels, QUAD)])
                    for j in range(QUAD)
                ]
                for j, vector in enumerate(self._transposed(quads, stmts)):
                    at = self._place(a + (q + part + j), c)
                    stmts.append(vstore(self.store.buffer, vector, [at], channels))
        return seq(stmts)

    def _place(self, a: Any, c: Any) -> Any:
        return structural_map(self.store.indices[0], (tirx.Var, self._at(a, c)))

    def _joined(self, parts: list[Any]) -> Any:
        if len(parts) == 1:
            return parts[0]
        return _shuffle(parts, range(QUAD * len(parts)))

    def _transposed(self, quads: list[Any], stmts: list[Stmt]) -> list[Any]:
        """Four vectors as 4x4 matrices in every four numbers, transposed."""
        lanes = int(quads[0].ty.dtype.lanes)
        quads = [let("quad", quad, stmts) for quad in quads]

        def pick(first: Any, second: Any, one: tuple[int, int, int, int]) -> Any:
            order = [
                (at if at < QUAD else lanes + at - QUAD) + block
                for block in range(0, lanes, QUAD)
                for at in one
            ]
            return let("pair", _shuffle([first, second], order), stmts)

        low, high = (0, 4, 1, 5), (2, 6, 3, 7)
        p, q = (pick(quads[0], quads[1], half) for half in (low, high))
        r, s = (pick(quads[2], quads[3], half) for half in (low, high))
        left, right = (0, 1, 4, 5), (2, 3, 6, 7)
        return [pick(p, r, left), pick(p, r, right), pick(q, s, left), pick(q, s, right)]

    def _interleaved(self, a: Any, c: Any, channels: int, lanes: int) -> Stmt:
        """All channels of `lanes` rows: they are neighbours in the result."""
        stmts: list[Stmt] = []
        tile = local("tile", (channels, lanes), self.dtype, stmts)
        stmts += self._computed(tile, a, c, channels, lanes, lanes)
        rows = [let("row", vload(tile, [k, 0], lanes), stmts) for k in range(channels)]
        at = let("at", self._place(a, c), stmts)
        if channels == 3:
            order = [k * lanes + i for i in range(lanes) for k in range(3)]
            vector = _shuffle(rows, order)
            stmts.append(vstore(self.store.buffer, vector, [at], 3 * lanes))
            return seq(stmts)
        for i, vector in enumerate(_zipped(rows, stmts)):
            stmts.append(vstore(self.store.buffer, vector, [at + i * lanes], lanes))
        return seq(stmts)


def _covered(
    extent: int, size: int, body: Callable[[Any], Stmt], name: str, kind: tirx.ForKind
) -> list[Stmt]:
    """`body` for pieces of `size` that cover 0 .. extent-1; the last overlaps the one before."""
    count = extent // size
    stmts = [loop(count, lambda i: body(i * size), name, kind)]
    if extent % size:
        stmts.append(body(extent - size))
    return stmts


def _shuffle(vectors: list[Any], order: Any) -> Any:
    return tirx.Shuffle(vectors, [tirx.const(at, "int32") for at in order])


def _zipped(rows: list[Any], stmts: list[Stmt]) -> list[Any]:
    """2^m vectors interleaved, as 2^m vectors."""
    if len(rows) == 1:
        return rows
    lanes = int(rows[0].ty.dtype.lanes)
    even, odd = _zipped(rows[::2], stmts), _zipped(rows[1::2], stmts)
    found = []
    for first, second in zip(even, odd, strict=True):
        for half in (0, lanes // 2):
            order = [at for i in range(half, half + lanes // 2) for at in (i, lanes + i)]
            found.append(let("zip", _shuffle([first, second], order), stmts))
    return found
