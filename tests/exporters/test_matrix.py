"""PyTorch networks through both exporters at five opsets: recognised, exact, compiled and run.

A short version always runs (every network by the quick exporter, a few by the slow one, a few
compiled); the marker `slow` has the whole matrix.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bnn_tvm
from bnn_tvm.frontend import Prepared, prepare
from bnn_tvm.options import CompileOptions
from bnn_tvm.recognize import Recognition, expand, recognize
from tests.exporters.export import EXPORTERS, OPSETS, export, needs_torch
from tests.recognize.nets import session

pytestmark = needs_torch


@dataclass(frozen=True)
class Case:
    """What is expected of one network of modules.py.

    shape: of its input. binary: how many layers are binary in the default mode. floats: how many
    are not. zeros: its spelling says what exact zeros become, so that they may be among the inputs.
    axes: which the export leaves open, by name; the model is then compiled for `shape`, by batch if
    that is all that is open. traced: shape of the example for the export, where it is another.
    """

    shape: tuple[int, ...]
    binary: int
    floats: int = 0
    zeros: bool = False
    axes: tuple[tuple[int, str], ...] = ()
    traced: tuple[int, ...] | None = None

    @property
    def options(self) -> dict[str, Any]:
        if len(self.axes) > 1:
            return {"shapes": {"x": self.shape}}
        return {"batch": self.shape[0]} if self.axes else {}


IMAGE = (1, 16, 8, 8)
BATCH = ((0, "n"),)
SIZE = ((0, "n"), (2, "h"), (3, "w"))

CASES: dict[str, Case] = {
    "dabnn_standard": Case(IMAGE, 2),
    "dabnn_constant_weights": Case(IMAGE, 2),
    "xnor_net": Case(IMAGE, 2),
    "bireal": Case(IMAGE, 2, 1),
    "reactnet": Case(IMAGE, 3),
    "irnet": Case(IMAGE, 2),
    "where_ge": Case(IMAGE, 2, zeros=True),
    "cast_times_two": Case(IMAGE, 2, zeros=True),
    "hardtanh_sign": Case(IMAGE, 2),
    "straight_through": Case(IMAGE, 2),
    "autograd_sign": Case(IMAGE, 2),
    "autograd_step": Case(IMAGE, 2, zeros=True),
    "equal_where": Case(IMAGE, 2, zeros=True),
    "assigned_by_mask": Case(IMAGE, 2, zeros=True),
    "assigned_twice": Case(IMAGE, 2, zeros=True),
    "sign_add_sign": Case(IMAGE, 2, zeros=True),
    "round_clamp": Case(IMAGE, 2, zeros=True),
    "zero_one": Case(IMAGE, 2, zeros=True),
    "linear": Case((1, 40), 2),
    "matmul": Case((1, 40), 2, zeros=True),
    "grouped": Case((1, 48, 7, 9), 2, zeros=True),
    "depthwise": Case((1, 37, 6, 5), 2, zeros=True),
    "conv1d": Case((1, 12, 17), 2, zeros=True),
    "between": Case(IMAGE, 1, zeros=True),
    "batch_3": Case((3, 16, 8, 8), 2, zeros=True),
    "dynamic_batch": Case((4, 16, 8, 8), 2, zeros=True, axes=BATCH, traced=(2, 16, 8, 8)),
    "dynamic_size": Case((1, 16, 9, 6), 2, zeros=True, axes=SIZE, traced=(2, 16, 8, 10)),
    "dynamic_reactnet": Case((2, 16, 6, 12), 3, axes=SIZE, traced=(3, 16, 8, 10)),
    "bnn_tvm_layers": Case(IMAGE, 3, zeros=True),
}

ALL = [
    pytest.param(name, exporter, opset, id=f"{name}-{exporter}-{opset}")
    for name in CASES
    for exporter in EXPORTERS
    for opset in OPSETS
]
QUICK = [pytest.param(name, "torchscript", 17, id=f"{name}-torchscript-17") for name in CASES]
QUICK += [
    pytest.param(name, "dynamo", 20, id=f"{name}-dynamo-20")
    for name in ("assigned_by_mask", "bnn_tvm_layers", "dynamic_batch")
]
COMPILED = ("reactnet", "assigned_by_mask", "linear")


def build(name: str) -> Any:
    from tests.exporters.modules import NETWORKS

    return NETWORKS[name]()


@functools.cache
def exported(name: str, exporter: str, opset: int) -> onnx.ModelProto:
    import torch

    case = CASES[name]
    example = torch.randn(case.traced or case.shape)
    return export(build(name), example, exporter, opset, case.axes)


def inputs(case: Case, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=case.shape) * 1.5).astype(np.float32)
    if not case.zeros:
        return x
    kind = rng.integers(0, 8, case.shape)
    return np.where(kind == 0, np.float32(0), np.where(kind == 1, np.float32(-0.0), x))


def recognised(
    name: str, exporter: str, opset: int, **options: Any
) -> tuple[Prepared, Recognition]:
    case = CASES[name]
    prepared = prepare(exported(name, exporter, opset), **case.options)
    return prepared, recognize(prepared, CompileOptions(**case.options, **options))


def with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The model with more of its tensors as outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    held = {output.name for output in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in held)
    return copy


def integers(model: onnx.ModelProto, output: str, y: np.ndarray) -> np.ndarray:
    """The counts that binary layer `output` of a rewritten model made, out of its float result."""
    node = next(n for n in model.graph.node if output in n.output)
    assert node.op_type in ("BinaryConv", "BinaryDense"), node.op_type
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    scale, offset = (held[n].astype(np.float64) for n in node.input[2:4])
    if node.op_type == "BinaryConv":
        trailing = (1,) * (y.ndim - 2)
        scale = scale.reshape(-1, *trailing)
        offset = offset.reshape(-1, *trailing) if offset.ndim == 1 else offset
    counts = (y - offset) / scale
    np.testing.assert_allclose(counts, np.round(counts), rtol=0, atol=2e-2)
    return np.round(counts).astype(np.int64)


def check(name: str, exporter: str, opset: int) -> None:
    case = CASES[name]
    prepared, found = recognised(name, exporter, opset)
    told = [(d.output, d.rule, d.reason) for d in found.decisions]
    assert sum(d.binary for d in found.decisions) == case.binary, told
    assert sum(not d.binary for d in found.decisions) == case.floats, told
    assert not any(d.implied for d in found.decisions), told
    assert not found.warnings
    layers = [d.output for d in found.decisions if d.binary]
    names = [*layers, prepared.model.graph.output[0].name]
    original = session(with_outputs(prepared.model, names))
    rewritten = session(with_outputs(expand(found.model), names))
    for seed in range(2):
        x = inputs(case, seed)
        wanted = original.run(names, {"x": x})
        got = rewritten.run(names, {"x": x})
        for layer, a, b in zip(layers, wanted, got, strict=False):
            np.testing.assert_array_equal(
                integers(found.model, layer, b), integers(found.model, layer, a)
            )
        scale = max(1.0, float(np.abs(wanted[-1]).max()))
        np.testing.assert_allclose(got[-1], wanted[-1], rtol=0, atol=2e-6 * scale)


def check_compiled(name: str, exporter: str, opset: int, folder: Path) -> None:
    """The compiled model on this machine against onnxruntime and against PyTorch itself."""
    import torch

    case = CASES[name]
    model = exported(name, exporter, opset)
    compiled = bnn_tvm.compile_model(model, **case.options)
    assert sum(d.binary for d in compiled.decisions) == case.binary
    loaded = bnn_tvm.load(compiled.save(folder / "model").so)
    prepared = prepare(model, **case.options)
    x = inputs(case, 5)
    (wanted,) = session(prepared.model).run(None, {"x": x})
    got = loaded.run(x)["y"]
    scale = max(1.0, float(np.abs(wanted).max()))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * scale)
    with torch.no_grad():
        y = build(name)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, y, rtol=0, atol=1e-4 * scale)


def test_every_network_has_a_case() -> None:
    from tests.exporters.modules import NETWORKS

    assert list(NETWORKS) == list(CASES)


@pytest.mark.parametrize(("name", "exporter", "opset"), QUICK)
def test_every_binary_layer_is_found_and_exact(name: str, exporter: str, opset: int) -> None:
    check(name, exporter, opset)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_networks_answer_as_onnxruntime_and_pytorch(name: str, tmp_path: Path) -> None:
    check_compiled(name, "torchscript", 17, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "exporter", "opset"), ALL)
def test_whole_matrix_is_found_and_exact(name: str, exporter: str, opset: int) -> None:
    check(name, exporter, opset)


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", CASES)
def test_whole_matrix_compiled(name: str, exporter: str, tmp_path: Path) -> None:
    check_compiled(name, exporter, 20, tmp_path)
