"""Running compiled models: the Python loader, and the C runtime that goes into every model.so."""

from __future__ import annotations

from bnn_tvm.runtime.model import Model, load

__all__ = ["Model", "load"]
