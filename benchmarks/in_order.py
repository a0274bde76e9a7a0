"""Cycles of straight-line arm64 code on a core that issues in order: stalls for operands alone.

llvm-mca makes the instructions of such a core finish in order as well: a load behind a multiply-add
stalls until both would finish in turn, needed or not. Here an instruction waits only

- for the one before it: it issues in the same cycle or later,
- for a place: LLVM's model has two micro-operations a cycle on Cortex-A53, and one that does not
  fit whole waits for the next cycle,
- for its pipe, which each instruction holds for the cycles that the model says,
- for the registers that it reads: an element or a view (`s0`, `d0`, `q0`, `v0.s[1]`) is the whole
  register; instructions that add to or insert into their destination read it; writing back an
  address takes one cycle; flags are a register, so a conditional branch waits for its comparison,
- for earlier results of the registers that it writes: they may not be overwritten by older ones.

Latencies, micro-operations, pipes and how long they are held are llvm-mca's. Two things are not in
its output. Integer instructions read late (`ReadAdvance` of AArch64SchedA53.td): operands of the
ALU two cycles before an integer result is complete, shifted ones and factors one, addends of
products two. And LLVM 19 lets no multiply-add forward its sum to the next one: ten cycles. Later
releases have eight, or four from addend to addend; with those a loop of few sums is faster.

What the estimate leaves out, beside what armcost does (caches, branches): a real Cortex-A53 has
pipes of 64 bits. A multiply-add of four floats takes two cycles in it (LLVM 19: one), and a load of
128 bits two as well and cannot issue beside another instruction. So parts of a bound are those of
the model, by which the bound itself is reckoned.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from . import counter

ISSUE_WIDTH = 2
_REGISTER = re.compile(r"\b(?:[xw](\d+)\b|[vqdshb](\d+)\b|w?(sp)\b)")
_STORE = re.compile(r"(st\d|stn?p|stu?r[bh]?|prfu?m)$")
_LOAD = re.compile(r"ld(\d|\d?r|n?p|psw|u?rs?[bhw]?)")
_BRANCH = re.compile(r"(b|b\..*|cbn?z|tbn?z|br|ret)$")
_COMPARISON = re.compile(r"(cmp|cmn|tst|ccmp|ccmn|fc?cmpe?)$")
_SETS_FLAGS = re.compile(r"(add|sub|and|bic|adc|sbc|neg|ngc)s$|.*cmpe?$|cmn$|tst$|ccmn$")
_READS_FLAGS = re.compile(r"b\.|cs(el|inc|inv|neg|etm?)$|c(inc|inv|neg)$|ccm[pn]$|f?ccmpe?$|fcsel$")
# They read what they write.
_ADDS = re.compile(
    r"f?c?ml[as]l?2?$|[su](ml[as]l2?|dot|mmla|abal?2?|adalp|r?sra)$|sqdml[as]l2?$|usdot$|"
    r"bsl$|bi[tf]$|s[lr]i$|tbx$|movk$|bf(i|m|xil|c)$|(?!trn).*n2$|fmlal2?$"
)
_SHIFTED = re.compile(r"(lsl|lsr|asr|ror|[us]xt[bhwx])\b")


@dataclass(frozen=True)
class Instruction:
    """What an instruction takes.

    reads: register, and how many cycles before an integer result of it is complete it may be read.
    writes: register and cycles until it can be read. pipe: the name of the kind, held for `cycles`.
    """

    reads: tuple[tuple[str, int], ...]
    writes: tuple[tuple[str, int], ...]
    uops: int
    pipes: tuple[tuple[str, int], ...]

    @property
    def integer(self) -> bool:
        """Whether integer instructions may read the result before it is complete."""
        return any(name.endswith(("UnitALU", "UnitMAC", "UnitDiv")) for name, _ in self.pipes)


def cycles(blocks: Sequence[Sequence[str]], mcpu: str) -> list[float]:
    """Cycles that each block takes when it runs over and over, as LLVM models `mcpu`.

    Raises ValueError if LLVM does not know an instruction.
    """
    if not blocks:
        return []
    model = _Model(sorted({_plain(line) for block in blocks for line in block}), mcpu)
    return [model.steady([model.instructions[_plain(line)] for line in block]) for block in blocks]


def registers(line: str) -> tuple[list[tuple[str, int]], list[str], str | None]:
    """(reads, writes, written back address) of an instruction; reads as in `Instruction`.

    The second of a read is for instructions of the integer ALU; others do not look at it.
    """
    name, _, rest = line.partition(" ")
    operands = [one.strip() for one in re.split(r",(?![^\[{]*[\]}])", rest) if one.strip()]
    flags = [("nzcv", 0)] if _READS_FLAGS.match(name) else []
    if _STORE.match(name) or _LOAD.match(name):
        at = next(i for i, one in enumerate(operands) if one[0] in "[#")
        address = [reg for one in operands[at:] for reg in _in(one)]
        moved = [reg for one in operands[:at] for reg in _in(one)]
        back = address[0] if len(operands) > at + 1 or operands[at].endswith("!") else None
        taken = _STORE.match(name) or "[" in "".join(operands[:at])
        return (
            [(reg, 0) for reg in (*address, *(moved if taken else ()))],
            [] if _STORE.match(name) else moved,
            back,
        )
    reads = [(reg, 2) for one in operands for reg in _in(one)]
    if len(operands) > 2 and _SHIFTED.match(operands[-1]) and _in(operands[-2]):
        reads[-1] = (reads[-1][0], 1)
    if _BRANCH.match(name):
        return flags + [(reg, 0) for reg, _ in reads], [], None
    sets = ["nzcv"] if _SETS_FLAGS.match(name) else []
    if _COMPARISON.match(name) or not operands:
        return reads + flags, sets, None
    written = _in(operands[0])
    if not (_ADDS.match(name) or "[" in operands[0]):
        reads = reads[len(written) :]
    return reads + flags, written + sets, None


def _in(operand: str) -> list[str]:
    """The registers of an operand; those that are always zero are none."""
    found = []
    for match in _REGISTER.finditer(operand):
        integer, vector, _ = match.groups()
        found.append(f"x{integer}" if integer else f"v{vector}" if vector else "sp")
    return found


def _plain(line: str) -> str:
    """Without comment and where a branch goes to, which cost nothing."""
    text = re.sub(r"\s+", " ", line.partition("//")[0]).strip()
    is_branch = _BRANCH.match(text.partition(" ")[0]) or text.startswith(("bl ", "adr "))
    return re.sub(r"#-?\d+$", "#0", text) if is_branch else text


class _Model:
    """Instructions by their text, and the pipes of a core."""

    def __init__(self, lines: Sequence[str], mcpu: str) -> None:
        command = [str(counter.tool("llvm-mca")), "-mtriple=aarch64", f"-mcpu={mcpu}"]
        command += ["-mattr=+all", "-json", "-instruction-tables", "-instruction-info"]
        command += ["-resource-pressure"]
        done = subprocess.run(
            command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ValueError(f"llvm-mca does not model this for {mcpu}: {done.stderr.strip()}")
        report = json.loads(done.stdout)
        (region,) = report["CodeRegions"]
        # Units of a kind are called "name." and a character of their number.
        kinds = [name.partition(".")[0] for name in report["TargetInfo"]["Resources"]]
        self.units = {kind: kinds.count(kind) for kind in kinds}
        held: list[dict[str, float]] = [{} for _ in range(len(lines) + 1)]
        for use in region["ResourcePressureView"]["ResourcePressureInfo"]:
            pipes, kind = held[use["InstructionIndex"]], kinds[use["ResourceIndex"]]
            pipes[kind] = pipes.get(kind, 0.0) + use["ResourceUsage"]
        self.instructions = {
            line: _instruction(line, info["Latency"], info["NumMicroOpcodes"], pipes)
            for line, info, pipes in zip(
                lines, region["InstructionInfoView"]["InstructionList"], held, strict=False
            )
        }

    def steady(self, block: Sequence[Instruction]) -> float:
        """Cycles of one run among many: until the pipeline is as it was at an earlier end."""
        now, used = 0, 0
        ready: dict[str, tuple[int, bool]] = {}
        free = {kind: [0] * units for kind, units in self.units.items()}
        seen: dict[object, tuple[int, int]] = {}
        for runs in range(1, 1000):
            for one in block:
                at = now
                for register, early in one.reads:
                    complete, integer = ready.get(register, (0, False))
                    at = max(at, complete - (early if integer else 0))
                for register, latency in one.writes:
                    at = max(at, ready.get(register, (0, False))[0] - latency)
                at = max([at, *(min(free[kind]) for kind, _ in one.pipes)])
                if at > now:
                    now, used = at, 0
                elif used + one.uops > ISSUE_WIDTH >= one.uops:
                    now, used = now + 1, 0
                for kind, held in one.pipes:
                    units = free[kind]
                    units[units.index(min(units))] = now + held
                for register, latency in one.writes:
                    ready[register] = (now + latency, one.integer)
                now, used = now + (used + one.uops) // ISSUE_WIDTH, (used + one.uops) % ISSUE_WIDTH
            state = (
                used,
                tuple(sorted((r, c - now, i) for r, (c, i) in ready.items() if c > now)),
                tuple(tuple(sorted(max(c - now, 0) for c in units)) for units in free.values()),
            )
            if state in seen:
                then, earlier = seen[state]
                return (now - then) / (runs - earlier)
            seen[state] = (now, runs)
        return now / runs


def _instruction(line: str, latency: int, uops: int, pipes: dict[str, float]) -> Instruction:
    reads, writes, back = registers(line)
    alu = any(kind.endswith("UnitALU") for kind in pipes)
    products = any(kind.endswith(("UnitMAC", "UnitDiv")) for kind in pipes)
    if products:
        addend = line.startswith(("madd", "msub", "smadd", "umadd", "smsub", "umsub"))
        reads = [(reg, 2 if addend and i == 2 else 1) for i, (reg, _) in enumerate(reads)]
    elif not alu:
        reads = [(reg, 0) for reg, _ in reads]
    return Instruction(
        tuple(reads),
        (*((reg, latency) for reg in writes), *(((back, 1),) if back else ())),
        uops,
        tuple((kind, round(held)) for kind, held in pipes.items()),
    )
