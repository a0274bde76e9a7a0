"""The kernel-alone figures of float layers: both bounds, the goal, the tables, the options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import arm64_fma, arm64_program
from benchmarks.arm64_fma import KernelRow, document, table, tasks
from benchmarks.float_models import EPILOGUES, LAYERS

# 9 and 512 multiply-adds for each of 8000 numbers, at 8 a cycle.
DEPTHWISE = KernelRow(
    "depthwise 3x3, 56x56x64",
    "add-relu",
    "cortex-a76",
    "depthwise_f32_neon",
    9 * 8000,
    8000,
    12_345,
    12_500.0,
    11_000.0,
    1e-6,
)
DENSE = replace(
    DEPTHWISE,
    layer="dense, 512 to 1000",
    kernel="dense_f32_neon_1x32",
    macs=512 * 8000,
    cycles=550_000.0,
    cycles_by_pipes=512_000.0,
)


def test_the_bound_with_epilogue_counts_its_operations() -> None:
    assert EPILOGUES["add-relu"].operations == 2
    assert DEPTHWISE.part() == pytest.approx(9 / 12.5)
    assert DEPTHWISE.part(latencies=False) == pytest.approx(9 / 11)
    assert DEPTHWISE.part(epilogue=True) == pytest.approx(11 / 12.5)
    assert replace(DEPTHWISE, epilogue="bn").part(epilogue=True) == pytest.approx(9 / 12.5)
    assert DEPTHWISE.as_json()["part_with_epilogue_by_pipes"] == 1.0


def test_half_precision_is_measured_against_twice_the_peak_unless_it_stays_in_float32() -> None:
    half = replace(DENSE, core="cortex-a76 --float16", kernel="dense_f16_neon_1x32")
    assert half.part() == pytest.approx(DENSE.part() / 2)
    assert replace(half, kernel="conv2d_f32_neon_8x8").part() == pytest.approx(DENSE.part())


def test_half_precision_has_its_own_tolerance() -> None:
    rounded = replace(DENSE, error=3e-3)
    assert DENSE.correct and not rounded.correct
    assert replace(rounded, core="cortex-a76 --float16").correct


def test_the_goal_is_of_the_fma_bound_unless_a_result_takes_few_multiply_adds() -> None:
    assert DEPTHWISE.reached == "yes"  # 72 % of the FMA bound, 88 % of the other one
    assert DENSE.reached == "yes"
    assert replace(DENSE, cycles=645_000.0).reached == "by pipes"  # 79 %
    assert replace(DENSE, cycles=1e6, cycles_by_pipes=645_000.0).reached == "no"
    assert replace(DEPTHWISE, cycles=1e6, cycles_by_pipes=1e6).reached == "no"


def test_the_table_gives_all_parts() -> None:
    assert table([DEPTHWISE])[-1] == (
        "| depthwise 3x3, 56x56x64 | bias, Add, ReLU | cortex-a76 | depthwise_f32_neon | 12 "
        "| 72% | 82% |  | 88% | 100% |  | yes |"
    )
    in_order = replace(DEPTHWISE, core="cortex-a53", cycles=50_000.0, cycles_in_order=25_000.0)
    assert table([in_order])[-1].endswith("| 36% | 164% | 72% | 44% | 200% | 88% | yes |")


def test_what_stalls_for_operands_decides_on_cores_in_order() -> None:
    in_order = replace(DENSE, core="cortex-a53", cycles=2e6, cycles_by_pipes=1.1e6)
    assert in_order.reached == "by pipes"
    assert replace(in_order, cycles_in_order=1.2e6).reached == "yes"  # 85 %
    missed = replace(in_order, cycles_in_order=1.3e6)  # 79 %
    assert missed.reached == "by pipes"
    assert missed.as_json()["part_in_order"] == pytest.approx(0.7877)
    assert DENSE.as_json()["part_in_order"] is None
    deep = replace(DEPTHWISE, core="cortex-a53", cycles=1e6, cycles_in_order=27_000.0)
    assert deep.reached == "yes"  # 81 % of the bound with epilogue
    assert deep.as_json()["part_with_epilogue_in_order"] == pytest.approx(0.8148)


def test_the_document_has_a_table_for_each_epilogue_and_three_columns_for_cores_in_order() -> None:
    in_order = replace(
        DENSE, core="cortex-a53", cycles=2e6, cycles_by_pipes=1.1e6, cycles_in_order=1.3e6
    )
    batch_norm = replace(DEPTHWISE, epilogue="bn")
    text = document([in_order, DENSE, batch_norm])
    assert "modelled" in text and "--epilogue all --document" in text
    names = [f"cortex-a53, {way}" for way in ("stalls for operands", "results in order")]
    assert f"| layer | {' | '.join(names)} | cortex-a53, by pipes | cortex-a76 |" in text
    dense = "| dense, 512 to 1000 | **79% / 79%** | 51% / 51% | 93% / 93% | 93% / 93% |"
    assert "## Bias, Add, ReLU\n\nVector operations for a vector of results, at least: 2.\n" in text
    assert dense in text
    # One figure where there is one bound; what was not measured stays empty.
    assert "## Batch norm" in text
    assert "| depthwise 3x3, 56x56x64 |  |  |  | **72%** |" in text


def test_every_layer_has_a_row_for_each_epilogue_and_core() -> None:
    cores = ["cortex-a76", "cortex-a76 --float16"]
    every = tasks(list(LAYERS), list(EPILOGUES), cores)
    assert len(set(every)) == len(every) == len(LAYERS) * len(EPILOGUES) * len(cores)
    assert every[:2] == [(next(iter(LAYERS)), next(iter(EPILOGUES)), core) for core in cores]


def test_wrong_options_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        arm64_fma.main(["--jobs", "0"])
    assert "--jobs must be a whole number from 1, not 0" in capsys.readouterr().err
    assert arm64_fma.main(["--armcost", str(tmp_path / "none.py")]) == 4
    message = capsys.readouterr().err
    assert "--armcost" in message or arm64_program.missing_tool() is not None
