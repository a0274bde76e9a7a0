"""NumPy files in and out: the arrays of `run` and `verify`."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bnn_tvm.errors import FileError, UsageError

Arrays = dict[str, np.ndarray]


def read_inputs(texts: Sequence[str], names: Sequence[str]) -> Arrays:
    """Arrays by input name from `--input` texts.

    Each text is `FILE.npy` (where the model has one input), `NAME=FILE.npy` or `FILE.npz`, which
    holds one array per named input. Shapes and dtypes are checked where the arrays are used.

    Raises
    ------
    FileError: a file cannot be read or is no NumPy file.
    UsageError: a name that is no input, given twice, or missing.
    """
    arrays: Arrays = {}
    for text in texts:
        name, path = _split(text, names)
        for key, array in _read(path, name, names).items():
            if key not in names:
                raise UsageError(
                    f"the model has no input {key!r}",
                    node=str(path),
                    hint=f"its inputs are {', '.join(names)}",
                )
            if key in arrays:
                raise UsageError(
                    f"input {key!r} is given twice", node=str(path), hint="give each input once"
                )
            arrays[key] = array
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UsageError(
            f"no array for input {', '.join(missing)}",
            node="--input",
            hint="give --input NAME=FILE.npy for each, or one .npz with an array per input",
        )
    return arrays


def _split(text: str, names: Sequence[str]) -> tuple[str | None, Path]:
    """`NAME=FILE` or a bare file; a file whose own name holds "=" is taken as it is."""
    name, equals, path = text.partition("=")
    if equals and (name in names or not Path(text).exists()):
        return name, Path(path)
    return None, Path(text)


def _read(path: Path, name: str | None, names: Sequence[str]) -> Arrays:
    try:
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {_only(name, names, path): content}
            arrays = {key: content[key] for key in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and error.strerror:
            raise FileError(
                f"cannot read the input: {error.strerror}",
                node=str(path),
                hint="give a .npy or .npz file that exists and is readable",
            ) from error
        raise FileError(
            "this is no NumPy file of plain arrays",
            node=str(path),
            hint="write it with numpy.save or numpy.savez",
        ) from error
    if name is None:
        return arrays
    if len(arrays) != 1:
        raise UsageError(
            f"the file holds {len(arrays)} arrays for the one input {name!r}",
            node=str(path),
            hint="leave out NAME= for an .npz with one array per input",
        )
    return {name: next(iter(arrays.values()))}


def _only(name: str | None, names: Sequence[str], path: Path) -> str:
    if name is not None:
        return name
    if len(names) != 1:
        raise UsageError(
            f"the model has {len(names)} inputs, the file is one array",
            node=str(path),
            hint=f"write --input NAME=FILE.npy; the inputs are {', '.join(names)}",
        )
    return names[0]


def write_outputs(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write outputs to a .npy (one array) or .npz (by name) file, whole or not at all.

    Raises
    ------
    UsageError: the file's suffix is neither, or several outputs shall go into a .npy.
    FileError: the file cannot be written.
    """
    check_output(path, len(arrays))
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                if path.suffix == ".npy":
                    np.save(file, next(iter(arrays.values())))
                else:
                    _write_npz(file, arrays)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise FileError(
            f"cannot write the output: {error.strerror}",
            node=str(path),
            hint="give --output a file in a folder that exists and is writable",
        ) from error


def _write_npz(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """`np.savez`, but for any name: that function cannot take an array called "file"."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def check_output(path: Path, count: int) -> None:
    """Whether `path` can hold `count` arrays.

    Raises
    ------
    UsageError: it is neither .npy nor .npz, or a .npy for several outputs.
    """
    if path.suffix not in (".npy", ".npz"):
        raise UsageError(
            "the output file must be .npy or .npz", node=str(path), hint="rename it, e.g. y.npy"
        )
    if path.suffix == ".npy" and count != 1:
        raise UsageError(
            f"the model has {count} outputs, a .npy file holds one",
            node=str(path),
            hint="write to a .npz file",
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
