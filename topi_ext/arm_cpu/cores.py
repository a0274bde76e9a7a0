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
- Of the cores that other makers designed, LLVM's models of Exynos M3 to M5, Falkor, Saphira and
  TSV110 price the bare loop of TBL at 0.40 to 0.81 of the other's cycles; on ThunderX2, ThunderX3,
  Ampere-1 and A64FX the two are too close to decide by, on Kryo it is 1.8 times slower.
- A core that `--mcpu` names and the table does not, "generic" too, gets eor/cnt/add: nowhere bad.

On the device. A model for the generic target holds eor/cnt/add and 5-bit look-ups, and what is
to run is chosen when it is loaded, by the ids of the cores (`CoreId`). An id that the table lacks
(`UNKNOWN`) is most likely that of a core made since: all out-of-order cores of Arm since 2018 but
X1 and V1 take TBL, so do Apple's, and the small in-order ones beside them are in the table. Where
no id can be read at all (`UNREADABLE`), the system is old or closed, and eor/cnt/add loses least:
on A76 it takes 1.26 to 1.28 times TBL's cycles, while TBL takes 1.9 to 2.0 times the other's on
A72, 1.26 on X1, 1.1 to 1.4 on A55 and 1.0 to 1.2 on A53 (modelled, on two benchmark layers).

Sources of the ids: Arm's technical reference manuals (MIDR_EL1), LLVM's TargetParser/Host.cpp,
Linux's arch/arm64/include/asm/cputype.h. Qualcomm's Kryo 2xx, 3xx, 4xx are Arm's cores under other
ids, HiSilicon's and Microsoft's as well.

Tiles. Register pressure under LLVM's scheduler for the core is why the heights differ.

Pairs. In LLVM's model of Cortex-A53 a pair of 128-bit loads takes both places of a cycle and the
pipe for two; two single loads issue beside multiply-adds. LLVM makes pairs all the same, keeps
their loads together for it, and they end up right before their use, where the core waits for them:
float layers took 10 to 20 % more cycles, binary ones 2 to 5 % (benchmarks/in_order.py). The core
itself loads 64 bits a cycle, pair or not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from tvm.target import Target

Family = Literal["cnt", "tbl"]
# From those for small cores to those for big ones.
FAMILIES: tuple[Family, ...] = get_args(Family)
_TABLE_BITS: dict[Family, Literal[0, 5]] = {"cnt": 0, "tbl": 5}
UNKNOWN: Family = "tbl"
UNREADABLE: Family = "cnt"
ANY_PART = -1
_KEY = "bnn-family-"  # marks a target whose family is given


class CoreId(NamedTuple):
    """MIDR_EL1's implementer (bits 24 to 31) and part number (bits 4 to 15), or `ANY_PART`."""

    implementer: int
    part: int


@dataclass(frozen=True)
class Core:
    """How the kernels see a core.

    table_bits: the table look-up kernel it takes where that supports a shape, by the bits of a
    look-up; 0: eor/cnt/add. cnt_pixels: output pixels of a tile of the eor/cnt kernel that do not
    spill, largest last.
    hoists: LLVM's scheduling model of the core (in order, long latencies) moves so many loads up
    that large tiles of halves spill. in_order: it issues instructions in program order, so that a
    load costs its latency wherever it stands close before its use. tuning: LLVM's names of
    features that change how it writes code for the core, not what the core must have. sum_cycles:
    from a multiply-add to the next one of the same sum, by LLVM's model. ids: by which a device
    knows it.
    """

    table_bits: Literal[0, 4, 5] = 0
    cnt_pixels: tuple[int, ...] = (1, 4, 7)
    hoists: bool = False
    in_order: bool = False
    tuning: tuple[str, ...] = ()
    sum_cycles: int = 4
    ids: tuple[CoreId, ...] = ()

    @property
    def family(self) -> Family:
        """The kernels it takes of those that a generic library holds, which has no 4-bit ones."""
        return "tbl" if self.table_bits == _TABLE_BITS["tbl"] else "cnt"

    def known_as(self, part: int, *others: tuple[int, int]) -> Core:
        """The same with Arm's `part` number, and (implementer, part) of other makers."""
        return replace(self, ids=(CoreId(_ARM, part), *(CoreId(*other) for other in others)))

    def made_by(self, implementer: int, *parts: int) -> Core:
        """The same with ids of another maker."""
        return replace(self, ids=tuple(CoreId(implementer, part) for part in parts))


_ARM, _BROADCOM, _CAVIUM, _FUJITSU, _HISILICON = 0x41, 0x42, 0x43, 0x46, 0x48
_NVIDIA, _QUALCOMM, _SAMSUNG, _APPLE, _MICROSOFT, _AMPERE = 0x4E, 0x51, 0x53, 0x61, 0x6D, 0xC0

_CNT = Core()
_TBL = Core(table_bits=5)
_LITTLE = Core(table_bits=4, hoists=True, in_order=True)
# LLVM's scheduling model of these hoists so many loads (long latencies, in order) that taller
# tiles spill.
_IN_ORDER = Core(cnt_pixels=(1, 4, 5), in_order=True, tuning=("+slow-paired-128",), sum_cycles=10)

