"""Which tensors are two-valued, which layers are binary, and why: clean ONNX in, decisions out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnn_tvm.recognize.expand import expand
from bnn_tvm.recognize.types import Decision, Recognition

if TYPE_CHECKING:
    from bnn_tvm.frontend import Prepared
    from bnn_tvm.options import CompileOptions

__all__ = ["Decision", "Recognition", "expand", "recognize"]


def recognize(prepared: Prepared, options: CompileOptions) -> Recognition:
    """Decide about every layer of a clean model and rewrite the binary ones.

    Raises UsageError or FileError where a list option is wrong.
    """
    from bnn_tvm.recognize.decide import decide
    from bnn_tvm.recognize.graph import Graph
    from bnn_tvm.recognize.rewrite import rewrite

    graph = Graph(prepared.model)
    outcome = decide(graph, prepared.folded, options, prepared.renamed)
    return Recognition(outcome.decisions, outcome.warnings, rewrite(graph, outcome.plans))
