"""A program of scheduled kernels to `model.so` and `model.dab`."""

from __future__ import annotations

from bnn_tvm.export.artifact import Artifact
from bnn_tvm.export.builder import build
from bnn_tvm.export.metadata import Metadata

__all__ = ["Artifact", "Metadata", "build"]
