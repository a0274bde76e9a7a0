"""The walk of the popcount kernels: tiles of output pixels x a block of output channels.

Output pixels are counted through the batch and the map, n*ho*wo, and tiled regardless of rows. The
rest of the pixels and the rest of a group's channels get code of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx import PrimFunc, Stmt

from .emit import PARALLEL, SERIAL, launch, let, loop, seq
from .epilogue import Epilogue, divisor
from .parallel import PARALLEL_BINARY_MACS
from .params import ConvParams
from .threshold import WordsEpilogue

CHUNK = 16  # tiles of pixels that all channel blocks visit before the next ones

Place = tuple[Any, Any, Any]  # n, y, x of an output pixel
RowOf = Callable[[Any, Any, list[Stmt]], Callable[[Any], Stmt]]


@dataclass(frozen=True)
class Chunk:
    """Tiles of pixels that all blocks of channels visit one after the other: its number, the first
    tile, how many.
    """

    number: Any
    first: Any
    tiles: Any


@dataclass(frozen=True)
class _Blocks:
    """Neighbouring blocks of every group: the first, how many, and the channels of each."""

    first: int
    per_group: int
    channels: int


def chunk_tiles(tiles: int) -> int:
    """Tiles of a chunk, where there are `tiles`; the last chunk may be smaller."""
    if tiles < 2 * CHUNK:
        return tiles
    # Chunks of one size, if there is a divisor: constant divisions are cheap.
    size = divisor(tiles, 2 * CHUNK)
    return size if size >= CHUNK // 2 else CHUNK


class PixelTiles(ABC):
    """The hand-made loops of one convolution with its epilogue.

    A sub-class writes one tile. pixels, channels: of a whole tile. pixels_outside: whether the
    blocks of channels follow each other within a tile of pixels, so that the weights are read
    again for every tile and the activations once. Else chunks of pixels stand outside, then channel
    blocks, whose weights stay cached over a chunk. Threads share the tiles out in this order, so
    each works on rows of its own, which it mostly wrote itself in the layer before.
    """

    def __init__(
        self,
        epilogue: Epilogue | WordsEpilogue,
        params: ConvParams,
        pixels: int,
        channels: int,
        pixels_outside: bool = False,
    ) -> None:
        """Take the shape apart."""
        self.epilogue = epilogue
        self.params = params
        self.pixels = min(pixels, params.pixels)
        self.channels = channels
        self.blocks = -(-params.cog // channels)
        self.pixels_outside = pixels_outside

    @abstractmethod
    def tile(self, at: list[Place], group: Any, block: Any, channels: int) -> Stmt:
        """The pixels `at` x the first `channels` channels of block `block` of a group."""

    def before(self) -> list[Stmt]:
        """What one thread does before all tiles."""
        return []

    def of_thread(self) -> list[Stmt]:
        """What each thread does before the tiles of one loop."""
        return []

    def enter(self, chunk: Chunk) -> list[Stmt]:
        """What a thread does before each of its tiles of a chunk."""
        return []

    def taps(self, words: int, row_of: RowOf, copies: int = 1) -> Stmt:
        """The reduction: for every row of taps `row_of(ky, kx, stmts)`, which may append to the
        statements before the row and gives what is done for word k of `words` of every tap.

        Where neighbouring pixels are neighbours in memory, kx is 0 and k counts the words of a
        whole row of taps. copies: most steps in one copy of a loop body.
        """
        p = self.params
        whole_row = p.groups == 1 and p.dilation[1] == 1
        count = p.kw * words if whole_row else words
        each = divisor(count, max(1, copies))

        def row(ky: Any) -> Stmt:
            def tap(kx: Any) -> Stmt:
                stmts: list[Stmt] = []
                step = row_of(ky, kx, stmts)
                some = lambda k: seq(step(k * each + i) for i in range(each))  # noqa: E731
                return seq([*stmts, loop(count // each, some, "k")])

            return tap(0) if whole_row else loop(p.kw, tap, "kx")

        return loop(p.kh, row, "ky")

    def write(self) -> PrimFunc:
        """The function with all its tiles."""
        p = self.params
        kind = PARALLEL if p.macs >= PARALLEL_BINARY_MACS else SERIAL
        last = p.cog - (self.blocks - 1) * self.channels
        even = self.blocks if last == self.channels else self.blocks - 1
        ranges = [_Blocks(0, even, self.channels)] if even else []
        if even < self.blocks:
            ranges.append(_Blocks(even, 1, last))
        tiles = -(-p.pixels // self.pixels)
        if self.pixels_outside:
            each = lambda t: self._tiles(t, lambda at: self._all(ranges, at))  # noqa: E731
            return self.epilogue.with_body(seq([*self.before(), loop(tiles, each, "t", kind)]))

        def blocks_of(blocks: _Blocks) -> Stmt:
            count = p.groups * blocks.per_group

            def one(t: Any) -> Stmt:
                body: list[Stmt] = []
                chunk, tile, index = self._place(t, tiles, count, body)
                body += self.enter(chunk)
                body.append(self._tiles(tile, lambda at: self._block(blocks, index, at)))
                return seq(body)

            own = self.of_thread()
            walk = loop(count * tiles, one, "t", kind)
            if not own:
                return walk
            own.append(walk)
            return launch(seq(own)) if kind == PARALLEL and count * tiles > 1 else seq(own)

        return self.epilogue.with_body(
            seq([*self.before(), *(blocks_of(blocks) for blocks in ranges)])
        )

    def _place(self, t: Any, tiles: int, blocks: int, stmts: list[Stmt]) -> tuple[Chunk, Any, Any]:
        """The chunk, the tile of pixels and the channel block of the `t`-th step."""
        size = chunk_tiles(tiles)
        if size == tiles:
            chunk = Chunk(0, 0, tiles)
            if blocks == 1:
                return chunk, t, 0
            return chunk, let("tile", t % tiles, stmts), let("block", t // tiles, stmts)
        number = let("chunk", t // (size * blocks), stmts)
        step = let("step", t % (size * blocks), stmts)
        first = let("first", number * size, stmts)
        wide = let("wide", tirx.min(size, tiles - first), stmts) if tiles % size else size
        chunk = Chunk(number, first, wide)
        if blocks == 1:
            return chunk, t, 0
        return chunk, let("tile", first + step % wide, stmts), let("block", step // wide, stmts)

    def _tiles(self, index: Any, some: Callable[[list[Place]], Stmt]) -> Stmt:
        """`some` for the pixels of tile `index`, which is whole or the rest."""
        p = self.params
        full, rest = divmod(p.pixels, self.pixels)
        stmts: list[Stmt] = []
        first = let("pixel", index * self.pixels, stmts)

        def places(count: int) -> Stmt:
            body: list[Stmt] = []
            at = []
            for i in range(count):
                q = let("index", first + i, body)
                n = let("n", q // (p.ho * p.wo), body)
                y = let("y", q // p.wo % p.ho, body)
                at.append((n, y, let("x", q % p.wo, body)))
            body.append(some(at))
            return seq(body)

        whole = places(self.pixels)
        if rest:
            whole = tirx.IfThenElse(first < full * self.pixels, whole, places(rest))
        stmts.append(whole)
        return seq(stmts)

    def _all(self, ranges: list[_Blocks], at: list[Place]) -> Stmt:
        def blocks_of(blocks: _Blocks) -> Stmt:
            count = self.params.groups * blocks.per_group
            return loop(count, lambda index: self._block(blocks, index, at), "block")

        return seq(blocks_of(blocks) for blocks in ranges)

    def _block(self, blocks: _Blocks, index: Any, at: list[Place]) -> Stmt:
        stmts: list[Stmt] = []
        group = let("group", index // blocks.per_group, stmts)
        block = let("of_group", blocks.first + index % blocks.per_group, stmts)
        stmts.append(self.tile(at, group, block, blocks.channels))
        return seq(stmts)
