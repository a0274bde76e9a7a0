"""The fused `main` as a Program: numbered tensors, and calls in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import tvm
from tvm import relax, s_tir, tirx
from tvm.ir import IRModule

from bnn_tvm.lower.fuse import Fused, bindings
from bnn_tvm.program import Call, Program, Tensor
from topi_ext.epilogue import leaf_blocks
from topi_ext.kernels import KERNEL, PARAMS, STAGE
from topi_ext.params import ConvParams

# The stage of a kernel that does the multiply-accumulates.
_ACCUMULATE = "acc"


def extract(
    fused: Fused,
    scheduled: IRModule,
    symbols: dict[str, str],
    origins: Mapping[str, tuple[str, str]],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> Program:
    """Read the program out of `main`; `inputs` and `outputs` are the ONNX names in order."""
    return _Extraction(fused, scheduled, symbols, origins).run(inputs, outputs)


class _Extraction:
    def __init__(
        self,
        fused: Fused,
        scheduled: IRModule,
        symbols: dict[str, str],
        origins: Mapping[str, tuple[str, str]],
    ) -> None:
        self.fused = fused
        self.symbols = symbols
        self.origins = origins
        self.program = Program([], [], scheduled)
        self.known: dict[relax.Var, tuple[int, ...]] = {}
        self.constants: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self.kernels = {
            symbol.name_hint: _describe(function)
            for symbol, function in fused.module.functions.items()
            if isinstance(function, tirx.PrimFunc)
        }

    def run(self, inputs: Sequence[str], outputs: Sequence[str]) -> Program:
        main = self.fused.module["main"]
        for name, var in zip(inputs, main.params, strict=True):
            self.known[var] = (self._add(name, var.ty, "input"),)
        self.program.inputs = [self.known[var][0] for var in main.params]
        last: tuple[int, ...] = ()
        for binding, names in zip(bindings(self.fused.module), self.fused.names, strict=True):
            last = self._binding(binding, names)
        result = self.known.get(main.body.body, last)
        shapes = [tuple(int(d) for d in field.shape) for field in main.ret_ty.fields]
        self._mark_outputs(result, outputs, shapes)
        return self.program

    def _binding(self, binding: relax.VarBinding, names: tuple[str, ...]) -> tuple[int, ...]:
        value = binding.value
        if isinstance(value, relax.Tuple):
            ids = tuple(i for field in value.fields for i in self._operand(field))
        elif isinstance(value, relax.TupleGetItem):
            ids = (self._operand(value.tuple_value)[value.index],)
        elif isinstance(value, relax.Var):
            ids = self._operand(value)
        elif value.op.same_as(tvm.ir.Op.get("relax.reshape")):
            ids = self._operand(value.args[0])
        else:
            ids = self._call(value, names)
        self.known[binding.var] = ids
        return ids

    def _operand(self, expr: relax.Expr) -> tuple[int, ...]:
        if isinstance(expr, relax.Var):
            return self.known[expr]
        if isinstance(expr, relax.Tuple):
            return tuple(i for field in expr.fields for i in self._operand(field))
        array = np.ascontiguousarray(expr.value.numpy())
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self.constants:
            tensor = Tensor(
                f"const{len(self.constants)}", array.shape, array.dtype.name, "constant", array
            )
            self.program.tensors.append(tensor)
            self.constants[key] = len(self.program.tensors) - 1
        return (self.constants[key],)

    def _call(self, value: relax.Expr, names: tuple[str, ...]) -> tuple[int, ...]:
        callee = value.args[0].name_hint
        reads = self._operand(value.args[1])
        result = value.ty_args[0] if getattr(value, "ty_args", None) else value.ty
        fields = result.fields if isinstance(result, relax.TupleType) else [result]
        writes = tuple(self._add(f"t{len(self.program.tensors)}", t, "workspace") for t in fields)
        kernel, params = self.kernels[callee]
        layer, kind = self._origin(names, kernel)
        if kernel is not None and params is None:
            kind = "pack"  # bits for a layer, or what its kernel makes of them beforehand
        self.program.calls.append(
            Call(
                symbol=self.symbols[callee],
                args=reads + writes,
                layer=layer,
                kind=kind,
                kernel=kernel or "generic",
                num_outputs=len(writes),
                macs=params.macs if params is not None else 0,
            )
        )
        return writes

    def _origin(self, names: tuple[str, ...], kernel: str | None) -> tuple[str, str]:
        found = [self.origins[name] for name in names if name in self.origins]
        if not found:
            return ("", "other")
        return found[0] if kernel else found[-1]

    def _add(self, name: str, ty: relax.TensorType, role: str) -> int:
        shape = tuple(int(d) for d in ty.shape)
        dtype = ty.dtype.dtype if hasattr(ty.dtype, "dtype") else str(ty.dtype)
        self.program.tensors.append(Tensor(name, shape, str(dtype), role))  # type: ignore[arg-type]
        return len(self.program.tensors) - 1

    def _mark_outputs(
        self, ids: tuple[int, ...], names: Sequence[str], shapes: Sequence[tuple[int, ...]]
    ) -> None:
        """Give outputs their names; one that is an input, a constant or named twice is copied.

        The last kernel may have left an output as a view of another shape; its own is set here.
        """
        for name, index, shape in zip(names, ids, shapes, strict=True):
            tensor = self.program.tensors[index]
            if tensor.role != "workspace":
                index = self._copy(index, name)
                tensor = self.program.tensors[index]
            self.program.tensors[index] = replace(tensor, name=name, role="output", shape=shape)
            self.program.outputs.append(index)

    def _copy(self, index: int, name: str) -> int:
        source = self.program.tensors[index]
        symbol = f"bnn_copy_{source.dtype}_{source.nbytes}"
        self.program.tensors.append(replace(source, name=name, role="output", data=None))
        target = len(self.program.tensors) - 1
        if symbol not in {known.name_hint for known in self.program.module.get_global_vars()}:
            self.program.module.update_func(
                tvm.ir.GlobalVar(symbol), _copy_function(symbol, source.dtype, source.shape)
            )
        self.program.calls.append(Call(symbol, (index, target), name, "copy", "generic"))
        return target


def _describe(function: tirx.PrimFunc) -> tuple[str | None, ConvParams | None]:
    """The kernel whose computation `function` holds, and its shape if it does the MACs."""
    sch = s_tir.Schedule(function)
    kernel: str | None = None
    params: ConvParams | None = None
    for block in leaf_blocks(sch):
        annotations = sch.get(block).annotations
        if KERNEL in annotations and params is None:  # else a pack beside the layer's result
            kernel = str(annotations[KERNEL])
            if str(annotations[STAGE]) == _ACCUMULATE:
                params = ConvParams.parse(str(annotations[PARAMS]))
    return kernel, params


def _copy_function(symbol: str, dtype: str, shape: tuple[int, ...]) -> tirx.PrimFunc:
    from tvm import te

    count = max(int(np.prod(shape, dtype=np.int64)), 1)
    source = te.placeholder((count,), dtype, name="source")
    copied = te.compute((count,), lambda i: source[i], name="copied")
    return te.create_prim_func([source, copied]).with_attr("global_symbol", symbol)
