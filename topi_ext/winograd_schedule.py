"""The loops of a Winograd convolution: one block of tiles at a time, all near the core.

For every block of tiles: transform its inputs, once for all output channels. Then, for every block
of output channels: multiply and add up at each position, a register tile of tiles x channels; then
transform the products back and run the epilogue on the finished outputs.

Where there are too many input channels for that, chunks of them follow one another, and the
products of as many blocks of output channels as have room are kept meanwhile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx import PrimFunc, Stmt

from .emit import PARALLEL, SERIAL, let, local, loop, seq, splat, vload, vstore
from .epilogue import Epilogue, extract_epilogue
from .kernels import PARAMS
from .parallel import PARALLEL_FLOAT_MACS
from .params import ConvParams
from .scalar import schedule_scalar
from .winograd_plan import Chunk, Positions, WinogradPlan, WinogradTile
from .winograd_transform import InputTransform, OutputTransform, Place, place_of

UNROLLED = 12  # most products whose steps are written out one after the other


def schedule_winograd(func: PrimFunc, tile: WinogradTile) -> PrimFunc:
    """Write the loops of a function that holds `winograd_conv2d` and its epilogue."""
    epilogue = extract_epilogue(func)
    return schedule_scalar(func) if epilogue is None else _Writer(epilogue, tile).write()


class _Writer:
    """The hand-made loops of one convolution with its epilogue."""

    def __init__(self, epilogue: Epilogue, tile: WinogradTile) -> None:
        """Find the shape and the buffers."""
        self.epilogue, self.tile, self.dtype = epilogue, tile, tile.dtype
        self.params = ConvParams.parse(str(epilogue.annotations[PARAMS]))
        self.plan = WinogradPlan(self.params, tile)
        by_rank = {len(buffer.ty.shape): buffer for buffer in epilogue.reads}
        self.data, self.weights = by_rank[4], by_rank[3]

    def write(self) -> PrimFunc:
        """All blocks of tiles."""
        plan = self.plan

        def block(index: Any) -> Stmt:
            stmts: list[Stmt] = []
            first = let("first", index * self.tile.tiles, stmts)
            chunk = Chunk(plan, plan.chunk_size)
            rows = local("rows", (sum(plan.y.sizes) * chunk.row_stride,), self.dtype, stmts)
            inputs = local("inputs", (chunk.floats,), self.dtype, stmts)
            size = plan.held_groups * plan.product_bytes // self.tile.itemsize
            products = local("products", (size,), self.dtype, stmts)
            stmts += self._block(first, rows, inputs, products)
            return seq(stmts)

        kind = PARALLEL if self.params.macs >= PARALLEL_FLOAT_MACS else SERIAL
        return self.epilogue.with_body(loop(plan.blocks, block, "block", kind))

    def _block(
        self, first: Any, rows: tirx.Buffer, inputs: tirx.Buffer, products: tirx.Buffer
    ) -> list[Stmt]:
        """One block of tiles."""
        plan, width, ci = self.plan, self.plan.group_channels, self.params.ci
        back = OutputTransform(plan, products, self.epilogue)
        full, rest = divmod(self.params.co, width)

        def each_tile(body: Callable[[Place, Any], Stmt]) -> Stmt:
            def tile(t: Any) -> Stmt:
                stmts: list[Stmt] = []
                place = place_of(plan, let("tile", first + t, stmts), stmts)
                return seq([*stmts, body(place, t)])

            return loop(self.tile.tiles, tile, "t")

        def transform(size: int, channel: Any) -> Stmt:
            into = InputTransform(Chunk(plan, size), self.data, rows, inputs)
            return each_tile(lambda place, t: into.tile(place, t, channel))

        def multiply(size: int, channel: Any, slot: Any, group: Any, channels: int) -> Stmt:
            chunk = Chunk(plan, size)
            return seq(self._products(inputs, products, chunk, channel, slot, group, channels))

        def finish(slot: Any, group: Any, channels: int) -> Stmt:
            return each_tile(lambda place, t: back.tile(place, t, slot, group, channels))

        if plan.chunks == 1:

            def whole(group: Any, channels: int) -> Stmt:
                return seq([multiply(ci, 0, 0, group, channels), finish(0, group, channels)])

            return [transform(ci, 0), *_groups(whole, full, rest, width)]

        def one_pass(begin: Any, count: int, last: int) -> Stmt:
            """All chunks for `count` whole blocks of output channels and one of `last`."""

            def chunk(size: int, channel: Any) -> Stmt:
                def group(slot: Any, channels: int) -> Stmt:
                    return multiply(size, channel, slot, begin + slot, channels)

                return seq([transform(size, channel), *_groups(group, count, last, width)])

            lanes, size = self.tile.lanes, plan.chunk_size
            zero = splat(0.0, f"{self.dtype}x{lanes}")
            vectors = (count + (last > 0)) * plan.product_bytes // (self.tile.itemsize * lanes)
            equal, left = divmod(ci, size)
            stmts = [loop(vectors, lambda v: vstore(products, zero, [v * lanes], lanes), "zero")]
            stmts.append(loop(equal, lambda k: chunk(size, k * size), "chunk"))
            if left:
                stmts.append(chunk(left, equal * size))
            stmts += _groups(
                lambda slot, channels: finish(slot, begin + slot, channels), count, last, width
            )
            return seq(stmts)

        held = plan.held_groups
        passes, left = divmod(full, held)
        stmts = []
        if passes:
            stmts.append(loop(passes, lambda s: one_pass(s * held, held, 0), "pass"))
        if left or rest:
            stmts.append(one_pass(passes * held, left, rest))
        return stmts

    def _products(
        self,
        inputs: tirx.Buffer,
        products: tirx.Buffer,
        chunk: Chunk,
        channel: Any,
        slot: Any,
        group: Any,
        channels: int,
    ) -> list[Stmt]:
        """The sums at every position over a chunk, for some channels of a block of them.

        Where chunks follow one another, they are added to what the products hold.
        """
        plan = self.plan
        lanes, tiles, width = self.tile.lanes, self.tile.tiles, plan.group_channels
        vectors = -(-channels // lanes)
        base = slot * (plan.product_bytes // self.tile.itemsize)

        def position(one: Positions, at: Any) -> Stmt:
            stmts: list[Stmt] = []
            acc = local("acc", (tiles * vectors * lanes,), self.dtype, stmts)
            source = let("source", chunk.place(one, at, 0), stmts)
            depth = chunk.depth(one)
            row = plan.depth * channel + one.rows_before * chunk.channels + at * depth
            row = let("row", row, stmts)
            begin = let("begin", base + (one.first + at) * (tiles * width), stmts)
            places = [
                ([(t * vectors + v) * lanes], [begin + t * width + v * lanes])
                for t in range(tiles)
                for v in range(vectors)
            ]
            adds = plan.chunks > 1
            if adds:
                for register, memory in places:
                    stmts.append(vstore(acc, vload(products, memory, lanes), register, lanes))

            def step(k: Any, count: int, is_first: bool = False) -> Stmt:
                body: list[Stmt] = []
                number = self._broadcasts(inputs, chunk.stride(one), source + k, count, body)

                def weights(i: int) -> list[Any]:
                    at = [group, row + k + i]
                    return [
                        let("w", vload(self.weights, [*at, v * lanes], lanes), body)
                        for v in range(vectors)
                    ]

                # Where registers are plenty, all loads come first: cores that execute in order
                # would wait for each.
                early = [weights(i) for i in range(count)] if self.tile.by_lane else []
                for i in range(count):
                    w = early[i] if early else weights(i)
                    for t in range(tiles):
                        factor = number(t, i)
                        for v in range(vectors):
                            place = [(t * vectors + v) * lanes]
                            value = factor * w[v]
                            if i or not is_first:
                                value = vload(acc, place, lanes) + value
                            body.append(vstore(acc, value, place, lanes))
                return seq(body)

            size = self.tile.step
            whole, rest = divmod(depth, size)
            stmts.append(step(0, min(size, depth), is_first=not adds))
            if size < whole * size <= UNROLLED:
                stmts += [step(s * size, size) for s in range(1, whole)]
            elif whole > 1:
                stmts.append(loop(whole - 1, lambda s: step((s + 1) * size, size), "s"))
            if whole and rest:
                stmts.append(step(whole * size, rest))
            for register, memory in places:
                stmts.append(vstore(products, vload(acc, register, lanes), memory, lanes))
            return seq(stmts)

        return [
            loop(one.count, functools.partial(position, one), "position") for one in plan.positions
        ]

    def _broadcasts(
        self, inputs: tirx.Buffer, stride: int, at: Any, count: int, stmts: list[Stmt]
    ) -> Any:
        """A function (tile, i) -> the i-th of `count` inputs of a tile, in all lanes."""
        lanes = self.tile.lanes
        if self.tile.by_lane:
            loaded = [
                let("d", vload(inputs, [at + t * stride], lanes), stmts)
                for t in range(self.tile.tiles)
            ]
            return lambda t, i: tirx.Shuffle([loaded[t]], [tirx.const(i, "int32")] * lanes)
        return lambda t, i: tirx.Broadcast(tirx.BufferLoad(inputs, [at + (t * stride + i)]), lanes)


def _groups(body: Callable[[Any, int], Stmt], full: int, rest: int, width: int) -> list[Stmt]:
    """`body` for `full` blocks of `width` channels, and for one of `rest` channels behind them."""
    done = [loop(full, lambda group: body(group, width), "group")] if full else []
    return [*done, body(full, rest)] if rest else done
