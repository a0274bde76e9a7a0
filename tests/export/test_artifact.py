from __future__ import annotations

import os
from pathlib import Path

import pytest

from bnn_tvm.errors import FileError
from bnn_tvm.export import Artifact, Metadata, dab
from bnn_tvm.export.artifact import sha256_hex


def artifact(so: bytes = b"\x7fELF new") -> Artifact:
    return Artifact(so, Metadata(source="m.onnx", so_sha256=sha256_hex(so), so_bytes=len(so)))


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_save_writes_both_files(tmp_path: Path) -> None:
    so, metadata = artifact().save(tmp_path / "m.v1")
    assert (so, metadata) == (tmp_path / "m.v1.so", tmp_path / "m.v1.dab")
    assert so.read_bytes() == b"\x7fELF new"
    assert dab.read(metadata).source == "m.onnx"
    assert listing(tmp_path) == ["m.v1.dab", "m.v1.so"]
    assert os.access(so, os.X_OK)
    assert not os.access(metadata, os.X_OK)


def test_save_replaces_files(tmp_path: Path) -> None:
    artifact(b"\x7fELF old").save(tmp_path / "m")
    artifact().save(tmp_path / "m")
    assert (tmp_path / "m.so").read_bytes() == b"\x7fELF new"
    assert listing(tmp_path) == ["m.dab", "m.so"]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("failing", ["m.so", "m.dab"])
def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, old: bool
) -> None:
    if old:
        artifact(b"\x7fELF old").save(tmp_path / "m")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = os.replace

    def replace(source: object, target: object) -> None:
        if str(target).endswith(failing) and str(source).endswith(".tmp"):
            raise OSError(28, "No space left on device")
        real(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(FileError, match="No space left on device"):
        artifact().save(tmp_path / "m")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_without_hard_links_old_files_still_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    test_a_failure_leaves_everything_as_it_was(tmp_path, monkeypatch, "m.dab", True)


def test_a_failed_write_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(FileError, match="Input/output error") as caught:
        artifact().save(tmp_path / "m")
    assert listing(tmp_path) == []
    assert caught.value.hint


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot write the output: No such file") as caught:
        artifact().save(tmp_path / "none" / "m")
    assert caught.value.code == 6


def test_a_folder_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.dab").mkdir()
    with pytest.raises(FileError, match="the output is a folder"):
        artifact().save(tmp_path / "m")
    assert listing(tmp_path) == ["m.dab"]
