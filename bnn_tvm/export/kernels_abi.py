"""TIR kernels to object code with a raw C ABI: `int32_t symbol(T0 *, T1 *, ...)`.

TVM's own pipeline wraps every function in the packed calling convention, which needs the TVM
runtime on the device. Here the same lowering runs with that one step replaced: parameters become
plain pointers, so that a C driver can call the kernels directly. The objects then
need libc, libm for exp and the like, and TVM's weak function slots, which the C runtime fills.

This file holds the version-sensitive spellings of TVM's lowering; they follow
`tvm.s_tir.pipeline.default_s_tir_pipeline` of the pinned version, less the accelerator passes.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnn_tvm.errors import ToolchainError
from bnn_tvm.export.object_file import align_code

if TYPE_CHECKING:
    import tvm
    from tvm.ir import IRModule
    from tvm.target import Target
    from tvm.tirx import PrimFunc

#: In the object every kernel is called `kernel_<symbol>`: TVM's own names (`exp`, `add`) could be
#: those of C functions.
PREFIX = "kernel_"
#: DLPack's device type of a CPU, which the workspace calls of a kernel carry.
_DL_CPU = 1
#: TVM's CallingConv.kDeviceKernelLaunch: arguments are passed one by one, not packed.
_DIRECT_CALL = 2


@dataclass(frozen=True)
class Parameter:
    """One buffer parameter of a kernel: NumPy dtype name and number of elements."""

    dtype: str
    count: int


def parameters_of(module: IRModule, symbols: set[str]) -> dict[str, tuple[Parameter, ...]]:
    """The parameters of the kernels `symbols`, scheduled or not, to check the calls against.

    Raises `ToolchainError` if a symbol is missing or a parameter is no buffer.
    """
    return _select(module, symbols)[1]


def compile_objects(module: IRModule, symbols: set[str], target: Target) -> dict[str, bytes]:
    """Compile the kernels `symbols` of `module` for `target`, an object file for each, whose code
    begins on a cache line.

    Kernels are compiled side by side in threads, as many as there are processors: TVM and LLVM
    work without Python's lock. Raises `ToolchainError` if a symbol is missing, a parameter is no
    buffer, or code generation fails.
    """

    def compile_one(symbol: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="bnn_tvm-") as folder:
            path = Path(folder) / "kernel.o"
            _generate(module, {symbol}, target).write_to_file(str(path), "o")
            return align_code(path.read_bytes())

    names = sorted(symbols)
    _select(module, symbols)  # what is wrong is said before the work begins
    try:
        with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 8)) as pool:
            objects = dict(zip(names, pool.map(compile_one, names), strict=True))
    except Exception as exc:
        raise ToolchainError(
            f"TVM could not generate code: {_last_line(exc)}",
            hint="this is a limit of a kernel or of TVM; rerun with --debug for the whole message",
        ) from exc
    return objects


def _generate(module: IRModule, symbols: set[str], target: Target) -> Any:
    """TVM's module of machine code."""
    import tvm

    selected, _ = _select(module, symbols)
    return tvm.get_global_func("target.build.llvm")(lower(selected, target), target)


def assembly(module: IRModule, symbols: set[str], target: Target) -> str:
    """The assembly text of the same code that `compile_objects` makes."""
    return str(_generate(module, symbols, target).inspect_source("s"))


def lower(mod: IRModule, target: Target) -> IRModule:
    """Scheduled S-TIR functions to low-level TIR with the raw ABI, as `target.build.llvm` takes."""
    import tvm
    from tvm import s_tir, tirx

    st = s_tir.transform
    tt = tirx.transform
    passes = [
        tt.BindTarget(target.with_host(target)),
        st.CanonicalizeLoop(),
        st.LowerInitBlock(),
        st.PlanAndUpdateBufferAllocationLocation(),
        st.ConvertBlocksToOpaque(),
        st.CompactBufferAllocation(),
        st.LowerMatchBuffer(),
        st.StmtSimplify(),
        st.AnnotateIrregularLoop(),
        st.LowerOpaqueBlock(),
        tt.FlattenBuffer(),
        tt.BF16ComputeLegalize(),
        tt.NarrowDataType(32),
        st.LoopPartition(),
        tt.VectorizeLoop(True),
        _joined_maxima(target),
        tt.StorageRewrite(),
        st.HoistIfThenElse(),
        tt.UnrollLoop(),
        st.RenormalizeSplitPattern(),
        tt.StmtSimplify(),
        tt.RemoveNoOp(),
        st.RewriteUnsafeSelect(),
        tt.CommonSubexprElim(),
        tt.FP8ComputeLegalize(),
        tt.VerifyMemory(),
        _raw_parameters(),
        tt.FP8StorageLegalize(),
        tt.BF16StorageLegalize(),
        tt.LowerTVMBuiltin(),
        tt.LowerIntrin(),
    ]
    with target:
        return tvm.ir.transform.Sequential(passes)(mod)


