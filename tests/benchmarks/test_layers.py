"""The benchmark of binary layers runs, checks what it measures and says it in JSON."""

from __future__ import annotations

import json

import pytest

from benchmarks import layers
from tests.topi_ext.binary_case import host
from topi_ext.kernels import candidates
from topi_ext.params import ConvParams

CASE = "1x4x4x32-k3x3x32-s1x1-d1x1-p1,1,1,1-g1-v0"


def test_json_names_the_layer_its_kernel_and_the_peak(capsys: pytest.CaptureFixture[str]) -> None:
    assert layers.main(["--case", CASE, "--rounds", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["peak_gmacs"] > 0 and report["rounds"] == 1
    (layer,) = report["layers"]
    assert layer["case"] == CASE and layer["chosen"]
    assert layer["kernel"].startswith("bconv2d_")
    assert tuple(layer["outputs"]) == layers.OUTPUTS
    for output in layer["outputs"].values():
        assert output["ms_min"] >= layer["ms_prepare"]
        expected = output["gmacs"] / report["peak_gmacs"]
        assert output["ratio_to_peak"] == pytest.approx(expected)


def test_all_kernels_of_a_layer_are_rows_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--case", CASE, "--rounds", "1", "--kernels", "all", "--mcpu", "x86-64"]
    assert layers.main(command) == 0
    out = capsys.readouterr().out
    assert CASE in out and "a: bconv2d_generic_popcnt_u32_2x16" in out and "a*" in out


def test_named_kernels_are_measured_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    names = [k.name for k in candidates("bconv2d", ConvParams.parse(CASE), host())][-2:]
    assert (
        layers.main(["--case", CASE, "--rounds", "1", "--kernels", ",".join(names), "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)["layers"]
    assert [layer["kernel"] for layer in found] == names


def test_a_kernel_that_the_target_cannot_run_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        layers.main(["--case", CASE, "--mcpu", "x86-64", "--kernels", "bconv2d_neon"])
    message = capsys.readouterr().err
    assert "is computed by bconv2d_generic_popcnt_u32_2x16; not by bconv2d_neon" in message
