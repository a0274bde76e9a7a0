"""How the +-1 tensor behind a two-valued tensor is computed: small expressions, made into nodes
only where a binary layer needs them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx


@dataclass(frozen=True, eq=False)
class Bits:
    """A tensor of +-1; `shape` is its static shape."""

    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Binarized(Bits):
    """+1 where source >= threshold (direction +1) or source <= threshold (-1).

    threshold float32 and direction int8 have the source's rank, or rank 0.
    """

    source: str
    threshold: np.ndarray
    direction: np.ndarray


@dataclass(frozen=True, eq=False)
class Moved(Bits):
    """Output `index` of an ordinary node applied to +-1 tensors instead of its dynamic inputs."""

    node: onnx.NodeProto
    children: tuple[Bits, ...]
    index: int = 0


@dataclass(frozen=True, eq=False)
class Padded(Bits):
    """A constant Pad with -1 or +1; pads as ONNX orders them, for all axes."""

    child: Bits
    pads: tuple[int, ...]
    value: int

    def spatial_pads(self) -> tuple[int, ...] | None:
        """Begins then ends of axes 2 and up; None where another axis or a crop is involved."""
        return spatial_pads(self.pads)


@dataclass(frozen=True, eq=False)
class Flipped(Bits):
    """Times `sign`, +-1 of the tensor's rank (all -1 where every channel is flipped)."""

    child: Bits
    sign: np.ndarray


def spatial_pads(pads: tuple[int, ...]) -> tuple[int, ...] | None:
    """The pads of axes 2 and up out of the pads of all axes; None where others are not 0."""
    rank = len(pads) // 2
    begins, ends = pads[:rank], pads[rank:]
    if rank < 3 or any(begins[:2]) or any(ends[:2]) or min(pads) < 0:
        return None
    return (*begins[2:], *ends[2:])
