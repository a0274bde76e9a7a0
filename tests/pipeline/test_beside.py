"""Layers that write floats and the next layer's words: no pack is left, and nothing changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import bnn_tvm
from bnn_tvm import pipeline
from bnn_tvm.lower import beside, object_cache
from bnn_tvm.options import CompileOptions
from bnn_tvm.program import Program
from bnn_tvm.targets import TargetSpec, resolve
from tests.passes.bnn_ops import parse
from tests.pipeline.run_program import run_program
from tests.recognize.nets import Net, samples, session

CO = 64
PLAIN = "strides=[1,1],dilations=[1,1],group=1"
CONV = f"bnn_tvm.BinaryConv<{PLAIN},pads=[1,1,1,1],pad_value=1>"
ZERO = f"bnn_tvm.BinaryConv<{PLAIN},pads=[1,1,1,1],pad_value=0>"
DOWN = "bnn_tvm.BinaryConv<strides=[2,2],dilations=[1,1],group=1,pads=[0,1,2,1],pad_value=-1>"
BITS = "bnn_tvm.Binarize"
FIRST = f"b0 = {BITS}(x, t0, up) c0 = {ZERO}(b0, w, s, o) y0 = Add(c0, x)"

# x: float[2,64,9,8].
BLOCKS = {
    "Bi-Real-Net": f"""{FIRST}
        b1 = {BITS}(y0, t0, up) c1 = {ZERO}(b1, w, s, o) y1 = Add(c1, y0)
        b2 = {BITS}(y1, t0, up) c2 = {ZERO}(b2, w, s, o) y = Add(c2, y1)""",
    "QuickNet": f"""
        b0 = {BITS}(x, t0, up) c0 = {CONV}(b0, w, one, zero) r0 = Relu(c0)
        m0 = Mul(r0, sc) a0 = Add(m0, oc) y0 = Add(a0, x)
        b1 = {BITS}(y0, t0, up) c1 = {CONV}(b1, w, one, zero) r1 = Relu(c1)
        m1 = Mul(r1, sc) a1 = Add(m1, oc) y1 = Add(a1, y0)
        b2 = {BITS}(y1, t0, up) c2 = {CONV}(b2, w, one, zero) y = Add(c2, y1)""",
    "ReActNet": f"""{FIRST} p0 = Add(y0, oc) q0 = PRelu(p0, sc) z0 = Add(q0, sc)
        b1 = {BITS}(z0, t1, d1) c1 = {ZERO}(b1, w, s, o) y1 = Add(c1, z0)
        p1 = PRelu(y1, sc) b2 = {BITS}(p1, t1, d1) c2 = {DOWN}(b2, w, s, o)
        g = GlobalAveragePool(p1) y = Add(c2, g)""",
}
# No shortcut: nobody reads the floats.
ONLY_BITS = f"""
    b0 = {BITS}(x, t0, up) c0 = {ZERO}(b0, w, s, o) p0 = PRelu(c0, sc)
    b1 = {BITS}(p0, t1, d1) c1 = {CONV}(b1, w, s, o) p1 = PRelu(c1, sc)
    b2 = {BITS}(p1, t1, d1) y = {ZERO}(b2, w, s, o)"""
# The second of two packs that differ in their padding stays.
KEPT = {
    "two paddings": f"""{FIRST}
        b1 = {BITS}(y0, t0, up) c1 = {ZERO}(b1, w, s, o) c2 = {DOWN}(b1, w, s, o)
        g = GlobalAveragePool(c2) z = Add(c1, g) y = Add(z, y0)""",
}


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    special = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e-45], np.float32)
    limit = np.where(rng.random(CO) < 0.2, rng.choice(special, CO), normal(CO))
    return {
        "t0": np.zeros((), np.float32),
        "up": np.ones((), np.int8),
        "w": rng.choice(np.array([-1, 1], np.int8), (CO, CO, 3, 3)),
        "s": normal(CO) * 0.02,
        "o": normal(CO),
        "one": np.ones(CO, np.float32),
        "zero": np.zeros(CO, np.float32),
        "sc": normal(CO, 1, 1) * 0.1,
        "oc": normal(CO, 1, 1),
        "t1": limit.astype(np.float32).reshape(1, CO, 1, 1),
        "d1": rng.choice(np.array([-1, 1], np.int8), (1, CO, 1, 1)),
    }


def model(body: str) -> onnx.ModelProto:
    return parse(body, arrays(), "float[2,64,9,8] x")


def spec() -> TargetSpec:
    return resolve(CompileOptions(target="x86_64", mcpu="znver5"))


OF_FLOATS = ("pack", "generic")  # packs that are not what a kernel makes of packed bits


def packs(program: Program) -> list[str]:
    """The layers for which bits are packed by a call of its own."""
    calls = [call for call in program.calls if call.kind == "pack"]
    return [call.layer for call in calls if call.kernel in OF_FLOATS]


def without(body: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, used: TargetSpec) -> Program:
    """The program with a pack before every layer."""
    with monkeypatch.context() as patch:
        patch.setattr(beside, "pack_beside", lambda fused: fused)
        return pipeline.build(body, used)


def agree(
    body: str, monkeypatch: pytest.MonkeyPatch, used: TargetSpec | None = None
) -> tuple[Program, Program]:
    """The programs with and without packs of their own, which agree bit for bit."""
    used = used or spec()
    program, reference = pipeline.build(model(body), used), without(model(body), monkeypatch, used)
    if resolve(CompileOptions()).isa == used.isa:
        x = np.random.default_rng(3).normal(size=(2, 64, 9, 8)).astype(np.float32)
        target = used.tvm_target()
        results = [run_program(p, target, {"x": x}) for p in (program, reference)]
        np.testing.assert_array_equal(*results)
    return program, reference


@pytest.mark.parametrize("name", BLOCKS)
def test_only_the_input_is_packed_by_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, reference = agree(BLOCKS[name], monkeypatch)
    assert len(packs(program)) == 1
    assert len(packs(reference)) == 3
    both = [call for call in program.calls if call.num_outputs == 2]
    assert [call.layer for call in both] == ["c0", "c1"]
    for call in both:
        assert call.kind == "binary-conv" and call.macs and "vpopcntdq" in call.kernel
        assert [program.tensors[i].dtype for i in call.args[-2:]] == ["float32", "uint32"]


def test_floats_that_nobody_else_reads_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    program, _ = agree(ONLY_BITS, monkeypatch)
    assert len(packs(program)) == 1
    results = [program.tensors[call.args[-1]].dtype for call in program.calls if call.macs]
    assert results == ["uint32", "uint32", "float32"]
    assert all(call.num_outputs == 1 for call in program.calls)


@pytest.mark.parametrize("name", KEPT)
def test_a_second_pack_stays_a_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, reference = agree(KEPT[name], monkeypatch)
    assert len(packs(reference)) == 3
    assert len(packs(program)) == 2


def test_other_targets_keep_their_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in (
        CompileOptions(target="x86_64", mcpu="haswell"),
        CompileOptions(target="arm64"),
    ):
        program, reference = agree(BLOCKS["Bi-Real-Net"], monkeypatch, resolve(options))
        assert program.calls == reference.calls


def network() -> onnx.ModelProto:
    """Four binary layers with shortcuts and PReLUs, as an exporter writes them."""
    net = Net((1, CO, 28, 28))
    value = "x"
    for block in range(4):
        weights = net.signs(CO, CO, 3, 3) * np.float32(0.05)
        y = net.conv(net.op("Sign", value), weights, pads=[1, 1, 1, 1])
        value = net.op("Add", net.bn(y, CO), value)
        if block % 2:
            value = net.op("PRelu", value, net.const(net.rng.random((CO, 1, 1))))
    net.op("GlobalAveragePool", value, name="y")
    return net.model()


def test_whole_models_are_equal_with_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, results = network(), []
    x = samples(source, np.random.default_rng(5), zeros=False)
    (expected,) = session(source).run(None, {"x": x})
    for name in ("beside", "apart"):
        with monkeypatch.context() as patch:
            if name == "apart":
                patch.setattr(beside, "pack_beside", lambda fused: fused)
            dump = tmp_path / f"dump-{name}"
            compiled = bnn_tvm.compile_model(source, cache=False, dump=dump)
        fused = (dump / "3-fused.py").read_text()
        assert ("_pack" in fused) == (name == "beside" and spec().isa == compiled.spec.isa)
        saved = compiled.save(tmp_path / name)
        layers = compiled.artifact.metadata.layers
        if name == "beside" and compiled.spec.isa == spec().isa:
            assert sum(layer.kind == "pack" and layer.kernel in OF_FLOATS for layer in layers) == 1
            assert sum(layer.kind == "binary-conv" for layer in layers) == 4
        for threads in (1, 2, 3):
            loaded = bnn_tvm.load(saved.so, threads=threads)
            results += [loaded.run({"x": x})["y"] for _ in range(3)]
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    np.testing.assert_allclose(results[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ("Bi-Real-Net", "only bits"))
def test_relax_finds_the_joined_module_well_formed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvm import relax

    made = []
    run = beside.pack_beside
    monkeypatch.setattr(beside, "pack_beside", lambda f: made.append(run(f)) or made[-1])
    pipeline.build(model({**BLOCKS, "only bits": ONLY_BITS}[name]), spec())
    relax.analysis.well_formed(made[0].module)  # raises where it is not


def test_the_virtual_machine_takes_two_results(tmp_path: Path) -> None:
    import tvm
    from tvm import relax

    source = network()
    x = samples(source, np.random.default_rng(6), zeros=False)
    (expected,) = session(source).run(None, {"x": x})
    saved = bnn_tvm.compile_model(source, runtime="tvm").save(tmp_path / "net")
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(saved.so)), tvm.cpu())
    (result,) = machine["main"](tvm.runtime.tensor(x))
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_second_compilation_takes_the_code_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_cache, "default_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(object_cache, "read_versions", object_cache.versions)
    first, second = (bnn_tvm.compile_model(network()).artifact for _ in range(2))
    assert first.so == second.so
