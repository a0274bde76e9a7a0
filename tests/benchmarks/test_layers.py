"""The benchmark of binary layers runs, checks what it measures and says it in JSON."""

from __future__ import annotations

import json

import pytest

from benchmarks import layers

CASE = "1x4x4x32-k3x3x32-s1x1-d1x1-p1,1,1,1-g1-v0"


def test_json_names_the_layer_its_kernel_and_the_peak(capsys: pytest.CaptureFixture[str]) -> None:
    assert layers.main(["--case", CASE, "--rounds", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["peak_gmacs"] > 0 and report["rounds"] == 1
    (layer,) = report["layers"]
    assert layer["case"] == CASE
    assert layer["kernel"].startswith("bconv2d_")
    expected = layer["gmacs"] / report["peak_gmacs"]
    assert layer["ratio_to_peak"] == pytest.approx(expected)


def test_table_has_a_row_for_every_layer(capsys: pytest.CaptureFixture[str]) -> None:
    kernel = "bconv2d_generic_popcnt_u32_2x16"
    assert layers.main(["--case", CASE, "--rounds", "1", "--kernel", kernel]) == 0
    out = capsys.readouterr().out
    assert CASE in out and kernel in out
