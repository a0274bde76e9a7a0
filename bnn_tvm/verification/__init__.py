"""Proof that a compiled model computes what its ONNX file says, layer by layer and end to end."""

from bnn_tvm.verification.report import LayerReport, VerifyReport
from bnn_tvm.verification.verify import verify

__all__ = ["LayerReport", "VerifyReport", "verify"]
