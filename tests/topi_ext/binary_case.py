"""Build, run and check one binary kernel with what Relax fuses behind it in networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from hypothesis import strategies as st
from tvm import relax, te, tirx
from tvm.target import Target

from topi_ext import kernels, reference
from topi_ext.isa import RUNS_ON, isa_of
from topi_ext.kernels import Kernel
from topi_ext.params import ConvParams
from topi_ext.schedule import schedule_primfunc

EPILOGUES = ("none", "scale", "prelu", "shortcut")
FUSES_ELEMENTWISE_BEHIND = 4  # Relax's kOutEWiseFusable
PLAIN_VECTORS = "avx512_vpopcntdq"  # written without intrinsics
# The fields of a ConvParams; not every such shape is legal.
PARAMS = st.builds(
    lambda n, h, w, cig, cog, groups, kh, kw, stride, dilation, pads, value: (
        n,
        h,
        w,
        cig * groups,
        cog * groups,
        kh,
        kw,
        stride,
        dilation,
        pads,
        groups,
        value,
    ),
    st.integers(1, 2),
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.sampled_from([-1, 0, 1]),
)


def host() -> Target:
    """This machine: its core and its features."""
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    triple = tvm.target.codegen.llvm_get_system_triple()
    return Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu, "num-cores": 2})


def rows() -> list[Kernel]:
    """The binary convolution kernels that run here."""
    runs = (*RUNS_ON[isa_of(host())], PLAIN_VECTORS)
    return [k for k in kernels.table().values() if k.op == "bconv2d" and k.isa in runs]


def plain_vector_rows() -> list[Kernel]:
    """Those of them that run on every machine."""
    return [row for row in rows() if row.isa == PLAIN_VECTORS]


def call(func: tirx.PrimFunc, arrays: list[np.ndarray], out: np.ndarray) -> np.ndarray:
    """Schedule and compile `func` for this machine and run it on `arrays`."""
    target = host()
    func = schedule_primfunc(func.with_attr("global_symbol", "main"), target)
    module = tvm.compile(func, target=target)
    result = tvm.runtime.tensor(out)
    module["main"](*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays), result)
    return result.numpy()


def garbage(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An output to be overwritten whole: a kernel that leaves a gap is found out."""
    return np.full(shape, 0x5A, dtype)


def run_te(tensors: list[te.Tensor], arrays: list[np.ndarray]) -> np.ndarray:
    """The last of `tensors` computed from `arrays`."""
    out = tensors[-1]
    shape = tuple(int(extent) for extent in out.shape)
    return call(te.create_prim_func(tensors), arrays, garbage(shape, str(out.dtype)))


def placeholders(arrays: list[np.ndarray]) -> list[te.Tensor]:
    """One input for each array."""
    return [te.placeholder(a.shape, a.dtype.name, f"in{i}") for i, a in enumerate(arrays)]


def activations(kernel: Kernel, s: np.ndarray, params: ConvParams) -> np.ndarray:
    """What the kernel's compute reads: packed words, prepared where the kernel has its own form."""
    words = reference.pack_padded(s, params, kernel.word_bits)
    if kernel.prepare is None:
        return words
    (source,) = placeholders([words])
    return run_te([source, kernel.prepare(source, params)], [words])


def signs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random int8 +-1."""
    return rng.choice(np.array([-1, 1], np.int8), shape)


def check(kernel: Kernel, params: ConvParams, epilogue: str = "none", seed: int = 0) -> None:
    """Assert that the fused function of `kernel` computes the reference exactly.

    Scales are powers of two, so that every epilogue is exact in float32 as well.
    """
    p = params
    rng = np.random.default_rng(seed)
    s, w = signs(rng, (p.n, p.h, p.w, p.ci)), signs(rng, (p.co, p.cig, p.kh, p.kw))
    exact = reference.bconv2d(s, w, p)
    func, extra, expected = fused(kernel, p, epilogue, exact, rng)
    arrays = [activations(kernel, s, p), *kernel.pack_weights(w, p), *extra]
    got = call(func, arrays, garbage(expected.shape, expected.dtype.name))
    np.testing.assert_array_equal(got, expected, err_msg=f"{kernel.name} {p} {epilogue}")


def fused(
    kernel: Kernel, params: ConvParams, epilogue: str, exact: np.ndarray, rng: np.random.Generator
) -> tuple[tirx.PrimFunc, list[np.ndarray], np.ndarray]:
    """The kernel with `epilogue` as FuseOps and FuseTIR make it.

    Returns the function, the epilogue's own arrays, and what it must compute for the integers
    `exact`.
    """
    p = params
    words = reference.pack_padded(np.ones((p.n, p.h, p.w, p.ci), np.int8), p, kernel.word_bits)
    if kernel.prepare is not None:
        tensor = kernel.prepare(te.placeholder(words.shape, words.dtype.name, "d"), p)
        words = np.zeros([int(e) for e in tensor.shape], str(tensor.dtype))
    weights = kernel.pack_weights(np.ones((p.co, p.cig, p.kh, p.kw), np.int8), p)
    scale = 2.0 ** rng.integers(-3, 3, p.co).astype(np.float32)
    offset = rng.integers(-8, 8, p.co).astype(np.float32)
    slope = 2.0 ** rng.integers(-3, 0, p.co).astype(np.float32)
    shortcut = rng.integers(-8, 8, p.out_shape).astype(np.float32)

    extra: list[np.ndarray] = []
    value: Any = exact
    steps: list[Callable[..., Any]] = []
    if epilogue != "none":
        extra += [scale, offset]
        value = exact.astype(np.float32) * scale + offset
        steps.append(lambda y, s, o: relax.op.astype(y, "float32") * s + o)
    if epilogue == "prelu":
        extra.append(slope)
        value = np.where(value > 0, value, value * slope)
        zero = relax.const(0.0, "float32")
        steps.append(lambda y, a: relax.op.where(relax.op.greater(y, zero), y, y * a))
    if epilogue == "shortcut":
        extra.append(shortcut)
        value = value + shortcut
        steps.append(lambda y, x: y + x)

    builder = relax.BlockBuilder()
    arrays = [words, *weights, *extra]
    variables = [
        relax.Var(f"v{i}", relax.TensorType(a.shape, a.dtype.name)) for i, a in enumerate(arrays)
    ]
    count = 1 + len(weights)
    with builder.function("main", variables):
        with builder.dataflow():
            y = builder.emit_te(
                lambda data, *rest: kernel.compute(data, *rest, params=p),
                *variables[:count],
                primfunc_name_hint="conv",
            )
            rest = variables[count:]
            for step in steps:
                operands = step.__code__.co_argcount - 1
                y, rest = (
                    builder.emit(builder.normalize(step(y, *rest[:operands]))),
                    rest[operands:],
                )
            result = builder.emit_output(y)
        builder.emit_func_output(result)
    module = builder.get()
    for var, func in module.functions_items():
        if var.name_hint == "conv":
            module[var] = func.with_attr("op_pattern", FUSES_ELEMENTWISE_BEHIND)
    passes = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    module = tvm.ir.transform.Sequential(passes)(module)
    functions = [f for _, f in module.functions_items() if isinstance(f, tirx.PrimFunc)]
    if len(functions) != 1:
        raise AssertionError(f"{epilogue} was not fused into one function:\n{module}")
    return functions[0], extra, value
