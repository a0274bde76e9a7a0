"""Schedule every PrimFunc once: functions that are the same function share one symbol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import tvm_ffi
from tvm import tirx
from tvm.ir import IRModule
from tvm.target import Target

from bnn_tvm.lower import object_cache
from topi_ext.schedule import schedule_primfunc

Progress = Callable[[int, int], None]

object_cache.versions()  # as early as can be: what they are while this process loads its code


@dataclass
class Scheduled:
    """Scheduled functions by symbol, and those that they stand for by structural hash."""

    functions: dict[str, tirx.PrimFunc] = field(default_factory=dict)
    sources: dict[int, list[tuple[tirx.PrimFunc, str]]] = field(default_factory=dict)

    def module(self) -> IRModule:
        """The scheduled functions alone, each with its global symbol."""
        return IRModule(self.functions)


def schedule_module(
    module: IRModule,
    target: Target,
    scheduled: Scheduled,
    progress: Progress | None = None,
    cache: object_cache.ObjectCache | None = None,
) -> dict[str, str]:
    """Schedule those PrimFuncs of `module` for `target` that `scheduled` lacks, and add them.

    Returns the map from the names that `main` calls to the symbols that stand for them (layers of
    one shape share a kernel; their weights are arguments). A symbol depends on nothing but the
    function, the target and the versions. A function whose code is in `cache` is taken as it is:
    nothing but its parameters will be needed.
    """
    symbols: dict[str, str] = {}
    functions = [
        (symbol.name_hint, function)
        for symbol, function in module.functions.items()
        if isinstance(function, tirx.PrimFunc)
    ]
    for index, (name, function) in enumerate(functions):
        bucket = scheduled.sources.setdefault(tvm_ffi.structural_hash(function), [])
        twin = next((s for f, s in bucket if tvm_ffi.structural_equal(f, function)), None)
        if twin is None:
            symbol = object_cache.kernel_symbol(name, function, target)
            cached = cache is not None and cache.look_up(symbol)
            done = function if cached else schedule_primfunc(function, target)
            scheduled.functions[symbol] = done.with_attr("global_symbol", symbol)
            bucket.append((function, symbol))
            twin = symbol
        symbols[name] = twin
        if progress is not None:
            progress(index + 1, len(functions))
    return symbols
