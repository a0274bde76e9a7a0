"""A compiled model as plain values: what the passes hand to export.

A program is a straight line of kernel calls over numbered tensors. Nothing here knows Relax; the
only TVM object is the module that holds the scheduled PrimFuncs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from tvm.ir import IRModule

Role = Literal["input", "output", "constant", "workspace"]


@dataclass(frozen=True)
class Tensor:
    """One buffer, contiguous, row-major in `shape`.

    `name` is the ONNX name for inputs and outputs, a unique label otherwise. `dtype` is a NumPy
    dtype name. `data` is set for constants alone.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    data: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Call:
    """One kernel call: `symbol(args[0], args[1], ...)`, raw pointers in the order of `args`.

    `args` index `Program.tensors`; the last `num_outputs` of them are written, the others read.
    `layer` is the ONNX output name of the layer that the time belongs to, `kind` the operation
    (conv, binary-conv, pack, pool, elementwise ...), `kernel` the row of the kernel table or
    "generic", `macs` multiply-accumulates (0 where that has no meaning).
    """

    symbol: str
    args: tuple[int, ...]
    layer: str
    kind: str
    kernel: str
    num_outputs: int = 1
    macs: int = 0


@dataclass
class Program:
    """Tensors, calls in execution order, and the module that defines every called symbol."""

    tensors: list[Tensor]
    calls: list[Call]
    module: IRModule
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
