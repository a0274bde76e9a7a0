"""Trained and real networks and the ways in which exporters write binary ones: found and exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnn_tvm.errors import ModelError
from bnn_tvm.frontend import Prepared, prepare
from bnn_tvm.options import CompileOptions
from bnn_tvm.recognize import Recognition, expand, recognize
from tests.recognize.nets import assert_exact, session

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "models"
PATTERNS = sorted(p.stem for p in (FOLDER / "patterns").glob("*.onnx")) or ["needs-the-models"]

# Binary layers by the rule that finds them in the default mode, and float layers.
NETWORKS = {
    "trained/digits_bnn_constw_ts13.onnx": ({"moderate": 3}, 3),
    "trained/digits_bnn_latentw_ts13.onnx": ({"strict": 3}, 3),
    "trained/mnist_bnn_constw_ts13.onnx": ({"moderate": 4}, 3),
    "trained/mnist_bnn_latentw_ts13.onnx": ({"strict": 4}, 3),
    "real/finn_cnvW1A1_cifar10.onnx.gz": ({"aggressive": 5, "moderate": 3}, 1),
    "real/finn_lfcW1A1_mnist.onnx.gz": ({"moderate": 3}, 1),
    "real/larq_gtsrb_30x30.onnx.gz": ({"aggressive": 1, "moderate": 1}, 1),
    "real/msakai_mlp_mnist_ts13.onnx.gz": ({"moderate": 5}, 0),
    "real/qonnx_TFC_1W1A_mnist.onnx.gz": ({"strict": 4}, 0),
}

# The same for the patterns; all their layers are binary but a downsampling conv.
STRICT, MODERATE, AGGRESSIVE = "strict", "moderate", "aggressive"
RULES = {
    "a_dabnn_std_constw_dynamo_18": [MODERATE] * 2,
    "a_dabnn_std_constw_ts_13": [MODERATE] * 2,
    "a_dabnn_std_dynamo_18": [STRICT] * 2,
    "a_dabnn_std_ts_13": [STRICT] * 2,
    "a_pad_plus1_constw_ts_13": [AGGRESSIVE] * 2,
    "a_zeropad_constw_dynamo_18": [AGGRESSIVE] * 2,
    "a_zeropad_constw_ts_13": [AGGRESSIVE] * 2,
    "a_zeropad_graphw_ts_13": [AGGRESSIVE] * 2,
    "b_bireal_official_dynamo_18": [AGGRESSIVE, AGGRESSIVE, None],
    "b_bireal_official_ts_13": [AGGRESSIVE, AGGRESSIVE, None],
    "b_xnornet_scaled_zeropad_ts_13": [AGGRESSIVE],
    "c_reactnet_official_dynamo_18": [AGGRESSIVE] * 5,
    "c_reactnet_official_ts_13": [AGGRESSIVE, STRICT, AGGRESSIVE, STRICT, STRICT],
    "d_fn_nosymbolic_dynamo_18": [STRICT] * 2,
    "d_fn_symbolic_sign_ts_13": [STRICT] * 2,
    "e_ge_cast_mul_sub_ts_13": [STRICT] * 2,
    "e_where_ge_dynamo_18": [STRICT] * 2,
    "e_where_ge_ts_13": [STRICT] * 2,
    "f_larq_signadd_torch_dynamo_18": [STRICT] * 2,
    "f_larq_signadd_torch_ts_13": [STRICT] * 2,
    "g_brevitas_qonnx_ts_13": [STRICT] * 3,
    "h_hardtanh_sign_ts_13": [AGGRESSIVE] * 2,
    "h_round_clamp_ts_13": [MODERATE] * 2,
    "i_1x1_ts_13": [STRICT],
    "i_batch3_ts_13": [STRICT],
    "i_depthwise_ts_13": [STRICT],
    "i_dilation2_ts_13": [STRICT],
    "i_linear_bn_ts_13": [STRICT],
    "i_matmul_ts_13": [STRICT],
    "i_maxpool_on_signs_dynamo_18": [STRICT],
}
SPECIAL = {"d_fn_symbolic_customop_ts_13", "h_data_assign_ts_13"}


def data_of(folder: Path, name: str) -> Path:
    """The inputs and outputs that go with a pattern: NAME.npz for NAME_exporter_opset.onnx."""
    parts = name.split("_")
    named = ["_".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next(p for n in named if (p := folder / "patterns" / f"{n}.npz").exists())


def load(path: Path, **options: object) -> tuple[Prepared, Recognition]:
    prepared = prepare(path)
    return prepared, recognize(prepared, CompileOptions(**options))  # type: ignore[arg-type]


def run_all(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """The model's output for every sample of x, one after the other."""
    runner = session(model)
    (info,) = runner.get_inputs()
    return np.concatenate([runner.run(None, {info.name: one[None]})[0] for one in x])


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_found_binary_where_they_are(
    unpacked: Callable[[str], Path], name: str
) -> None:
    _, found = load(unpacked(name))
    rules, floats = NETWORKS[name]
    counted = {rule: sum(d.rule == rule for d in found.decisions) for rule in rules}
    assert counted == rules
    assert sum(not d.binary for d in found.decisions) == floats
    assert not any(d.implied for d in found.decisions)
    assert not found.warnings
    if floats:
        first = found.decisions[0]
        assert not first.binary
        if name.startswith("real"):
            assert "raw input" in first.reason


