"""The network that ships in examples/digits is what its README says it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest

import bnn_tvm

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "examples" / "digits"


@pytest.fixture(scope="module")
def held_out() -> dict[str, np.ndarray]:
    with np.load(DIGITS / "test_digits.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    """scripts/train_digits.py as a module; importing it must not need PyTorch."""
    spec = importlib.util.spec_from_file_location("train_digits", ROOT / "scripts/train_digits.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def onnxruntime_logits(images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(DIGITS / "digits.onnx")
    return np.asarray(session.run(["logits"], {"image": images})[0])


def test_onnxruntime_gives_the_shipped_logits(held_out: dict[str, np.ndarray]) -> None:
    logits = onnxruntime_logits(held_out["image"])
    # A sign of a stem output near zero may fall differently on another processor: allow one image.
    differing = (np.abs(logits - held_out["logits"]).max(axis=1) > 1e-3).sum()
    assert differing <= 1


def test_accuracy_on_held_out_digits_is_above_97_percent(held_out: dict[str, np.ndarray]) -> None:
    right = onnxruntime_logits(held_out["image"]).argmax(axis=1) == held_out["label"]
    assert right.size == 450
    assert right.mean() > 0.97


def test_held_out_digits_are_the_split_of_the_training_script(
    held_out: dict[str, np.ndarray], trainer: ModuleType
) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    train_x, train_y, test_x, test_y = trainer.load_split()
    assert len(train_x) == len(train_y) == 1347
    np.testing.assert_array_equal(test_x, held_out["image"])
    np.testing.assert_array_equal(test_y, held_out["label"])


def test_single_digit_is_the_first_held_out_one(held_out: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(np.load(DIGITS / "digit.npy"), held_out["image"][:1])


def test_three_convolutions_have_sign_weights_and_the_file_is_small() -> None:
    path = DIGITS / "digits.onnx"
    assert path.stat().st_size < 300_000
    graph = onnx.load(path).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    binary = [node for node in convs if made_by.get(node.input[1]) == "Sign"]
    assert len(convs) == 5
    assert [node.output[0] for node in binary] == [
        f"/block{i}/conv/Conv_output_0" for i in (1, 2, 3)
    ]


def test_compiled_for_this_machine_it_reads_every_held_out_digit_as_onnxruntime_does(
    held_out: dict[str, np.ndarray], tmp_path: Path
) -> None:
    compiled = bnn_tvm.compile_model(DIGITS / "digits.onnx", mode="strict")
    assert [d.output for d in compiled.decisions if d.binary] == [
        f"/block{i}/conv/Conv_output_0" for i in (1, 2, 3)
    ]
    assert compiled.warnings == ()
    model = bnn_tvm.load(compiled.save(tmp_path / "digits").so, self_test=True)
    logits = np.concatenate([model.run(x[None])["logits"] for x in held_out["image"]])
    reference = onnxruntime_logits(held_out["image"])
    # As above: one image may have a stem output so near zero that rounding decides its sign.
    assert (np.abs(logits - reference).max(axis=1) > 1e-4).sum() <= 1
    assert (logits.argmax(axis=1) == held_out["label"]).mean() > 0.97


def test_compiled_for_a_batch_it_gives_the_same_logits(
    held_out: dict[str, np.ndarray], tmp_path: Path
) -> None:
    compiled = bnn_tvm.compile_model(DIGITS / "digits.onnx", batch=5)
    model = bnn_tvm.load(compiled.save(tmp_path / "five").so, threads=2)
    images = held_out["image"][:5]
    np.testing.assert_allclose(
        model.run(images)["logits"], onnxruntime_logits(images), rtol=1e-4, atol=1e-5
    )


def test_training_script_trains_and_exports(trainer: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs PyTorch (the torch extra)")
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    assert trainer.main(["--epochs", "3", "--out", str(tmp_path)]) == 0
    logits = trainer.infer(tmp_path / "digits.onnx", np.load(tmp_path / "digit.npy"))
    with np.load(tmp_path / "test_digits.npz") as arrays:
        np.testing.assert_allclose(logits, arrays["logits"][:1], atol=1e-4)
        assert (arrays["logits"].argmax(axis=1) == arrays["label"]).mean() > 0.7
