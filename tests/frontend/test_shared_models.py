"""Real, trained and exported networks: prepared, they compute the same bits as before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend import prepare
from bnn_tvm.frontend.domains import BIPOLAR_DOMAINS
from tests.conftest import ROOT
from tests.frontend.models import (
    assert_clean,
    assert_same_bits,
    assert_same_function,
    run,
)

FOLDER = ROOT.parent / "shared" / "models"
STANDARD = [
    *(f"trained/{path.name}" for path in sorted(FOLDER.glob("trained/*.onnx"))),
    *(
        f"real/{path.name}"
        for path in sorted(FOLDER.glob("real/*.onnx.gz"))
        if "TFC" not in str(path)
    ),
    *(
        f"patterns/{path.name}"
        for path in sorted(FOLDER.glob("patterns/*.onnx"))
        if "customop" not in path.name and "brevitas" not in path.name
    ),
]
BIPOLAR = ["real/qonnx_TFC_1W1A_mnist.onnx.gz", "patterns/g_brevitas_qonnx_ts_13.onnx"]

Unpacked = Callable[[str], Path]


@pytest.mark.parametrize("name", STANDARD or ["none"])
def test_prepared_computes_the_same_bits(unpacked: Unpacked, name: str) -> None:
    path = unpacked(name)
    prepared = prepare(path)
    assert_clean(prepared.model)
    assert_same_function(onnx.load(path), prepared, runs=1)


@pytest.mark.parametrize("name", [name for name in STANDARD if name.startswith("patterns")])
def test_prepared_patterns_compute_the_same_at_exact_zeros(
    shared_models: Path, unpacked: Unpacked, name: str
) -> None:
    stem = Path(name).stem
    while not (shared_models / "patterns" / f"{stem}.npz").exists():
        stem = stem.rpartition("_")[0]
    data = np.load(shared_models / "patterns" / f"{stem}.npz")
    prepared, original = prepare(unpacked(name)).model, onnx.load(unpacked(name))
    for key in {"x", "x_zeros"} & set(data.files):
        feeds = {prepared.graph.input[0].name: data[key]}
        assert_same_bits(run(prepared, feeds), run(original, feeds))


def bipolar_class(domain: str) -> type[OpRun]:
    """BipolarQuant in NumPy, by its definition, for onnx's reference evaluator."""

    class BipolarQuant(OpRun):
        op_domain = domain

        def _run(self, x: np.ndarray, scale: np.ndarray, **_: Any) -> tuple[np.ndarray]:
            return (np.where(x >= 0, scale, -scale).astype(x.dtype),)

    return BipolarQuant


class BatchNormalization(OpRun):
    """Inference; onnx's own evaluator trains where opset 9 gives a momentum."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray,
        scale: np.ndarray,
        bias: np.ndarray,
        mean: np.ndarray,
        var: np.ndarray,
        epsilon: float = 1e-5,
        **_: Any,
    ) -> tuple[np.ndarray]:
        rank = (-1,) + (1,) * (x.ndim - 2)
        factor = scale.astype(np.float64) / np.sqrt(var.astype(np.float64) + epsilon)
        y = (x - mean.reshape(rank)) * factor.reshape(rank) + bias.reshape(rank)
        return (y.astype(x.dtype),)


def numpy_outputs(path: Path, x: np.ndarray) -> np.ndarray:
    model = onnx.load(path)
    imported = {opset.domain for opset in model.opset_import}
    for domain in {node.domain for node in model.graph.node} - imported - {""}:
        model.opset_import.add(domain=domain, version=1)
    classes = [BatchNormalization, *(bipolar_class(domain) for domain in BIPOLAR_DOMAINS)]
    constants = {tensor.name for tensor in model.graph.initializer}
    (name,) = (v.name for v in model.graph.input if v.name not in constants)
    return ReferenceEvaluator(model, new_ops=classes).run(None, {name: x})[0]


@pytest.mark.parametrize("name", BIPOLAR)
def test_bipolar_networks_agree_with_numpy(unpacked: Unpacked, name: str) -> None:
    path = unpacked(name)
    prepared = prepare(path)
    assert_clean(prepared.model)
    value = prepared.model.graph.input[0]
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    for seed in range(3):
        x = np.random.default_rng(seed).random(shape).astype(np.float32)
        (ours,) = run(prepared.model, {value.name: x})
        np.testing.assert_allclose(ours, numpy_outputs(path, x), rtol=1e-4, atol=1e-5)


def test_brevitas_export_agrees_with_torch(shared_models: Path, unpacked: Unpacked) -> None:
    data = np.load(shared_models / "patterns" / "g_brevitas.npz")
    prepared = prepare(unpacked(BIPOLAR[1])).model
    for x, y in [("x", "y"), ("x_zeros", "y_zeros")]:
        if x in data.files:
            (ours,) = run(prepared, {prepared.graph.input[0].name: data[x]})
            np.testing.assert_allclose(ours, data[y], rtol=1e-4, atol=1e-4)


def test_qonnx_zoo_network_recognises_digits(shared_models: Path, unpacked: Unpacked) -> None:
    data = np.load(shared_models / "data" / "mnist_test500.npz")
    prepared = prepare(unpacked(BIPOLAR[0])).model
    name = prepared.graph.input[0].name
    hits = 0
    for image, label in zip(data["x"][:200], data["y"][:200], strict=True):
        (scores,) = run(prepared, {name: (image / 255).astype(np.float32)[None, None]})
        hits += int(scores.argmax() == label)
    assert hits > 180  # the zoo's own accuracy is 93 %


def test_expected_outputs_of_a_real_network(shared_models: Path, unpacked: Unpacked) -> None:
    x = np.load(shared_models / "data" / "mnist_test500.npz")["x"].reshape(500, 784)
    signs = np.where(x > 127, 1, -1).astype(np.float32)
    prepared = prepare(unpacked("real/finn_lfcW1A1_mnist.onnx.gz"), batch=500)
    expected = np.load(shared_models / "expected" / "finn_lfcW1A1_mnist.npz")["y"]
    np.testing.assert_allclose(run(prepared.model, {"input": signs})[0], expected, rtol=1e-5)


def test_the_custom_operator_is_refused_with_the_way_out(unpacked: Unpacked) -> None:
    with pytest.raises(ModelError) as caught:
        prepare(unpacked("patterns/d_fn_symbolic_customop_ts_13.onnx"))
    assert "bnn::SignGE -> /act/SignGE_output_0" in caught.value.message
    assert "bnn::SignGE -> /act_1/SignGE_output_0" in caught.value.message
    assert "domain bnn" in (caught.value.hint or "") and "symbolic" in (caught.value.hint or "")


def test_weights_of_latent_exports_remember_their_sign(unpacked: Unpacked) -> None:
    prepared = prepare(unpacked("trained/mnist_bnn_latentw_ts13.onnx"))
    assert sum(ops == ("Sign",) for ops in prepared.folded.values()) == 4
    constant = prepare(unpacked("trained/mnist_bnn_constw_ts13.onnx"))
    assert ("Sign",) not in constant.folded.values()
