"""Wall-clock times that can be compared: several programs in turns, in one run."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLOCK = 8
WARM_UP = 3


@dataclass(frozen=True)
class Times:
    """Wall-clock times of one run, milliseconds."""

    min_ms: float
    median_ms: float
    p95_ms: float

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        low, median, p95 = np.percentile(np.array(seconds) * 1e3, [0, 50, 95])
        return cls(float(low), float(median), float(p95))


def time_in_turns(runners: list[Callable[[], object]], repeat: int) -> list[Times]:
    """Times of at least `repeat` runs of each runner, taken in alternating blocks."""
    for runner in runners:
        for _ in range(WARM_UP):
            runner()
    seconds: list[list[float]] = [[] for _ in runners]
    while len(seconds[0]) < repeat:
        for taken, runner in zip(seconds, runners, strict=True):
            # onnxruntime's idle threads spin for a while: let them go to sleep.
            time.sleep(0.02)
            runner()
            for _ in range(BLOCK):
                start = time.perf_counter()
                runner()
                taken.append(time.perf_counter() - start)
    return [Times.of(taken) for taken in seconds]


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference, in units of the largest value of the reference."""
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
