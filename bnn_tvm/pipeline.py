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
class Variant:
    """The fused `main` with the kernels of one family, and the symbols of what it calls.

    `origins`: the (layer, kind) of each binding.
    """

    fused: Fused
    symbols: dict[str, str]
    origins: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Lowered:
    """Scheduled kernels and the fused `main` that calls them, to be read in one of two ways.

    `variants`: by family of kernels; one of an empty name where there is no choice.
    """

    variants: dict[str, Variant]
    scheduled: IRModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def program(self) -> Program:
        """As calls in order, for the C driver; those that all variants make are made once."""
        from bnn_tvm.lower.choice import choice_by_core
        from bnn_tvm.lower.extract import extract
        from bnn_tvm.lower.merge import merge

        programs = {
            family: extract(
                v.fused, self.scheduled, v.symbols, v.origins, self.inputs, self.outputs
            )
            for family, v in self.variants.items()
        }
        if len(programs) == 1:
            return next(iter(programs.values()))
        return merge(programs, choice_by_core())

    def vm_module(self) -> IRModule:
        """As a Relax module, for TVM's virtual machine: with the first family's kernels."""
        from bnn_tvm.lower.relax_vm import with_kernels

        variant = next(iter(self.variants.values()))
        return with_kernels(variant.fused, self.scheduled, variant.symbols)


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
    winograd: bool = True,
) -> Program:
    """`lower`, as calls in order."""
    lowered = lower(
        model, spec, progress=progress, dump=dump, cache=cache, halves=halves, winograd=winograd
    )
    return lowered.program()


def lower(
    model: onnx.ModelProto,
    spec: TargetSpec,
    *,
    progress: Progress | None = None,
    dump: Path | None = None,
    cache: ObjectCache | None = None,
    halves: frozenset[str] = frozenset(),
    winograd: bool = True,
) -> Lowered:
    """Lower a rewritten model (operators of ONNX and of domain bnn_tvm) for a target.

    Where the target leaves the choice between families of kernels to the device, the kernels are
    chosen, fused and scheduled once for each of them; functions that are the same are scheduled
    once. `progress` is told the name of each phase as it begins. With `dump`, the module after each
    phase is written into that folder. Functions whose object code is in `cache` stay unscheduled.
    halves: names of the nodes that compute in half precision where that is sound.
    Without `winograd`, float convolutions add up plain products.

    Raises
    ------
    ModelError: an operator cannot be imported in the form in which it stands.
    """
    from bnn_tvm.importer import import_graph
    from bnn_tvm.lower.beside import pack_beside
    from bnn_tvm.lower.fuse import fuse
    from bnn_tvm.lower.schedule import Scheduled, schedule_module
    from bnn_tvm.passes.float16 import use_float16

    tell = progress or (lambda phase: None)
    target = spec.tvm_target()

    tell("simplify")
    graph = simplify(model)
    if halves:
        use_float16(graph, halves)
    _dump(dump, "1-simplified.onnx.txt", lambda: str(graph))

    variants = {}
    scheduled = Scheduled()
    for family in spec.families or ("",):
        label = f"-{family}" if family else ""
        tell("import")
        imported = import_graph(graph, spec.selection_target(family or None), winograd)
        _dump(dump, f"2-imported{label}.py", imported.module.script)

        tell("fuse")
        fused = pack_beside(fuse(imported, target))
        _dump(dump, f"3-fused{label}.py", fused.module.script)

        tell("schedule")
        symbols = schedule_module(fused.module, target, scheduled, cache=cache)
        variants[family] = Variant(fused, symbols, imported.origins)
    module = scheduled.module()
    _dump(dump, "4-scheduled.py", module.script)

    return Lowered(
        variants,
        module,
        tuple(str(value.name) for value in graph.graph.inputs),
        tuple(str(value.name) for value in graph.graph.outputs),
    )


def _dump(folder: Path | None, name: str, text: Callable[[], str]) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text(), encoding="utf-8")