def _joined_maxima(target: Target) -> tvm.transform.Pass:
    """The pass that has arm64 take maxima of float vectors in one instruction."""
    from topi_ext.arm_cpu.maxima import join_maxima

    return _each_function("JoinMaxima", lambda func: join_maxima(func, target))


def _raw_parameters() -> tvm.transform.Pass:
    """The pass that stands where MakePackedAPI stood."""
    return _each_function("RawParameters", _raw_function)


def _each_function(name: str, change: Callable[[PrimFunc], PrimFunc]) -> tvm.transform.Pass:
    """A pass that makes one function of another."""
    import tvm

    @tvm.transform.module_pass(opt_level=0, name=f"bnn_tvm.{name}")
    def _pass(mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        for gvar, func in list(mod.functions.items()):
            mod.update_func(gvar, change(func))
        return mod

    return _pass


def _raw_function(func: PrimFunc) -> PrimFunc:
    """Buffer parameters to pointers, and an int32 result that is 0."""
    import tvm
    from tvm import tirx

    data = []
    declarations = []
    for param in func.params:
        pointer = tirx.Var(param.name + "_data", tvm.ir.PointerType(tvm.ir.PrimType(param.dtype)))
        data.append(pointer)
        declarations.append(tirx.DeclBuffer(param, data=pointer))
    zero = tirx.const(0, "int32")
    body = tirx.SeqStmt([*declarations, func.body])
    for key, value in (("device_type", _DL_CPU), ("device_id", 0)):
        body = tirx.AttrStmt(zero, key, tirx.const(value, "int32"), body)
    # The return stands outside: LowerTVMBuiltin frees workspaces at the end of the inner scope.
    body = tirx.SeqStmt([body, tirx.stmt.Return(zero)])
    raw = tirx.PrimFunc(data, body, tvm.ir.PrimType("int32"), attrs=func.attrs)
    return raw.with_attr("calling_conv", _DIRECT_CALL)


def _select(
    module: IRModule, symbols: set[str]
) -> tuple[IRModule, dict[str, tuple[Parameter, ...]]]:
    """The called functions alone, public under their symbols, and their parameters."""
    import tvm

    by_name = {gvar.name_hint: func for gvar, func in module.functions.items()}
    missing = sorted(symbols - by_name.keys())
    if missing:
        raise ToolchainError(
            f"the program calls kernels that its module lacks: {', '.join(missing)}",
            hint="this is a bug in bnn_tvm's passes; please report it with the model",
        )
    parameters = {}
    functions = {}
    for name in sorted(symbols):
        func = by_name[name]
        if not isinstance(func, tvm.tirx.PrimFunc):
            raise ToolchainError(f"{name} is no kernel but a {type(func).__name__}")
        if re.fullmatch(r"\w+", name, re.ASCII) is None:
            raise ToolchainError(f"{name!r} is no C name for a kernel")
        parameters[name] = tuple(_parameter(name, param) for param in func.params)
        functions[PREFIX + name] = func.with_attr("global_symbol", PREFIX + name)
    return tvm.IRModule(functions), parameters


def _parameter(name: str, param: Any) -> Parameter:
    """Raises `ToolchainError` for a scalar or a buffer of unknown size."""
    try:
        count = 1
        for extent in param.shape:
            count *= int(extent)
        return Parameter(str(param.dtype), count)
    except (TypeError, AttributeError, ValueError):
        raise ToolchainError(
            f"parameter {param.name} of the kernel {name} is no buffer of a fixed shape",
            hint="this is a bug in bnn_tvm's passes; please report it with the model",
        ) from None


def _last_line(exc: BaseException) -> str:
    """The last line of a TVM error, which is the one that says what failed."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__
