"""The pipeline that stalls for operands: what instructions read and write, small cases by hand."""

from __future__ import annotations

import json
import subprocess

import pytest

from benchmarks import counter, in_order

needs_llvm = pytest.mark.skipif(counter.tool("llvm-mca") is None, reason="llvm-mca is missing")


@pytest.mark.parametrize(
    ("line", "reads", "writes", "back"),
    [
        ("fmla v0.4s, v1.4s, v2.s[3]", "v0 v1 v2", "v0", None),
        ("fmul v0.4s, v1.4s, v2.s[3]", "v1 v2", "v0", None),
        ("bit v0.16b, v1.16b, v2.16b", "v0 v1 v2", "v0", None),
        ("zip2 v0.2d, v1.2d, v2.2d", "v1 v2", "v0", None),
        ("trn2 v0.2d, v1.2d, v2.2d", "v1 v2", "v0", None),
        ("xtn2 v0.8h, v1.4s", "v0 v1", "v0", None),
        ("mov v0.d[1], v1.d[0]", "v0 v1", "v0", None),
        ("mov w3, v1.s[1]", "v1", "x3", None),
        ("movi v0.2d, #0000000000000000", "", "v0", None),
        ("ldr q0, [x1, x2, lsl #4]", "x1 x2", "v0", None),
        ("ldp q0, q1, [sp, #-32]!", "sp", "v0 v1", "sp"),
        ("ldr w4, [x1], #8", "x1", "x4", "x1"),
        ("ld1 { v0.4s, v1.4s }, [x0], x4", "x0 x4", "v0 v1", "x0"),
        ("ld1 { v0.s }[1], [x0]", "x0 v0", "v0", None),
        ("ld1r { v0.4s }, [x0]", "x0", "v0", None),
        ("stp s0, d1, [x0], #32", "x0 v0 v1", "", "x0"),
        ("st1 { v0.4s, v1.4s }, [x0]", "x0 v0 v1", "", None),
        ("str xzr, [x0]", "x0", "", None),
        ("prfm pldl1keep, [x0, #64]", "x0", "", None),
        ("subs w0, w1, #1", "x1", "x0 nzcv", None),
        ("cmp x1, x2", "x1 x2", "nzcv", None),
        ("ccmp x1, #0, #0, ne", "x1 nzcv", "nzcv", None),
        ("csel x0, x1, xzr, eq", "x1 nzcv", "x0", None),
        ("movk x0, #1, lsl #16", "x0", "x0", None),
        ("madd x0, x1, x2, x3", "x1 x2 x3", "x0", None),
        ("b.ne #-16", "nzcv", "", None),
        ("cbz x3, #8", "x3", "", None),
        ("b #8", "", "", None),
    ],
)
def test_registers_that_are_read_and_written(
    line: str, reads: str, writes: str, back: str | None
) -> None:
    found = in_order.registers(line)
    assert ([reg for reg, _ in found[0]], found[1], found[2]) == (
        reads.split(),
        writes.split(),
        back,
    )


def _sums(count: int) -> list[str]:
    return [f"fmla v{i}.4s, v30.4s, v31.s[{i % 4}]" for i in range(count)]


@needs_llvm
@pytest.mark.parametrize(
    ("block", "expected"),
    [
        # A sum waits for itself: ten cycles, however few there are.
        (_sums(1), 10),
        (_sums(10), 10),
        (_sums(16), 16),
        # Loads issue beside multiply-adds, a pair has both places of a cycle.
        ([line for i, one in enumerate(_sums(10)) for line in (one, f"ldr q{i + 12}, [x0]")], 10),
        ([*_sums(12), "ldp q14, q15, [x0]"], 13),
        (["ldp q14, q15, [x0]"], 2),
        # A load is four cycles old where it is read, but waits for nothing itself.
        (["ldr q1, [x0]", "fmul v0.4s, v1.4s, v2.4s"], 4),
        (["fmul v0.4s, v1.4s, v2.4s", "ldr q1, [x0]"], 4),
        (["fadd v0.4s, v1.4s, v2.4s", "ldr q3, [x0]"], 1),
        # Six cycles for the sum: the load that overwrites it may not be there before.
        (["fadd v0.4s, v1.4s, v2.4s", "ldr q0, [x0]"], 2),
        # Integer instructions read late, addresses do not.
        (["add x0, x0, #1"], 1),
        (["madd x0, x0, x1, x2"], 3),
        (["madd x0, x1, x2, x0"], 2),
        (["add x0, x1, x0, lsl #2"], 2),
        (["add x0, x0, #1", "ldr x1, [x0]"], 3),
        (["ldr q0, [x0], #16", "ldr q1, [x0], #16"], 2),
        # A pair that writes back is three micro-operations.
        (["ldp q0, q1, [x0], #32", "fadd v2.4s, v3.4s, v4.4s"], 2),
        (["subs x0, x0, #1", "b.ne #-4"], 3),
    ],
)
def test_small_cases_by_hand(block: list[str], expected: float) -> None:
    assert in_order.cycles([block], "cortex-a53") == [expected]


@needs_llvm
@pytest.mark.parametrize(
    "block",
    [
        ["fmla v0.4s, v1.4s, v2.4s"],
        _sums(20),
        [f"ldr q{i}, [x0, #{16 * i}]" for i in range(8)],
        [f"ldp q{i}, q{i + 1}, [x0, #{16 * i}]" for i in range(0, 16, 2)],
        [f"str q{i}, [x0, #{16 * i}]" for i in range(8)],
        [f"fadd v{i}.4s, v{i}.4s, v30.4s" for i in range(4)],
        ["ld1 { v0.4s, v1.4s, v2.4s, v3.4s }, [x0]"],
        ["add x0, x0, x1, lsl #2"],
    ],
)
def test_it_agrees_with_llvm_mca_where_latencies_are_alike(block: list[str]) -> None:
    command = [str(counter.tool("llvm-mca")), "-mtriple=aarch64", "-mcpu=cortex-a53", "-json"]
    done = subprocess.run(
        [*command, "-iterations=1000"],
        input="\n".join(block),
        capture_output=True,
        text=True,
        check=True,
    )
    (region,) = json.loads(done.stdout)["CodeRegions"]
    theirs = region["SummaryView"]["TotalCycles"] / 1000
    assert in_order.cycles([block], "cortex-a53")[0] == pytest.approx(theirs, abs=0.02)


@needs_llvm
def test_blocks_come_in_order_and_comments_are_left_out() -> None:
    blocks = [["add x0, x0, #2, lsl #12  // =8192"], _sums(12), ["fadd\tv0.4s, v0.4s, v1.4s"]]
    assert in_order.cycles(blocks, "cortex-a53") == [1, 12, 6]
    assert in_order.cycles([], "cortex-a53") == []


@needs_llvm
def test_what_llvm_does_not_model_is_said() -> None:
    with pytest.raises(ValueError, match="does not model this for cortex-a53"):
        in_order.cycles([["frobnicate x0"]], "cortex-a53")
