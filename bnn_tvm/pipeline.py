"""THE ordered list of what happens to a recognised graph: the table of contents of the compiler.

rewritten ONNX  --graph passes-->  ONNX  --import-->  Relax  --lower-->  Program
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bnn_tvm.recognize.types import Recognition

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from tvm.ir import IRModule

    from bnn_tvm.lower.fuse import Fused
    from bnn_tvm.lower.object_cache import ObjectCache
    from bnn_tvm.program import Program
    from bnn_tvm.targets import TargetSpec

Progress = Callable[[str], None]


def graph_passes() -> tuple[Callable[[ir.Model], bool], ...]:
    """The passes over the recognised ONNX graph, in order."""
    from bnn_tvm.passes.fold_affine import fold_affine
    from bnn_tvm.passes.fold_pad import fold_pad
    from bnn_tvm.passes.sink_binarize import sink_binarize

    return (sink_binarize, fold_pad, fold_affine)


@dataclass(frozen=True)
class Lowered:
    """Scheduled kernels and the fused `main` that calls them, to be read in one of two ways."""

    fused: Fused
    scheduled: IRModule
    symbols: dict[str, str]
    origins: dict[str, tuple[str, str]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def program(self) -> Program:
        """As calls in order, for the C driver."""
        from bnn_tvm.lower.extract import extract

        return extract(
            self.fused, self.scheduled, self.symbols, self.origins, self.inputs, self.outputs
        )

    def vm_module(self) -> IRModule:
        """As a Relax module, for TVM's virtual machine."""
        from bnn_tvm.lower.relax_vm import with_kernels

        return with_kernels(self.fused, self.scheduled, self.symbols)


def simplify(model: onnx.ModelProto) -> ir.Model:
    """A rewritten model after all graph passes."""
    import onnx_ir as ir

    graph = ir.from_proto(model)
    for graph_pass in graph_passes():
        graph_pass(graph)
    return graph


def with_float16(recognition: Recognition) -> Recognition:
    """`recognition` with what computes in half precision, and what does not, said of each layer."""
    from bnn_tvm.passes.float16 import use_float16
    from bnn_tvm.recognize.types import FLOAT16

    plan = use_float16(simplify(recognition.model))
    decisions = []
    for decision in recognition.decisions:
        if decision.output in plan.layers:
            decision = replace(decision, implied=(*decision.implied, FLOAT16))
        elif decision.output in plan.kept:
            why = f"{decision.reason}; in float32: {plan.kept[decision.output]}"
            decision = replace(decision, reason=why)
        decisions.append(decision)
    warnings = (*recognition.warnings, *plan.warnings())
    return Recognition(tuple(decisions), warnings, recognition.model, plan.halves)


def build(
    model: onnx.ModelProto,
    spec: TargetSpec,
    *,
    progress: Progress | None = None,
    dump: Path | None = None,
    cache: ObjectCache | None = None,
    halves: frozenset[str] = frozenset(),
) -> Program:
    """`lower`, as calls in order."""
    return lower(model, spec, progress=progress, dump=dump, cache=cache, halves=halves).program()


def lower(
    model: onnx.ModelProto,
    spec: TargetSpec,
    *,
    progress: Progress | None = None,
    dump: Path | None = None,
    cache: ObjectCache | None = None,
    halves: frozenset[str] = frozenset(),
) -> Lowered:
    """Lower a rewritten model (operators of ONNX and of domain bnn_tvm) for a target.

    `progress` is told the name of each phase as it begins. With `dump`, the module after each
    phase is written into that folder. Functions whose object code is in `cache` stay unscheduled.
    halves: names of the nodes that compute in half precision where that is sound.

    Raises
    ------
    ModelError: an operator cannot be imported in the form in which it stands.
    """
    from bnn_tvm.importer import import_graph
    from bnn_tvm.lower.fuse import fuse
    from bnn_tvm.lower.schedule import schedule_module
    from bnn_tvm.passes.float16 import use_float16

    tell = progress or (lambda phase: None)
    target = spec.tvm_target()

    tell("simplify")
    graph = simplify(model)
    if halves:
        use_float16(graph, halves)
    _dump(dump, "1-simplified.onnx.txt", lambda: str(graph))

    tell("import")
    imported = import_graph(graph, target)
    _dump(dump, "2-imported.py", imported.module.script)

    tell("fuse")
    fused = fuse(imported, target)
    _dump(dump, "3-fused.py", fused.module.script)

    tell("schedule")
    scheduled, symbols = schedule_module(fused.module, target, cache=cache)
    _dump(dump, "4-scheduled.py", scheduled.script)

    return Lowered(
        fused,
        scheduled,
        symbols,
        imported.origins,
        tuple(str(value.name) for value in graph.graph.inputs),
        tuple(str(value.name) for value in graph.graph.outputs),
    )


def _dump(folder: Path | None, name: str, text: Callable[[], str]) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text(), encoding="utf-8")
