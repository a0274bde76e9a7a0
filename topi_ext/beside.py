"""The next layer's packed words as a second output of a binary convolution, beside its floats.

A layer behind a shortcut is read twice: as floats by a later shortcut, as bits by the next binary
layer. The epilogue has the floats in registers, so it compares them there. `join` puts a `pack`
behind the function that writes what it packs; the writer of the convolution's loops then stores
words with `BesideEpilogue`, each right after the floats that it compares.

Borders are written by one thread before all pixels. Written by the pixels next to them they
cost more than a pack: on Zen 5 9 to 13 cycles a pixel, most of them mispredicted branches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize, Schedule
from tvm.tirx import PrimFunc, Stmt
from tvm_ffi import structural_map

from .bitpack import UNIT, border_word, threshold_of
from .emit import VECTORIZED, bitcast, let, local, loop, mask_bits, seq, splat, vload, vstore
from .epilogue import extract_epilogue, find_stage, holds_stage, leaf_blocks
from .kernels import KERNEL, PACK, PARAMS, STAGE, Kernel, table
from .params import ConvParams

Element = Callable[[Any], tirx.BufferStore]
FILL = 16  # most words of a border that are stored at once


def refusal(func: PrimFunc, pack: PrimFunc) -> str | None:
    """None, or why `func` cannot write the words of `pack` beside its own result.

    func: a fused function with its stages; pack: a function of `bitpack.pack` alone that reads
    the only output of `func`.
    """
    kernel, p = _accumulates(func)
    if kernel is None or p is None or not kernel.beside:
        return "the kernel has no such epilogue"
    sch = Schedule(pack)
    if not holds_stage(pack, PACK) or len(leaf_blocks(sch)) != 1:
        return "something else is fused with the pack"
    if holds_stage(func, PACK):
        return "the function writes words already"
    out, block = func.params[-1], sch.get(find_stage(sch, PACK))
    q, bits = ConvParams.parse(str(block.annotations[PARAMS])), block.annotations["bnn.word_bits"]
    shapes = [[int(e) for e in buffer.ty.shape] for buffer in (out, pack.params[0])]
    if shapes != [list(p.out_shape)] * 2:
        return "the tensors have other shapes"
    if {str(buffer.ty.dtype) for buffer in (out, pack.params[0])} != {"float32"}:
        return "the numbers are not float32"
    if UNIT % int(bits) or q.cig % int(bits) or p.cog % UNIT or kernel.tile["channels"] % UNIT:
        return f"{p.cog} channels do not fill words of {int(bits)} bits"
    epilogue = extract_epilogue(func)
    if epilogue is None or not epilogue.aligned():
        return "the result is stored in another order"
    return None


def join(func: PrimFunc, pack: PrimFunc, floats_too: bool = True) -> PrimFunc:
    """`func`, and `pack` on its result: (inputs of func, other inputs of pack, floats, words).

    Without `floats_too` the floats are no result and never stored. `refusal` must be None.
    """
    floats, source = func.params[-1], pack.params[0]

    def renamed(var: tirx.Var) -> Any:
        return floats if var.same_as(source) else var

    root, other = func.body.block, structural_map(pack.body.block.body, (tirx.Var, renamed))
    both = SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        seq([*_statements(root.body), other]),
        root.init,
        [*root.alloc_buffers, *([] if floats_too else [floats])],
        root.match_buffers,
        root.annotations,
    )
    results = [floats, pack.params[-1]] if floats_too else [pack.params[-1]]
    params = [*func.params[:-1], *pack.params[1:-1], *results]
    body = SBlockRealize([], tirx.const(True, "bool"), both)
    return PrimFunc(params, body, func.ret_type, func.attrs)


def _statements(body: Stmt) -> list[Stmt]:
    return list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]


def _accumulates(func: PrimFunc) -> tuple[Kernel | None, ConvParams | None]:
    sch = Schedule(func)
    for block in leaf_blocks(sch):
        notes = sch.get(block).annotations
        if notes.get(STAGE) == "acc" and KERNEL in notes:
            kernel = table().get(str(notes[KERNEL]))
            return kernel, ConvParams.parse(str(notes[PARAMS]))
    return None, None


@dataclass(frozen=True)
class BesideEpilogue:
    """What the pack behind a convolution needs, for hand-made loops.

    floats [n, h, w, c], stored unless None, are compared with `threshold`, a number or [c], and the
    bits turned where `flip` [c] is not 0; the words go to `out` [n, hp, wp, c / word_bits]. params:
    of the layer that reads them.
    """

    params: ConvParams
    word_bits: int
    floats: tirx.Buffer | None
    threshold: tirx.Buffer | float
    flip: tirx.Buffer | None
    out: tirx.Buffer

    def store(
        self, element: Element, pixel: tuple[Any, Any, Any], first: Any, channels: int
    ) -> list[Stmt]:
        """Floats and words of a pixel's channels first .. first+channels-1, multiples of UNIT.

        element: (c), the store of the float of channel first + c. The float passes through a
        vector, so that the very number that is stored is compared, and in a register.
        """
        bits = self.word_bits
        (n, y, x), (top, left, _, _) = pixel, self.params.pads
        stmts: list[Stmt] = []
        begin = let("word", first // bits, stmts)
        for at in range(0, channels, UNIT):
            unit = local("unit", (UNIT,), "float32", stmts)

            def move(i: Any, at: int = at, unit: tirx.Buffer = unit) -> Stmt:
                return tirx.BufferStore(unit, element(at + i).value, [i])

            stmts.append(loop(UNIT, move, "i", VECTORIZED))
            value = let("floats", vload(unit, [0], UNIT), stmts)
            if self.floats is not None:
                stmts.append(vstore(self.floats, value, [n, y, x, first + at], UNIT))
            mask = let("mask", mask_bits(value >= self._limit(first + at), UNIT), stmts)
            if self.flip is not None:
                flip = vload(self.flip, [first + at], UNIT)
                turned = mask_bits(tirx.NE(flip, splat(0, f"uint8x{UNIT}")), UNIT)
                mask = let("turned", mask ^ turned, stmts)
            count = UNIT // bits
            words = mask if count == 1 else bitcast(mask, f"uint{bits}x{count}")
            place = [n, y + top, x + left, begin + at // bits]
            stmts.append(vstore(self.out, words, place, count))
        return stmts

    def _limit(self, channel: Any) -> Any:
        if isinstance(self.threshold, tirx.Var):
            return vload(self.threshold, [channel], UNIT)
        return splat(self.threshold, f"float32x{UNIT}")

    def border(self) -> list[Stmt]:
        """The words of the padding: what lies in memory before, between and behind the rows."""
        p = self.params
        if not p.padded:
            return []
        top, left, bottom, right = p.pads
        words = int(self.out.ty.shape[3])

        def image(n: Any) -> Stmt:
            row = p.wp * words
            first = n * (p.hp * row)
            behind = first + (top * p.wp + left + p.w) * words  # the first row's numbers

            def between(y: Any) -> Stmt:
                return seq(self._fill(behind + y * row, (left + right) * words))

            stmts = self._fill(first, (top * p.wp + left) * words)
            if left + right and p.h > 1:
                stmts.append(loop(p.h - 1, between, "y"))
            return seq(
                stmts + self._fill(behind + (p.h - 1) * row, (right + bottom * p.wp) * words)
            )

        return [loop(p.n, image, "n")]

    def _fill(self, first: Any, count: int) -> list[Stmt]:
        """Padding in `count` words from the flat index `first` on."""
        pad = border_word(self.params, self.word_bits, 0)
        stmts: list[Stmt] = []
        done, lanes = 0, FILL

        def some(at: Any, size: int) -> Stmt:
            value = pad if size == 1 else tirx.Broadcast(pad, size)
            return vstore(self.out, value, [0, 0, 0, at], size)

        while done < count:
            whole, at = (count - done) // lanes, first + done
            if whole:

                def one(i: Any, at: Any = at, size: int = lanes) -> Stmt:
                    return some(at + i * size, size)

                stmts.append(loop(whole, one, "i"))
            done += whole * lanes
            lanes //= 2
        return stmts


def extract_beside(func: PrimFunc) -> BesideEpilogue | None:
    """What the pack in `func` needs; None if it holds none."""
    if not holds_stage(func, PACK):
        return None
    sch = Schedule(func)
    block = sch.get(find_stage(sch, PACK))
    by_type = {(len(r.source.ty.shape), str(r.source.ty.dtype)): r.source for r in block.reads}
    floats = by_type[4, "float32"]
    return BesideEpilogue(
        params=ConvParams.parse(str(block.annotations[PARAMS])),
        word_bits=int(block.annotations["bnn.word_bits"]),
        floats=floats if any(floats.same_as(param) for param in func.params) else None,
        threshold=threshold_of(block, by_type),
        flip=by_type.get((1, "uint8")),
        out=block.writes[0].source,
    )
