"""bnn_tvm compiles a binary neural network in ONNX into a self-contained library.

    import bnn_tvm
    compiled = bnn_tvm.compile_model("model.onnx", target="arm64")
    compiled.save("out/model")
    model = bnn_tvm.load("out/model.so")
    y = model.run(x)

The public names are imported on first use, so that `import bnn_tvm` costs nothing. `verify`,
`bench` and `inspect` are functions of `bnn_tvm.api`: here these names are the command modules.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "compile_model": "bnn_tvm.api",
    "load": "bnn_tvm.api",
    "Compiled": "bnn_tvm.api",
    "CompileOptions": "bnn_tvm.options",
    "BnnError": "bnn_tvm.errors",
    "UsageError": "bnn_tvm.errors",
    "ModelError": "bnn_tvm.errors",
    "ToolchainError": "bnn_tvm.errors",
    "DeviceError": "bnn_tvm.errors",
    "FileError": "bnn_tvm.errors",
}

__all__ = [
    "BnnError",
    "CompileOptions",
    "Compiled",
    "DeviceError",
    "FileError",
    "ModelError",
    "ToolchainError",
    "UsageError",
    "__version__",
    "compile_model",
    "load",
]

if TYPE_CHECKING:
    from bnn_tvm.api import Compiled, compile_model, load
    from bnn_tvm.errors import (
        BnnError,
        DeviceError,
        FileError,
        ModelError,
        ToolchainError,
        UsageError,
    )
    from bnn_tvm.options import CompileOptions


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bnn_tvm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
