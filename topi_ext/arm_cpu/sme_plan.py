"""How the BMOPA kernel walks a convolution: bit planes in which neighbours are pixels.

BMOPA wants 32-bit words of several pixels side by side. `prepare` turns the packed input, whose
words of one pixel lie side by side, into planes: one per word of a pixel and phase of the stride,

    plane[word, py, px][n, y, x] = packed[n, y * sy + py, x * sx + px, word],

each a map of hq x wq positions for every image. The tap (ky, kx) of the output pixel (n, y, x) is
then the element (n * hq + y) * wq + x of one plane, moved on by an offset that depends on the tap
alone. So any run of positions is a run of memory for all taps, whatever the stride and dilation,
and a vector of any length does. Positions with x >= wo or y >= ho are computed in vain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.tirx import PrimFunc, Stmt

from ..emit import PARALLEL, SERIAL, loop, seq
from ..params import ConvParams
from .sme_intrin import MAX_WORDS

WORD = 32  # bits of a packed word: an element of BMOPA's vectors
PIXELS = 32  # the height of a chunk is a multiple of this
COLUMNS = 16  # weights are padded to this many channels: 64 bytes, a cache line
CHANNELS = 128  # most output channels of a chunk
COUNTS = 8192  # most counts of a chunk: 32 KB on the stack
SLACK = 2 * MAX_WORDS  # elements that two vectors read beyond what is there
PARALLEL_WORDS = 100_000


@dataclass(frozen=True)
class SmePlan:
    """The walk over one convolution.

    A chunk is what one stay in streaming mode computes: `rows` positions x `width` channels.
    """

    params: ConvParams

    @property
    def words(self) -> int:
        """Words of one pixel, all groups."""
        return self.params.groups * self.params.words(WORD)

    @property
    def phases(self) -> tuple[int, int]:
        """Phases of the stride that some tap looks at, vertical and horizontal."""
        p = self.params
        return (
            1 + max(k * p.dilation[0] % p.stride[0] for k in range(p.kh)),
            1 + max(k * p.dilation[1] % p.stride[1] for k in range(p.kw)),
        )

    @property
    def map(self) -> tuple[int, int]:
        """hq, wq: rows and columns of one image in a plane."""
        p = self.params
        return -(-p.hp // p.stride[0]), -(-p.wp // p.stride[1])

    @property
    def plane(self) -> int:
        """Words of one plane, all images."""
        return self.params.n * self.map[0] * self.map[1]

    @property
    def positions(self) -> int:
        """Positions from the first output pixel to the last."""
        p = self.params
        hq, wq = self.map
        return ((p.n - 1) * hq + p.ho - 1) * wq + p.wo

    @property
    def used(self) -> int:
        """Words of all planes."""
        return self.words * self.phases[0] * self.phases[1] * self.plane

    @property
    def size(self) -> int:
        """Words of all planes with what the last tiles read beyond them."""
        return self.used + SLACK

    @property
    def width(self) -> int:
        """Channels of a chunk, padded: the distance from one position's counts to the next."""
        return min(-(-self.params.cog // COLUMNS) * COLUMNS, CHANNELS)

    @property
    def rows(self) -> int:
        """Positions of a chunk."""
        return min(COUNTS // self.width // PIXELS, -(-self.positions // PIXELS)) * PIXELS

    @property
    def depth(self) -> int:
        """Words that are multiplied for one output."""
        return self.params.kh * self.params.kw * self.params.words(WORD)

    def pixel(self, position: Any) -> tuple[Any, Any, Any]:
        """n, y, x of a position; no output pixel if y >= ho or x >= wo."""
        hq, wq = self.map
        return position // (hq * wq), position // wq % hq, position % wq

    def offset(self, group: Any, ky: Any, kx: Any, word: Any) -> Any:
        """Where position 0 lies for a tap and a word of a group."""
        p = self.params
        dy, dx = ky * p.dilation[0], kx * p.dilation[1]
        (sy, sx), (py, px) = p.stride, self.phases
        index = group * p.words(WORD) + word
        plane = (index * py + dy % sy) * px + dx % sx
        return plane * self.plane + dy // sy * self.map[1] + dx // sx


def prepare(packed: te.Tensor, params: ConvParams, attrs: dict[str, Any]) -> te.Tensor:
    """uint32 words [n, hp, wp, groups*cw] to the planes uint32 [size], 0 beyond the last."""
    plan = SmePlan(params)
    py, px = plan.phases

    def element(i: Any) -> Any:
        j = tirx.min(i, plan.used - 1)
        word, phase, position = j // (py * px * plan.plane), j // plan.plane, j % plan.plane
        value = _word(plan, packed, word, phase // px % py, phase % px, *plan.pixel(position))
        return tirx.Select(i < plan.used, value, tirx.const(0, "uint32"))

    return te.compute((plan.size,), element, name="planes", attrs=attrs)


def _word(plan: SmePlan, packed: Any, word: Any, py: Any, px: Any, n: Any, y: Any, x: Any) -> Any:
    """An element of a plane; where the stride leads out of the input, any word of it."""
    p = plan.params
    row, column = y * p.stride[0] + py, x * p.stride[1] + px
    if (plan.map[0] - 1) * p.stride[0] + plan.phases[0] > p.hp:
        row = tirx.min(row, p.hp - 1)
    if (plan.map[1] - 1) * p.stride[1] + plan.phases[1] > p.wp:
        column = tirx.min(column, p.wp - 1)
    return packed[n, row, column, word]


def schedule_prepare(
    func: PrimFunc, packed: tirx.Buffer, planes: tirx.Buffer, params: ConvParams
) -> PrimFunc:
    """Plane by plane, in parallel; then the zeros."""
    plan = SmePlan(params)
    (py, px), (hq, wq) = plan.phases, plan.map

    def plane(index: Any) -> Stmt:
        def row(r: Any) -> Stmt:
            def position(x: Any) -> Stmt:
                place = (index // (py * px), index // px % py, index % px, r // hq, r % hq, x)
                value = _word(plan, packed, *place)
                return tirx.BufferStore(planes, value, [(index * (params.n * hq) + r) * wq + x])

            return loop(wq, position, "x")

        return loop(params.n * hq, row, "r")

    def zero(i: Any) -> Stmt:
        return tirx.BufferStore(planes, tirx.const(0, "uint32"), [plan.used + i])

    kind = PARALLEL if plan.used >= PARALLEL_WORDS else SERIAL
    stmts = [loop(plan.words * py * px, plane, "plane", kind)]
    stmts.append(loop(plan.size - plan.used, zero, "i"))
    return PrimFunc(func.params, seq(stmts), func.ret_type, func.attrs)
