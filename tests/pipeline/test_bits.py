"""Layers whose results are read as bits: the same numbers as through floats, bit for bit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import arm64_models, arm64_program
from bnn_tvm import pipeline
from bnn_tvm.importer import layers
from bnn_tvm.lower import beside
from bnn_tvm.options import CompileOptions
from bnn_tvm.program import Program
from bnn_tvm.targets import TargetSpec, resolve
from tests.passes.bnn_ops import parse
from tests.pipeline.run_program import run_program

PLAIN = "strides=[1,1],dilations=[1,1],group=1"
CONV = f"bnn_tvm.BinaryConv<{PLAIN},pads=[0,0,0,0],pad_value=0>"
ZERO = f"bnn_tvm.BinaryConv<{PLAIN},pads=[1,1,1,1],pad_value=0>"
ONES = f"bnn_tvm.BinaryConv<{PLAIN},pads=[1,0,2,1],pad_value=1>"
GROUPS = "bnn_tvm.BinaryConv<strides=[2,1],dilations=[1,1],group=2,pads=[1,1,1,1],pad_value=-1>"
BITS, DENSE = "bnn_tvm.Binarize", "bnn_tvm.BinaryDense"
FIRST = f"b = {BITS}(x, t0, up) y1 = {ZERO}(b, w1, s1, o1)"

# x: float[2,6,9,8]; the first layer y1 has C channels; d1 mixes both directions.
BODIES = {
    "two layers": f"{FIRST} c = {BITS}(y1, t1, d1) y = {ZERO}(c, w2, s2, o2)",
    "padded with ones": f"{FIRST} c = {BITS}(y1, t1, d1) y = {ONES}(c, w2, s2, o2)",
    "two readers, different padding": f"""
        {FIRST} c = {BITS}(y1, t1, d1) p = {CONV}(c, w2, s2, o2) q = {ONES}(c, w3, s2, o2)
        i = GlobalAveragePool(p) j = GlobalAveragePool(q) y = Add(i, j)""",
    "pool, then bits": f"""
        {FIRST} m = MaxPool<kernel_shape=[3,2],strides=[2,2],pads=[1,0,1,1]>(y1)
        c = {BITS}(m, t1, d1) y = {ZERO}(c, w2, s2, o2)""",
    "bits, then pool": f"""
        {FIRST} c = {BITS}(y1, t1, d1) m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(c)
        y = {ZERO}(m, w2, s2, o2)""",
    "pools on both sides": f"""
        {FIRST} m = MaxPool<kernel_shape=[2,2],strides=[1,2]>(y1) c = {BITS}(m, t1, d1)
        n = MaxPool<kernel_shape=[3,3],dilations=[1,1],strides=[2,1],ceil_mode=1>(c)
        y = {ZERO}(n, w2, s2, o2)""",
    "transposes and a pool": f"""
        {FIRST} u = Transpose<perm=[0,2,3,1]>(y1) v = Transpose<perm=[0,3,1,2]>(u)
        m = MaxPool<kernel_shape=[2,2]>(v) c = {BITS}(m, t1, d1) y = {CONV}(c, w2, s2, o2)""",
    "dense behind a flat map": f"""
        {FIRST} g = MaxPool<kernel_shape=[9,8]>(y1) f = Flatten(g) c = {BITS}(f, tr, dr)
        e = {DENSE}(c, wd, s1, o1) h = {BITS}(e, tr, dr) y = {DENSE}(h, wd, s1, o1)""",
    "dense behind NHWC": f"""
        {FIRST} u = Transpose<perm=[0,2,3,1]>(y1) f = Flatten(u) c = {BITS}(f, t0, up)
        y = {DENSE}(c, wf, s2, o2)""",
}
# Padded both ways, pools on both sides, a dense layer: all that a threshold may stand before.
EVERYTHING = f"""
    {FIRST} m = MaxPool<kernel_shape=[2,2],strides=[1,2]>(y1) c = {BITS}(m, t1, d1)
    n = MaxPool<kernel_shape=[2,2],strides=[1,1],ceil_mode=1>(c) y2 = {ONES}(n, w4, s1, o1)
    d = {BITS}(y2, t1, d1) y3 = {ZERO}(d, w4, s1, o1) k = {BITS}(y3, t1, d1)
    g = MaxPool<kernel_shape=[8,2]>(k) f = Flatten(g)
    e = {DENSE}(f, wd, s1, o1) h = {BITS}(e, tr, dr) y = {DENSE}(h, wd, s1, o1)"""
# Floats are needed somewhere, or the words of writer and reader differ.
REFUSED = {
    "a shortcut": f"""
        {FIRST} c = {BITS}(y1, t1, d1) z = {ZERO}(c, w4, s1, o1) y = Add(z, y1)""",
    "an output": f"{FIRST} c = {BITS}(y1, t1, d1) k = {ZERO}(c, w2, s2, o2) y = Add(k, c1)",
    "two binarisers": f"""
        {FIRST} c = {BITS}(y1, t1, d1) e = {BITS}(y1, t0, up)
        p = {ZERO}(c, w2, s2, o2) q = {ZERO}(e, w2, s2, o2) y = Add(p, q)""",
    "border": f"""
        b = {BITS}(x, t0, up) y1 = {ZERO}(b, w1, s1, map) c = {BITS}(y1, t1, d1)
        y = {ZERO}(c, w2, s2, o2)""",
    "flat in ONNX's order": f"""
        {FIRST} f = Flatten(y1) c = {BITS}(f, t0, up) y = {DENSE}(c, wf, s2, o2)""",
    "an infinite offset": f"""
        b = {BITS}(x, t0, up) y1 = {ZERO}(b, w1, s1, inf) c = {BITS}(y1, t1, d1)
        y = {ZERO}(c, w2, s2, o2)""",
}


def arrays(c: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def signs(*shape: int) -> np.ndarray:
        return rng.choice(np.array([-1, 1], np.int8), shape)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    scale, offset = normal(c), normal(c) * 3
    scale[rng.random(c) < 0.2] = 0
    # Thresholds are values that the layers take (6*9 taps), now and then something special.
    ties = scale * rng.integers(-20, 20, c).astype(np.float32) + offset
    special = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e-45], np.float32)
    ties = np.where(rng.random(c) < 0.15, rng.choice(special, c), ties).astype(np.float32)
    direction = signs(c)
    infinite = offset.copy()
    infinite[0] = np.inf
    return {
        "t0": np.zeros((), np.float32),
        "up": np.ones((), np.int8),
        "w1": signs(c, 6, 3, 3),
        "w2": signs(5, c, 3, 3),
        "w3": signs(5, c, 3, 3),
        "w4": signs(c, c, 3, 3),
        "wg": signs(8, c // 2, 3, 3),
        "wd": signs(c, c),
        "wf": signs(72 * c, 5),
        "s1": scale,
        "o1": offset,
        "s2": normal(5),
        "o2": normal(5),
        "s8": normal(8),
        "o8": normal(8),
        "inf": infinite,
        "map": normal(1, c, 9, 8),
        "t1": ties.reshape(1, c, 1, 1),
        "d1": direction.reshape(1, c, 1, 1),
        "tr": ties.reshape(1, c),
        "dr": direction.reshape(1, c),
        "c1": normal(1, 5, 1, 1),
    }


@pytest.fixture(scope="module")
def spec() -> TargetSpec:
    return resolve(CompileOptions())


def writes_words(program: Program) -> list[str]:
    """Layers whose results are integers: packed words."""
    return [
        call.layer
        for call in program.calls
        if call.macs and program.tensors[call.args[-1]].dtype.startswith("uint")
    ]


def floats(model: onnx.ModelProto, spec: TargetSpec, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program without packed results."""
    with monkeypatch.context() as patch:
        patch.setattr(beside, "pack_beside", lambda fused: fused)
        patch.setattr(layers, "as_bits", lambda *args: None)
        return pipeline.build(model, spec)


