"""What `model.dab` says about a compiled model, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of the model: ONNX name, shape, NumPy dtype name, layout such as NCHW."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str = ""


@dataclass(frozen=True)
class DecisionInfo:
    """Binary or float, and why, for one Conv, Gemm or MatMul (by ONNX output name)."""

    output: str
    op: str
    binary: bool
    rule: str = ""
    reason: str = ""
    implied: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerInfo:
    """One kernel call, in execution order; `bnn_layer()` of the C API has the same order.

    `families` are those of `Metadata.families` whose runs make the call; none: every run does.

    `output` is the ONNX output name that the time belongs to, `macs` multiply-accumulates,
    `weight_bytes` the constants that the call reads; shapes are those of the buffers that the
    kernel sees (NHWC, packed words), of its first input and its first output.
    """

    output: str
    kind: str
    kernel: str
    binary: bool = False
    reason: str = ""
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    macs: int = 0
    weight_bytes: int = 0
    families: tuple[str, ...] = ()

    def runs_with(self, family: str) -> bool:
        """Whether a run with `family` makes the call."""
        return not self.families or family in self.families


@dataclass(frozen=True)
class FamilyInfo:
    """One of the families of kernels between which a device chooses when it loads the model.

    `weight_bytes` and `code_bytes` are in the library for this family alone, `cores` are the names
    of those that choose it.
    """

    name: str
    weight_bytes: int = 0
    code_bytes: int = 0
    cores: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExpectedOutput:
    """Expected values of one output at flat positions 0, `stride`, 2 * `stride`, ..."""

    stride: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class TestVector:
    """A deployment check: inputs come from `seed` (see `test_vector.py`), outputs are stored.

    A value passes if it differs from the expected one by at most `atol + rtol * |expected|`.
    """

    __test__ = False  # not a pytest class

    seed: int
    outputs: tuple[ExpectedOutput, ...]
    atol: float = 1e-3
    rtol: float = 1e-3
    low: float = -1.0
    high: float = 1.0


@dataclass(frozen=True)
class Metadata:
    """Everything in `model.dab`.

    The caller of `export.build` sets what only the compiler knows (source, mode, options,
    decisions, warnings, tuning records, test vector); `build` fills in the rest.
    """

    tool_version: str = ""
    tvm_version: str = ""
    source: str = ""
    source_sha256: str = ""
    mode: str = ""
    options: tuple[tuple[str, str], ...] = ()
    target: str = ""
    triple: str = ""
    cpu: str = ""
    features: tuple[str, ...] = ()
    isa: str = ""
    runtime: str = "c"
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    decisions: tuple[DecisionInfo, ...] = ()
    layers: tuple[LayerInfo, ...] = ()
    warnings: tuple[str, ...] = ()
    workspace_bytes: int = 0
    largest_live_bytes: int = 0
    weight_bytes: int = 0
    so_bytes: int = 0
    so_sha256: str = ""
    tuning_records: tuple[str, ...] = ()
    test_vector: TestVector | None = field(default=None)
    families: tuple[FamilyInfo, ...] = ()
    family_rule: str = ""


def default_layout(rank: int) -> str:
    """The usual ONNX reading of a tensor of this rank."""
    return {2: "NC", 3: "NCW", 4: "NCHW", 5: "NCDHW"}.get(rank, "")


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype of a `TensorInfo`."""
    return np.dtype(name)
