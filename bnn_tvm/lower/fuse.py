"""Relax operators to PrimFuncs, and elementwise ones into the kernel before them."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import relax, tirx
from tvm.ir import IRModule
from tvm.target import Target

from bnn_tvm.importer import Imported

# Of the pattern kinds of FuseOps: fuses with nothing; elementwise operators may follow it.
_OPAQUE, _OUT_ELEMWISE = 8, 4


@dataclass(frozen=True)
class Fused:
    """`module.main` is a sequence of call_tir and reshape; `names[i]` are the bindings of the
    imported function that went into its i-th binding."""

    module: IRModule
    names: tuple[tuple[str, ...], ...]


def fuse(imported: Imported, target: Target) -> Fused:
    """Lower every Relax operator but reshape, which stays a view, and fuse."""
    with target:
        module = relax.transform.LegalizeOps(skip_ops=["relax.reshape"])(imported.module)
    module = _set_patterns(module, imported.opaque)
    module = relax.transform.AnnotateTIROpPattern()(module)
    separate = module
    module = relax.transform.FuseOps()(module)
    names = _Origins(separate).of(module)
    module = relax.transform.FuseTIR()(module)
    fused = Fused(module, names)
    if len(bindings(module)) != len(names):
        raise RuntimeError("FuseTIR changed the number of bindings")
    return fused


def bindings(module: IRModule) -> list[relax.VarBinding]:
    """The bindings of `main`, in order."""
    return [binding for block in module["main"].body.blocks for binding in block.bindings]


def _set_patterns(module: IRModule, opaque: frozenset[str]) -> IRModule:
    for symbol, function in list(module.functions.items()):
        if not isinstance(function, tirx.PrimFunc):
            continue
        if symbol.name_hint in opaque:
            module.update_func(symbol, function.with_attr("op_pattern", _OPAQUE))
    return module


class _Origins:
    """Which bindings of the module before FuseOps went into each binding after it.

    FuseOps shares one function among equal groups, so the names inside a function tell nothing
    about a call. A call is therefore replayed: each PrimFunc call inside the function, with the
    call's operands put in, is a binding of the module before.
    """

    def __init__(self, before: IRModule) -> None:
        self._names = {
            self._key(binding.value, {}): binding.var.name
            for binding in bindings(before)
            if _is_call_tir(binding.value)
        }

    def of(self, after: IRModule) -> tuple[tuple[str, ...], ...]:
        """Names of the old bindings, per new one."""
        resolved: dict[relax.Var, str] = {}
        groups = []
        for binding in bindings(after):
            value = binding.value
            function = (
                after.functions.get(value.op)
                if isinstance(value, tvm.ir.Call) and (isinstance(value.op, tvm.ir.GlobalVar))
                else None
            )
            if isinstance(function, relax.Function):
                inside = {
                    parameter: self._operand(argument, resolved)
                    for parameter, argument in zip(function.params, value.args, strict=True)
                }
                names = []
                for inner in (b for block in function.body.blocks for b in block.bindings):
                    name = self._names.get(self._key(inner.value, inside), "")
                    inside[inner.var] = name
                    names.append(name)
                resolved[binding.var] = inside.get(function.body.body, names[-1])
                groups.append(tuple(names))
                continue
            name = binding.var.name
            if _is_call_tir(value):
                name = self._names.get(self._key(value, resolved), name)
            resolved[binding.var] = name
            groups.append((name,))
        return tuple(groups)

    def _key(self, value: relax.Expr, known: dict[relax.Var, str]) -> tuple[str, ...]:
        if not _is_call_tir(value):
            return ()
        operands = (
            value.args[1].fields if isinstance(value.args[1], relax.Tuple) else value.args[1:]
        )
        return (value.args[0].name_hint, *(self._operand(o, known) for o in operands))

    @staticmethod
    def _operand(expr: relax.Expr, known: dict[relax.Var, str]) -> str:
        if isinstance(expr, relax.Var):
            return known.get(expr, expr.name)
        return f"#{hash(expr)}"  # a constant: known by its identity


def _is_call_tir(value: relax.Expr) -> bool:
    return isinstance(value, tvm.ir.Call) and value.op.same_as(tvm.ir.Op.get("relax.call_tir"))
