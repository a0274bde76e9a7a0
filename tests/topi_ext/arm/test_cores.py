"""The table of Arm cores: ids, families, and targets of a given family."""

from __future__ import annotations

import pytest
from tvm.target import Target

from benchmarks import arm64_program
from bnn_tvm.options import CompileOptions
from bnn_tvm.targets import resolve
from topi_ext.arm_cpu import cores
from topi_ext.arm_cpu.cores import ANY_PART, CORES, FAMILIES, core_of, cores_by_name, with_family
from topi_ext.isa import isa_of
from topi_ext.kernels import select
from topi_ext.params import ConvParams

LAYER = ConvParams(1, 14, 14, 256, 256, 3, 3, pads=(1, 1, 1, 1))


def target(mcpu: str) -> Target:
    config = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": mcpu, "mattr": ["+neon"]}
    return Target({**config, "num-cores": 4})


def test_every_core_has_ids_and_none_has_anothers() -> None:
    assert all(core.ids for core in CORES.values())
    ids = [core_id for core in cores_by_name().values() for core_id in core.ids]
    assert len(set(ids)) == len(ids)
    for implementer, part in ids:
        assert 0 < implementer < 256 and (0 <= part < 4096 or part == ANY_PART)
    # An id that stands for all of a maker's cores must be its only one.
    whole = {implementer for implementer, part in ids if part == ANY_PART}
    assert all(part == ANY_PART for implementer, part in ids if implementer in whole)


@pytest.mark.parametrize(
    ("name", "implementer", "part"),
    [  # from Arm's reference manuals and Linux's cputype.h
        ("cortex-a53", 0x41, 0xD03),
        ("cortex-a55", 0x51, 0x805),
        ("cortex-a72", 0x41, 0xD08),
        ("cortex-a76", 0x51, 0x804),
        ("cortex-x1", 0x41, 0xD44),
        ("cortex-x4", 0x41, 0xD82),
        ("neoverse-n2", 0x6D, 0xD49),
        ("apple", 0x61, ANY_PART),
    ],
)
def test_ids_are_the_makers(name: str, implementer: int, part: int) -> None:
    assert (implementer, part) in cores_by_name()[name].ids


@pytest.mark.parametrize("mcpu", ["generic", "cortex-a53", "cortex-a76", "apple-m3"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_target_can_be_given_a_family(mcpu: str, family: str) -> None:
    plain = target(mcpu)
    given = with_family(plain, family)
    assert core_of(given).family == family
    assert core_of(given).cnt_pixels == core_of(plain).cnt_pixels
    assert f"_{family}" in select("bconv2d", LAYER, given).name
    # Nothing else changes.
    assert isa_of(given) == isa_of(plain)
    for name in ("mcpu", "mattr", "mtriple", "num-cores"):
        assert str(given.attrs[name]) == str(plain.attrs[name])
    other = next(name for name in FAMILIES if name != family)
    assert core_of(with_family(given, family)).family == family
    assert core_of(with_family(plain, other)).family == other


def test_there_are_no_other_families() -> None:
    with pytest.raises(ValueError, match="no family of kernels is called 'sve'"):
        with_family(target("generic"), "sve")
    assert {cores.UNKNOWN, cores.UNREADABLE} <= set(FAMILIES)
    assert {core.family for core in CORES.values()} == set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "mcpu", "tuned"),
    [
        ("arm64", "cortex-a53", True),
        ("arm64-android", "cortex-a35", True),
        ("arm64", "cortex-a76", False),
        ("arm64", None, False),
        ("armv7", "cortex-a53", False),
    ],
)
def test_a_core_is_tuned_for_without_needing_a_feature(
    name: str, mcpu: str | None, tuned: bool
) -> None:
    spec = resolve(CompileOptions(target=name, mcpu=mcpu))
    attrs = spec.tvm_target().attrs
    assert ("+slow-paired-128" in list(attrs.get("mattr", ()))) == tuned
    assert "slow-paired-128" not in spec.features
    if tuned and mcpu is not None:
        target = arm64_program.arm64_target(mcpu)
        assert list(target.attrs["mattr"]) == ["+slow-paired-128"]


def test_what_the_caller_says_comes_after_the_tuning() -> None:
    options = CompileOptions(target="arm64", mcpu="cortex-a53", mattr=("+crc",))
    found = list(resolve(options).tvm_target().attrs["mattr"])
    assert found[0] == "+slow-paired-128" and "+crc" in found


@pytest.mark.parametrize(
    ("mcpu", "tile"), [("cortex-a53", "1x64"), ("cortex-a72", "1x32"), ("cortex-a55", "1x32")]
)
def test_dense_layers_have_sums_enough_not_to_wait_for_themselves(mcpu: str, tile: str) -> None:
    assert select("dense", ConvParams.dense(1, 512, 1000), target(mcpu)).name.endswith(tile)
