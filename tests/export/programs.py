"""Small programs of te kernels, written by hand: what the passes will one day produce."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import tvm
from tvm import s_tir, te
from tvm.target import Target

from bnn_tvm.export import Artifact, Metadata, build
from bnn_tvm.export.metadata import TensorInfo
from bnn_tvm.export.test_vector import make_inputs, make_test_vector
from bnn_tvm.program import Call, Program, Tensor

N, C, K = 24, 96, 40


@dataclass(frozen=True)
class Spec:
    """A TargetSpec without bnn_tvm.targets, so that export is tested alone."""

    name: str
    triple: str
    zig_target: str
    mcpu: str
    mattr: tuple[str, ...] = ()
    isa: str = "generic"
    num_cores: int = 2

    def tvm_target(self) -> Target:
        fields = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.mcpu}
        if self.triple.endswith("hf"):
            # TVM's default passes floats in integer registers: calls of expf would go wrong.
            fields |= {"mfloat-abi": "hard", "mattr": ["+neon"]}
        return Target(fields)


X86 = Spec("x86_64", "x86_64-linux-gnu", "x86_64-linux-gnu.2.17", "x86-64-v2")
ARM64 = Spec("arm64", "aarch64-linux-gnu", "aarch64-linux-gnu.2.17", "cortex-a53")
ANDROID = Spec("arm64-android", "aarch64-unknown-linux-android", "aarch64-linux-none", "cortex-a53")
ARMV7 = Spec("armv7", "armv7-linux-gnueabihf", "arm-linux-gnueabihf.2.17", "cortex-a9")


def host_spec() -> Spec:
    from bnn_tvm.runtime.elf import host_machine

    return {"x86_64": X86, "aarch64": ARM64}[host_machine()]


def _parallel(tensors: list[te.Tensor], block: str) -> tvm.tirx.PrimFunc:
    sch = s_tir.Schedule(te.create_prim_func(tensors))
    sch.parallel(sch.get_loops(sch.get_sblock(block))[0])
    return sch.mod["main"]


@cache
def kernels() -> tvm.IRModule:
    """affine (parallel), dense (parallel, sums), scratch (parallel, 64 KB of workspace), exp."""
    x = te.placeholder((N, C), "float32", "x")
    affine = te.compute((N, C), lambda i, j: x[i, j] * 2.0 + te.const(1.0, "float32"), "affine")
    w = te.placeholder((C, K), "float32", "w")
    r = te.reduce_axis((0, C), "r")
    dense = te.compute((N, K), lambda i, j: te.sum(x[i, r] * w[r, j], axis=r), "dense")

    h = te.placeholder((N, K), "float32", "h")
    wide = te.compute((N, 16384), lambda i, j: h[i, j % K] * 0.5, "wide")
    q = te.reduce_axis((0, 16384 // 128), "q")
    narrow = te.compute((N, 128), lambda i, j: te.sum(wide[i, q * 128 + j], axis=q), "narrow")
    scratch = s_tir.Schedule(te.create_prim_func([h, narrow]))
    row = scratch.get_loops(scratch.get_sblock("narrow"))[0]
    scratch.parallel(row)
    scratch.compute_at(scratch.get_sblock("wide"), row)

    z = te.placeholder((N, 128), "float32", "z")
    exp = te.compute((N, 128), lambda i, j: te.exp(z[i, j] * 0.01), "e")
    return tvm.IRModule(
        {
            "affine": _parallel([x, affine], "affine"),
            "dense": _parallel([x, w, dense], "dense"),
            "scratch": scratch.mod["main"],
            "exp": te.create_prim_func([z, exp]),
        }
    )


WEIGHTS = np.random.default_rng(0).standard_normal((C, K)).astype("float32")
X_NAME, Y_NAME, H_NAME = "x:0", 'y "é" \\ ??/%d', "hidden/out"


def network() -> Program:
    """x -> affine -> dense -> scratch -> exp -> y, with the dense result as a second output."""
    tensors = [
        Tensor(X_NAME, (N, C), "float32", "input"),
        Tensor("a", (N, C), "float32", "workspace"),
        Tensor("w", (C, K), "float32", "constant", WEIGHTS),
        Tensor(H_NAME, (N, K), "float32", "output"),
        Tensor("s", (N, 128), "float32", "workspace"),
        Tensor(Y_NAME, (N, 128), "float32", "output"),
    ]
    calls = [
        Call("affine", (0, 1), "a", "affine", "generic"),
        Call("dense", (1, 2, 3), "h", "dense", "dense-f32", macs=N * C * K),
        Call("scratch", (3, 4), "y", "pool", "generic"),
        Call("exp", (4, 5), "y", "elementwise", "generic"),
    ]
    return Program(tensors, calls, kernels(), [0], [5, 3])


def expected(x: np.ndarray) -> dict[str, np.ndarray]:
    """NumPy's answer, float64."""
    h = (x.astype(np.float64) * 2 + 1) @ WEIGHTS.astype(np.float64)
    wide = h[:, np.arange(16384) % K] * 0.5
    s = wide.reshape(N, -1, 128).sum(1)
    return {H_NAME: h, Y_NAME: np.exp(s * 0.01)}


def random_x(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (N, C)).astype("float32") * 0.1


IN_INFO = TensorInfo(X_NAME, (N, C), "float32", "NC")
OUT_INFOS = (TensorInfo(Y_NAME, (N, 128), "float32", "NC"), TensorInfo(H_NAME, (N, K), "float32"))


def metadata(wrong_by: float = 0.0) -> Metadata:
    """With a test vector; `wrong_by` spoils its expectation."""
    x = make_inputs([IN_INFO], 7, -0.1, 0.1)[X_NAME]
    want = {name: value + wrong_by for name, value in expected(x).items()}
    vector = make_test_vector(OUT_INFOS, want, 7, low=-0.1, high=0.1)
    return Metadata(
        source="net.onnx",
        source_sha256="ab" * 32,
        mode="aggressive",
        inputs=(IN_INFO,),
        outputs=OUT_INFOS,
        test_vector=vector,
    )


@cache
def artifact(spec: Spec) -> Artifact:
    return build(network(), spec, metadata())


def assert_close(got: dict[str, np.ndarray], x: np.ndarray) -> None:
    want = expected(x)
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-4, atol=2e-4)
