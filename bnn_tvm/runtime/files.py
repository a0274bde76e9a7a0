"""Finding and checking the two files of a compiled model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bnn_tvm.errors import FileError
from bnn_tvm.export import dab
from bnn_tvm.export.artifact import sha256_hex
from bnn_tvm.export.metadata import Metadata
from bnn_tvm.runtime.elf import ElfHeader, read_header

_MAX_SO_BYTES = 4 << 30


@dataclass(frozen=True)
class ModelFiles:
    """A pair that belongs together: checked by the sha256 that the .dab records."""

    so: Path
    dab: Path
    metadata: Metadata
    header: ElfHeader


def open_files(path: str | os.PathLike[str]) -> ModelFiles:
    """Check the pair that `path` (the .so or the .dab) belongs to.

    Raises `FileError` if a file is missing, damaged, or does not belong to the other.
    """
    given = Path(path)
    if given.suffix not in (".so", ".dab"):
        raise FileError(
            "a compiled model is a pair of .so and .dab",
            node=str(path),
            hint="give the .so or the .dab that compile wrote",
        )
    so, metadata_path = given.with_suffix(".so"), given.with_suffix(".dab")
    for file in (given, so, metadata_path):
        if not file.is_file():
            missing = "there is no such file" if file == given else "the other file is missing"
            raise FileError(
                missing, node=str(file), hint="compile writes PATH.so and PATH.dab: keep both"
            )
    data = dab.read_bytes(so, _MAX_SO_BYTES)
    header = read_header(data, node=str(so))
    metadata = dab.read(metadata_path)
    if sha256_hex(data) != metadata.so_sha256:
        raise FileError(
            f"{metadata_path.name} does not belong to {so.name}: the checksum differs",
            node=str(metadata_path),
            hint="copy both files of one compile run, or compile again",
        )
    return ModelFiles(so.resolve(), metadata_path.resolve(), metadata, header)
