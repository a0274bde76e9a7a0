"""Arrays from and to NumPy files, and every complaint about them."""

from __future__ import annotations

import numpy as np
import pytest

from bnn_tvm.arrays import read_inputs, write_outputs
from bnn_tvm.errors import FileError, UsageError

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def save(path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_one_array_for_the_one_input(tmp_path) -> None:
    np.save(tmp_path / "x.npy", X)
    assert np.array_equal(read_inputs([str(tmp_path / "x.npy")], ["in"])["in"], X)


def test_by_name_and_from_npz(tmp_path) -> None:
    np.save(tmp_path / "a=b.npy", X)
    file = save(tmp_path / "z.npz", b=X + 1)
    arrays = read_inputs([f"a={tmp_path}/a=b.npy", file], ["a", "b"])
    assert np.array_equal(arrays["a"], X) and np.array_equal(arrays["b"], X + 1)
    assert np.array_equal(read_inputs([f"in={file}"], ["in"])["in"], X + 1)


@pytest.mark.parametrize(
    ("texts", "names", "message"),
    [
        (["x.npy"], ["a", "b"], "the model has 2 inputs, the file is one array"),
        (["z.npz"], ["a"], "the model has no input 'p'"),
        (["q=z.npz"], ["q"], "the file holds 2 arrays for the one input 'q'"),
        (["a=x.npy", "a=x.npy"], ["a"], "input 'a' is given twice"),
        (["a=x.npy"], ["a", "b"], "no array for input b"),
        (["c=x.npy"], ["a"], "the model has no input 'c'"),
    ],
)
def test_wrong_names_are_usage_errors(tmp_path, monkeypatch, texts, names, message) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    save("z.npz", p=X, q=X)
    with pytest.raises(UsageError, match=message) as caught:
        read_inputs(texts, names)
    assert caught.value.hint


def test_files_that_are_no_arrays(tmp_path) -> None:
    bad = {
        "text.npy": b"hello",
        "empty.npy": b"",
        "cut.npz": save_bytes(tmp_path)[:60],
        "pickle.npy": pickled(tmp_path),
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match="no NumPy file of plain arrays"):
            read_inputs([str(tmp_path / name)], ["a"])
    with pytest.raises(FileError, match="cannot read the input: No such file"):
        read_inputs([str(tmp_path / "none.npy")], ["a"])
    with pytest.raises(FileError, match="cannot read the input: Is a directory"):
        read_inputs([str(tmp_path)], ["a"])


def save_bytes(tmp_path) -> bytes:
    np.savez(tmp_path / "whole.npz", a=X)
    return (tmp_path / "whole.npz").read_bytes()


def pickled(tmp_path) -> bytes:
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    return (tmp_path / "o.npy").read_bytes()


def test_outputs_come_back(tmp_path) -> None:
    write_outputs(tmp_path / "y.npy", {"y": X})
    assert np.array_equal(np.load(tmp_path / "y.npy"), X)
    write_outputs(tmp_path / "y.npz", {"file": X, "a/b": X + 1})
    with np.load(tmp_path / "y.npz") as back:
        assert np.array_equal(back["file"], X) and np.array_equal(back["a/b"], X + 1)


def test_outputs_that_do_not_fit(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"must be \.npy or \.npz"):
        write_outputs(tmp_path / "y.txt", {"y": X})
    with pytest.raises(UsageError, match=r"the model has 2 outputs, a \.npy file holds one"):
        write_outputs(tmp_path / "y.npy", {"y": X, "z": X})
    with pytest.raises(FileError, match="cannot write the output: No such file"):
        write_outputs(tmp_path / "none" / "y.npy", {"y": X})
    assert list(tmp_path.iterdir()) == []
