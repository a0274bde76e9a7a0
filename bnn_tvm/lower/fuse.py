"""Relax operators to PrimFuncs, and elementwise ones into the kernel before them."""

from __future__ import annotations

from dataclasses import dataclass

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
    module = relax.transform.FuseOps()(module)
    names = _binding_names(module)
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


def _binding_names(module: IRModule) -> tuple[tuple[str, ...], ...]:
    names = []
    for binding in bindings(module):
        inner = [binding.var.name]
        callee = getattr(binding.value, "op", None)
        function = module.functions.get(callee) if hasattr(callee, "name_hint") else None
        if isinstance(function, relax.Function):
            inner = [b.var.name for block in function.body.blocks for b in block.bindings]
        names.append(tuple(inner))
    return tuple(names)
