"""Copies of what is added to products, one for each pixel of a tile.

`fmla` overwrites its addend. An addend that several pixels share LLVM loads once, whatever the
loops say, and pays a vector instruction for every pixel to move it; one that lies in memory of its
own for each pixel is loaded to where the sum will be, on a pipe that has time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx import Stmt

from ..emit import channel_loops, local, loop, seq

FEW = 8  # tiles for which filling the copies does not pay


class Copies:
    """Copies of vectors over channels, `pixels` of each, on the stack."""

    def __init__(
        self, sources: Sequence[tirx.Buffer], pixels: int, channels: int, stmts: list[Stmt]
    ) -> None:
        """Append to `stmts` what makes and fills them. sources: of `channels` elements."""
        self.channels = channels
        self.pairs: list[tuple[tirx.Buffer, tirx.Buffer]] = []
        for source in sources:
            copy = local("addend", (pixels * channels,), str(source.ty.dtype), stmts)
            self.pairs.append((source, copy))

            def fill(i: Any, source: tirx.Buffer = source, copy: tirx.Buffer = copy) -> Stmt:
                def one(c: Any) -> Stmt:
                    place = [c if int(size) > 1 else 0 for size in source.ty.shape]
                    return tirx.BufferStore(
                        copy, tirx.BufferLoad(source, place), [i * channels + c]
                    )

                return seq(channel_loops(one, channels, 8))

            stmts.append(loop(pixels, fill, "i"))

    def at(self, pixel: int, channel: Any) -> list[tuple[tirx.Buffer, Any]]:
        """What `Epilogue.store` takes for this pixel of a tile and this channel."""
        place = pixel * self.channels + channel
        return [(source, tirx.BufferLoad(copy, [place])) for source, copy in self.pairs]

    def of(self, source: tirx.Buffer) -> tirx.Buffer | None:
        """The copies of one source, or None if there are none."""
        return next((copy for known, copy in self.pairs if known.same_as(source)), None)
