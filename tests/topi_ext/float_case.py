"""Build, run and check one float kernel with the epilogues that follow it in networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import te, tirx, topi
from tvm.target import Target

from topi_ext import reference
from topi_ext.kernels import Kernel
from topi_ext.params import ConvParams
from topi_ext.schedule import schedule_primfunc

EPILOGUES = ("none", "relu", "prelu", "shortcut", "transposed", "bias", "added", "bare bias")


def host() -> Target:
    """This machine: its core and its features."""
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    triple = tvm.target.codegen.llvm_get_system_triple()
    return Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu, "num-cores": 2})


_EXTRA_OF: dict[str, Callable[..., list[np.ndarray]]] = {
    "relu": lambda slope, shortcut: [],
    "transposed": lambda slope, shortcut: [],
    "prelu": lambda slope, shortcut: [slope],
    "shortcut": lambda slope, shortcut: [shortcut],
}


@dataclass(frozen=True)
class FloatCase:
    """A function of a kernel with its epilogue, its operands, and the truth with its tolerance."""

    func: tirx.PrimFunc
    operands: list[np.ndarray]
    expected: np.ndarray
    tolerance: np.ndarray

    def check(self, actual: np.ndarray, what: str) -> None:
        """Assert that `actual` is within the kernel's rounding of the truth."""
        wrong = ~(np.abs(actual - self.expected) <= self.tolerance)
        assert not wrong.any(), f"{what}: {wrong.sum()} of {wrong.size} elements are wrong"


def make(kernel: Kernel, params: ConvParams, epilogue: str, rank: int = 4) -> FloatCase:
    """Random data of the kernel's dtype, and float64 truth by the reference.

    rank 2 makes a dense layer on [rows, k], 4 a convolution on NHWC data.
    """
    p, dtype = params, kernel.dtype
    rng = np.random.default_rng(7)
    x = rng.standard_normal((p.n, p.h, p.w, p.ci)).astype(dtype)
    w = rng.standard_normal((p.co, p.cig, p.kh, p.kw)).astype(dtype)
    scale, offset, slope = rng.standard_normal((3, p.co)).astype(dtype)
    shortcut = rng.standard_normal(p.out_shape).astype(dtype)
    given = reference.pad_nhwc(x, p, 0.0) if kernel.op == "conv2d" else x
    packed = kernel.pack_weights(w.astype(np.float32), p)
    shape: tuple[int, ...] = p.out_shape
    if rank == 2:
        given, shape = given.reshape(p.pixels, p.ci), (p.pixels, p.co)
        shortcut = shortcut.reshape(shape)

    operands = [np.ascontiguousarray(given), *packed]
    places = [te.placeholder(a.shape, str(a.dtype), f"in{i}") for i, a in enumerate(operands)]
    out = kernel.compute(*places, params=p)
    exact = reference.conv2d(x.astype(np.float64), w.astype(np.float64), p).reshape(shape)
    # Rounding grows with the sum of the magnitudes; a random walk of `taps` steps bounds it well.
    size = reference.conv2d(np.abs(x).astype(np.float64), np.abs(w).astype(np.float64), p)
    eps = float(np.finfo(dtype).eps)
    error = size.reshape(shape) * eps * max(4.0, 0.5 * np.sqrt(p.taps))
    if epilogue in ("bias", "added", "bare bias"):
        added = shortcut if epilogue == "added" else offset
        operands.append(added)
        places.append(te.placeholder(added.shape, dtype, "added"))
        out = _begun(out, places[-1], relu=epilogue != "bare bias")
        terms = np.abs(exact) + np.abs(added.astype(np.float64))
        exact = exact + added.astype(np.float64)
        exact = exact if epilogue == "bare bias" else np.maximum(exact, 0)
        error = error + 8 * eps * terms
    elif epilogue != "none":
        extra = [scale, offset, *_EXTRA_OF[epilogue](slope, shortcut)]
        behind = [te.placeholder(a.shape, dtype, f"ex{i}") for i, a in enumerate(extra)]
        operands, places = operands + extra, places + behind
        out = _epilogue(epilogue, out, behind)
        scale, offset, slope, shortcut = (
            array.astype(np.float64) for array in (scale, offset, slope, shortcut)
        )
        terms = np.abs(exact * scale) + np.abs(offset)
        exact = exact * scale + offset
        error = error * np.abs(scale) + 8 * eps * (1 + terms)
        if epilogue == "relu":
            exact = np.maximum(exact, 0)
        elif epilogue == "prelu":
            exact = np.where(exact > 0, exact, exact * slope)
            error = error * np.maximum(1, np.abs(slope))
        elif epilogue == "shortcut":
            exact = np.maximum(exact + shortcut, 0)
        else:
            exact, error = np.moveaxis(exact, -1, 1), np.moveaxis(error, -1, 1)
    # Relax gives its functions 64-bit indices; what is tested is what is compiled.
    func = te.create_prim_func([*places, out], index_dtype_override="int64")
    return FloatCase(func, operands, exact, error + 8 * eps)


def run(kernel: Kernel, params: ConvParams, epilogue: str, target: Target, rank: int = 4) -> None:
    """Assert that `kernel` computes the reference's result on this machine."""
    case = make(kernel, params, epilogue, rank)
    actual = build_and_run(case.func, case.operands, case.expected.shape, target)
    case.check(actual, f"{kernel.name} {params} {epilogue}")


def build_and_run(
    func: tirx.PrimFunc, operands: list[np.ndarray], shape: tuple[int, ...], target: Target
) -> np.ndarray:
    """Schedule, build and call a function of one float output. It may not ask for workspace."""
    module = tvm.IRModule({"main": schedule_primfunc(func, target)})
    library = tvm.compile(module, target=target)
    assert "AllocWorkspace(" not in library.mod.inspect_source("ll")
    result = tvm.runtime.tensor(np.full(shape, np.nan, str(func.params[-1].ty.dtype)))
    library.jit()["main"](*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in operands], result)
    return result.numpy()


def _begun(out: te.Tensor, added: te.Tensor, relu: bool) -> te.Tensor:
    """The sum with a bias or with a tensor of the same shape, or a ReLU of it: sums may begin with
    what is added.
    """
    channel_alone = len(added.shape) == 1
    total = te.compute(
        out.shape, lambda *i: out[i] + (added[i[-1]] if channel_alone else added[i]), name="total"
    )
    if not relu:
        return total
    return te.compute(out.shape, lambda *i: te.max(total[i], tirx.const(0, out.dtype)), name="relu")


def _epilogue(kind: str, out: te.Tensor, extra: list[te.Tensor]) -> te.Tensor:
    def stage(value, name):  # type: ignore[no-untyped-def]
        return te.compute(out.shape, value, name=name)

    scaled = stage(lambda *i: out[i] * extra[0][i[-1]], "scaled")
    moved = stage(lambda *i: scaled[i] + extra[1][i[-1]], "moved")
    zero = tirx.const(0, out.dtype)
    if kind == "relu":
        return stage(lambda *i: te.max(moved[i], zero), "relu")
    if kind == "prelu":
        return stage(
            lambda *i: tirx.Select(moved[i] > zero, moved[i], moved[i] * extra[2][i[-1]]), "prelu"
        )
    if kind == "transposed":
        return topi.transpose(moved, [0, len(out.shape) - 1, *range(1, len(out.shape) - 1)])
    total = stage(lambda *i: moved[i] + extra[2][i], "total")
    return stage(lambda *i: te.max(total[i], zero), "relu")
