"""Float layers for one arm64 core in float32 and in half precision: modelled cycles side by side.

    python -m benchmarks.arm64 --float-layers [--json]

Each layer, with bias and ReLU, is an ONNX model of its own and goes through the product's pipeline
twice, without and with `--float16`; what surrounds the kernel counts too (padding, the transpose of
an NCHW input, conversions at both ends). See `arm64_models` for how cycles are modelled.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from . import arm64_models

CORE = "cortex-a76"
# Of one layer alone, relative to the largest value.
HALF_LAYER_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Shape:
    """size x size x ci, kernel k, co channels; k of 0 is a dense layer ci -> co."""

    size: int
    ci: int
    co: int
    k: int
    stride: int = 1
    groups: int = 1

    @property
    def pad(self) -> int:
        """Zeros on each side."""
        return self.k // 2


LAYERS = {
    "stem 7x7 s2, 224x224x3 to 64": Shape(224, 3, 64, 7, 2),
    "stem 3x3 s2, 224x224x3 to 16": Shape(224, 3, 16, 3, 2),
    "3x3, 56x56x64": Shape(56, 64, 64, 3),
    "3x3, 28x28x128": Shape(28, 128, 128, 3),
    "1x1, 28x28x64 to 128": Shape(28, 64, 128, 1),
    "1x1, 7x7x256 to 512": Shape(7, 256, 512, 1),
    "depthwise 3x3 s2, 56x56x64": Shape(56, 64, 64, 3, 2, 64),
    "dense, 512 to 1000": Shape(1, 512, 1000, 0),
}


@dataclass(frozen=True)
class Row:
    """One layer: kernels, modelled cycles of the kernel and of all around it, largest error."""

    layer: str
    macs: int
    kernel32: str
    kernel16: str
    cycles32: float
    cycles16: float
    error16: float

    @property
    def gain(self) -> float:
        """How many times fewer cycles half precision takes."""
        return self.cycles32 / self.cycles16


def model(shape: Shape) -> onnx.ModelProto:
    """The layer with bias and ReLU, seeded weights, input `input` NCHW."""
    s, rng = shape, np.random.default_rng(0)
    dims = [1, s.ci, s.size, s.size] if s.k else [1, s.ci]
    weight = (s.co, s.ci // s.groups, s.k, s.k) if s.k else (s.co, s.ci)
    w = rng.standard_normal(weight) / np.sqrt(np.prod(weight[1:]))
    op = "Conv" if s.k else "Gemm"
    attributes = (
        {"strides": [s.stride] * 2, "pads": [s.pad] * 4, "group": s.groups}
        if s.k
        else {"transB": 1}
    )
    nodes = [
        helper.make_node(op, ["input", "w", "b"], ["layer"], name="layer", **attributes),
        helper.make_node("Relu", ["layer"], ["output"], name="output"),
    ]
    size = (s.size + 2 * s.pad - s.k) // s.stride + 1 if s.k else 1
    result = [1, s.co, size, size] if s.k else [1, s.co]
    constants = {"w": w, "b": rng.standard_normal(s.co)}
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, result)],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 8
    return onnx.shape_inference.infer_shapes(made, strict_mode=True)


def measure(armcost: Path, layers: dict[str, Shape] | None = None) -> list[Row]:
    """All layers on `CORE`. Raises CalledProcessError if a tool fails."""
    rows = []
    for name, shape in (layers or LAYERS).items():
        found = []
        for core in (CORE, CORE + arm64_models.HALF):
            with tempfile.TemporaryDirectory() as folder:
                found.append(arm64_models.measure_model(model(shape), core, armcost, Path(folder)))
        print(f"{name}: error {found[1][1]:.0e}", file=sys.stderr)
        (kernel32, kernel16) = (_kernel(calls) for calls, _ in found)
        cycles32, cycles16 = (sum(call.cycles for call in calls) for calls, _ in found)
        macs = sum(call.macs for call in found[0][0])
        rows.append(Row(name, macs, kernel32, kernel16, cycles32, cycles16, found[1][1]))
    return rows


def _kernel(calls: list[arm64_models.Layer]) -> str:
    return next(call.kernel for call in calls if call.macs)


def as_json(rows: list[Row]) -> list[dict[str, object]]:
    """The rows with their gain, for `--json`."""
    return [{**asdict(row), "core": CORE, "gain": round(row.gain, 3)} for row in rows]


def table(rows: list[Row]) -> list[str]:
    """The rows as lines of Markdown."""
    peak = arm64_models.FMA_PEAK[arm64_models.CORES[CORE]]
    lines = [
        f"| layer on {CORE} | float32: thousand cycles | part of its peak | float16 "
        "| part of its peak | gain | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row.layer]
        for cycles, rate in ((row.cycles32, peak), (row.cycles16, 2 * peak)):
            cells += [f"{cycles / 1e3:.0f}", f"{row.macs / rate / cycles:.0%}"]
        cells += [f"{row.gain:.2f}x", f"{row.error16:.0e}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
