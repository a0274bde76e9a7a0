"""Measuring a loaded model: latency and where the time goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bnn_tvm.runtime.model import LayerTime, Model

WARM_UP = 5


@dataclass(frozen=True)
class BenchReport:
    """Latency over the timed runs, milliseconds; `layers` in execution order.

    kernels: the family that ran, empty where the model has one set of kernels.
    """

    target: str
    threads: int
    latency_ms: dict[str, float]
    layers: tuple[LayerTime, ...] = ()
    kernels: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "target": self.target,
            "threads": self.threads,
            "kernels": self.kernels or None,
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


def latency(model: Model, inputs: dict[str, np.ndarray], repeat: int) -> dict[str, float]:
    """min, median and p95 in milliseconds over `repeat` runs after some to warm up."""
    model.latencies(inputs, WARM_UP)
    times = model.latencies(inputs, repeat)
    return {
        "min": float(np.min(times)),
        "median": float(np.median(times)),
        "p95": float(np.percentile(times, 95)),
    }
