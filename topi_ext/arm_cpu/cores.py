"""What the kernels need to know about Arm cores: one table, by LLVM's name of the core.

Family of the binary kernels. The loop of TBL takes 1.87 vector instructions per 128 MACs, that of
eor/cnt/add 3.00, so what decides is what a two-register TBL costs on the core:

- Arm's software optimisation guides of Cortex-A76, A77, A78, A710, A715, A720, X2, X3, X4 and of
  Neoverse N1, N2 and V2 (table "ASIMD table lookup, 1 or 2 table regs"; LLVM's scheduling models
  are drawn from them) give it a latency of two cycles on two vector pipes: as cheap as an eor.
  Apple's cores do it on three or four pipes (LLVM's model of Cyclone and its heirs). TBL wins.
- On Cortex-A57, A72, A73 and A75 it cracks into several micro-operations (2.5 cycles each); on A53
  and A55 it has a latency of four to six cycles in order, which no register pressure of this kernel
  can hide. eor/cnt/add wins.
- On Cortex-A510 and A520 a two-register TBL takes 2.5 cycles (A520's optimisation guide; LLVM's
  model of A510 prices it too low), but in that model a one-register TBL has both vector pipes, as
  an eor does, while uadalp has one. So 4-bit look-ups, 2.33 vector instructions per 128 MACs:
  modelled 2.5 to 2.7 cycles per 128 MACs on the benchmark layers against 2.7 to 2.9 of eor/cnt/add.
- On Cortex-X1 and Neoverse V1 it takes two micro-operations on two of the four vector pipes: TBL
  loses by the model (about 1.0 cycles per 128 MACs), so eor/cnt/add until someone measures it.
- A core that the table does not name, "generic" too, gets eor/cnt/add: nowhere bad.

Tiles. Register pressure under LLVM's scheduler for the core is why the heights differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tvm.target import Target


@dataclass(frozen=True)
class Core:
    """How the kernels see a core.

    table_bits: the table look-up kernel it takes where that supports a shape, by the bits of a
    look-up; 0: eor/cnt/add. cnt_pixels: output pixels of a tile of the eor/cnt kernel that do not
    spill, largest last. hoists: LLVM's scheduling model of the core (in order, long latencies)
    moves so many loads up that large tiles of halves spill.
    """

    table_bits: Literal[0, 4, 5] = 0
    cnt_pixels: tuple[int, ...] = (1, 4, 7)
    hoists: bool = False


_TBL = Core(table_bits=5)
_LITTLE = Core(table_bits=4, hoists=True)
# LLVM's scheduling model of these hoists so many loads (long latencies, in order) that taller
# tiles spill.
_IN_ORDER = Core(cnt_pixels=(1, 4, 5))

CORES: dict[str, Core] = {
    "cortex-a34": _IN_ORDER,
    "cortex-a35": _IN_ORDER,
    "cortex-a53": _IN_ORDER,
    "cortex-a55": Core(hoists=True),
    "cortex-a57": Core(),
    "cortex-a72": Core(),
    "cortex-a73": Core(),
    "cortex-a75": Core(),
    "cortex-a510": _LITTLE,
    "cortex-a520": _LITTLE,
    "cortex-x1": Core(),
    "cortex-x1c": Core(),
    "neoverse-v1": Core(),
    "cortex-a76": _TBL,
    "cortex-a76ae": _TBL,
    "cortex-a77": _TBL,
    "cortex-a78": _TBL,
    "cortex-a78ae": _TBL,
    "cortex-a78c": _TBL,
    "cortex-a710": _TBL,
    "cortex-a715": _TBL,
    "cortex-a720": _TBL,
    "cortex-a720ae": _TBL,
    "cortex-a725": _TBL,
    "cortex-x2": _TBL,
    "cortex-x3": _TBL,
    "cortex-x4": _TBL,
    "cortex-x925": _TBL,
    "neoverse-n1": _TBL,
    "neoverse-n2": _TBL,
    "neoverse-n3": _TBL,
    "neoverse-v2": _TBL,
    "neoverse-v3": _TBL,
}
_ELSE = Core()


def core_of(target: Target) -> Core:
    """The row of the target's core; Apple's share one, unknown ones take eor/cnt."""
    name = str(target.attrs.get("mcpu", "") or "generic")
    if name.startswith("apple-"):
        return _TBL
    return CORES.get(name, _ELSE)
