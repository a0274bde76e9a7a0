from __future__ import annotations

import gc
import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import te

from bnn_tvm.errors import UsageError
from bnn_tvm.export import Metadata, build
from bnn_tvm.program import Call, Program, Tensor
from bnn_tvm.runtime import load
from tests.export.programs import (
    H_NAME,
    IN_INFO,
    OUT_INFOS,
    X_NAME,
    Y_NAME,
    C,
    N,
    artifact,
    assert_close,
    host_spec,
    random_x,
)


def test_a_compiled_model_computes_what_numpy_does(saved: Path) -> None:
    with load(saved) as model:
        assert (model.inputs, model.outputs) == ((IN_INFO,), OUT_INFOS)
        for seed in range(3):
            x = random_x(seed)
            assert_close(model.run({X_NAME: x}), x)
            assert_close(model.run(x), x)


def test_either_file_may_be_named(saved: Path) -> None:
    x = random_x()
    by_dab = load(saved.with_suffix(".dab")).run(x)
    assert by_dab[Y_NAME].tobytes() == load(str(saved)).run(x)[Y_NAME].tobytes()


@pytest.mark.parametrize("threads", [2, 3, 4, 7])
def test_results_do_not_depend_on_the_number_of_threads(saved: Path, threads: int) -> None:
    with load(saved) as one, load(saved, threads=threads) as many:
        for seed in range(20):
            x = random_x(seed)
            want, got = one.run(x), many.run(x)
            for name in (Y_NAME, H_NAME):
                assert got[name].tobytes() == want[name].tobytes()


def test_one_thread_starts_none_and_a_pool_lives_as_long_as_its_model(saved: Path) -> None:
    def running() -> int:
        return len(os.listdir("/proc/self/task"))

    before = running()
    with load(saved) as model:
        model.run(random_x())
        assert running() == before
    with load(saved, threads=5) as model:
        assert running() == before + 4
        model.run(random_x())
        assert running() == before + 4
    assert running() == before


