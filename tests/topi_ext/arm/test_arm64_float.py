"""The table of float layers in half precision: gains, the text."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.arm64_float import Row, as_json, table

ROWS = [Row("stem", 16_000, "conv2d_f32", "conv2d_f16", 2500.0, 1250.0, 3e-3)]


def test_the_gain_and_the_parts_of_both_peaks_are_said() -> None:
    assert as_json(ROWS)[0]["gain"] == 2.0 and as_json(ROWS)[0]["core"] == "cortex-a76"
    assert table(ROWS)[-1] == "| stem | 2 | 80% | 1 | 80% | 2.00x | 3e-03 |"


def test_what_stays_in_float32_is_measured_against_its_peak() -> None:
    kept = replace(ROWS[0], kernel16="conv2d_f32", cycles16=2500.0)
    assert table([kept])[-1] == "| stem | 2 | 80% | 2 | 80% | 1.00x | 3e-03 |"
