"""What recognition hands on: decisions, warnings and the rewritten model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import onnx

Rule = Literal["strict", "moderate", "aggressive", "list"]

BINARIZED_INPUT = "binarized-input"
PADDING_MINUS_ONE = "padding-minus-one"
SIGN_OF_ZERO = "sign-of-zero"
BINARIZED_WEIGHTS = "binarized-weights"
FLOAT16 = "float16"
"""A float layer computes in half precision (`--float16`): inexact, not another function."""

DOMAIN = "bnn_tvm"
"""ONNX operator domain of Binarize, BinaryConv and BinaryDense, version 1."""


@dataclass(frozen=True)
class Decision:
    """Whether one Conv, Gemm or MatMul runs on bits, and why.

    `output` is the ONNX output name, `rule` what made it binary (None for float), `reason` one
    sentence, `implied` what differs from the ONNX graph: any of binarized-input,
    padding-minus-one, sign-of-zero, binarized-weights; float16 for a float layer.
    """

    output: str
    op: str
    binary: bool
    rule: Rule | None
    reason: str
    implied: tuple[str, ...] = ()

    @property
    def by_design(self) -> bool:
        """Whether the layer computes another function than the ONNX graph, not just rounding."""
        return bool(set(self.implied) - {FLOAT16})


@dataclass(frozen=True)
class Recognition:
    """Decisions in graph order, warnings, and the model with bnn_tvm operators in it.

    halves: names of the nodes that compute in half precision.
    """

    decisions: tuple[Decision, ...]
    warnings: tuple[str, ...]
    model: onnx.ModelProto
    halves: frozenset[str] = frozenset()