def test_contexts_run_side_by_side_in_several_threads(saved: Path) -> None:
    models = [load(saved, threads=1 + i % 3) for i in range(4)]
    inputs = [random_x(i) for i in range(4)]
    want = [load(saved).run(x)[Y_NAME].tobytes() for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(60):
            if models[i].run(inputs[i])[Y_NAME].tobytes() != want[i]:
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_one_model_may_be_shared_by_threads_that_take_turns(saved: Path) -> None:
    model = load(saved, threads=2)
    want = [model.run(random_x(i))[Y_NAME].tobytes() for i in range(3)]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(40):
            if model.run(random_x(i))[Y_NAME].tobytes() != want[i]:
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_loading_and_closing_leaks_neither_memory_nor_threads(saved: Path) -> None:
    x = random_x()

    def cycle(count: int) -> None:
        for _ in range(count):
            with load(saved, threads=3) as model:
                model.run(x)

    cycle(30)
    gc.collect()
    before, threads = resident(), len(os.listdir("/proc/self/task"))
    cycle(150)
    gc.collect()
    # One context has an arena and scratch of over 200 KB: a leak would be 30 MB.
    assert resident() - before < 8 << 20
    assert len(os.listdir("/proc/self/task")) == threads


def test_the_garbage_collector_closes_a_forgotten_model(saved: Path) -> None:
    before = len(os.listdir("/proc/self/task"))
    model = load(saved, threads=3)
    assert len(os.listdir("/proc/self/task")) == before + 2
    del model
    gc.collect()
    assert len(os.listdir("/proc/self/task")) == before


def test_a_closed_model_says_so(saved: Path) -> None:
    model = load(saved)
    model.close()
    model.close()
    with pytest.raises(UsageError, match="the model is closed"):
        model.run(random_x())
    with pytest.raises(UsageError, match="the model is closed"):
        model.self_test()


def test_results_belong_to_the_caller(saved: Path) -> None:
    model = load(saved)
    x = random_x()
    first = model.run(x)
    kept = first[Y_NAME].copy()
    model.run(random_x(1))
    model.close()
    np.testing.assert_array_equal(first[Y_NAME], kept)


def test_any_memory_layout_of_the_input_is_accepted(saved: Path) -> None:
    model = load(saved)
    x = random_x()
    want = model.run(x)[Y_NAME]
    raw = np.empty(x.nbytes + 64, np.uint8)
    for offset in (1, 4, 16):
        start = -raw.ctypes.data % 64 + offset
        odd = raw[start : start + x.nbytes].view("float32").reshape(N, C)
        odd[...] = x
        np.testing.assert_array_equal(model.run(odd)[Y_NAME], want)
    np.testing.assert_array_equal(model.run(np.asfortranarray(x))[Y_NAME], want)
    np.testing.assert_array_equal(model.run(np.repeat(x, 2, 1)[:, ::2])[Y_NAME], want)
    x.flags.writeable = False
    np.testing.assert_array_equal(model.run(x)[Y_NAME], want)


@pytest.mark.parametrize("threads", [1, 2])
def test_profile_has_a_row_for_each_call(saved: Path, threads: int) -> None:
    with load(saved, threads=threads) as model:
        rows = model.profile(random_x(), repeat=5)
    assert [(r.output, r.kind, r.kernel) for r in rows] == [
        ("a", "affine", "generic"),
        ("h", "dense", "dense-f32"),
        ("y", "pool", "generic"),
        ("y", "elementwise", "generic"),
    ]
    assert all(r.ms > 0 for r in rows)
    assert sum(r.share for r in rows) == pytest.approx(1.0)


def test_profile_refuses_no_runs(saved: Path) -> None:
    with pytest.raises(UsageError, match="repeat must be at least 1"):
        load(saved).profile(random_x(), repeat=0)


def test_outputs_that_no_kernel_writes_are_copied(tmp_path: Path) -> None:
    """An output may be an input, a constant, an intermediate, or the same tensor twice."""
    x = te.placeholder((5,), "int32", "x")
    func = te.create_prim_func([x, te.compute((5,), lambda i: x[i] + 1, "y")])
    constant = np.arange(5, dtype="int32") * 7
    tensors = [
        Tensor("x", (5,), "int32", "input"),
        Tensor("c", (5,), "int32", "constant", constant),
        Tensor("t", (5,), "int32", "workspace"),
        Tensor("y", (5,), "int32", "output"),
    ]
    calls = [Call("inc", (0, 2), "t", "k", "g"), Call("inc", (2, 3), "y", "k", "g")]
    program = Program(tensors, calls, tvm.IRModule({"inc": func}), [0], [0, 1, 2, 3, 3])
    infos = tuple(type(IN_INFO)(f"o{i}", (5,), "int32", "") for i in range(len(program.outputs)))
    built = build(program, host_spec(), Metadata(outputs=infos))
    built.save(tmp_path / "m")
    value = np.array([3, -1, 0, 5, 9], "int32")
    got = load(tmp_path / "m.so").run(value)
    want = [value, constant, value + 1, value + 2, value + 2]
    for i, array in enumerate(want):
        np.testing.assert_array_equal(got[f"o{i}"], array)


def test_a_program_without_calls_loads_and_runs(tmp_path: Path) -> None:
    program = Program([Tensor("x", (2, 3), "uint8", "input")], [], tvm.IRModule({}), [0], [0])
    build(program, host_spec(), Metadata()).save(tmp_path / "m")
    model = load(tmp_path / "m.so", threads=2)
    x = np.arange(6, dtype="uint8").reshape(2, 3)
    np.testing.assert_array_equal(model.run(x)["x"], x)
    assert model.profile(x) == ()


def test_closing_the_last_model_unloads_the_library(tmp_path: Path) -> None:
    path = artifact(host_spec()).save(tmp_path / "unloaded")[0]

    def mapped() -> bool:
        return str(path.resolve()) in Path("/proc/self/maps").read_text()

    first, second = load(path), load(path)
    assert mapped()
    first.close()
    assert_close(second.run(random_x()), random_x())
    second.close()
    assert not mapped()


def test_a_recompiled_model_at_the_same_path_is_the_new_one(tmp_path: Path) -> None:
    """Replacing the file must not disturb who has the old one open, nor hide the new one."""

    def compiled(factor: int) -> Path:
        x = te.placeholder((4,), "int32", "x")
        func = te.create_prim_func([x, te.compute((4,), lambda i: x[i] * factor, "y")])
        tensors = [Tensor("x", (4,), "int32", "input"), Tensor("y", (4,), "int32", "output")]
        program = Program(
            tensors, [Call("f", (0, 1), "y", "k", "g")], tvm.IRModule({"f": func}), [0], [1]
        )
        return build(program, host_spec(), Metadata()).save(tmp_path / "m")[0]

    x = np.arange(4, dtype="int32")
    old = load(compiled(2))
    new = load(compiled(3))
    np.testing.assert_array_equal(old.run(x)["y"], 2 * x)
    np.testing.assert_array_equal(new.run(x)["y"], 3 * x)


def test_the_prepared_check_of_inputs_returns_and_raises_what_the_plain_one_does() -> None:
    from bnn_tvm.export.metadata import TensorInfo
    from bnn_tvm.runtime.arrays import InputCheck, check_inputs

    infos = (TensorInfo("a", (2, 3), "float32", ""), TensorInfo("b", (0, 4), "uint8", ""))
    a, b = np.ones((2, 3), "float32"), np.zeros((0, 4), "uint8")
    swapped = a.astype(a.dtype.newbyteorder())
    cases = [
        (infos, {"a": a, "b": b}),
        (infos, {"b": b, "a": np.asfortranarray(a)}),
        (infos, {"b": b, "a": a.tolist()}),
        (infos, {"a": a}),
        (infos, {"a": a, "b": b, "c": b}),
        (infos, {"a": a, "b": b[:, :3]}),
        (infos, a),
        (infos[:1], a),
        (infos[:1], swapped),
        (infos[:1], a.T),
        (infos[:1], np.repeat(a, 2, 1)[:, ::2]),
        (infos[:1], a.astype("float64")),
        (infos[:1], {"a": a.view(np.matrix)}),
    ]
    for of, given in cases:
        try:
            want = check_inputs(given, of)
        except UsageError as exc:
            with pytest.raises(UsageError) as caught:
                InputCheck(of)(given)
            assert str(caught.value) == str(exc)
            continue
        got = InputCheck(of)(given)
        assert len(got) == len(want)
        for x, y in zip(got, want, strict=True):
            assert x.flags.c_contiguous and x.dtype == y.dtype and x.shape == y.shape
            assert x.tobytes() == y.tobytes()