def images(name: str, folder: Path, count: int) -> np.ndarray:
    """Samples of the data set that a real network was trained on, as it wants them."""
    if "cifar" in name:
        x = np.load(folder / "data" / "cifar10jpg_test500.npz")["x"][:count].astype(np.float64)
        x = x / 255 * 2 - 1
        x = np.clip(np.floor(x * 128 + 0.5), -128, 127) / 128
        return x.transpose(0, 3, 1, 2).astype(np.float32)
    if "gtsrb" in name:
        x = np.load(folder / "data" / "gtsrb_test500_30px.npz")["x30"][:count]
        return x.astype(np.float32)
    x = np.load(folder / "data" / "mnist_test500.npz")["x"][:count]
    if "lfc" in name:
        return np.where(x.reshape(len(x), -1) > 127, 1, -1).astype(np.float32)
    x = (x.astype(np.float32) / 255).reshape(len(x), -1)
    return x.reshape(-1, 1, 1, 28, 28)[:, 0] if "qonnx" in name else x


@pytest.mark.parametrize("name", [n for n in NETWORKS if n.startswith("real")])
def test_real_networks_answer_the_same_on_real_data(
    unpacked: Callable[[str], Path], shared_models: Path, name: str
) -> None:
    prepared, found = load(unpacked(name))
    x = images(name, shared_models, 500)
    got = run_all(expand(found.model), x)
    wanted = run_all(prepared.model, x)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * max(1, np.abs(wanted).max()))
    np.testing.assert_array_equal(got.argmax(axis=1), wanted.argmax(axis=1))
    expected = shared_models / "expected" / (Path(name).name.removesuffix(".onnx.gz") + ".npz")
    if expected.exists():
        y = np.load(expected)["y"][: len(x)].reshape(got.shape)
        np.testing.assert_array_equal(got.argmax(axis=1), y.argmax(axis=1))


@pytest.mark.parametrize("name", [n for n in NETWORKS if n.startswith("trained")])
def test_trained_networks_answer_the_same_on_held_out_data(shared_models: Path, name: str) -> None:
    _, found = load(shared_models / name)
    data = np.load(shared_models / "trained" / (Path(name).name.split("_")[0] + "_bnn_test500.npz"))
    got = run_all(expand(found.model), data["x"])
    np.testing.assert_array_equal(got.argmax(axis=1), data["logits"].argmax(axis=1))
    np.testing.assert_allclose(got, data["logits"], rtol=0, atol=1e-4)


def test_the_shipped_network_is_found_binary(digits: Path) -> None:
    prepared, found = load(digits)
    assert sum(d.binary for d in found.decisions) >= 2 and not found.warnings
    (info,) = prepared.model.graph.input
    shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
    x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    assert_exact(prepared, found, x, tolerance=1e-5)


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_recognised_and_exact(shared_models: Path, name: str) -> None:
    if name in SPECIAL:
        pytest.skip("has a test of its own")
    prepared, found = load(shared_models / "patterns" / f"{name}.onnx")
    assert [d.rule for d in found.decisions] == RULES[name]
    assert not any(d.implied for d in found.decisions)
    # The 26 nodes of a straight-through activation are gone, and so are spelled binarisers.
    kinds = {n.op_type for n in found.model.graph.node}
    assert not kinds & {"Sign", "Less", "GreaterOrEqual", "Where", "Cast", "Round", "Pad"}
    data = np.load(data_of(shared_models, name))
    assert_exact(prepared, found, data["x"])


@pytest.mark.parametrize("name", PATTERNS)
def test_exact_zeros_give_the_spelled_sign(shared_models: Path, name: str) -> None:
    if name in SPECIAL:
        pytest.skip("has a test of its own")
    path = data_of(shared_models, name)
    if "x_zeros" not in np.load(path):
        pytest.skip("no zeros to compare on")
    prepared, found = load(shared_models / "patterns" / f"{name}.onnx")
    x = np.load(path)["x_zeros"]
    if "Sign" in {n.op_type for n in prepared.model.graph.node} and "larq" not in name:
        # A plain Sign gives 0 for 0, which no bit can hold: +1 it is.
        name_in = prepared.model.graph.input[0].name
        (got,) = session(expand(found.model)).run(None, {name_in: x})
        nudged = np.where(x == 0, np.float32(1e-30), x)
        (wanted,) = session(prepared.model).run(None, {name_in: nudged})
        np.testing.assert_allclose(got, wanted, atol=2e-6 * max(1, np.abs(wanted).max()))
    else:
        assert_exact(prepared, found, x)


@pytest.mark.parametrize("mode", ["strict", "moderate", "aggressive"])
def test_a_lost_binariser_is_named_as_the_likely_cause(shared_models: Path, mode: str) -> None:
    path = shared_models / "patterns" / "h_data_assign_ts_13.onnx"
    prepared, found = load(path, mode=mode)
    assert [d.rule for d in found.decisions] == [None, mode if mode == "aggressive" else None]
    said = [d.reason for d in found.decisions if not d.binary] + list(found.warnings)
    assert len(said) == 2
    assert all("exporter dropped the binariser" in text for text in said)
    if mode != "aggressive":
        assert_exact(prepared, found, np.load(path.with_name("h_data_assign.npz"))["x"])


def test_with_binarize_first_a_lost_binariser_is_made_up_for(shared_models: Path) -> None:
    path = shared_models / "patterns" / "h_data_assign_ts_13.onnx"
    prepared, found = load(path, binarize_first=True)
    assert [d.implied for d in found.decisions] == [("binarized-input",)] * 2
    assert len(found.warnings) == 2
    data = np.load(path.with_name("h_data_assign.npz"))
    name = prepared.model.graph.input[0].name
    (got,) = session(expand(found.model)).run(None, {name: data["x"]})
    np.testing.assert_allclose(got, data["y"], atol=2e-5)


def test_a_custom_operator_is_refused(shared_models: Path) -> None:
    with pytest.raises(ModelError, match="SignGE"):
        load(shared_models / "patterns" / "d_fn_symbolic_customop_ts_13.onnx")
