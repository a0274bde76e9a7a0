"""What is in a compiled model or an ONNX file, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnn_tvm.export.metadata import Metadata, TensorInfo
    from bnn_tvm.frontend import Prepared
    from bnn_tvm.recognize import Decision


@dataclass(frozen=True)
class Inspection:
    """One file. `facts` are its single properties in the order to show them.

    inputs, outputs: name, shape, dtype. layers: kernel calls of a compiled model in execution
    order, empty for an ONNX file. decisions: one per Conv, Gemm and MatMul.
    """

    kind: str
    facts: dict[str, Any]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "kind": self.kind,
            **self.facts,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "layers": self.layers,
            "decisions": self.decisions,
            "warnings": list(self.warnings),
        }


def decision_dict(decision: Any) -> dict[str, Any]:
    """A decision under the keys that `--json` promises; `decision` is of either stage."""
    return {
        "output": decision.output,
        "op": decision.op,
        "binary": decision.binary,
        "rule": decision.rule or None,
        "reason": decision.reason,
        "implied": list(decision.implied),
    }


def _float_layers(decisions: Sequence[Any]) -> str:
    """What float layers compute in."""
    halves = sum("float16" in decision.implied for decision in decisions)
    floats = sum(not decision.binary for decision in decisions)
    if not halves:
        return "float32"
    return f"{halves} of {floats} in half precision (float16): the result is inexact"


def _tensors(infos: Sequence[TensorInfo]) -> list[dict[str, Any]]:
    return [
        {"name": i.name, "shape": list(i.shape), "dtype": i.dtype, "layout": i.layout}
        for i in infos
    ]


def of_metadata(metadata: Metadata) -> Inspection:
    """What a `.dab` says."""
    facts: dict[str, Any] = {
        "source": metadata.source,
        "source_sha256": metadata.source_sha256,
        "tool_version": metadata.tool_version,
        "tvm_version": metadata.tvm_version,
        "mode": metadata.mode,
        "options": dict(metadata.options),
        "float_layers": _float_layers(metadata.decisions),
        "target": metadata.target,
        "triple": metadata.triple,
        "cpu": metadata.cpu,
        "features": list(metadata.features),
        "isa": metadata.isa,
        "runtime": metadata.runtime,
        "workspace_bytes": metadata.workspace_bytes,
        "largest_live_bytes": metadata.largest_live_bytes,
        "weight_bytes": metadata.weight_bytes,
        "so_bytes": metadata.so_bytes,
        "so_sha256": metadata.so_sha256,
        "tuning_records": list(metadata.tuning_records),
        "self_test": metadata.test_vector is not None,
        "families": [asdict(family) for family in metadata.families],
        "family_rule": metadata.family_rule or None,
    }
    layers = []
    for layer in metadata.layers:
        row = asdict(layer)
        for name in ("input_shape", "output_shape", "families"):
            row[name] = list(row[name])
        layers.append(row)
    return Inspection(
        "compiled",
        facts,
        _tensors(metadata.inputs),
        _tensors(metadata.outputs),
        layers,
        [decision_dict(decision) for decision in metadata.decisions],
        tuple(metadata.warnings),
    )


def of_onnx(
    prepared: Prepared,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    decisions: Sequence[Decision],
    warnings: tuple[str, ...],
    mode: str,
) -> Inspection:
    """What would be decided about an ONNX file, without compiling it."""
    graph = prepared.model.graph
    operators: dict[str, int] = {}
    for node in graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    facts: dict[str, Any] = {
        "source": prepared.source,
        "source_sha256": prepared.sha256,
        "mode": mode,
        "operators": operators,
        "float_layers": _float_layers(decisions),
        "notes": list(prepared.notes),
    }
    return Inspection(
        "onnx",
        facts,
        _tensors(inputs),
        _tensors(outputs),
        [],
        [decision_dict(decision) for decision in decisions],
        warnings,
    )
