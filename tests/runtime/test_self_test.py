from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import te

from bnn_tvm.errors import DeviceError, UsageError
from bnn_tvm.export import Metadata, build
from bnn_tvm.export.metadata import TensorInfo
from bnn_tvm.export.test_vector import make_inputs, make_test_vector, splitmix64
from bnn_tvm.program import Call, Program, Tensor
from bnn_tvm.runtime import load
from tests.export.programs import OUT_INFOS, expected, host_spec, metadata, network


def test_a_sound_deployment_passes(saved: Path) -> None:
    model = load(saved, self_test=True)
    assert 0 <= model.self_test() < 1e-3


def test_a_wrong_result_is_refused(tmp_path: Path) -> None:
    path = build(network(), host_spec(), metadata(wrong_by=0.5)).save(tmp_path / "m")[0]
    load(path)
    with pytest.raises(DeviceError, match=r"self-test differs .* by up to 0\.5") as caught:
        load(path, self_test=True)
    assert "compile again" in (caught.value.hint or "")


def test_a_model_without_a_test_vector_says_so(tmp_path: Path) -> None:
    plain = dataclasses.replace(metadata(), test_vector=None)
    path = build(network(), host_spec(), plain).save(tmp_path / "m")[0]
    with pytest.raises(DeviceError, match="no test vector") as caught:
        load(path, self_test=True)
    assert "self_test=False" in (caught.value.hint or "")


def test_splitmix64_gives_the_published_values() -> None:
    """The first values for seed 1234567, as in Rosetta Code's description of SplitMix64."""
    assert splitmix64(1234567, 5).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "uint8", "int8", "int16", "uint16", "int32", "int64", "bool"]
)
def test_python_and_c_make_the_same_inputs(tmp_path: Path, dtype: str) -> None:
    """A model that hands its input on, with an expectation made in Python."""
    shape = (3, 50)
    program = Program([Tensor("x", shape, dtype, "input")], [], tvm.IRModule({}), [0], [0])
    info = (TensorInfo("x", shape, dtype),)
    inputs = make_inputs(info, 99, -3.0, 5.0)
    vector = make_test_vector(info, inputs, 99, atol=0.0, rtol=1e-6, low=-3.0, high=5.0)
    path = build(program, host_spec(), Metadata(test_vector=vector)).save(tmp_path / "m")[0]
    load(path, self_test=True)


def test_every_input_has_its_own_stream(tmp_path: Path) -> None:
    a = te.placeholder((8,), "float32", "a")
    b = te.placeholder((8,), "float32", "b")
    func = te.create_prim_func([a, b, te.compute((8,), lambda i: a[i] - b[i] * 2.0, "y")])
    tensors = [
        Tensor("a", (8,), "float32", "input"),
        Tensor("b", (8,), "float32", "input"),
        Tensor("y", (8,), "float32", "output"),
    ]
    program = Program(
        tensors, [Call("f", (0, 1, 2), "y", "k", "g")], tvm.IRModule({"f": func}), [0, 1], [2]
    )
    infos = (TensorInfo("a", (8,), "float32"), TensorInfo("b", (8,), "float32"))
    arrays = make_inputs(infos, 5)
    assert not np.array_equal(arrays["a"], arrays["b"])
    want = {"y": arrays["a"] - 2 * arrays["b"]}
    vector = make_test_vector((TensorInfo("y", (8,), "float32"),), want, 5, atol=1e-6, rtol=0)
    path = build(program, host_spec(), Metadata(test_vector=vector)).save(tmp_path / "m")[0]
    load(path, self_test=True)


def test_long_outputs_are_sampled() -> None:
    info = (TensorInfo("y", (100, 100), "float32"),)
    vector = make_test_vector(info, {"y": np.arange(10000.0)}, 0)
    assert vector.outputs[0].stride == 10
    assert vector.outputs[0].values[:3] == (0.0, 10.0, 20.0)
    assert len(vector.outputs[0].values) <= 1024


def test_nan_expectations_are_met_by_nan_alone(tmp_path: Path) -> None:
    x = te.placeholder((2,), "float32", "x")
    func = te.create_prim_func([x, te.compute((2,), lambda i: te.sqrt(x[i] - 9.0), "y")])
    tensors = [Tensor("x", (2,), "float32", "input"), Tensor("y", (2,), "float32", "output")]
    program = Program(
        tensors, [Call("f", (0, 1), "y", "k", "g")], tvm.IRModule({"f": func}), [0], [1]
    )
    info = (TensorInfo("y", (2,), "float32"),)
    for value, passes in ((float("nan"), True), (0.0, False)):
        vector = make_test_vector(info, {"y": np.full(2, value)}, 0)
        path = build(program, host_spec(), Metadata(test_vector=vector)).save(tmp_path / "m")[0]
        if passes:
            load(path, self_test=True)
        else:
            with pytest.raises(DeviceError, match="self-test differs"):
                load(path, self_test=True)


def test_a_vector_without_all_outputs_is_refused() -> None:
    want = expected(np.zeros((24, 96), "float32"))
    want.pop(OUT_INFOS[0].name)
    with pytest.raises(UsageError, match="lacks the values of an output"):
        make_test_vector(OUT_INFOS, want, 0)
