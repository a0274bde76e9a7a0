"""Files that are not what their name says, and data outside the file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnn_tvm.errors import FileError, ModelError
from bnn_tvm.frontend import prepare
from tests.frontend.models import (
    assert_same_function,
    parse,
    prepare_and_compare,
    with_initializers,
)

NEG = parse("(float[1,3] x) => (float[1,3] y)", "y = Neg(x)")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def add_model(size: int = 3000) -> onnx.ModelProto:
    model = parse(f"(float[1,{size}] x) => (float[1,{size}] y)", "y = Add(x, w)")
    return with_initializers(model, w=np.arange(size, dtype=np.float32))


def test_source_and_sha256_of_a_file_are_of_its_bytes(tmp_path: Path) -> None:
    data = NEG.SerializeToString()
    prepared = prepare(write(tmp_path / "a.onnx", data))
    assert prepared.source == "a.onnx"
    assert prepared.sha256 == hashlib.sha256(data).hexdigest()


def test_a_proto_is_accepted_and_left_as_it_is() -> None:
    model = parse("(float[N,3] x) => (float[N,3] y)", "a = Identity(x) y = Neg(a)")
    before = model.SerializeToString()
    prepared = prepare(model)
    assert prepared.source == "<proto>" and len(prepared.sha256) == 64
    assert model.SerializeToString() == before


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file") as caught:
        prepare(tmp_path / "none.onnx")
    assert "none.onnx" in str(caught.value) and caught.value.hint


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="the file is empty"):
        prepare(write(tmp_path / "e.onnx", b""))


def test_a_directory_is_refused_and_its_models_are_named(tmp_path: Path) -> None:
    write(tmp_path / "inside.onnx", b"x")
    with pytest.raises(FileError, match="directory") as caught:
        prepare(tmp_path)
    assert "inside.onnx" in (caught.value.hint or "")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(FileError, match="device, pipe or socket"):
        prepare(tmp_path / "pipe.onnx")


def test_a_path_with_a_nul_byte_is_no_traceback() -> None:
    with pytest.raises(FileError, match="cannot be read"):
        prepare("a\0b.onnx")


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    data = add_model().SerializeToString()
    with pytest.raises(FileError, match="truncated or damaged"):
        prepare(write(tmp_path / "t.onnx", data[: int(len(data) * kept)]))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"hello, this is no model at all", "not an ONNX model"),
        (b'{"a": 1}', "JSON"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\x1f\x8b\x08\x00" + bytes(30), "gunzip"),
        (b"PK\x03\x04" + bytes(30), "PyTorch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x08\x08\x12\x04test", "no graph"),
    ],
)
def test_a_file_of_another_kind_is_told_apart(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(FileError, match="not an ONNX model") as caught:
        prepare(write(tmp_path / "f.onnx", data))
    assert says in str(caught.value)


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    model = add_model()
    path = tmp_path / "m.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, save_as_external_data=True, location="m.data")
    assert (tmp_path / "m.data").stat().st_size == 12000
    assert_same_function(model, prepare(path))


def external(tmp_path: Path, location: str, **entries: str) -> Path:
    """A model whose constant of 16 bytes lies at `location`."""
    model = parse("(float[1,4] x) => (float[1,4] y)", "y = Add(x, w)")
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    folder = tmp_path / "folder"
    folder.mkdir()
    return write(folder / "m.onnx", model.SerializeToString())


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "", "a/../../secret", "a\0b"])
def test_external_data_outside_the_folder_is_never_read(tmp_path: Path, location: str) -> None:
    write(tmp_path / "secret", bytes(16))
    with pytest.raises(ModelError, match="not below the folder of the model"):
        prepare(external(tmp_path, location))


def test_a_link_that_leads_outside_the_folder_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "secret", bytes(16))
    path = external(tmp_path, "link")
    (path.parent / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="not below the folder of the model"):
        prepare(path)


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="data of tensor 'w' is missing") as caught:
        prepare(external(tmp_path, "w.bin"))
    assert "w.bin" in str(caught.value)


@pytest.mark.parametrize(
    "entries",
    [{"offset": "8"}, {"length": "17"}, {"offset": "-1"}, {"length": "x"}, {"length": "999999999"}],
)
def test_external_data_that_does_not_fit_is_refused(
    tmp_path: Path, entries: dict[str, str]
) -> None:
    path = external(tmp_path, "w.bin", **entries)
    write(path.parent / "w.bin", bytes(16))
    with pytest.raises(ModelError, match="external data of tensor 'w' does not fit"):
        prepare(path)


def test_a_proto_with_external_data_has_no_folder(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin")
    with pytest.raises(ModelError, match="a model in memory has no folder"):
        prepare(onnx.load(path, load_external_data=False))


def test_external_data_of_a_subgraph_is_refused_too(tmp_path: Path) -> None:
    branch = "t = If(c) <then_branch = a () => (float[4] o) "
    branch += "{ o = Constant<value = float[4] {1,2,3,4}>() }"
    branch += ", else_branch = b () => (float[4] p) { p = Neg(w) }> y = Add(x, t)"
    model = parse("(float[4] x) => (float[4] y) <bool c = {1}, float[4] w = {1,2,3,4}>", branch)
    held = model.graph.node[0].attribute[0].g.node[0].attribute[0].t
    held.ClearField("float_data")
    held.data_location = onnx.TensorProto.EXTERNAL
    held.external_data.add(key="location", value="/etc/hostname")
    with pytest.raises(ModelError, match="not below the folder"):
        prepare(write(tmp_path / "m.onnx", model.SerializeToString()))


def test_many_tensors_on_the_same_bytes_cannot_fill_the_memory(tmp_path: Path) -> None:
    size = 16 << 20
    model = parse("(float[1] x) => (float[1] y)", "y = Neg(x)")
    for index in range(20):
        tensor = model.graph.initializer.add(name=f"w{index}", data_type=3, dims=[size])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
    with (tmp_path / "w.bin").open("wb") as data:
        data.truncate(size)
    with pytest.raises(ModelError, match="many times over"):
        prepare(write(tmp_path / "m.onnx", model.SerializeToString()))


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    data = parse("(float[1,3] x) => (float[1,3] y)", "tensor = Neg(x) y = Neg(tensor)")
    broken = data.SerializeToString().replace(b"tensor", b"\xff\xfensor")
    with pytest.raises(ModelError, match="not UTF-8"):
        prepare(write(tmp_path / "m.onnx", broken))


def test_control_characters_of_names_do_not_reach_the_terminal() -> None:
    model = parse("(float[1,3] x) => (float[1,3] y)", "y = Det(x)")
    model.graph.node[0].output[0] = model.graph.output[0].name = "y\x1b[31m\n"
    with pytest.raises(ModelError, match="control characters") as caught:
        prepare(model)
    assert "\x1b" not in str(caught.value)


def test_a_relative_path_as_text_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "m.onnx", NEG.SerializeToString())
    assert prepare("m.onnx").source == "m.onnx"
    prepare_and_compare(NEG)
