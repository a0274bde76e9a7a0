"""Verification: compile, run, compare with onnxruntime, layer by layer and end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx

from bnn_tvm.verification import compare
from bnn_tvm.verification.cut import Graph
from bnn_tvm.verification.layers import (
    Layer,
    LayerReference,
    given,
    layer_model,
    plan,
)
from bnn_tvm.verification.reference import Arrays, Reference
from bnn_tvm.verification.report import LayerReport, VerifyReport
from bnn_tvm.verification.ties import TIE, margin, thresholds

if TYPE_CHECKING:
    from bnn_tvm.frontend import Prepared
    from bnn_tvm.recognize import Recognition

BATCH_BYTES = 64 * 2**20
"""Samples are run together until the tensors to compare with take this much memory."""

TIED_ERROR = 0.25
"""Largest relative error (L2) of a sample whose difference is put down to ties."""


class Runner(Protocol):
    """A compiled model, here or on a device (see `devices.Loaded`)."""

    emulated: bool
    place: str

    def run_many(self, samples: Sequence[Arrays]) -> list[Arrays]:
        """Outputs by name, for each sample."""


Build = Callable[[onnx.ModelProto], Mapping[str, Runner]]
"""Compiles a rewritten model: a runner for each family of kernels, one of an empty name where the
model has one set of them."""


@dataclass
class _Tally:
    """What was seen of one layer over all samples; `relative` is the tolerance of a float one."""

    relative: float = compare.FLOAT_TOLERANCE
    exact: bool = True
    ok: bool = True
    error: float = 0.0
    failed: set[str] = field(default_factory=set)

    def add(self, layer: Layer, got: np.ndarray, want: np.ndarray, family: str) -> None:
        error = compare.max_abs_error(got, want)
        self.error = max(self.error, error)
        if layer.scale is not None and layer.offset is not None:
            exact = compare.same_integers(got, want, layer.scale, layer.offset, layer.channel_axis)
            ok = exact
        else:
            exact = error == 0.0
            ok = error <= compare.tolerance(want, self.relative)
        self.exact &= exact
        self.ok &= ok
        if not ok:
            self.failed.add(family)


@dataclass
class _EndToEnd:
    """What was seen of the whole model over all samples.

    length_limit: of the relative error, for a model in half precision.
    """

    length_limit: float | None = None
    ok: bool = True
    error: float = 0.0
    length: float = 0.0
    rounded: int = 0
    agreements: list[float] = field(default_factory=list)
    design_difference: float | None = None
    failed: set[str] = field(default_factory=set)

    def add(self, results: Mapping[str, Arrays], want: Arrays, tied: bool) -> None:
        """One sample: the outputs of each family of kernels."""
        differ = [self._differs(got, want, tied, family) for family, got in results.items()]
        self.rounded += any(differ) and tied

    def _differs(self, got: Arrays, want: Arrays, tied: bool, family: str) -> bool:
        differs = False
        for name, expected in want.items():
            error = compare.max_abs_error(got[name], expected)
            self.error = max(self.error, error)
            agreement = compare.top1_agreement(got[name], expected)
            if agreement is not None:
                self.agreements.append(agreement)
            length = compare.relative_error(got[name], expected)
            self.length = max(self.length, length)
            if self.length_limit is not None:
                if not length <= self.length_limit:
                    self.ok = False
                    self.failed.add(family)
            elif error > compare.tolerance(expected):
                differs = True
                if not tied or length > TIED_ERROR:
                    self.ok = False
                    self.failed.add(family)
        return differs


def verify(
    prepared: Prepared,
    recognition: Recognition,
    samples: Sequence[Arrays],
    build: Build,
    target: str,
    progress: Callable[[str], None] = lambda phase: None,
) -> VerifyReport:
    """Compare what `build` makes of the recognised model with onnxruntime.

    samples: inputs by name, each a full set. build: compiles a rewritten model for the target;
    called twice, for the whole model and for the one in which every layer stands alone. Every
    family of kernels that it gives is compared on every sample.

    Every decided layer is run on onnxruntime's values of its inputs: a binary layer must have the
    same integers, a float layer agree within `compare.FLOAT_TOLERANCE`. End to end the outputs
    must agree within the same tolerance, except for samples in which some value lies at a
    threshold so closely that float rounding decides its sign. With layers in half precision
    (`recognition.halves`) the tolerances are `compare.FLOAT16_TOLERANCE` of those layers, and
    `compare.FLOAT16_LENGTH` end to end (`FLOAT16_SIGNS_LENGTH` if anything is binarised); binary
    layers must still have the same integers.

    Raises
    ------
    ModelError, ToolchainError, DeviceError: as `build` and the runners do.
    """
    from bnn_tvm.recognize.expand import expand

    clean, rewritten = Graph(prepared.model), Graph(recognition.model)
    expanded = Graph(expand(recognition.model))
    by_design = any(decision.by_design for decision in recognition.decisions)
    halves = recognition.halves
    truth = expanded if by_design else clean

    whole = build(recognition.model)
    layers = plan(recognition.decisions, rewritten, clean)
    separate = build(layer_model(layers, rewritten)) if layers else {}

    progress("run and compare")
    reference = LayerReference(layers, clean, expanded)
    binarisers = thresholds(rewritten)
    cuts = [name for layer in layers for name in layer.branch.inputs]
    outputs = [value.name for value in prepared.model.graph.output]
    compared = [binariser.tensor for binariser in binarisers if truth.has(binariser.tensor)]
    wanted = list(dict.fromkeys((*outputs, *cuts, *compared)))
    tallies = [
        _Tally(
            compare.FLOAT16_TOLERANCE
            if layer.decision.output in halves
            else compare.FLOAT_TOLERANCE
        )
        for layer in layers
    ]
    limit = compare.FLOAT16_SIGNS_LENGTH if binarisers else compare.FLOAT16_LENGTH
    end_to_end = _EndToEnd(limit if halves else None)
    truth_values = Reference(truth.model, wanted)
    clean_values = Reference(clean.model) if by_design else None
    for batch in _batches((sample, truth_values(sample)) for sample in samples):
        results = _run(whole, [sample for sample, _ in batch])
        for (sample, values), result in zip(batch, results, strict=True):
            want = {name: values[name] for name in outputs}
            end_to_end.add(result, want, margin(binarisers, values) <= TIE)
            if clean_values is not None:
                difference = _difference(want, clean_values(sample))
                end_to_end.design_difference = max(end_to_end.design_difference or 0.0, difference)
        if not separate:
            continue
        inputs = [given(layers, values) for _, values in batch]
        for one, result in zip(inputs, _run(separate, inputs), strict=True):
            expected = reference(one)
            for layer, tally in zip(layers, tallies, strict=True):
                name = layer.decision.output
                for family, got in result.items():
                    tally.add(layer, got[name], expected[name], family)
    reports = tuple(
        LayerReport(
            layer.decision.output,
            layer.decision.binary,
            tally.exact,
            tally.error,
            tally.ok,
            layer.decision.implied,
            None if layer.scale is not None else tally.relative,
            _names(tally.failed),
        )
        for layer, tally in zip(layers, tallies, strict=True)
    )
    agreements = end_to_end.agreements
    return VerifyReport(
        ok=end_to_end.ok and all(report.ok for report in reports),
        target=target,
        emulated=any(runner.emulated for runner in whole.values()),
        samples=len(samples),
        max_abs_error=end_to_end.error,
        top1_agreement=float(np.mean(agreements)) if agreements else None,
        rounded=end_to_end.rounded,
        layers=reports,
        design_difference=end_to_end.design_difference,
        warnings=recognition.warnings,
        relative_error=end_to_end.length if halves else None,
        relative_tolerance=end_to_end.length_limit,
        place=next(iter(whole.values())).place,
        kernels=_names({*whole, *separate}),
        failed_kernels=_names(
            end_to_end.failed.union(*(tally.failed for tally in tallies)),
        ),
    )


def _run(runners: Mapping[str, Runner], samples: Sequence[Arrays]) -> list[dict[str, Arrays]]:
    """For each sample the outputs of every family of kernels."""
    by_family = {family: runner.run_many(samples) for family, runner in runners.items()}
    return [
        {family: results[index] for family, results in by_family.items()}
        for index in range(len(samples))
    ]


def _names(families: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in families if name))


def _batches(
    samples: Iterable[tuple[Arrays, Arrays]],
) -> Iterator[list[tuple[Arrays, Arrays]]]:
    """Samples with their reference values, in lists of at most about `BATCH_BYTES`."""
    batch: list[tuple[Arrays, Arrays]] = []
    nbytes = 0
    for sample, values in samples:
        batch.append((sample, values))
        nbytes += sum(array.nbytes for array in values.values())
        if nbytes >= BATCH_BYTES:
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch


def _difference(got: Arrays, want: Arrays) -> float:
    return max(compare.max_abs_error(got[name], want[name]) for name in want)
