"""ONNX in, clean ONNX out: checked, static, folded, in one dialect."""

from bnn_tvm.frontend.prepared import Prepared, prepare

__all__ = ["Prepared", "prepare"]
