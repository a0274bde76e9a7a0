"""One static arena for all intermediate tensors.

Each workspace tensor lives from the call that writes it to the last call that reads it. Tensors
whose lives overlap must not overlap in the arena; the rest may share. Finding the smallest arena
is NP-hard; placing the tensors one by one at the lowest free offset, largest first, is usually
within a few per cent of the largest live set (the lower bound). Where it is not, other orders are
tried, and the best one is kept.

A program with a choice runs the calls of one family, so tensors of different families may share
whatever their calls. The runs are numbered one behind the other: a tensor that all families use
has a life in each of them, and meets another if they meet in any.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bnn_tvm.errors import BnnError
from bnn_tvm.program import Call, Program

#: Every tensor starts on a cache line, which is also the widest vector.
ALIGNMENT = 64
#: An arena this close to the lower bound is good enough to stop searching.
_GOOD_ENOUGH = 1.02
_RANDOM_ORDERS = 300


@dataclass(frozen=True)
class Interval:
    """A tensor's bytes and its life: `first` and `last` are call indices, both inclusive.

    `others` are its lives in the runs with other families, (first, last) each.
    """

    nbytes: int
    first: int
    last: int
    others: tuple[tuple[int, int], ...] = ()

    @property
    def lives(self) -> tuple[tuple[int, int], ...]:
        """All of its lives."""
        return ((self.first, self.last), *self.others)

    def meets(self, other: Interval) -> bool:
        """Whether the two are live in a common call."""
        return any(
            first <= other_last and other_first <= last
            for first, last in self.lives
            for other_first, other_last in other.lives
        )


@dataclass(frozen=True)
class MemoryPlan:
    """Where every workspace tensor lies.

    `offsets` maps an index of `Program.tensors` to a byte offset in the arena of `arena_bytes`;
    `largest_live_bytes` is the lower bound: the most bytes that any one call needs alive.
    """

    offsets: dict[int, int]
    arena_bytes: int
    largest_live_bytes: int


def align(nbytes: int) -> int:
    """`nbytes` rounded up to `ALIGNMENT`."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def plan(program: Program) -> MemoryPlan:
    """Plan the arena of `program`. Raises `BnnError` if a tensor is read before it is written."""
    lives = _lives(program)
    indices = sorted(lives)
    intervals = [lives[i] for i in indices]
    offsets, arena = place(intervals)
    return MemoryPlan(dict(zip(indices, offsets, strict=True)), arena, largest_live(intervals))


def place(intervals: Sequence[Interval]) -> tuple[list[int], int]:
    """Offsets of `intervals` (in their order) and the arena's size, both multiples of 64.

    Deterministic: the random orders come from a fixed seed.
    """
    bound = largest_live(intervals)
    count = range(len(intervals))
    orders = [
        sorted(count, key=lambda i: (-intervals[i].nbytes, intervals[i].first)),
        sorted(count, key=lambda i: (intervals[i].first - intervals[i].last, -intervals[i].nbytes)),
        sorted(count, key=lambda i: (intervals[i].first, -intervals[i].nbytes)),
    ]
    best: tuple[list[int], int] | None = None
    best_order = orders[0]
    for order in orders:
        candidate = _first_fit(intervals, order)
        if best is None or candidate[1] < best[1]:
            best, best_order = candidate, order
    assert best is not None
    rng = random.Random(0)
    for _ in range(_RANDOM_ORDERS):
        if best[1] <= bound * _GOOD_ENOUGH or len(intervals) < 2:
            break
        order = list(best_order)
        for _ in range(rng.randint(1, 3)):
            moved = order.pop(rng.randrange(len(order)))
            order.insert(rng.randint(0, len(order)), moved)
        candidate = _first_fit(intervals, order)
        if candidate[1] <= best[1]:
            best, best_order = candidate, order
    return best


def largest_live(intervals: Sequence[Interval]) -> int:
    """The most (aligned) bytes alive in one call."""
    change: dict[int, int] = {}
    for it in intervals:
        for first, last in it.lives:
            change[first] = change.get(first, 0) + align(it.nbytes)
            change[last + 1] = change.get(last + 1, 0) - align(it.nbytes)
    live = largest = 0
    for step in sorted(change):
        live += change[step]
        largest = max(largest, live)
    return largest


def _first_fit(intervals: Sequence[Interval], order: Sequence[int]) -> tuple[list[int], int]:
    """Place in `order`, each at the lowest offset that no placed neighbour in time covers."""
    offsets = [0] * len(intervals)
    placed: list[int] = []
    arena = 0
    for index in order:
        size = align(intervals[index].nbytes)
        taken = sorted(
            (offsets[j], offsets[j] + align(intervals[j].nbytes))
            for j in placed
            if intervals[j].meets(intervals[index])
        )
        offset = 0
        for start, end in taken:
            if start - offset >= size:
                break
            offset = max(offset, end)
        offsets[index] = offset
        arena = max(arena, offset + size)
        placed.append(index)
    return offsets, arena


def _lives(program: Program) -> dict[int, Interval]:
    lives: dict[int, list[tuple[int, int]]] = {}
    start = 0
    for family in program.families:
        calls = program.run_with(family)
        for index, (first, last) in _run_lives(program, calls).items():
            lives.setdefault(index, []).append((start + first, start + last))
        start += len(calls) + 1
    return {
        index: Interval(program.tensors[index].nbytes, *spans[0], tuple(spans[1:]))
        for index, spans in lives.items()
    }


def _run_lives(program: Program, calls: list[tuple[int, Call]]) -> dict[int, tuple[int, int]]:
    """First and last use of every workspace tensor, by position among `calls`."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for position, (step, call) in enumerate(calls):
        reads = call.args[: len(call.args) - call.num_outputs]
        writes = call.args[len(call.args) - call.num_outputs :]
        for index in reads:
            if program.tensors[index].role == "workspace":
                if index not in first:
                    raise BnnError(
                        f"call {step} ({call.symbol}) reads a tensor that nothing has written",
                        node=program.tensors[index].name,
                    )
                last[index] = position
        for index in writes:
            if program.tensors[index].role == "workspace":
                first.setdefault(index, position)
                last[index] = position
    # A workspace tensor may be handed out as an output as well: it is copied after the last call.
    for index in program.outputs:
        if index in first:
            last[index] = len(calls)
    return {index: (first[index], last[index]) for index in first}
