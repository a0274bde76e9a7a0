"""Targets: what the presets become, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bnn_tvm import targets
from bnn_tvm.errors import UsageError
from bnn_tvm.options import CompileOptions


@pytest.mark.parametrize(
    ("options", "isa", "feature"),
    [
        ({"target": "arm64"}, "neon", "neon"),
        ({"target": "arm64", "mcpu": "cortex-a76"}, "neon", "dotprod"),
        ({"target": "arm64", "mattr": "+dotprod"}, "neon", "dotprod"),
        ({"target": "arm64-android"}, "neon", "neon"),
        ({"target": "arm64-android", "mcpu": "cortex-a76"}, "neon", "dotprod"),
        ({"target": "arm64", "mattr": "+sme2"}, "sme2", "sme2"),
        ({"target": "arm64", "mcpu": "apple-m4", "mattr": "-sme2"}, "neon", "dotprod"),
        ({"target": "armv7"}, "neon32", "vfp4"),
        ({"target": "x86_64"}, "avx2", "fma"),
        ({"target": "x86_64", "mcpu": "znver4"}, "avx512_vpopcntdq", "avx512bitalg"),
    ],
)
def test_presets(options, isa: str, feature: str) -> None:
    spec = targets.resolve(CompileOptions(**options))
    assert spec.isa == isa
    assert feature in spec.features
    assert str(spec.tvm_target().attrs["mtriple"]) == spec.triple


def test_a_feature_can_be_taken_away() -> None:
    spec = targets.resolve(CompileOptions(target="x86_64", mattr="-avx2"))
    assert spec.isa == "generic" and "-avx2" in spec.mattr and "avx2" not in spec.features


def test_host_uses_what_the_kernel_reports(monkeypatch) -> None:
    reported = targets._cpuinfo_flags()
    if "avx2" not in reported:
        pytest.skip("needs an x86 host with AVX2")
    # And what builds on them: for LLVM it would bring them back.
    hidden = {"fma", "vaes", *(flag for flag in reported if re.match("avx(2|512|_)", flag))}
    monkeypatch.setattr(targets, "_cpuinfo_flags", lambda: reported - hidden)
    masked = targets.resolve(CompileOptions())
    assert masked.isa == "generic"
    assert {"-avx2", "-fma"} <= set(masked.mattr)


def test_cpuinfo_of_arm(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nFeatures\t: fp asimd aes asimddp\nCPU part\t: 0xd0b\n")
    assert targets._cpuinfo_flags(file) == {"fp", "asimd", "aes", "asimddp"}
    assert targets._cpuinfo_flags(tmp_path / "none") == frozenset()


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"target": "arm65"}, "unknown target 'arm65'", "arm64"),
        ({"target": "arm64", "mcpu": "cortex-a77x"}, "LLVM knows no core 'cortex-a77x'", "a77"),
        ({"target": "arm64", "mattr": "dotprot"}, "LLVM knows no CPU feature 'dotprot'", "dotprod"),
    ],
)
def test_unknown_names_get_near_spellings(options, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        targets.resolve(CompileOptions(**options))
    assert caught.value.message.startswith(message)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"target": "x86_64"}, "there are no half-precision kernels for x86_64", "--target arm64"),
        ({"target": "armv7"}, "there are no half-precision kernels for armv7", "--mcpu cortex-a76"),
        (
            {"target": "arm64"},
            "half precision needs FullFP16 (Armv8.2-A), which generic",
            "asimdhp",
        ),
        (
            {"target": "arm64", "mcpu": "cortex-a72"},
            "half precision needs FullFP16 (Armv8.2-A), which cortex-a72 does not promise",
            "--mattr +fullfp16",
        ),
        (
            {"target": "arm64", "mcpu": "cortex-a76", "mattr": "-fullfp16"},
            "half precision",
            "mattr",
        ),
    ],
)
def test_half_precision_is_refused_where_there_is_none(options, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        targets.resolve(CompileOptions(float16=True, **options))
    assert caught.value.message.startswith(message) and caught.value.code == 2
    assert caught.value.node == "--float16"
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("more", [{"mcpu": "cortex-a55"}, {"mattr": "+fullfp16"}])
def test_half_precision_is_taken_where_the_target_has_it(more) -> None:
    spec = targets.resolve(CompileOptions(target="arm64", float16=True, **more))
    assert "fullfp16" in spec.features


def test_command_lists_every_preset(cli) -> None:
    outcome = cli("targets")
    assert outcome.code == 0 and outcome.err == ""
    assert all(name in outcome.out for name in targets.target_names())
    rows = cli("targets", "--json").json["targets"]
    assert [row["name"] for row in rows] == list(targets.target_names())
    assert all(row["needs"] for row in rows)
