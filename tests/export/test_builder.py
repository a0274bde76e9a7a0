from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import te

from bnn_tvm.errors import BnnError, ToolchainError
from bnn_tvm.export import build, driver, kernels_abi, link
from bnn_tvm.export.builder import check
from bnn_tvm.export.metadata import DecisionInfo, Metadata
from bnn_tvm.program import Call, Program, Tensor
from tests.export.programs import ARM64, X86, C, K, N, artifact, kernels, metadata, network


def test_metadata_is_completed_by_the_build() -> None:
    built = artifact(X86).metadata
    assert built.tool_version
    assert built.tvm_version.startswith("0.27")
    assert (built.target, built.triple, built.cpu) == ("x86_64", "x86_64-linux-gnu", "x86-64-v2")
    assert built.weight_bytes == C * K * 4
    assert built.workspace_bytes == max(N * C * 4, N * 128 * 4)
    assert built.so_bytes == len(artifact(X86).so)
    assert [(x.output, x.kind, x.kernel, x.macs) for x in built.layers] == [
        ("a", "affine", "generic", 0),
        ("h", "dense", "dense-f32", N * C * K),
        ("y", "pool", "generic", 0),
        ("y", "elementwise", "generic", 0),
    ]
    dense = built.layers[1]
    assert (dense.input_shape, dense.output_shape) == ((N, C), (N, K))
    assert dense.weight_bytes == C * K * 4


def test_a_layer_gets_the_reason_of_its_decision() -> None:
    decisions = (DecisionInfo("h", "Gemm", True, "strict", "signs on both sides"),)
    given_metadata = dataclasses.replace(metadata(), decisions=decisions)
    built = build(network(), X86, given_metadata).metadata
    assert [x.binary for x in built.layers] == [False, True, False, False]
    assert built.layers[1].reason == "signs on both sides"


def test_features_without_signs_and_without_the_forbidden() -> None:
    spec = dataclasses.replace(X86, mattr=("+ssse3", "-avx2", "popcnt"))
    assert build(network(), spec, metadata()).metadata.features == ("ssse3", "popcnt")


def _tensors(change: Callable[[list[Tensor]], None]) -> Callable[[Program], None]:
    return lambda program: change(program.tensors)


def _set(index: int, **fields: object) -> Callable[[Program], None]:
    def change(program: Program) -> None:
        program.tensors[index] = dataclasses.replace(program.tensors[index], **fields)  # type: ignore[arg-type]

    return change


def _call(index: int, **fields: object) -> Callable[[Program], None]:
    def change(program: Program) -> None:
        program.calls[index] = dataclasses.replace(program.calls[index], **fields)  # type: ignore[arg-type]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(2, data=None), "constant lacks data"),
        (_set(2, data=np.zeros((C, K), "int8")), "constant lacks data"),
        (lambda p: p.inputs.clear(), "not among the inputs"),
        (lambda p: p.outputs.pop(), "not among the outputs"),
        (_call(0, args=(0, 9)), "no tensor"),
        (_call(0, num_outputs=0), "wrong number of outputs"),
        (_call(0, args=(4, 1)), "nothing has written"),
        (_call(0, args=(0, 2)), "writes an input or a constant"),
        (_call(3, args=(4, 4)), "reads and writes the same"),
        (lambda p: p.calls.pop(), "no call writes an output"),
    ],
)
def test_an_impossible_program_is_refused(change: Callable[[Program], None], message: str) -> None:
    program = network()
    change(program)
    with pytest.raises(BnnError, match=message):
        check(program)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_call(0, symbol="none"), "kernels that its module lacks: none"),
        (_call(1, args=(1, 3)), "passes 2 tensors to a kernel of 3"),
        (_set(1, shape=(N, C + 1)), "argument 1 .a. is 2328 x float32, the kernel takes 2304 x"),
        (_set(1, dtype="int32"), "2304 x int32, the kernel takes 2304 x float32"),
    ],
)
def test_a_call_that_does_not_fit_its_kernel_is_refused(
    change: Callable[[Program], None], message: str
) -> None:
    program = network()
    change(program)
    with pytest.raises(BnnError, match=message):
        build(program, X86, metadata())


def test_a_kernel_of_unknown_size_is_refused() -> None:
    n = te.var("n")
    x = te.placeholder((n,), "float32", "x")
    func = te.create_prim_func([x, te.compute((n,), lambda i: x[i] + 1.0, "y")])
    with pytest.raises(ToolchainError, match="no buffer of a fixed shape"):
        kernels_abi._select(tvm.IRModule({"f": func}), {"f"})


def test_tvm_failures_are_toolchain_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("first line\n  the cause")

    monkeypatch.setattr(kernels_abi, "lower", broken)
    with pytest.raises(ToolchainError, match="could not generate code: the cause"):
        build(network(), X86, metadata())


@pytest.mark.parametrize("spec", [X86, ARM64], ids=lambda s: s.name)
def test_assembly_shows_the_kernel(spec: object) -> None:
    text = kernels_abi.assembly(kernels(), {"dense"}, spec.tvm_target())  # type: ignore[attr-defined]
    assert "kernel_dense:" in text
    assert "TVMFFI" not in text


def test_equal_constants_share_their_bytes() -> None:
    data = np.arange(10, dtype="float32")
    tensors = [Tensor(f"c{i}", (10,), "float32", "constant", data * (1 + i // 2)) for i in range(4)]
    weights = driver.pack_weights(Program(tensors, [], tvm.IRModule({})))
    assert weights.offsets == {0: 0, 1: 0, 2: 64, 3: 64}
    assert len(weights.blob) == 128
    assert np.frombuffer(weights.blob, "float32", 10, 64).tolist() == (data * 2).tolist()


def test_large_weights_are_in_the_library() -> None:
    data = np.random.default_rng(0).integers(0, 256, 4 << 20, dtype=np.uint8)
    x = te.placeholder((4 << 20,), "uint8", "x")
    func = te.create_prim_func([x, te.compute((1,), lambda i: x[i + 12345], "y")])
    tensors = [
        Tensor("w", (4 << 20,), "uint8", "constant", data),
        Tensor("y", (1,), "uint8", "output"),
    ]
    program = Program(
        tensors, [Call("pick", (0, 1), "y", "k", "g")], tvm.IRModule({"pick": func}), [], [1]
    )
    built = build(program, X86, Metadata())
    assert data.tobytes() in built.so
    assert len(built.so) < (4 << 20) + 50_000


@given(st.text(max_size=40))
@settings(max_examples=80, deadline=None)
def test_c_strings_hold_any_text(text: str) -> None:
    literal = driver.c_string(text)
    assert literal.isascii()
    assert literal[0] == literal[-1] == '"'
    inner = literal[1:-1]
    assert "??" not in inner
    decoded = inner.encode("ascii").decode("unicode_escape").encode("latin-1")
    assert decoded.decode("utf-8") == text.replace("\0", "\N{SYMBOL FOR NULL}").encode(
        "utf-8", "replace"
    ).decode("utf-8")


def test_the_schema_and_the_c_sources_are_beside_the_code() -> None:
    assert (link.include_dir() / "bnn_tvm.h").is_file()
    assert {p.name for p in link.runtime_sources()} >= {"context.c", "pool.c", "cpu.c"}
