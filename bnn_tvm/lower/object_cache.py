"""Object code of kernels on the disk, so that an unchanged kernel is compiled once per machine.

A kernel's symbol is made from a hash of all that its code depends on (`kernel_symbol`), and is the
name of its entry. An entry holds a checksum of itself; one that does not match counts as missing.
Entries are written under a temporary name and moved into place, so processes that compile at the
same time cannot see half of one. A cache that cannot be read or written is no error: it is only
slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import bnn_tvm

if TYPE_CHECKING:
    from tvm.target import Target
    from tvm.tirx import PrimFunc

#: Some ten thousand kernels; the ones unused for longest go first.
MAX_BYTES = 256 * 2**20
_MAGIC = b"bnn_tvm kernel 1\n"
_SUFFIX = ".kernel"
_ROOT = Path(bnn_tvm.__file__).resolve().parent
#: What decides which code a PrimFunc becomes, besides TVM.
_SOURCES = (
    "../topi_ext/**/*.py",
    "lower/schedule.py",
    "export/kernels_abi.py",
    "export/object_file.py",
)


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/bnn_tvm`, or `~/.cache/bnn_tvm`."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "bnn_tvm"


def read_versions() -> str:
    """A hash of the versions and of the sources of kernels, schedules and lowering, as they are."""
    import tvm
    import tvm_ffi

    digest = hashlib.sha256()
    for version in (bnn_tvm.__version__, tvm.__version__, tvm_ffi.__version__):
        digest.update(version.encode() + b"\0")
    for pattern in _SOURCES:
        for path in sorted((_ROOT / Path(pattern).parts[0]).resolve().glob(_rest(pattern))):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _rest(pattern: str) -> str:
    return pattern.removeprefix(Path(pattern).parts[0] + "/")


@cache
def versions() -> str:
    """`read_versions` when it was first asked for: what this process runs."""
    return read_versions()


def kernel_symbol(name: str, function: PrimFunc, target: Target) -> str:
    """A C name for the unscheduled `function` that says what its code will be.

    `name` is for people; the numbers that TVM gives to equal names of a model are left out. Equal
    results mean equal code; unequal ones mean nothing.
    """
    import tvm

    label = re.sub(r"\W", "_", re.sub(r"(?<=[a-z])\d+(?=_|$)", "", name))[:80]
    digest = hashlib.sha256()
    for part in (versions(), str(target), label, tvm.ir.save_json(function)):
        digest.update(part.encode() + b"\0")
    return f"bnn_{label}_{digest.hexdigest()[:24]}"


class ObjectCache:
    """The entries that one compilation reads and writes.

    found: object code by symbol, of the symbols that were looked up. wanted: the symbols that
    were looked up and are missing.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        self.folder = default_folder() if folder is None else folder
        self.max_bytes = max_bytes
        self.found: dict[str, bytes] = {}
        self.wanted: set[str] = set()

    def look_up(self, symbol: str) -> bool:
        """Whether there is object code for `symbol`; it is in `found` then."""
        path = self._path(symbol)
        try:
            entry = path.read_bytes()
        except OSError:
            entry = b""
        data = _unwrap(entry, symbol)
        if data is None:
            self.wanted.add(symbol)
            return False
        with contextlib.suppress(OSError):
            os.utime(path)
        self.found[symbol] = data
        return True

    def store(self, objects: dict[str, bytes]) -> None:
        """Keep those of `objects` that were looked up in vain, and drop what is over the limit.

        Nothing is kept if the sources have changed since this process read them: it ran others
        than those that the symbols speak of.
        """
        new = {symbol: data for symbol, data in objects.items() if symbol in self.wanted}
        if not new or read_versions() != versions():
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            for symbol, data in new.items():
                _write(self._path(symbol), _wrap(data, symbol))
            self._trim()

    def _path(self, symbol: str) -> Path:
        return self.folder / (symbol + _SUFFIX)

    def _trim(self) -> None:
        """Remove the entries unused for longest until the rest is within the limit."""
        entries = sorted(self._entries(), reverse=True)
        kept = 0
        for _, size, path in entries:
            kept += size
            if kept > self.max_bytes:
                path.unlink(missing_ok=True)

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Last use, bytes and path of every entry, also of temporary files left by a crash."""
        for path in self.folder.glob("*" + _SUFFIX + "*"):
            with contextlib.suppress(OSError):
                state = path.stat()
                yield state.st_mtime, state.st_size, path


def _wrap(data: bytes, symbol: str) -> bytes:
    return _MAGIC + _checksum(data, symbol) + data


def _unwrap(entry: bytes, symbol: str) -> bytes | None:
    start = len(_MAGIC)
    checksum, data = entry[start : start + 32], entry[start + 32 :]
    intact = entry.startswith(_MAGIC) and checksum == _checksum(data, symbol)
    return data if intact else None


def _checksum(data: bytes, symbol: str) -> bytes:
    return hashlib.sha256(symbol.encode() + b"\0" + data).digest()


def _write(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
