"""Models that hold several families of kernels: the choice, and that it changes no result."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import bnn_tvm
from bnn_tvm.api import verify
from bnn_tvm.devices import LocalDevice, QemuDevice, find_qemu, find_sysroot
from bnn_tvm.errors import DeviceError, UsageError
from bnn_tvm.export.metadata import LayerInfo
from bnn_tvm.options import CompileOptions
from bnn_tvm.runtime import load
from bnn_tvm.runtime.families import VARIABLE
from bnn_tvm.targets import TargetSpec, resolve
from tests.cli import models
from tests.export.programs import ARM64, X_NAME, assert_close, host_spec, random_x
from tests.export.two_families import artifact
from topi_ext.arm_cpu.cores import core_of

aarch64 = pytest.mark.skipif(
    find_qemu("aarch64") is None or find_sysroot("aarch64") is None,
    reason="qemu-aarch64 or its C library is not installed",
)


@pytest.fixture(autouse=True)
def nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two families for this machine: the path of its .so."""
    return artifact(host_spec()).save(tmp_path_factory.mktemp("two") / "net")[0]


KERNELS = {
    "cnt": ["generic", "dense-f32", "generic", "generic"],
    "tbl": ["generic", "dense-halves", "dense-both", "generic", "generic"],
}


@pytest.mark.parametrize("family", ["cnt", "tbl"])
def test_the_family_asked_for_runs_and_the_other_does_not(two: Path, family: str) -> None:
    x = random_x()
    with load(two, kernels=family, threads=2) as model:
        assert model.kernels == family
        assert_close(model.run({X_NAME: x}), x)
        assert model.self_test() < 1e-3
        rows = model.profile(x, 3)
        assert [row.kernel for row in rows] == KERNELS[family]
        assert sum(row.share for row in rows) == pytest.approx(1)
    assert len(model.metadata.layers) == 6


