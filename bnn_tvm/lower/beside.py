"""Packs that read the result of a binary layer, into the layer's own kernel.

The layer then has two results, floats and packed words (`topi_ext.beside`); only words if nobody
else reads the floats. Where a kernel cannot
write both, or a second pack wants other words, the pack stays a call of its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import tvm
from tvm import relax, tirx
from tvm.ir import IRModule

from bnn_tvm.lower.fuse import Fused, bindings
from topi_ext.beside import join, refusal
from topi_ext.epilogue import holds_stage
from topi_ext.kernels import PACK


@dataclass
class _Pair:
    """A layer's binding and the pack that goes into it."""

    layer: relax.VarBinding
    pack: relax.VarBinding
    floats_too: bool


def pack_beside(fused: Fused) -> Fused:
    """`fused` with packs joined to the functions that write what they read."""
    return _Joining(fused).run()


class _Joining:
    def __init__(self, fused: Fused) -> None:
        self.fused = fused
        self.builder = relax.BlockBuilder(fused.module)
        self.joined: dict[tuple[str, str, bool], tvm.ir.GlobalVar | None] = {}

    def run(self) -> Fused:
        rows = list(zip(bindings(self.fused.module), self.fused.names, strict=True))
        pairs = self._pairs([binding for binding, _ in rows])
        if not pairs:
            return self.fused
        packs = {pair.pack.var: pair for pair in pairs.values()}
        named = {binding.var: names for binding, names in rows}
        made: list[tuple[relax.Binding, tuple[str, ...]]] = []
        for binding, names in rows:
            if binding.var in packs:
                continue
            if binding.var not in pairs:
                made.append((binding, names))
                continue
            pair = pairs[binding.var]
            both = self._call(pair)
            made.append((both, names + named[pair.pack.var]))
            if not pair.floats_too:
                continue
            for index, part in enumerate((pair.layer, pair.pack)):
                item = self.builder.normalize(relax.TupleGetItem(both.var, index))
                made.append((relax.VarBinding(part.var, item), ()))
        return self._with([binding for binding, _ in made], tuple(names for _, names in made))

    def _pairs(self, found: list[relax.VarBinding]) -> dict[relax.Var, _Pair]:
        """By the layer's variable; of several packs the first that its kernel can take."""
        layers = {binding.var: binding for binding in found if _callee(binding.value)}
        uses = Counter(var for binding in found for var in _reads(binding.value))
        pairs: dict[relax.Var, _Pair] = {}
        for binding in found:
            name = _callee(binding.value)
            if name is None or not holds_stage(self._function(name), PACK):
                continue
            source, *rest = _operands(binding.value)
            layer = layers.get(source) if isinstance(source, relax.Var) else None
            # What else the pack reads must be there when the layer runs: constants are.
            if layer is None or layer.var in pairs or any(isinstance(e, relax.Var) for e in rest):
                continue
            floats_too = uses[layer.var] > 1
            if self._join(_callee(layer.value) or "", name, floats_too) is not None:
                pairs[layer.var] = _Pair(layer, binding, floats_too)
        return pairs

    def _function(self, name: str) -> tirx.PrimFunc:
        return self.fused.module[name]

    def _join(self, layer: str, pack: str, floats_too: bool) -> tvm.ir.GlobalVar | None:
        """The function of both; None where the kernel refuses."""
        key = (layer, pack, floats_too)
        if key not in self.joined:
            functions = self._function(layer), self._function(pack)
            self.joined[key] = None
            if refusal(*functions) is None:
                done = join(*functions, floats_too=floats_too)
                self.joined[key] = self.builder.add_func(done, f"{layer}_{pack}")
        return self.joined[key]

    def _call(self, pair: _Pair) -> relax.VarBinding:
        layer, pack = pair.layer.value, pair.pack.value
        symbol = self._join(_callee(layer) or "", _callee(pack) or "", pair.floats_too)
        args = [*_operands(layer), *_operands(pack)[1:]]
        if not pair.floats_too:
            call = relax.call_tir(symbol, args, pair.pack.var.ty)
            return relax.VarBinding(pair.pack.var, self.builder.normalize(call))
        types = [pair.layer.var.ty, pair.pack.var.ty]
        var = relax.DataflowVar(f"{pair.layer.var.name}_beside", relax.TupleType(types))
        return relax.VarBinding(var, self.builder.normalize(relax.call_tir(symbol, args, types)))

    def _with(self, made: list[relax.Binding], names: tuple[tuple[str, ...], ...]) -> Fused:
        module = self.builder.get()
        main = module["main"]
        (block,) = main.body.blocks
        body = self.builder.normalize(relax.SeqExpr([type(block)(made)], main.body.body))
        function = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
        called = {_callee(binding.value) for binding in made}
        kept = {
            symbol: function if symbol.name_hint == "main" else other
            for symbol, other in module.functions.items()
            if symbol.name_hint == "main" or symbol.name_hint in called
        }
        return Fused(IRModule(kept, attrs=module.attrs), names)


def _callee(value: relax.Expr) -> str | None:
    """The function that a call_tir calls."""
    if isinstance(value, tvm.ir.Call) and value.op.same_as(tvm.ir.Op.get("relax.call_tir")):
        return str(value.args[0].name_hint)
    return None


def _operands(value: relax.Expr) -> list[relax.Expr]:
    operands = value.args[1]
    return list(operands.fields) if isinstance(operands, relax.Tuple) else [operands]


def _reads(value: relax.Expr) -> list[relax.Var]:
    """The variables in an expression, each as often as it stands there."""
    found: list[relax.Var] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Var):
            found.append(expr)

    relax.analysis.post_order_visit(value, visit)
    return found
