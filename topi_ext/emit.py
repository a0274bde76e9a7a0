"""Small words for writing TIR statements by hand, where a kernel is clearer as loops than as a
sequence of schedule primitives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from tvm import ir, tirx
from tvm.tirx import Stmt

SERIAL = tirx.ForKind.SERIAL
PARALLEL = tirx.ForKind.PARALLEL
VECTORIZED = tirx.ForKind.VECTORIZED
STACK_BYTES = 1024  # from here on TVM allocates elsewhere
TENSOR_MAP_BYTES = 128


def seq(stmts: Iterable[Stmt]) -> Stmt:
    """The statements one after the other, as one statement."""
    items = list(stmts)
    return items[0] if len(items) == 1 else tirx.SeqStmt(items)


def loop(
    extent: Any, body: Callable[[Any], Stmt], name: str = "i", kind: tirx.ForKind = SERIAL
) -> Stmt:
    """A loop over 0 .. extent-1; `body` gets the loop variable. One constant turn needs no loop."""
    if isinstance(extent, int) and extent == 1:
        return body(0)
    var = tirx.Var(name, "int32")
    return tirx.For(var, 0, extent, kind, body(var))


def let(name: str, value: Any, stmts: list[Stmt]) -> Any:
    """Append the definition of an immutable value to `stmts` and return its variable."""
    if isinstance(value, int):
        return value
    var = tirx.Var(name, value.ty)
    stmts.append(tirx.Bind(var, value))
    return var


def local(name: str, shape: tuple[int, ...], dtype: str, stmts: list[Stmt]) -> tirx.Buffer:
    """Append a buffer on the stack (registers, if LLVM can) to `stmts` and return it."""
    buffer = tirx.decl_buffer(shape, dtype, name)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < STACK_BYTES:
        stmts.append(tirx.AllocBuffer(buffer))
        return buffer
    return private(name, shape, dtype, stmts)


def private(name: str, shape: tuple[int, ...], dtype: str, stmts: list[Stmt]) -> tirx.Buffer:
    """As `local`, a buffer on the stack of whatever size, for each thread its own in a `launch`.

    TVM makes a large allocation a call to the workspace allocator, and moves one that stands in a
    launch before it, where all threads share it. What it allocates for its own tensor maps always
    stays where it is, on the stack, aligned to 64 bytes.
    """
    buffer = tirx.decl_buffer(shape, dtype, name)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    maps = tirx.tvm_stack_alloca("tensormap", -(-size // TENSOR_MAP_BYTES))
    stmts.append(tirx.DeclBuffer(buffer, data=maps))
    return buffer


def launch(body: Stmt) -> Stmt:
    """Every thread runs `body`; the parallel loops in it are shared out."""
    return tirx.AttrStmt(tirx.const(0, "int32"), "pragma_parallel_launch_point", 1, body)


def view(
    buffer: tirx.Buffer, indices: list[Any], stmts: list[Stmt], hidden: bool = False
) -> tirx.Buffer:
    """Append to `stmts` a flat buffer that begins at an element of another, and return it.

    What the same function writes must be published before (`publish`).
    hidden: LLVM cannot tell where it begins, so loads from it stay in their loop even if they are
    the same in every turn. It costs no instruction (`llvm.launder.invariant.group`).
    """
    extents = [int(extent) for extent in buffer.ty.shape]
    at: Any = 0
    for extent, index in zip(extents, indices, strict=True):
        at = at * extent + index
    # Bound first: TVM's elimination of common subexpressions does not look into declarations. The
    # address too: the simplifier would put a short index back into the declaration.
    at = let("at", at, stmts)
    rest = tirx.decl_buffer((math.prod(extents),), buffer.ty.dtype, "view")
    first = tirx.BufferLoad(buffer, [*[0] * (len(extents) - 1), at])
    start: Any = tirx.address_of(first)
    if hidden:
        call = tirx.call_llvm_intrin("handle", "llvm.launder.invariant.group", start)
        start = ir.Call(call.op, call.args, ret_ty=start.ty)
    stmts.append(tirx.DeclBuffer(rest, data=let("start", start, stmts)))
    return rest


def publish(buffer: tirx.Buffer) -> Stmt:
    """What keeps the stores to `buffer` before the loads from a `view` of it.

    TVM tells LLVM that memory reached by two pointers is never the same. A prefetch counts as
    reading and writing what it points into.
    """
    first = tirx.address_of(tirx.BufferLoad(buffer, [0] * len(buffer.ty.shape)))
    read, keep, data = (tirx.const(value, "int32") for value in (0, 3, 1))
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", first, read, keep, data))


def vload(buffer: tirx.Buffer, indices: list[Any], lanes: int) -> Any:
    """Load `lanes` neighbours; the last index is the first of them. One is no vector."""
    if lanes == 1:
        return tirx.BufferLoad(buffer, indices)
    *outer, last = indices
    return tirx.BufferLoad(buffer, [*outer, tirx.Ramp(last, 1, lanes)])


def vstore(buffer: tirx.Buffer, value: Any, indices: list[Any], lanes: int) -> Stmt:
    """Store a vector to `lanes` neighbours; the last index is the first of them. One is none."""
    if lanes == 1:
        return tirx.BufferStore(buffer, value, indices)
    *outer, last = indices
    return tirx.BufferStore(buffer, value, [*outer, tirx.Ramp(last, 1, lanes)])


def splat(value: int | float, dtype: str) -> Any:
    """A constant in all lanes of a vector type such as "uint16x16"."""
    base, lanes = dtype.rsplit("x", 1)
    return tirx.Broadcast(tirx.const(value, base), int(lanes))


def bitcast(value: Any, dtype: str) -> Any:
    """The same bits as another type of the same size."""
    return tirx.reinterpret(dtype, value)


def mask_bits(condition: Any, lanes: int) -> Any:
    """A vector of `lanes` conditions as an unsigned integer, first lane in the lowest bit.

    `tirx.reinterpret` refuses it because TVM stores a condition in a byte; LLVM holds it in a bit
    and turns the cast into a mask instruction (vmovmskps, vpmovmskb).
    """
    return ir.Call(ir.Op.get("tirx.reinterpret"), [condition], ret_ty=f"uint{lanes}")


def channel_loops(store: Callable[[Any], Stmt], channels: int, lanes: int) -> list[Stmt]:
    """`store` for channels 0 .. channels-1: in vectors of `lanes`, then ever shorter ones."""
    done: list[Stmt] = []

    def vectors(first: int, count: int, lanes: int) -> Stmt:
        def one(o: Any) -> Stmt:
            return loop(lanes, lambda i: store(o * lanes + (i + first)), "i", VECTORIZED)

        return loop(count, one, "o")

    begin = 0
    while lanes >= 4 and begin < channels:
        whole = (channels - begin) // lanes
        if whole:
            done.append(vectors(begin, whole, lanes))
        begin += whole * lanes
        lanes //= 2
    if begin < channels:
        done.append(loop(channels - begin, lambda i: store(begin + i), "i"))
    return done
