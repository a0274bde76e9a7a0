"""From packed words to offsets of look-up tables, for the kernel of `bconv2d_table`."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc, Stmt

from ..emit import PARALLEL, SERIAL, bitcast, let, loop, seq, splat, vload, vstore
from ..epilogue import find_stage
from ..kernels import KERNEL, PARAMS, STAGE
from ..params import ConvParams
from .table_plan import TablePlan

NAME = "bconv2d_avx2_pshufb_table_2x128"  # the kernel whose stage this is
LANES = 8  # bytes of packed words a vector step turns into twice as many offsets
PARALLEL_OFFSETS = 100_000


def prepare(packed: te.Tensor, params: ConvParams) -> te.Tensor:
    """uint8 words [n, hp, wp, groups*cw] to uint16 offsets [groups, rows, positions].

    An offset is 16 * (aP + 16 * aQ), aP and aQ the four bits of the two pixels of a pair; see
    `TablePlan` for the two layouts.
    """
    p = params
    plan = TablePlan.of(p)
    depth = plan.groups_per_pixel
    cw = depth // 2

    def nibble(value: Any, i: Any) -> Any:
        shift = (i % 2 * 4).astype("uint8")
        return ((value >> shift) & tirx.const(15, "uint8")).astype("uint16")

    def offset(g: Any, row: Any, position: Any) -> Any:
        part = 0
        if plan.rows > 1 and plan.gathered:
            part, position = position // plan.column_stride, position % plan.column_stride
        x, i = position // depth, position % depth
        word = g * cw + i // 2
        if plan.gathered:
            used = plan.row_groups // depth
            tap = part * used + x
            ky, kx = tap // p.kw * p.dilation[0], tap % p.kw * p.dilation[1]
            found = []
            for second in (0, 1):
                at = tirx.min(row * 2 + second, p.pixels - 1)
                n, line = at // (p.ho * p.wo), at // p.wo % p.ho
                column = at % p.wo * p.stride[1] + kx
                found.append(packed[n, line * p.stride[0] + ky, column, word])
        else:
            n, y = row // p.hp, row % p.hp
            found = [
                packed[n, y, tirx.min(x + second * p.stride[1], p.wp - 1), word]
                for second in (0, 1)
            ]
            used = plan.positions
        a, b = (nibble(value, i) for value in found)
        four = tirx.const(4, "uint16")
        value = (a | (b << four)) << four
        return tirx.if_then_else(x < used, value, tirx.const(0, "uint16"))

    attrs = {KERNEL: NAME, STAGE: "prepare", PARAMS: str(p)}
    return te.compute(plan.shape, offset, name="prepare", attrs=attrs)


def schedule_prepare(func: PrimFunc) -> PrimFunc:
    """Write the loops of `prepare` with vectors of LANES bytes."""
    sch = Schedule(func)
    block = sch.get(find_stage(sch, "prepare"))
    params = ConvParams.parse(str(block.annotations[PARAMS]))
    packed, offsets = block.reads[0].source, block.writes[0].source
    body = _Writer(params, packed, offsets).write()
    return PrimFunc(func.params, body, func.ret_type, func.attrs)


class _Writer:
    """The hand-made loops; every step handles bytes that are neighbours in both tensors."""

    def __init__(self, params: ConvParams, packed: tirx.Buffer, offsets: tirx.Buffer) -> None:
        """Keep shape and buffers."""
        self.params = params
        self.plan = TablePlan.of(params)
        self.cw = self.plan.groups_per_pixel // 2
        self.packed, self.offsets = packed, offsets

    def write(self) -> PrimFunc:
        """All groups and rows."""
        groups, rows, length = self.plan.shape
        kind = PARALLEL if groups * rows * length >= PARALLEL_OFFSETS else SERIAL
        row = self._gathered_row if self.plan.gathered else self._shared_row
        return loop(rows, lambda r: loop(groups, lambda g: seq(row(g, r)), "g"), "row", kind)

    def _shared_row(self, g: Any, row: Any) -> list[Stmt]:
        p, plan = self.params, self.plan
        stmts: list[Stmt] = []
        n, y = let("n", row // p.hp, stmts), let("y", row % p.hp, stmts)
        # Pixels whose right neighbour exists; the rest take the last one, whatever it is.
        inside = min(plan.positions, p.wp - p.stride[1])
        dst = (g, row)
        if p.groups == 1:
            stmts += self._run(dst, 0, (n, y, 0), (n, y, p.stride[1]), inside * self.cw, 0)
        else:
            stmts.append(
                loop(
                    inside,
                    lambda x: seq(
                        self._run(
                            dst,
                            x * (2 * self.cw),
                            (n, y, x),
                            (n, y, x + p.stride[1]),
                            self.cw,
                            g * self.cw,
                        )
                    ),
                    "x",
                )
            )
        for x in range(max(inside, 0), plan.positions):
            at = x * 2 * self.cw
            last = (n, y, p.wp - 1)
            stmts += self._run(dst, at, (n, y, x), last, self.cw, g * self.cw)
        return stmts + self._fill(dst, plan.positions * plan.groups_per_pixel, plan.shape[2])

    def _gathered_row(self, g: Any, pair: Any) -> list[Stmt]:
        p = self.params
        stmts: list[Stmt] = []
        corners = []
        for second in (0, 1):
            at = let("at", tirx.min(pair * 2 + second, p.pixels - 1), stmts)
            n = let("n", at // (p.ho * p.wo), stmts)
            y = let("y", at // p.wo % p.ho * p.stride[0], stmts)
            x = let("x", at % p.wo * p.stride[1], stmts)
            corners.append((n, y, x))
        whole_rows = p.groups == 1 and p.dilation[1] == 1
        count = 1 if whole_rows else p.kw
        size = self.cw * (p.kw if whole_rows else 1)
        # Kernel rows follow each other, or each has a row of its own in the plan.
        kernel_row = self.plan.column_stride if self.plan.rows > 1 else p.kw * (2 * self.cw)

        def tap(ky: Any, kx: Any) -> Stmt:
            place = ky * kernel_row + kx * (2 * self.cw)
            pixels = [(n, y + ky * p.dilation[0], x + kx * p.dilation[1]) for n, y, x in corners]
            return seq(self._run((g, pair), place, pixels[0], pixels[1], size, g * self.cw))

        stmts.append(loop(p.kh, lambda ky: loop(count, lambda kx: tap(ky, kx), "kx"), "ky"))
        distance = self.plan.column_stride
        for row in range(self.plan.rows):
            begin = row * distance
            stmts += self._fill((g, pair), begin + self.plan.row_groups, begin + distance)
        return stmts

    def _run(
        self, dst: tuple[Any, Any], at: Any, first: Any, second: Any, size: int, word: Any
    ) -> list[Stmt]:
        """`size` bytes from word `word` of pixels `first` and `second` on, to offsets from `at`.

        The bytes may reach into the next pixels: rows of the packed tensor are contiguous, and
        so are a last index beyond its dimension.
        """

        def step(i: Any, lanes: int) -> Stmt:
            u32 = f"uint32x{lanes}" if lanes > 1 else "uint32"

            def const(v: int) -> Any:
                return splat(v, u32) if lanes > 1 else tirx.const(v, u32)

            a, b = (
                (
                    vload(self.packed, [*pixel, word + i], lanes)
                    if lanes > 1
                    else tirx.BufferLoad(self.packed, [*pixel, word + i])
                ).astype(u32)
                for pixel in (first, second)
            )
            low = ((a & const(15)) << const(4)) | ((b & const(15)) << const(8))
            high = ((a & const(240)) << const(16)) | ((b & const(240)) << const(20))
            out = bitcast(low | high, f"uint16x{2 * lanes}")
            return vstore(self.offsets, out, [*dst, at + i * 2], 2 * lanes)

        done: list[Stmt] = []
        full = size // LANES
        if full:
            done.append(loop(full, lambda i: step(i * LANES, LANES), "b"))
        if size % LANES:
            done.append(loop(size % LANES, lambda i: step(full * LANES + i, 1), "b"))
        return done

    def _fill(self, dst: tuple[Any, Any], first: int, behind: int) -> list[Stmt]:
        """Offset 0 in what is left of a row: read by filled-up steps, so it must be legal."""
        zero = tirx.const(0, "uint16")
        return [tirx.BufferStore(self.offsets, zero, [*dst, at]) for at in range(first, behind)]
