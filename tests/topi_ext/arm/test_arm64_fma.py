"""The kernel-alone figures of float layers: their table and what counts as right."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.arm64_fma import KernelRow, table

ROW = KernelRow("dense", "cortex-a76", "dense", 64000.0, 0.931, 0.952, 1e-6)


def test_the_table_gives_both_parts_of_the_bound() -> None:
    assert table([ROW])[-1] == "| dense | cortex-a76 | dense | 64 | 93% | 95% |"


def test_half_precision_has_its_own_tolerance() -> None:
    rounded = replace(ROW, error=3e-3)
    assert ROW.correct and not rounded.correct
    assert replace(rounded, core="cortex-a76 --float16").correct
