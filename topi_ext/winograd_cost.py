"""What a Winograd convolution costs, in the unit in which direct kernels are ranked."""

from __future__ import annotations

import math

from .winograd_axis import Matrix
from .winograd_plan import Chunk, WinogradPlan

# Weights that stay in the second-level cache from one block of tiles to the next.
CACHED_BYTES = 2**20


def cost(plan: WinogradPlan) -> int:
    """Modelled hundredths of a cycle of the whole layer per product of a direct convolution.

    For ranking beside `RegisterTile.cost`, whose unit and assumptions it shares: two vector
    operations and two loads a cycle. Stores count as much as operations do.
    """
    p, tile = plan.params, plan.tile
    vectors = -(-p.co // tile.lanes)
    width = plan.group_channels // tile.lanes
    loads = width + (tile.tiles / tile.lanes if tile.by_lane else tile.tiles)
    step = max(tile.tiles * width / 2, loads / 2, 4.0) + 0.05 * loads
    sums = plan.count * (tile.tiles * width / 2 + 4)
    if plan.chunks > 1:
        sums *= 2 * plan.chunks  # loaded and stored for every chunk
    products = plan.groups * (plan.depth * p.ci * step + sums)
    outputs = plan.y.outputs * plan.x.outputs
    back = plan.x.outputs * _operations(plan.y.output_matrix)
    back += plan.y.size * _operations(plan.x.output_matrix)
    # Loads of sums hide behind the arithmetic in part; an operation finishes an output.
    outwards = vectors * tile.tiles * (back / 2 + plan.count / 8 + outputs)
    passes = -(-plan.groups // plan.held_groups) if plan.chunks > 1 else 1
    inwards = tile.tiles * passes * (_input_cycles(plan) + 10 * plan.chunks)
    weights = tile.itemsize * plan.groups * plan.group_channels * plan.depth * p.ci
    stream = weights * tile.stream_cycles if weights > CACHED_BYTES else 0.0
    return math.ceil(100 * plan.blocks * (products + outwards + inwards + stream) / p.taps)


def _input_cycles(plan: WinogradPlan) -> float:
    """Modelled cycles of the transform of one tile's inputs."""
    chunk = Chunk(plan, plan.params.ci)
    along = -(-chunk.run // min(plan.tile.lanes, chunk.run))
    across = -(-chunk.channels // chunk.lanes)
    total = 0.0
    for piece, size in enumerate(plan.y.sizes):
        total += along * (_operations(plan.y.input_matrix(piece)) + size) / 2
        for column, width in enumerate(plan.x.sizes):
            one_row = (_operations(plan.x.input_matrix(column)) + width) / 2
            total += size * across * one_row
    return total


def _operations(matrix: Matrix) -> int:
    """Additions and multiply-adds of the rows of a matrix times a vector."""
    return sum(max(0, sum(value != 0 for value in row) - 1) for row in matrix)
