"""What follows a kernel's accumulator in a fused function, and the tiling common to all kernels.

After FuseTIR a function reads: the kernel's stages, the accumulator block, then elementwise
blocks (cast, scale, offset, PReLU, shortcut ...) of which the last writes the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.ir import TensorLoad
from tvm.s_tir import SBlock, Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV
from tvm.tirx import PrimFunc
from tvm_ffi import structural_equal, structural_map, structural_walk

from .kernels import PACK, STAGE


def leaf_blocks(sch: Schedule) -> list[SBlockRV]:
    """The blocks directly under the root, in the order of execution."""
    return list(sch.get_child_blocks(sch.get_sblock("root", func_name="main")))


def find_stage(sch: Schedule, stage: str = "acc") -> SBlockRV:
    """The block annotated as `stage`. Raises LookupError if there is none."""
    for block in leaf_blocks(sch):
        if sch.get(block).annotations.get(STAGE) == stage:
            return block
    raise LookupError(f"no block is annotated as the stage {stage!r}")


def holds_stage(func: PrimFunc, stage: str) -> bool:
    """Whether some block of `func` is annotated as `stage`."""
    sch = Schedule(func)
    return any(sch.get(block).annotations.get(STAGE) == stage for block in leaf_blocks(sch))


def inline_epilogue(sch: Schedule, anchor: SBlockRV) -> SBlockRV:
    """Inline the elementwise blocks behind `anchor` into the last block and return that one.

    If nothing follows the anchor, the anchor itself is returned. A pack behind the last block
    (`beside`) stays as it is.
    """
    name = sch.get(anchor).name_hint
    blocks = [sch.get(block) for block in leaf_blocks(sch)]
    names = [b.name_hint for b in blocks if b.annotations.get(STAGE) != PACK]
    behind = names[names.index(name) + 1 :]
    for block in behind[:-1]:
        sch.compute_inline(sch.get_sblock(block))
    return sch.get_sblock(behind[-1]) if behind else anchor


def read_buffers(block: SBlock) -> tuple[tirx.Buffer, ...]:
    """The buffers that `block` reads, but the one it writes, in the order of its expression."""
    known: list[tirx.Buffer] = [block.writes[0].source]
    for region in block.reads:
        if not any(region.source.same_as(other) for other in known):
            known.append(region.source)
    return tuple(known[1:])


def divisor(extent: int, limit: int) -> int:
    """The largest divisor of `extent` not above `limit`."""
    return max(d for d in range(1, min(extent, limit) + 1) if extent % d == 0)


def tile_accumulator(
    sch: Schedule, anchor: SBlockRV, last: SBlockRV, pixels: int, channels: int
) -> tuple[LoopRV, LoopRV, LoopRV]:
    """Tile `last` as [outer, pixels x channels] and compute `anchor` at the tile.

    `last` writes [n, ho, wo, co] (any rank; the last two axes are tiled). `pixels` must divide wo
    and `channels` co (see `divisor`). The accumulator shrinks to one tile. Returns the fused outer
    loop and the two tile loops of `last`; the caller schedules the reduction inside and marks
    loops parallel *before* it decomposes the reduction.
    """
    *rest, wo, co = sch.get_loops(last)
    wo_outer, wo_inner = sch.split(wo, [None, pixels])
    co_outer, co_inner = sch.split(co, [None, channels])
    sch.reorder(*rest, wo_outer, co_outer, wo_inner, co_inner)
    outer = sch.fuse(*rest, wo_outer, co_outer)
    sch.compute_at(anchor, outer, preserve_unit_loops=True)
    return outer, wo_inner, co_inner


@dataclass(frozen=True)
class Epilogue:
    """The elementwise work behind an accumulator, ready to be written into hand-made loops.

    func: the function it comes from (parameters and attributes are kept by `with_body`).
    accumulator: the buffer of the accumulator block, one dimension per index.
    reads: the other buffers which the accumulator block reads, in the order of its expression.
    annotations: of the accumulator block.
    """

    func: PrimFunc
    accumulator: tirx.Buffer
    reads: tuple[tirx.Buffer, ...]
    annotations: dict[str, Any]
    _store: tirx.BufferStore
    _dims: dict[tirx.Var, int | None]  # block variable -> dimension of the accumulator

    def store(
        self, index: Sequence[Any], value: Any, copies: Sequence[tuple[tirx.Buffer, Any]] = ()
    ) -> tirx.Stmt:
        """The store of one output element.

        index: position in the accumulator's shape; value: what the accumulator holds there, in
        the accumulator's dtype. Inside a vectorised loop over channels both may depend on its
        variable. copies: what to load in the place of an addend (see `addends`).
        """

        def load(node: TensorLoad) -> Any:
            if node.source.same_as(self.accumulator):
                return value
            return next((copy for source, copy in copies if node.source.same_as(source)), node)

        return structural_map(self._store, [(tirx.Var, self._placing(index)), (TensorLoad, load)])

    @property
    def output(self) -> tirx.Buffer:
        """The buffer that results go to."""
        return self._store.buffer

    @property
    def value(self) -> Any:
        """What is stored, in block variables."""
        return self._store.value

    def with_value(self, value: Any) -> Epilogue:
        """The epilogue that stores another expression of block variables."""
        store = tirx.BufferStore(self._store.buffer, value, self._store.indices)
        return replace(self, _store=store)

    def at(self, value: Any, index: Sequence[Any]) -> Any:
        """An expression of block variables, part of `value`, at a position of the accumulator."""
        return structural_map(value, [(tirx.Var, self._placing(index))])

    def _placing(self, index: Sequence[Any]) -> Callable[[tirx.Var], Any]:
        def variable(var: tirx.Var) -> Any:
            if var not in self._dims:
                return var
            dim = self._dims[var]
            at = 0 if dim is None else index[dim]
            return tirx.const(at, "int32") if isinstance(at, int) else at

        return variable

    def begun(self) -> tuple[TensorLoad, Epilogue] | None:
        """What is added to the accumulator before all else, in block variables, and the epilogue
        of an accumulator that begins with it. See `at` for its indices.

        None if nothing is, or if it is not read along the channels, the last dimension of both.
        """
        addends: list[TensorLoad] = []
        totals: list[TensorLoad] = []

        def drop(node: tirx.Add) -> Any:
            for total, addend in ((node.a, node.b), (node.b, node.a)):
                if self._sums(total) and isinstance(addend, TensorLoad) and not self._sums(addend):
                    addends.append(addend)
                    totals.append(total)
                    return begun  # so that what is added to it next is no addend of the first
            return node

        begun = tirx.Var("begun", str(self.accumulator.ty.dtype))
        value = structural_map(self.value, (tirx.Add, drop))
        if not addends or len(addends) < self.times_read():
            return None
        first, *others = addends
        if self._dims.get(first.indices[-1]) != len(self.accumulator.ty.shape) - 1:
            return None
        if not all(structural_equal(first, other) for other in others):
            return None

        def restore(node: tirx.Var) -> Any:
            return totals[0] if node.same_as(begun) else node

        return first, self.with_value(structural_map(value, (tirx.Var, restore)))

    def times_read(self) -> int:
        """How often it reads the accumulator."""
        found: list[TensorLoad] = []

        def visit(node: TensorLoad) -> None:
            if self._sums(node):
                found.append(node)

        structural_walk(self.value, (TensorLoad, visit))
        return len(found)

    def _sums(self, node: Any) -> bool:
        """Whether an expression is the accumulator's element."""
        return isinstance(node, TensorLoad) and node.source.same_as(self.accumulator)

    def bare(self) -> bool:
        """Whether what is stored is the accumulator itself."""
        return self._sums(self.value)

    def operands(self) -> list[TensorLoad]:
        """What it reads beside the accumulator."""
        found: list[TensorLoad] = []

        def visit(node: TensorLoad) -> None:
            if not node.source.same_as(self.accumulator):
                found.append(node)

        structural_walk(self.value, (TensorLoad, visit))
        return found

    def by_channel(self, load: TensorLoad) -> bool:
        """Whether it reads a vector over channels, the last dimension, and nothing else's."""
        channel = len(self.accumulator.ty.shape) - 1
        found = zip(load.indices, load.source.ty.shape, strict=True)
        long = [index for index, size in found if int(size) > 1]
        return len(long) == 1 and self._dims.get(long[0]) == channel

    def addends(self) -> list[tirx.Buffer]:
        """The vectors over channels, the last dimension, that are added to a product.

        None that is read by another index as well.
        """
        found: list[tirx.Buffer] = []
        others: list[tirx.Buffer] = []

        def holds(buffers: list[tirx.Buffer], source: tirx.Buffer) -> bool:
            return any(source.same_as(known) for known in buffers)

        def visit_add(node: tirx.Add) -> None:
            for product, other in ((node.a, node.b), (node.b, node.a)):
                vector = isinstance(other, TensorLoad) and self.by_channel(other)
                if vector and isinstance(product, tirx.Mul) and not holds(found, other.source):
                    found.append(other.source)

        def visit_load(node: TensorLoad) -> None:
            if not self.by_channel(node):
                others.append(node.source)

        structural_walk(self._store.value, [(tirx.Add, visit_add), (TensorLoad, visit_load)])
        return [source for source in found if not holds(others, source)]

    def linear(self) -> bool:
        """Whether what it reads and writes lies as the accumulator does, or is a vector over
        channels: then pixels may be counted through rows and images.
        """
        loads = [load for load in self.operands() if not self.by_channel(load)]
        return self.aligned() and all(
            self._in_place(load.indices, load.source)
            and structural_equal(load.source.ty.shape, self.accumulator.ty.shape)
            for load in loads
        )

    def aligned(self) -> bool:
        """Whether each element goes to its accumulator's own position."""
        return self._in_place(self._store.indices, self._store.buffer)

    def _in_place(self, indices: Sequence[Any], buffer: tirx.Buffer) -> bool:
        """Whether the indices are those of the accumulator, but for dimensions of one element."""
        found = zip(indices, buffer.ty.shape, strict=True)
        dims = [None if int(size) == 1 else self._dims.get(at, -1) for at, size in found]
        return len(dims) == len(self.accumulator.ty.shape) and all(
            dim in (None, place) for place, dim in enumerate(dims)
        )

    def with_body(self, body: tirx.Stmt) -> PrimFunc:
        """The function with its body replaced by hand-made loops."""
        return PrimFunc(self.func.params, body, self.func.ret_type, self.func.attrs)


