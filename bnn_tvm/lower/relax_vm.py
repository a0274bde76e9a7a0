"""The fused module with its kernels scheduled, for TVM's own virtual machine (`--runtime tvm`)."""

from __future__ import annotations

from tvm import relax, tirx
from tvm.ir import IRModule

from bnn_tvm.lower.fuse import Fused


def with_kernels(fused: Fused, scheduled: IRModule, symbols: dict[str, str]) -> IRModule:
    """`fused.module` in which every PrimFunc is its scheduled form; views become VM reshapes.

    `scheduled` and `symbols` are what `schedule_module` returned. The VM's passes recognise
    reshapes by the bodies of unscheduled functions, so that one runs here, before.
    """
    module = relax.transform.LegalizeOps()(fused.module)
    module = relax.transform.RewriteDataflowReshape()(module)
    for symbol, function in list(module.functions.items()):
        if isinstance(function, tirx.PrimFunc) and symbol.name_hint in symbols:
            done = scheduled[symbols[symbol.name_hint]]
            module.update_func(symbol, done.without_attr("global_symbol"))
    return module