def test_the_environment_chooses_where_nobody_else_does(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tbl", "cnt"):
        monkeypatch.setenv(VARIABLE, name)
        assert load(two).kernels == name
    assert load(two, kernels="tbl").kernels == "tbl"
    monkeypatch.setenv(VARIABLE, "")
    load(two)


def test_a_wrong_name_is_an_error_with_the_remedy(
    two: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="the model has no kernels called 'tbx'") as caught:
        load(two, kernels="tbx")
    assert caught.value.node == "--kernels"
    assert caught.value.hint == "it has: cnt, tbl; leave it out to let the device choose"
    monkeypatch.setenv(VARIABLE, "CNT")
    with pytest.raises(UsageError, match="no kernels called 'CNT'") as caught:
        load(two)
    assert caught.value.node == VARIABLE
    assert load(saved).kernels == "", "one set of kernels: the variable does not matter"
    with pytest.raises(UsageError, match="one set of kernels, so 'cnt' cannot be chosen") as caught:
        load(saved, kernels="cnt")
    assert "--target arm64" in (caught.value.hint or "")


def test_the_library_itself_refuses_a_wrong_name(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnn_tvm.runtime.model.check_family", lambda *_: None)
    for asked in ({"kernels": "tbx"}, {"kernels": "t"}, {"kernels": "tbl "}):
        with pytest.raises(UsageError, match="no family of kernels of this name") as caught:
            load(two, **asked)
        assert VARIABLE in (caught.value.hint or "")
    monkeypatch.setenv(VARIABLE, "other")
    with pytest.raises(UsageError, match=r"no family of kernels of this name \(argument or BNN"):
        load(two)


def test_a_device_passes_the_choice_on(two: Path) -> None:
    with LocalDevice().load(artifact(host_spec()), kernels="tbl") as model:
        assert model.kernels == "tbl"
    with LocalDevice().load(two, kernels="cnt") as model:
        assert model.kernels == "cnt"


@pytest.mark.parametrize("family", ["cnt", "tbl"])
def test_bench_runs_and_lists_the_family(two: Path, family: str) -> None:
    command = [sys.executable, "-m", "bnn_tvm.bench", str(two), "--repeat", "2", "--profile"]
    done = subprocess.run(
        [*command, "--kernels", family], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"{family} kernels, 1 thread" in done.stdout
    for name, kernels in KERNELS.items():
        for kernel in set(kernels) - {"generic"}:
            assert (kernel in done.stdout) == (name == family)


# What the compiler makes of a network. On this machine the two families are its own kernels and
# those of older processors, whose words differ in size, or which write floats.


class _HostFamilies(TargetSpec):
    def selection_target(self, family: str | None) -> object:
        if family != "cnt":
            return self.tvm_target()
        mcpu = "haswell" if self.isa == "avx512_vpopcntdq" else "x86-64"
        return resolve(CompileOptions(target="x86_64", mcpu=mcpu, mattr=("+fma",))).tvm_target()


@pytest.fixture
def host_families(monkeypatch: pytest.MonkeyPatch) -> None:
    if resolve(CompileOptions()).isa not in ("avx2", "avx512_vpopcntdq"):
        pytest.skip("needs AVX2: another instruction set with kernels of its own")

    def with_families(options: CompileOptions) -> TargetSpec:
        spec = resolve(options)
        values = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
        return _HostFamilies(**{**values, "families": ("cnt", "tbl")})

    monkeypatch.setattr("bnn_tvm.api.resolve", with_families)


def chain() -> onnx.ModelProto:
    """conv -> Sign -> binary conv -> BN by Mul and Add -> MaxPool -> Sign -> binary conv."""
    rng = np.random.default_rng(5)
    make = onnx.helper.make_node
    pads = {"pads": [1, 1, 1, 1]}
    return models.model(
        [
            make("Conv", ["x", "w0"], ["c0"], **pads),
            make("Sign", ["c0"], ["s0"]),
            make("Conv", ["s0", "w1"], ["c1"], **pads),
            make("Mul", ["c1", "scale"], ["m1"]),
            make("Add", ["m1", "shift"], ["a1"]),
            make("MaxPool", ["a1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
            make("Sign", ["p1"], ["s1"]),
            make("Conv", ["s1", "w2"], ["y"], **pads),
        ],
        [models.value("x", 1, 3, 12, 10)],
        [models.value("y", 1, 40, 6, 5)],
        w0=rng.standard_normal((64, 3, 3, 3)).astype(np.float32),
        w1=models.signs(rng, 64, 64, 3, 3),
        scale=rng.standard_normal((1, 64, 1, 1)).astype(np.float32),
        shift=rng.standard_normal((1, 64, 1, 1)).astype(np.float32) * 5 + 0.3,
        w2=models.signs(rng, 40, 64, 3, 3),
    )


def _rows(artifact: bnn_tvm.export.Artifact, family: str) -> list[LayerInfo]:
    return [row for row in artifact.metadata.layers if row.runs_with(family)]


def test_layers_that_write_words_switch_like_others(host_families: None) -> None:
    model = chain()
    artifact = bnn_tvm.compile_model(model).artifact
    binary = [row for row in artifact.metadata.layers if row.binary]
    assert {(row.output, *row.families) for row in binary} == {
        (output, family) for output in ("c1", "y") for family in ("cnt", "tbl")
    }
    x = np.random.default_rng(1).standard_normal((1, 3, 12, 10)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (expected,) = session.run(None, {"x": x})
    kernels = []
    for family in ("cnt", "tbl"):
        with LocalDevice().load(artifact, kernels=family) as loaded:
            np.testing.assert_array_equal(loaded.run(x)["y"], expected)
            rows = loaded.profile(x)
        kernels.append([row.kernel for row in rows if row.output == "c1" and row.kind != "pack"])
        # 64 channels in words, which the pool keeps; with the plainest kernels as floats.
        written = {row.output_shape[-1] for row in _rows(artifact, family) if row.output == "p1"}
        assert written < {2, 8, 64}
        assert family == "cnt" or written < {2, 8}
    assert kernels[0] != kernels[1]


def test_a_family_with_a_fault_is_named(
    host_families: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty(LocalDevice):
        def load(self, model, threads=1, kernels=None):  # type: ignore[no-untyped-def]
            loaded = super().load(model, threads, kernels)
            if kernels == "tbl":
                run_many = loaded.run_many
                loaded.run_many = lambda samples: [
                    {name: value + 2 for name, value in result.items()}
                    for result in run_many(samples)
                ]
            return loaded

    monkeypatch.setattr("bnn_tvm.devices.device_for", lambda triple: Faulty())
    report = verify(chain(), samples=1)
    assert not report.ok and report.failed_kernels == ("tbl",)
    assert all(layer.failed_kernels == ("tbl",) for layer in report.layers)
    assert report.as_dict()["failed_kernels"] == ["tbl"]
    only = verify(chain(), samples=1, kernels="cnt")
    assert only.ok and only.kernels == ("cnt",)
    with pytest.raises(UsageError, match="no kernels called 'neon'"):
        verify(chain(), samples=1, kernels="neon")


# The generic arm64 target.


@pytest.mark.parametrize(
    ("options", "families"),
    [
        ({"target": "arm64"}, ("cnt", "tbl")),
        ({"target": "arm64-android"}, ("cnt", "tbl")),
        ({"target": "arm64", "mattr": "+dotprod"}, ("cnt", "tbl")),
        ({"target": "arm64", "mcpu": "cortex-a76"}, ()),
        ({"target": "arm64", "mcpu": "generic"}, ()),
        ({"target": "arm64", "runtime": "tvm"}, ()),
        ({"target": "armv7"}, ()),
        ({"target": "x86_64"}, ()),
    ],
)
def test_which_targets_leave_the_choice_to_the_device(
    options: dict[str, str], families: tuple[str, ...]
) -> None:
    spec = resolve(CompileOptions(**options))
    assert spec.families == families
    for family in families:
        assert core_of(spec.selection_target(family)).family == family
    assert str(spec.selection_target(None)) == str(spec.tvm_target())
    with pytest.raises(ValueError, match="no family of kernels is called 'sve'"):
        spec.selection_target("sve")


@pytest.fixture(scope="module")
def arm64(digits: Path) -> bnn_tvm.export.Artifact:
    return bnn_tvm.compile_model(digits, target="arm64").artifact


def test_the_metadata_tells_both_kernels_and_what_they_cost(
    arm64: bnn_tvm.export.Artifact,
) -> None:
    metadata = arm64.metadata
    cnt, tbl = metadata.families
    assert (cnt.name, tbl.name) == ("cnt", "tbl")
    assert "cortex-a53" in cnt.cores and "cortex-a76" in tbl.cores and "apple" in tbl.cores
    assert not set(cnt.cores) & set(tbl.cores)
    assert "BNN_TVM_KERNELS" in metadata.family_rule and "MIDR_EL1" in metadata.family_rule
    binary = [row for row in metadata.layers if row.binary]
    assert len(binary) == 6
    for layer in {row.output for row in binary}:
        rows = {row.families: row.kernel for row in binary if row.output == layer}
        assert rows.keys() == {("cnt",), ("tbl",)}
        assert "_cnt_" in rows[("cnt",)] and "_tbl5_" in rows[("tbl",)]
    assert all(not row.families for row in metadata.layers if row.kind in ("conv", "dense"))
    # What is of one family alone, in a library that has little else.
    assert cnt.weight_bytes >= sum(row.weight_bytes for row in binary if "cnt" in row.families) / 2
    assert tbl.weight_bytes > 32768, "the look-up tables"
    own = cnt.weight_bytes + cnt.code_bytes + tbl.weight_bytes + tbl.code_bytes
    assert metadata.weight_bytes < own < metadata.so_bytes


def test_a_second_family_costs_its_own_weights_and_kernels_only(
    arm64: bnn_tvm.export.Artifact, digits: Path
) -> None:
    # The generic core's tiles are those of no other core, so only weights can be compared.
    one = bnn_tvm.compile_model(digits, target="arm64", mcpu="cortex-a76").artifact.metadata
    both = arm64.metadata
    assert both.weight_bytes - one.weight_bytes == both.families[0].weight_bytes
    assert both.workspace_bytes <= max(
        one.workspace_bytes,
        bnn_tvm.compile_model(
            digits, target="arm64", mcpu="generic"
        ).artifact.metadata.workspace_bytes,
    )


@pytest.fixture(scope="module")
def files(
    arm64: bnn_tvm.export.Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    yield arm64.save(tmp_path_factory.mktemp("arm64") / "digits")[0]


@aarch64
@pytest.mark.parametrize(
    ("cpu", "family"),
    [
        ("cortex-a35", "cnt"),
        ("cortex-a53", "cnt"),
        ("cortex-a72", "cnt"),
        ("cortex-a76", "tbl"),
        ("neoverse-n1", "tbl"),
        ("max", "tbl"),  # an id that no maker has given
    ],
)
def test_an_emulated_core_is_known_by_its_register(files: Path, cpu: str, family: str) -> None:
    with QemuDevice("aarch64", cpu=cpu) as device:
        try:
            assert device.load(files).kernels == family
        except DeviceError as error:
            if "unable to find CPU model" in str(error):
                pytest.skip(f"this qemu knows no {cpu}")
            raise


@aarch64
@pytest.mark.parametrize(("cpu", "family"), [("cortex-a53", "cnt"), ("cortex-a76", "tbl")])
def test_a_library_for_android_chooses_too(digits: Path, cpu: str, family: str) -> None:
    artifact = bnn_tvm.compile_model(digits, target="arm64-android").artifact
    assert [one.name for one in artifact.metadata.families] == ["cnt", "tbl"]
    with QemuDevice("aarch64", cpu=cpu) as device:
        assert device.load(artifact).kernels == family
        for name in ("cnt", "tbl"):
            model = device.load(artifact, kernels=name)
            assert model.kernels == name and model.self_test() < 1e-3


@aarch64
def test_the_core_decides_unless_somebody_asks(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with QemuDevice("aarch64", cpu="cortex-a53") as device:
        assert device.load(files, kernels="tbl").kernels == "tbl"
        monkeypatch.setenv(VARIABLE, "tbl")
        assert device.load(files).kernels == "tbl"
        assert device.load(files, kernels="cnt").kernels == "cnt"
        monkeypatch.setenv(VARIABLE, "sve")
        with pytest.raises(UsageError, match="no kernels called 'sve'"):
            device.load(files)


@aarch64
def test_both_families_verify_against_onnxruntime(digits: Path) -> None:
    report = verify(digits, CompileOptions(target="arm64"), samples=1)
    assert report.ok and report.emulated and report.kernels == ("cnt", "tbl")
    assert [layer.exact for layer in report.layers if layer.binary] == [True] * 3


@aarch64
def test_both_families_give_the_same_bits(files: Path, arm64: bnn_tvm.export.Artifact) -> None:
    rng = np.random.default_rng(2)
    x = [rng.standard_normal((1, 1, 8, 8)).astype(np.float32) for _ in range(3)]
    with QemuDevice("aarch64") as device:
        for threads in (1, 2):
            results = [
                [one["logits"].tobytes() for one in device.load(files, threads, name).run_many(x)]
                for name in ("cnt", "tbl")
            ]
            assert results[0] == results[1]
        assert device.load(files, kernels="tbl").self_test() < 1e-3


@aarch64
def test_models_with_one_set_of_kernels_run_as_ever(tmp_path: Path) -> None:
    from tests.export.programs import artifact as single

    with QemuDevice("aarch64") as device:
        assert device.load(single(ARM64)).kernels == ""
        with pytest.raises(UsageError, match="one set of kernels"):
            device.load(single(ARM64), kernels="cnt")


def test_the_variable_is_not_set_by_this_file() -> None:
    assert VARIABLE not in os.environ