def extract_epilogue(func: PrimFunc, stage: str = "acc", bare: bool = False) -> Epilogue | None:
    """What follows the block annotated as `stage`, inlined to one store per element.

    bare: if nothing follows, the epilogue is the store of the accumulator itself, else None.
    None as well if the last block does not read the accumulator element by element (a reshape is
    fused behind it, say): then only schedule primitives will do. Raises LookupError without the
    stage.
    """
    sch = Schedule(func)
    anchor = find_stage(sch, stage)
    notes = dict(sch.get(anchor).annotations)
    last = inline_epilogue(sch, anchor)
    source = sch.get(anchor).writes[0].source
    reads = read_buffers(sch.get(anchor))
    block = sch.get(last)
    if bare and block.same_as(sch.get(anchor)):
        index = [tirx.Var(f"i{dim}", "int64") for dim in range(len(source.ty.shape))]
        itself = tirx.BufferStore(source, tirx.BufferLoad(source, index), index)
        places: dict[tirx.Var, int | None] = {var: dim for dim, var in enumerate(index)}
        return Epilogue(func, source, reads, notes, itself, places)
    if block.same_as(sch.get(anchor)) or not isinstance(block.body, tirx.BufferStore):
        return None
    extents = {iv.var: int(iv.dom.extent) for iv in block.iter_vars}
    dims: dict[tirx.Var, int | None] = {var: None for var, size in extents.items() if size == 1}
    loads: list[TensorLoad] = []

    def collect(node: TensorLoad) -> TensorLoad:
        if node.source.same_as(source):
            loads.append(node)
        return node

    structural_map(block.body.value, (TensorLoad, collect))
    for node in loads:
        for dim, at in enumerate(node.indices):
            if isinstance(at, tirx.IntImm):
                if int(source.ty.shape[dim]) != 1:
                    return None
            elif at not in extents or dims.get(at, dim) not in (dim, None):
                return None
            else:
                dims[at] = dim
    if len(dims) != len(extents):
        return None
    return Epilogue(func, source, reads, notes, block.body, dims)
