"""The register tile: pixels x channels accumulators held in registers over the whole reduction.

The schedule of float convolutions and dense layers. One step of the reduction loads the weights
of `channels` outputs as vectors, broadcasts one input number of each of `pixels` outputs and
multiplies-adds all pairs. The epilogue runs on the finished tile. Ends of rows and of channels
that fill no whole tile get loops of their own (LLVM then sees constant sizes everywhere).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV
from tvm.target import Target
from tvm.tirx import PrimFunc

from .channel_tile import PARTITION
from .epilogue import divisor, find_stage, inline_epilogue
from .kernels import PARAMS
from .parallel import PARALLEL_FLOAT_MACS
from .params import ConvParams
from .scalar import schedule_scalar

# Weights larger than this do not stay in the second-level cache from one row to the next.
CACHED_WEIGHT_BYTES = 192 * 1024
# Registers; with 6 free LLVM spilled in a 3x3 convolution of 3 channels: 4 % more on Cortex-A76.
SPARE = 8


@dataclass(frozen=True)
class RegisterTile:
    """A tile of at most `pixels` x `channels` accumulators in vectors of `lanes` numbers.

    `by_lane`: multiply by one lane of a loaded vector of inputs (the Arm form) where the
    reduction is a multiple of `lanes` deep; else inputs are broadcast one by one.
    """

    pixels: int
    channels: int
    lanes: int
    by_lane: bool = False

    def channels_of(self, params: ConvParams) -> int:
        """Output channels of one block of the packed weights.

        The tile's, or for groups a divisor of the group's channels, so that all channels of a
        vector read the same inputs.
        """
        if params.groups == 1:
            return min(self.channels, -(-params.co // self.lanes) * self.lanes)
        return divisor(params.cog, self.channels)

    def step_cycles(self, pixels: int, channels: int, by_lane: bool) -> float:
        """Modelled cycles of one reduction step of a tile of this size.

        Two multiply-adds and two loads a cycle, four cycles from one multiply-add to the next
        of the same accumulator; a single pixel streams its weights from outside the first cache.
        Loads count a little even where they hide: fewer of them leave more room. Where inputs are
        read one by one for a tile made for lanes, LLVM loads them long before their use, and tiles
        that leave fewer than `SPARE` of 32 registers free spill.
        """
        vectors = -(-channels // self.lanes)
        spills = self.by_lane and not by_lane and pixels * vectors + pixels + vectors > 32 - SPARE
        loads = vectors + (pixels / self.lanes if by_lane else pixels)
        stream = 2.0 * vectors if pixels == 1 else 0.0
        return max(pixels * vectors / 2, loads / 2, 4.0, stream) * (1 + spills / 10) + 0.05 * loads

    def takes_lanes(self, params: ConvParams) -> bool:
        """Whether inputs can be read a vector at a time along the reduction."""
        return self.by_lane and params.cig % self.lanes == 0

    def supports(self, params: ConvParams) -> str | None:
        """None, or why the tile's channels do not suit the layer's."""
        if params.groups > 1:
            fits = params.cog % self.channels == 0
        else:
            # A last block of channels is a vector of any width up to a power of two, or whole
            # vectors.
            power_of_two = self.channels & (self.channels - 1) == 0
            fits = self.channels <= max(params.co, self.lanes) and (
                power_of_two or params.co % self.lanes == 0
            )
        return None if fits else f"a tile of {self.channels} does not suit {params.cog} channels"

    def best_pixels(self, params: ConvParams) -> int:
        """The tile height, at most `pixels`, that covers a row of pixels in the fewest cycles."""
        heights = range(min(self.pixels, row_pixels(params)), 0, -1)
        return min(heights, key=lambda height: self._cycles(params, height, self.channels))

    def _cycles(self, params: ConvParams, height: int, channels: int) -> float:
        full, tail = divmod(row_pixels(params), height)
        lane = self.takes_lanes(params)
        cycles = full * (self.step_cycles(height, channels, lane) + 0.1)
        return cycles + (self.step_cycles(tail, channels, lane) + 0.1 if tail else 0.0)

    def cost(self, params: ConvParams) -> int:
        """Modelled hundredths of a cycle of the whole layer per reduction step, for ranking."""
        height = self.best_pixels(params)
        full, tail = divmod(params.co, self.channels)
        cycles = full * self._cycles(params, height, self.channels)
        if tail:
            cycles += 1.1 * self._cycles(params, height, tail)
        return math.ceil(100 * cycles * params.pixels / row_pixels(params))


GENERIC_TILE = RegisterTile(pixels=4, channels=8, lanes=4)
"""For processors that no kernel is written for, and shapes that no other tile suits."""


def row_pixels(params: ConvParams) -> int:
    """Pixels of one row of tiles: the whole batch, or one row of the output."""
    return params.pixels if flattens(params) else params.wo


def flattens(params: ConvParams) -> bool:
    """Whether the pixels of the whole batch form one row, as for a 1x1 convolution."""
    p = params
    return (p.kh, p.kw) == (1, 1) and p.stride == (1, 1) and not p.padded


def cores(target: Target) -> int:
    """Threads that the target says it has, at least one."""
    return max(1, int(target.attrs.get("num-cores", 1)))


def schedule_register_tile(func: PrimFunc, target: Target, tile: RegisterTile) -> PrimFunc:
    """Schedule the function of a conv2d or dense kernel, with whatever epilogue is fused to it.

    Raises LookupError if no block is annotated as the accumulator.
    """
    sch = Schedule(func)
    anchor = find_stage(sch)
    params = ConvParams.parse(str(sch.get(anchor).annotations[PARAMS]))
    last, order = epilogue_of(sch, anchor)
    # Of a reduction of one step no loops are left to arrange.
    if order is None or params.taps == 1:
        return schedule_scalar(func)
    if flattens(params) and len(order) == 4:
        _flatten_pixels(sch, anchor, last, params, order)
        order = (0, 1)
    loops = sch.get_loops(last)
    *rest, x, o = (loops[axis] for axis in order)
    sch.reorder(*rest, x, o)
    extent = int(sch.get(x).extent)
    height, width = tile.best_pixels(params), min(tile.channels_of(params), params.co)
    x_outer, x_inner = sch.split(x, [None, height])
    o_outer, o_inner = sch.split(o, [None, width])

    itemsize = np.dtype(written_dtype(sch, anchor)).itemsize
    cached = itemsize * params.co * params.taps <= CACHED_WEIGHT_BYTES
    if rest and cached:
        rows = sch.fuse(*rest) if len(rest) > 1 else rest[0]
        sch.reorder(rows, o_outer, x_outer, x_inner, o_inner)
        launch = rows
    elif cached and int(sch.get(o_outer).extent) < 2 * cores(target):
        sch.reorder(x_outer, o_outer, x_inner, o_inner)
        launch = x_outer
    else:
        sch.reorder(o_outer, *rest, x_outer, x_inner, o_inner)
        launch = o_outer
    if params.macs >= PARALLEL_FLOAT_MACS:
        sch.parallel(launch)
    if extent % height:
        sch.annotate(x_outer, PARTITION, 1)
    if params.co % width:
        sch.annotate(o_outer, PARTITION, 1)

    innermost_outer = sch.get_loops(last)[-3]
    sch.compute_at(anchor, innermost_outer, preserve_unit_loops=True)
    _schedule_reduction(sch, anchor, params, tile)
    sch.unroll(x_inner)
    _vectorize(sch, o_inner, tile.lanes)
    return sch.mod["main"]


def _schedule_reduction(
    sch: Schedule, anchor: SBlockRV, params: ConvParams, tile: RegisterTile
) -> None:
    """Order the loops of the accumulator inside its tile: reduction, pixels, channels."""
    reduce_axes = sum(1 for iv in sch.get(anchor).iter_vars if iv.iter_type == iv.CommReduce)
    loops = sch.get_loops(anchor)
    reduction = loops[-reduce_axes:]
    x, o = loops[-reduce_axes - 2 : -reduce_axes]
    sch.reorder(*reduction, x, o)
    if len(reduction) == 3 and params.groups == 1 and params.dilation[1] == 1 and params.ci < 16:
        # Neighbouring taps of a narrow input are neighbours in memory: one longer loop.
        reduction = [reduction[0], sch.fuse(reduction[1], reduction[2])]
    first = reduction[0]
    if tile.takes_lanes(params):
        outer, lane = sch.split(reduction[-1], [None, tile.lanes])
        first = outer if len(reduction) == 1 else first
        inputs = sch.cache_read(anchor, 0, "global")
        if flattens(params) and len(written_shape(sch, inputs)) == 4:
            pixel_of = _pixel(params)
            sch.transform_block_layout(inputs, lambda n, y, x, c: (pixel_of(n, y, x), c))
            sch.transform_layout(inputs, ("write", 0), lambda n, y, x, c: (pixel_of(n, y, x), c))
        sch.compute_at(inputs, outer, preserve_unit_loops=True)
        *_, pixel, channel = sch.get_loops(inputs)
        sch.unroll(pixel)
        sch.vectorize(channel)
        sch.unroll(lane)
    sch.unroll(x)
    _vectorize(sch, o, tile.lanes)
    sch.decompose_reduction(anchor, first)


def _vectorize(sch: Schedule, loop: LoopRV, lanes: int) -> None:
    """Vectorise the channels of a tile; many, or no power of two, in single vectors.

    LLVM would round the width up to the next power of two, and load all weights before it uses
    the first: then it spills.
    """
    width = int(sch.get(loop).extent)
    if width % lanes == 0 and (width & (width - 1) or width > 4 * lanes):
        vectors, loop = sch.split(loop, [None, lanes])
        sch.unroll(vectors)
        sch.annotate(vectors, PARTITION, 1)
    sch.vectorize(loop)


def _pixel(params: ConvParams) -> Callable[[Any, Any, Any], Any]:
    """The number of an output pixel in its batch."""
    return lambda n, y, x: (n * params.ho + y) * params.wo + x


def _flatten_pixels(
    sch: Schedule, anchor: SBlockRV, last: SBlockRV, params: ConvParams, order: tuple[int, ...]
) -> None:
    """Make one loop of batch, rows and columns in both blocks and in the accumulator between."""
    pixel = _pixel(params)

    def of_last(a, b, c, d):  # type: ignore[no-untyped-def]
        n, y, x, o = ((a, b, c, d)[axis] for axis in order)
        return pixel(n, y, x), o

    sch.transform_block_layout(anchor, lambda n, y, x, o, ky, kx, c: (pixel(n, y, x), o, c))
    sch.transform_block_layout(last, of_last)
    sch.transform_layout(anchor, ("write", 0), lambda n, y, x, o: (pixel(n, y, x), o))


def epilogue_of(sch: Schedule, anchor: SBlockRV) -> tuple[SBlockRV, tuple[int, ...] | None]:
    """Inline what follows `anchor` into one block that reads it element by element.

    Returns that block (a copy, if nothing follows) and, for each axis of the anchor's result, the
    axis of the block that runs over it; None for the axes if they do not correspond so.
    """
    last = inline_epilogue(sch, anchor)
    if sch.get(last).same_as(sch.get(anchor)):
        last = sch.cache_write(anchor, 0, "global")
    result = sch.get(anchor).writes[0].source
    axes = [iv.var for iv in sch.get(last).iter_vars]
    reads = [read.region for read in sch.get(last).reads if read.source.same_as(result)]
    if len(reads) != 1:
        return last, None
    order = tuple(
        next((axis for axis, var in enumerate(axes) if var.same_as(part.min)), -1)
        for part in reads[0]
    )
    return last, order if sorted(order) == list(range(len(axes))) else None


def written_shape(sch: Schedule, block: SBlockRV) -> tuple[int, ...]:
    """Shape of the tensor that a block writes."""
    return tuple(int(extent) for extent in sch.get(block).writes[0].source.ty.shape)


def written_dtype(sch: Schedule, block: SBlockRV) -> str:
    """NumPy's name of the dtype of the tensor that a block writes."""
    return str(sch.get(block).writes[0].source.ty.dtype)
