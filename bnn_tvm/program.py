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
    "generic", `macs` multiply-accumulates (0 where that has no meaning). `families` are those of
    the program's `Choice` with which the call is made; none means: always.
    """

    symbol: str
    args: tuple[int, ...]
    layer: str
    kind: str
    kernel: str
    num_outputs: int = 1
    macs: int = 0
    families: tuple[str, ...] = ()


@dataclass(frozen=True)
class KnownCore:
    """A core by its name, its MIDR_EL1's implementer and part number (-1: any), and its family."""

    name: str
    implementer: int
    part: int
    family: str


@dataclass(frozen=True)
class Choice:
    """How a device chooses between families of kernels when it loads the model.

    families: their names, from those for small cores to those for big ones. unknown: the one for
    a core that `cores` lacks; unreadable: the one where no core can be identified.
    """

    families: tuple[str, ...]
    cores: tuple[KnownCore, ...]
    unknown: str
    unreadable: str


@dataclass
class Program:
    """Tensors, calls in execution order, and the module that defines every called symbol.

    With a `choice` a run makes the calls of one of its families, and those common to all.
    """

    tensors: list[Tensor]
    calls: list[Call]
    module: IRModule
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    choice: Choice | None = None

    @property
    def families(self) -> tuple[str, ...]:
        """The ways to run it: the names of the families, or one empty name."""
        return self.choice.families if self.choice else ("",)

    def run_with(self, family: str) -> list[tuple[int, Call]]:
        """The calls of a run with `family`, each with its place in `calls`."""
        return [
            (step, call)
            for step, call in enumerate(self.calls)
            if not call.families or family in call.families
        ]