CORES: dict[str, Core] = {
    "cortex-a34": _IN_ORDER.known_as(0xD02),
    "cortex-a35": _IN_ORDER.known_as(0xD04),
    "cortex-a53": _IN_ORDER.known_as(0xD03, (_QUALCOMM, 0x801)),
    "cortex-a55": replace(_CNT, hoists=True, in_order=True).known_as(
        0xD05, (_QUALCOMM, 0x803), (_QUALCOMM, 0x805)
    ),
    "cortex-a57": _CNT.known_as(0xD07),
    "cortex-a65": _CNT.known_as(0xD06),
    "cortex-a65ae": _CNT.known_as(0xD43),
    "cortex-a72": _CNT.known_as(0xD08),
    "cortex-a73": _CNT.known_as(0xD09, (_QUALCOMM, 0x800)),
    "cortex-a75": _CNT.known_as(0xD0A, (_QUALCOMM, 0x802)),
    "cortex-a320": _CNT.known_as(0xD8F),
    "cortex-a510": _LITTLE.known_as(0xD46),
    "cortex-a520": _LITTLE.known_as(0xD80),
    "cortex-a520ae": _LITTLE.known_as(0xD88),
    "c1-nano": _CNT.known_as(0xD8A),
    "cortex-x1": _CNT.known_as(0xD44),
    "cortex-x1c": _CNT.known_as(0xD4C),
    "neoverse-e1": _CNT.known_as(0xD4A),
    "neoverse-v1": _CNT.known_as(0xD40),
    "cortex-a76": _TBL.known_as(0xD0B, (_QUALCOMM, 0x804), (_HISILICON, 0xD40)),
    "cortex-a76ae": _TBL.known_as(0xD0E),
    "cortex-a77": _TBL.known_as(0xD0D),
    "cortex-a78": _TBL.known_as(0xD41),
    "cortex-a78ae": _TBL.known_as(0xD42),
    "cortex-a78c": _TBL.known_as(0xD4B),
    "cortex-a710": _TBL.known_as(0xD47),
    "cortex-a715": _TBL.known_as(0xD4D),
    "cortex-a720": _TBL.known_as(0xD81),
    "cortex-a720ae": _TBL.known_as(0xD89),
    "cortex-a725": _TBL.known_as(0xD87),
    "cortex-x2": _TBL.known_as(0xD48),
    "cortex-x3": _TBL.known_as(0xD4E),
    "cortex-x4": _TBL.known_as(0xD82),
    "cortex-x925": _TBL.known_as(0xD85),
    "neoverse-n1": _TBL.known_as(0xD0C),
    "neoverse-n2": _TBL.known_as(0xD49, (_MICROSOFT, 0xD49)),
    "neoverse-n3": _TBL.known_as(0xD8E),
    "neoverse-v2": _TBL.known_as(0xD4F),
    "neoverse-v3": _TBL.known_as(0xD84),
    "a64fx": _CNT.made_by(_FUJITSU, 0x001),
    "ampere1": _CNT.made_by(_AMPERE, 0xAC3),
    "ampere1a": _CNT.made_by(_AMPERE, 0xAC4),
    "carmel": _CNT.made_by(_NVIDIA, 0x004),
    "kryo": _CNT.made_by(_QUALCOMM, 0x201, 0x205, 0x211),
    "thunderx2t99": replace(_CNT, ids=(CoreId(_CAVIUM, 0x0AF), CoreId(_BROADCOM, 0x516))),
    "thunderx3t110": _CNT.made_by(_CAVIUM, 0x0B8),
    "exynos-m3": _TBL.made_by(_SAMSUNG, 0x002),
    "exynos-m4": _TBL.made_by(_SAMSUNG, 0x003),
    "exynos-m5": _TBL.made_by(_SAMSUNG, 0x004),
    "falkor": _TBL.made_by(_QUALCOMM, 0xC00),
    "saphira": _TBL.made_by(_QUALCOMM, 0xC01),
    "tsv110": _TBL.made_by(_HISILICON, 0xD01),
}
APPLE = _TBL.made_by(_APPLE, ANY_PART)
_ELSE = Core()


def core_of(target: Target) -> Core:
    """The row of the target's core; Apple's share one, unknown ones take eor/cnt.

    The family is that of `with_family` where the target comes from there.
    """
    name = str(target.attrs.get("mcpu", "") or "generic")
    core = APPLE if name.startswith("apple-") else CORES.get(name, _ELSE)
    for family in FAMILIES:
        if _KEY + family in target.keys:
            return replace(core, table_bits=_TABLE_BITS[family])
    return core


def tuning_of(mcpu: str) -> tuple[str, ...]:
    """`Core.tuning` by LLVM's name of the core, for the target's `mattr`."""
    return CORES.get(mcpu, _ELSE).tuning


def with_family(target: Target, family: str) -> Target:
    """The same target for choosing kernels of `family`, whatever its core takes.

    Raises ValueError if there is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"no family of kernels is called {family!r}")
    config = json.loads(str(target))
    config["keys"] = [_KEY + family, *config["keys"]]
    return Target({key: value for key, value in config.items() if not key.startswith("feature.")})


def cores_by_name() -> dict[str, Core]:
    """The rows by which a device can be known, Apple's under one name."""
    return {**{name: core for name, core in CORES.items() if core.ids}, "apple": APPLE}
