"""A tensor of the ONNX graph as the importer holds it: logical shape, and how it is stored.

ONNX shapes are channel-first; kernels want channels last. A value therefore carries the order in
which its axes are stored: storage axis i holds logical axis `order[i]`. Converters that know
about orders pass them on, so a network runs in NHWC from the first convolution to the head, and
an ONNX Transpose (tf2onnx wraps every convolution in two) only changes the bookkeeping.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from tvm import relax

Order = tuple[int, ...]

FLOATS = ("float32", "float16")
"""What the kernels of float layers compute in."""


def natural(rank: int) -> Order:
    """The order in which storage and ONNX agree."""
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """N, spatial axes, C."""
    return (0, *range(2, rank), 1)


@dataclass(frozen=True)
class Steps:
    """A binarisation that is not computed yet: +1 where (x >= threshold) xor flip, else -1.

    `threshold` float32 and `flip` bool broadcast against the logical shape of `source`.
    """

    source: Value
    threshold: np.ndarray
    flip: np.ndarray


@dataclass(frozen=True)
class Bits:
    """A binarised tensor as packed words [n, h, w, words], channels innermost, not padded.

    word_bits: bits of a word. turned: None, or bool [c]: channels whose bits are complements
    until the Binarize is reached.
    """

    expr: relax.Expr
    word_bits: int
    turned: np.ndarray | None = None


@dataclass(frozen=True)
class Parts:
    """A concatenation that is not computed yet: `values` along the logical `axis`.

    Its time will be charged to `origin`, the (layer, kind) of the ONNX node.
    """

    values: tuple[Value, ...]
    axis: int
    origin: tuple[str, str]


@dataclass(eq=False)
class Value:
    """One tensor: `expr` stored in `order`, or a constant `array`, or a pending binarisation or
    concatenation, or `halves` still to be made float32, or `bits` that only binary layers read.

    `shape` is the logical (ONNX) shape, `dtype` a NumPy dtype name.
    """

    shape: tuple[int, ...]
    dtype: str
    order: Order
    expr: relax.Expr | None = None
    array: np.ndarray | None = None
    steps: Steps | None = None
    bits: Bits | None = None
    parts: Parts | None = None
    halves: Value | None = None
    stored: dict[Order, relax.Expr] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def storage_shape(self, order: Order | None = None) -> tuple[int, ...]:
        """The shape in `order` (default: the value's own)."""
        return tuple(self.shape[axis] for axis in (order or self.order))


def moves_nothing(shape: tuple[int, ...], permutation: Order) -> bool:
    """Whether transposing a tensor of `shape` leaves every element where it lies."""
    moved = [axis for axis in permutation if shape[axis] != 1]
    return moved == sorted(moved)


def whole_words(steps: Steps, word_bits: int, groups: int) -> tuple[Steps, ...]:
    """The binarisation of each part of a concatenation of channels that is not computed yet.

    Empty if `steps` binarises something else, or if a part ends within a word of a group.
    """
    parts = steps.source.parts
    if parts is None or steps.source.stored or parts.axis != 1 or groups != 1:
        return ()
    sizes = [value.shape[1] for value in parts.values]
    if any(size % word_bits for size in sizes[:-1]):
        return ()
    found, begin = [], 0
    for value, size in zip(parts.values, sizes, strict=True):
        channels = slice(begin, begin + size)
        threshold = _of_channels(steps.threshold, value.rank, channels)
        found.append(Steps(value, threshold, _of_channels(steps.flip, value.rank, channels)))
        begin += size
    return tuple(found)


def _of_channels(array: np.ndarray, rank: int, channels: slice) -> np.ndarray:
    """Of an array that broadcasts against [n, c, ...] what belongs to some channels."""
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    return full if full.shape[1] == 1 else full[:, channels]
