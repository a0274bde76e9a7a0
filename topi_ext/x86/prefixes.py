"""Sums of neighbouring words of the activations, which carry-save adders take.

Entry j of a word is its xor with the j words behind it in memory. A thread writes the sums of the
input rows under one chunk of tiles into a buffer of its own, before its first tile of the chunk.
The buffer stays in the first-level cache, and what another thread has written is fetched from that
one's cache once; with one tensor of all sums, written by a call of its own, it was twice. Rows
under two chunks are summed twice: 8 instructions for a vector of words, which then takes part in
hundreds for every block of channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx import Stmt

from ..emit import let, loop, private, publish, seq, view, vload, vstore
from ..lanes_writer import LANES, WORD
from ..params import ConvParams
from ..pixel_tiles import Chunk, Place

CHAIN = 3  # words that one adder takes


class Prefixes:
    """The sums for one convolution. data: uint32 words [n, hp, wp, groups*cw]."""

    def __init__(self, data: tirx.Buffer, params: ConvParams) -> None:
        """Take the shape apart."""
        self.data = data
        self.params = params
        self.pixel = params.groups * params.words(WORD)
        self.row = params.wp * self.pixel
        self.total = params.n * params.hp * self.row

    @classmethod
    def nbytes(cls, params: ConvParams, pixels: int) -> int:
        """Bytes of the sums for chunks of `pixels` output pixels."""
        row = params.wp * params.groups * params.words(WORD)
        return CHAIN * _whole(_rows(params, pixels) * row) * WORD // 8

    def declare(self, pixels: int) -> list[Stmt]:
        """The buffers of a thread, for chunks of `pixels` output pixels."""
        stmts: list[Stmt] = []
        self.size = _whole(_rows(self.params, pixels) * self.row)
        self.sums = private("prefixes", (CHAIN * self.size,), "uint32", stmts)
        self.there = private("there", (1,), "int32", stmts)
        stmts.append(tirx.BufferStore(self.there, -1, [0]))
        return stmts

    def enter(self, chunk: Chunk, pixels: int) -> list[Stmt]:
        """Write the sums for a chunk of tiles of `pixels`, unless they are there."""
        p = self.params
        first = chunk.first * pixels
        last = tirx.min((chunk.first + chunk.tiles) * pixels, p.pixels) - 1
        stmts: list[Stmt] = []
        self.begin = let("begin", _row(p, first), stmts)
        body: list[Stmt] = [tirx.BufferStore(self.there, chunk.number, [0])]
        rows = _row(p, last) - self.begin + _reach(p)
        base = let("base", self.begin * self.row, body)
        words = let("words", rows * self.row, body)
        # A vector reads up to CHAIN - 1 words behind its own.
        room = (self.total - (CHAIN - 1) - base) // LANES
        full = let("full", tirx.max(tirx.min((words + (LANES - 1)) // LANES, room), 0), body)
        body.append(loop(full, lambda i: self._store(base, i * LANES, LANES), "i"))
        rest = tirx.max(words - full * LANES, 0)
        body.append(loop(rest, lambda i: self._store(base, full * LANES + i, 1), "i"))
        body.append(publish(self.sums))
        missing = tirx.NE(tirx.BufferLoad(self.there, [0]), chunk.number)
        stmts.append(tirx.IfThenElse(missing, seq(body), None))
        return stmts

    def _store(self, base: Any, at: Any, size: int) -> Stmt:
        """The sums of words `at` .. of the chunk; what would come behind the last is the last."""
        stmts: list[Stmt] = []
        value: Any = None
        for j in range(CHAIN):
            place = base + at + j
            place = place if size > 1 else tirx.min(place, self.total - 1)
            word = vload(self.data, [0, 0, 0, place], size)
            value = let("sum", word if value is None else value ^ word, stmts)
            stmts.append(vstore(self.sums, value, [j * self.size + at], size))
        return seq(stmts)

    def under(self, at: Place, group: Any, stmts: list[Stmt]) -> Callable[..., Any]:
        """For the taps of output pixel `at`: (j, ky, kx, k), entry j of word k in all lanes."""
        p = self.params
        n, y, x = at
        row = n * p.hp + y * p.stride[0] - self.begin
        first = row * self.row + x * p.stride[1] * self.pixel + group * p.words(WORD)
        words = view(self.sums, [first], stmts)

        def entry(j: int, ky: Any, kx: Any, k: Any) -> Any:
            tap = ky * p.dilation[0] * self.row + kx * p.dilation[1] * self.pixel
            return tirx.Broadcast(tirx.BufferLoad(words, [tap + k + j * self.size]), LANES)

        return entry


def _whole(words: int) -> int:
    """Room for `words`, the last vector of which is written whole."""
    return -(-words // LANES) * LANES


def _rows(params: ConvParams, pixels: int) -> int:
    """Most input rows under a chunk of `pixels` output pixels."""
    p = params
    firsts = np.arange(0, p.pixels, pixels)
    lasts = np.minimum(firsts + pixels, p.pixels) - 1
    return int((_row(p, lasts) - _row(p, firsts)).max()) + _reach(p)


def _row(params: ConvParams, pixel: Any) -> Any:
    """The first input row under an output pixel, counted through the batch, with padding."""
    p = params
    return pixel // (p.ho * p.wo) * p.hp + pixel // p.wo % p.ho * p.stride[0]


def _reach(params: ConvParams) -> int:
    """Input rows from the first to the last under one output pixel."""
    return (params.kh - 1) * params.dilation[0] + 1