def both(
    model: onnx.ModelProto, spec: TargetSpec, monkeypatch: pytest.MonkeyPatch
) -> tuple[Program, Program]:
    """The programs with and without packed results, which agree bit for bit."""
    program, reference = pipeline.build(model, spec), floats(model, spec, monkeypatch)
    assert not writes_words(reference)
    x = np.random.default_rng(3).normal(size=(2, 6, 9, 8)).astype(np.float32)
    target = spec.tvm_target()
    results = [run_program(p, target, {"x": x}) for p in (program, reference)]
    for result, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(result, expected)
    return program, reference


@pytest.mark.parametrize("channels", (37, 64))
@pytest.mark.parametrize("name", BODIES)
def test_bits_equal_floats(
    name: str, channels: int, spec: TargetSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, _ = both(parse(BODIES[name], arrays(channels, channels)), spec, monkeypatch)
    whole = name != "dense behind NHWC" or channels % 8 == 0
    if spec.isa in ("avx2", "avx512_vpopcntdq"):
        assert ("y1" in writes_words(program)) == whole


@pytest.mark.parametrize("channels", (48, 24))
def test_groups_of_the_reader(
    channels: int, spec: TargetSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"{FIRST} c = {BITS}(y1, t1, d1) y = {GROUPS}(c, wg, s8, o8)"
    program, _ = both(parse(body, arrays(channels, 1)), spec, monkeypatch)
    if spec.isa == "avx2":
        assert bool(writes_words(program)) == (channels // 2 % 8 == 0)


@pytest.mark.parametrize("name", ("two layers", "pools on both sides"))
def test_bits_equal_floats_without_fused_arithmetic(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = resolve(CompileOptions(target="x86_64", mcpu="x86-64"))
    if not resolve(CompileOptions()).triple.startswith("x86_64"):
        pytest.skip("needs x86-64")
    program, _ = both(parse(BODIES[name], arrays(13, 4)), plain, monkeypatch)
    assert "y1" in writes_words(program)


@pytest.mark.parametrize("name", REFUSED)
def test_values_stay_floats_where_somebody_needs_them(
    name: str, spec: TargetSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = parse(REFUSED[name], arrays(16, 2))
    if name == "an output":
        model.graph.output.append(next(v for v in model.graph.value_info if v.name == "y1"))
    program, _ = both(model, spec, monkeypatch)
    assert "y1" not in writes_words(program)


def test_no_float_is_packed_between_such_layers(spec: TargetSpec) -> None:
    if spec.isa not in ("avx2", "avx512_vpopcntdq"):
        pytest.skip("needs AVX2")
    program = pipeline.build(parse(BODIES["dense behind a flat map"], arrays(64, 3)), spec)
    assert writes_words(program) == ["y1", "e"]
    made = [program.tensors[call.args[-1]] for call in program.calls]
    first = next(i for i, call in enumerate(program.calls) if call.layer == "y1" and call.macs)
    assert [t.name for t in made[first:] if t.dtype == "float32"] == ["y"]


@pytest.mark.parametrize(("core", "channels"), (("cortex-a72", 64), ("cortex-a76", 37)))
def test_arm64_bits_equal_floats(
    core: str, channels: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if arm64_program.missing_tool() is not None:
        pytest.skip(str(arm64_program.missing_tool()))
    model = parse(EVERYTHING, arrays(channels, channels))
    spec = resolve(CompileOptions(target="arm64", mcpu=core))
    program, reference = pipeline.build(model, spec), floats(model, spec, monkeypatch)
    assert writes_words(program) == ["y1", "y2", "y3", "e"]
    assert not writes_words(reference)
    x = np.random.default_rng(3).normal(size=(2, 6, 9, 8)).astype(np.float32)
    results = []
    for name, one in (("words", program), ("floats", reference)):
        (tmp_path / name).mkdir()
        path = arm64_models.link(one, core, x, tmp_path / name)
        subprocess.run(["qemu-aarch64", str(path), f"{path}.out"], check=True, timeout=60)
        results.append(np.fromfile(f"{path}.out", np.float32).reshape(2, channels))
    np.testing.assert_array_equal(*results)
    assert len(np.unique(results[0])) > channels // 2
