"""Run a Program in this process through TVM, without export: to test lowering on its own."""

from __future__ import annotations

import numpy as np
import tvm
from tvm.target import Target

from bnn_tvm.program import Program


def run_program(program: Program, target: Target, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Call every kernel in order on host memory; returns the outputs in order."""
    library = tvm.compile(program.module, target=target)
    buffers = []
    for tensor in program.tensors:
        if tensor.role == "constant":
            array = tensor.data
        elif tensor.role == "input":
            array = feeds[tensor.name]
        else:
            array = np.empty(tensor.shape, tensor.dtype)
        buffers.append(tvm.runtime.tensor(np.ascontiguousarray(array)))
    for call in program.calls:
        function = library[call.symbol]
        signature = program.module[call.symbol].params
        args = []
        for index, parameter in zip(call.args, signature, strict=True):
            shape = tuple(int(d) for d in parameter.ty.shape)
            args.append(_view(buffers[index], shape))
        function(*args)
    return [buffers[i].numpy().reshape(program.tensors[i].shape) for i in program.outputs]


def _view(tensor: tvm.runtime.Tensor, shape: tuple[int, ...]) -> tvm.runtime.Tensor:
    return tensor if tuple(tensor.shape) == shape else tensor._create_view(shape)
