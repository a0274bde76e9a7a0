"""The pair `model.so` and `model.dab`: made together, written together, checked together."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bnn_tvm.errors import FileError
from bnn_tvm.export.metadata import Metadata


def sha256_hex(data: bytes) -> str:
    """The sha256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A compiled model in memory: the bytes of the shared library and what is known about it.

    `parts` are the files that the library was linked from, by name (objects, generated C, weights):
    a device without a C library links a static executable from them.
    """

    so: bytes
    metadata: Metadata
    parts: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def dab(self) -> bytes:
        """The bytes of `model.dab`."""
        from bnn_tvm.export.dab import encode

        return encode(self.metadata)

    def save(self, stem: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write `<stem>.so` and `<stem>.dab`, both or neither, and return their paths.

        Files that were there before are replaced only when both new ones are complete on the
        disk. Raises `FileError` if they cannot be written; nothing is left behind then.
        """
        so_path, dab_path = Path(f"{stem}.so"), Path(f"{stem}.dab")
        contents = {so_path: (self.so, 0o755), dab_path: (self.dab, 0o644)}
        with _file_errors(so_path):
            for path in contents:
                if path.is_dir():
                    raise FileError(
                        "the output is a folder", node=str(path), hint="choose another -o PATH"
                    )
            _replace_all(contents)
        return so_path, dab_path


def _replace_all(contents: dict[Path, tuple[bytes, int]]) -> None:
    """Write every file under a temporary name, then move all into place or none."""
    temporary: dict[Path, Path] = {}
    backups: dict[Path, Path] = {}
    done: list[Path] = []
    try:
        for path, (data, mode) in contents.items():
            temporary[path] = _write_temporary(path, data, mode)
        for path, source in temporary.items():
            if path.exists():
                backups[path] = _backup(path)
            os.replace(source, path)
            done.append(path)
        _sync_folder(next(iter(contents)).parent)
    except BaseException:
        for path in done:
            if path not in backups:
                path.unlink(missing_ok=True)
        for path, backup in list(backups.items()):
            del backups[path]
            os.replace(backup, path)
            backup.unlink(missing_ok=True)  # still there if both were names of one file
        raise
    finally:
        for left in (*temporary.values(), *backups.values()):
            left.unlink(missing_ok=True)


def _write_temporary(path: Path, data: bytes, mode: int) -> Path:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode & ~_umask())
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return Path(name)


def _backup(path: Path) -> Path:
    """A second name for `path`; where the file system has no hard links, its new name."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent)
    os.close(handle)
    os.unlink(name)
    try:
        os.link(path, name)
    except OSError:
        os.replace(path, name)
    return Path(name)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the new names durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise FileError(
            f"cannot write the output: {exc.strerror or exc}",
            node=str(path),
            hint="does the folder exist, is it writable, and is the disk not full?",
        ) from exc
