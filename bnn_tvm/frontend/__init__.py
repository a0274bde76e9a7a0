"""ONNX in, clean ONNX out: checked, static, folded, in one dialect. Every problem is said at once."""

from bnn_tvm.frontend.prepared import Prepared, prepare

__all__ = ["Prepared", "prepare"]
