"""What verification found, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LayerReport:
    """One decided layer, run on onnxruntime's values of its inputs.

    exact: a binary layer's integers all agree; a float layer's values are equal bit for bit. ok:
    exact, or a float layer within its tolerance, which is `tolerance` of its output's largest
    value (None for a binary layer). implied: in what the layer differs from the ONNX graph by
    design; such a layer is compared with the rewritten graph instead. failed_kernels: the families
    of kernels with which it is not ok, where the model has several.
    """

    output: str
    binary: bool
    exact: bool
    max_abs_error: float
    ok: bool
    implied: tuple[str, ...] = ()
    tolerance: float | None = None
    failed_kernels: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "output": self.output,
            "binary": self.binary,
            "exact": self.exact,
            "max_abs_error": self.max_abs_error,
            "ok": self.ok,
            "implied": list(self.implied),
            "tolerance": self.tolerance,
            "failed_kernels": list(self.failed_kernels),
        }


@dataclass(frozen=True)
class VerifyReport:
    """The whole answer.

    max_abs_error: of the whole model, end to end, over `samples` inputs. top1_agreement: share of
    outputs whose largest value is at the same place. rounded: samples that differ because a value
    lies so close to a binariser's threshold that float rounding decides its sign.
    design_difference: largest difference between the ONNX graph and what was implied, None where
    nothing was. relative_error: of a model with layers in half precision, which is inexact: the
    largest relative error (L2) of an output end to end, and relative_tolerance what passes; None
    for any other model. place: where the model ran if not on this machine, for people. kernels:
    the families of kernels that were run, each on every sample, where the model has several;
    failed_kernels: those that differ.
    """

    ok: bool
    target: str
    emulated: bool
    samples: int
    max_abs_error: float
    top1_agreement: float | None
    rounded: int
    layers: tuple[LayerReport, ...]
    design_difference: float | None = None
    warnings: tuple[str, ...] = ()
    relative_error: float | None = None
    relative_tolerance: float | None = None
    place: str = ""
    kernels: tuple[str, ...] = ()
    failed_kernels: tuple[str, ...] = ()

    @property
    def first_difference(self) -> LayerReport | None:
        """The first layer in graph order that is not ok."""
        return next((layer for layer in self.layers if not layer.ok), None)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        first = self.first_difference
        return {
            "ok": self.ok,
            "target": self.target,
            "emulated": self.emulated,
            "max_abs_error": self.max_abs_error,
            "layers": [layer.as_dict() for layer in self.layers],
            "samples": self.samples,
            "top1_agreement": self.top1_agreement,
            "rounded_samples": self.rounded,
            "first_difference": first.output if first else None,
            "design_difference": self.design_difference,
            "relative_error": self.relative_error,
            "relative_tolerance": self.relative_tolerance,
            "warnings": list(self.warnings),
            "place": self.place,
            "kernels": list(self.kernels),
            "failed_kernels": list(self.failed_kernels),
        }
