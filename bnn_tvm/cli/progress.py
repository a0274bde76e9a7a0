"""Progress of a long command: the phase that runs, on stderr.

On a terminal a spinner names the phase and disappears; elsewhere each phase that took over a
second leaves one line, so that logs show where the time went.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bnn_tvm.cli.console import stderr_console

WORTH_TELLING_S = 1.0


class Phases:
    """Call it with the name of each phase as it starts; `finish` ends the last."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name: str | None = None
        self._start = 0.0
        self._status = None
        if sys.stderr.isatty():
            self._status = stderr_console().status("")
            self._status.start()

    def __call__(self, name: str) -> None:
        """Phase `name` begins, the one before it ends."""
        self._end_phase()
        self._name, self._start = name, time.perf_counter()
        if self._status is not None:
            self._status.update(f"{name} ...")

    def finish(self) -> None:
        """The last phase ends."""
        self._end_phase()
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _end_phase(self) -> None:
        if self._name is None:
            return
        took = time.perf_counter() - self._start
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + took
        if self._status is None and took > WORTH_TELLING_S:
            stderr_console().print(f"{self._name}: {took:.1f} s")
        self._name = None


@contextmanager
def phases() -> Iterator[Phases]:
    """A `Phases` that ends whatever happens."""
    progress = Phases()
    try:
        yield progress
    finally:
        progress.finish()
