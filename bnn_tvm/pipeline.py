"""THE ordered list of what happens to a recognised graph: the table of contents of the compiler.

rewritten ONNX  --graph passes-->  ONNX  --import-->  Relax  --lower-->  Program
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from bnn_tvm.program import Program
    from bnn_tvm.targets import TargetSpec

Progress = Callable[[str], None]


def graph_passes() -> tuple[Callable[[ir.Model], bool], ...]:
    """The passes over the recognised ONNX graph, in order."""
    from bnn_tvm.passes.fold_affine import fold_affine
    from bnn_tvm.passes.fold_pad import fold_pad
    from bnn_tvm.passes.sink_binarize import sink_binarize

    return (sink_binarize, fold_pad, fold_affine)


def build(
    model: onnx.ModelProto,
    spec: TargetSpec,
    *,
    progress: Progress | None = None,
    dump: Path | None = None,
) -> Program:
    """Lower a rewritten model (operators of ONNX and of domain bnn_tvm) for a target.

    `progress` is told the name of each phase as it begins. With `dump`, the module after each
    phase is written into that folder.

    Raises
    ------
    ModelError: an operator cannot be imported in the form in which it stands.
    """
    import onnx_ir as ir

    from bnn_tvm.importer import import_graph
    from bnn_tvm.lower.extract import extract
    from bnn_tvm.lower.fuse import fuse
    from bnn_tvm.lower.schedule import schedule_module

    tell = progress or (lambda phase: None)
    target = spec.tvm_target()

    tell("simplify")
    graph = ir.from_proto(model)
    for graph_pass in graph_passes():
        graph_pass(graph)
    _dump(dump, "1-simplified.onnx.txt", lambda: str(graph))

    tell("import")
    imported = import_graph(graph, target)
    _dump(dump, "2-imported.py", imported.module.script)

    tell("fuse")
    fused = fuse(imported, target)
    _dump(dump, "3-fused.py", fused.module.script)

    tell("schedule")
    scheduled, symbols = schedule_module(fused.module, target)
    _dump(dump, "4-scheduled.py", scheduled.script)

    return extract(
        fused,
        scheduled,
        symbols,
        imported.origins,
        [str(value.name) for value in graph.graph.inputs],
        [str(value.name) for value in graph.graph.outputs],
    )


def _dump(folder: Path | None, name: str, text: Callable[[], str]) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text(), encoding="utf-8")
