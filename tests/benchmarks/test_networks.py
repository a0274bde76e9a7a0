"""The generated benchmark networks have the published structure and do not hang on rounding."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks import networks

SIGNS = {
    "bireal18": 16,
    "resnet_e18": 16,
    "densenet28": 23,
    "quicknet_small": 16,
    "quicknet": 16,
    "quicknet_large": 32,
    "reactnet_a": 26,
}


def run_with(model: onnx.ModelProto, x: np.ndarray, level: str) -> dict[str, np.ndarray]:
    """Output and every Sign and Sign input, by onnxruntime at one optimisation level."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for node in model.graph.node:
        if node.op_type == "Sign":
            watched.graph.output.append(onnx.ValueInfoProto(name=node.input[0]))
            watched.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options)
    names = list(dict.fromkeys(output.name for output in session.get_outputs()))
    return dict(zip(names, session.run(names, {"input": x}), strict=True))


@pytest.mark.parametrize(
    ("name", "binary", "floating"),
    [
        ("bireal18", 1.676e9, 0.138e9),
        ("resnet_e18", 1.676e9, 0.138e9),
        ("densenet28", 3.587e9, 0.2025e9),
        ("quicknet_small", 1.156e9, 0.01594e9),
        ("quicknet_large", 3.70e9, 0.030e9),
        ("quicknet", 1.850e9, 0.030e9),
        ("reactnet_a", 4.82e9, 0.0119e9),
    ],
)
def test_multiply_adds_at_224_are_the_published_ones(
    name: str, binary: float, floating: float
) -> None:
    counted = networks.count_macs(networks.NETWORKS[name]())
    assert counted == (pytest.approx(binary, rel=0.01), pytest.approx(floating, rel=0.05))


def test_bireal18_has_sixteen_binary_convs_and_three_float_shortcuts() -> None:
    graph = networks.bireal18(size=32).graph
    assert Counter(node.op_type for node in graph.node) == {
        "Sign": 16, "Conv": 20, "BatchNormalization": 20, "Add": 16, "AveragePool": 3,
        "MaxPool": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_the_same_seed_gives_the_same_model(name: str) -> None:
    build = networks.NETWORKS[name]
    once, again, other = (build(size=32, seed=seed).SerializeToString() for seed in (1, 1, 2))
    assert once == again
    assert once != other


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_no_sign_is_of_zero_and_no_sign_depends_on_the_order_of_sums(name: str) -> None:
    model = networks.NETWORKS[name](size=96)
    x = networks.sample_input(model)
    plain = run_with(model, x, "ORT_DISABLE_ALL")
    optimised = run_with(model, x, "ORT_ENABLE_ALL")
    signs = [node for node in model.graph.node if node.op_type == "Sign"]
    assert len(signs) == SIGNS[name]
    for node in signs:
        source, sign = plain[node.input[0]], plain[node.output[0]]
        assert (source != 0).all()
        assert 0.2 < source.std() < 4
        assert 0.05 < (sign > 0).mean() < 0.95
        np.testing.assert_array_equal(sign, optimised[node.output[0]])
    np.testing.assert_allclose(plain["output"], optimised["output"], rtol=1e-4, atol=1e-5)


def test_command_writes_the_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path), "--size", "32", "--only", "quicknet"]
    assert networks.main(arguments) == 0
    onnx.checker.check_model(tmp_path / "quicknet.onnx", full_check=True)
    assert "quicknet.onnx" in capsys.readouterr().out
