"""Measuring a loaded model: latency and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WARM_UP = 5


@dataclass(frozen=True)
class LayerTime:
    """Median time of one kernel call; `share` of the sum over all calls."""

    output: str
    kind: str
    kernel: str
    ms: float
    share: float


@dataclass(frozen=True)
class BenchReport:
    """Latency over the timed runs, milliseconds; `layers` in execution order."""

    target: str
    threads: int
    latency_ms: dict[str, float]
    layers: tuple[LayerTime, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "target": self.target,
            "threads": self.threads,
            "latency_ms": self.latency_ms,
            "layers": [
                {
                    "output": layer.output,
                    "kind": layer.kind,
                    "kernel": layer.kernel,
                    "ms": layer.ms,
                    "share": layer.share,
                }
                for layer in self.layers
            ],
        }


def time_runs(run: Callable[[], object], repeat: int) -> dict[str, float]:
    """min, median and p95 in milliseconds over `repeat` runs after some to warm up."""
    for _ in range(min(WARM_UP, repeat)):
        run()
    times = []
    for _ in range(repeat):
        start = time.perf_counter_ns()
        run()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return {
        "min": float(np.min(times)),
        "median": float(np.median(times)),
        "p95": float(np.percentile(times, 95)),
    }


def layer_times(
    names: Sequence[tuple[str, str, str]], runs_ms: Sequence[Sequence[float]]
) -> tuple[LayerTime, ...]:
    """The table of layers from (output, kind, kernel) and each run's milliseconds per layer."""
    medians = np.median(np.asarray(runs_ms, dtype=np.float64), axis=0)
    total = float(medians.sum())
    return tuple(
        LayerTime(*name, ms=float(ms), share=float(ms) / total if total else 0.0)
        for name, ms in zip(names, medians, strict=True)
    )
