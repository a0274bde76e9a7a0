"""The rewritten ONNX graph to Relax, activations in NHWC, binary layers as kernel calls."""

from bnn_tvm.importer.graph import Imported, import_graph

__all__ = ["Imported", "import_graph"]
