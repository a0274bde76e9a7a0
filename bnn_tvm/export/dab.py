"""`model.dab`: the codec between `Metadata` and its FlatBuffers file."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from bnn_tvm.errors import FileError
from bnn_tvm.export import fbs
from bnn_tvm.export.metadata import (
    DecisionInfo,
    ExpectedOutput,
    FamilyInfo,
    LayerInfo,
    Metadata,
    TensorInfo,
    TestVector,
)

FORMAT_MAJOR = 1
FORMAT_MINOR = 1
#: Far above any real file (some 100 KB), far below what hurts.
MAX_BYTES = 64 << 20

_MAX_RANK = 16
_MAX_TENSOR_BYTES = 1 << 40
_INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_DTYPES = _INTEGERS | {"bool", "float16", "float32", "float64"}
_TABLES: dict[str, type] = {
    "Tensor": TensorInfo,
    "Decision": DecisionInfo,
    "Layer": LayerInfo,
    "Family": FamilyInfo,
    "ExpectedOutput": ExpectedOutput,
    "TestVector": TestVector,
    "Model": Metadata,
}
_HINT = "compile the model again, or copy model.so and model.dab again"


def schema_path() -> Path:
    """The schema file, for readers in other languages."""
    return Path(__file__).with_name("bnn_dab.fbs")


@functools.cache
def schema() -> fbs.Schema:
    """The parsed schema."""
    return fbs.parse(schema_path().read_text(encoding="utf-8"))


def encode(metadata: Metadata) -> bytes:
    """The bytes of a .dab file."""
    value = _to_plain(metadata)
    value["format_major"] = FORMAT_MAJOR
    value["format_minor"] = FORMAT_MINOR
    return fbs.write(schema(), value)


def decode(data: bytes, *, node: str | None = None) -> Metadata:
    """Read a .dab file's bytes; `node` names the file in errors.

    Raises `FileError` if the bytes are damaged, are no .dab, or have a newer major version. The
    work is bounded by the size of `data`.
    """
    if len(data) > MAX_BYTES:
        raise FileError("the file is far too large for a .dab", node=node, hint=_HINT)
    if len(data) < 8 or data[4:8] != schema().identifier:
        raise FileError("this is no .dab file", node=node, hint="give the .dab that compile wrote")
    try:
        _check_version(data, node)
        value = fbs.read(schema(), data)
        metadata = _from_plain("Model", value)
        _check(metadata)
    except fbs.BufferInvalid as exc:
        raise FileError(f"the .dab file is damaged: {exc}", node=node, hint=_HINT) from None
    return metadata


def read(path: str | os.PathLike[str]) -> Metadata:
    """Read a .dab file. Raises `FileError`."""
    return decode(read_bytes(path, MAX_BYTES), node=str(path))


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises `FileError`."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as exc:
        raise FileError(
            f"cannot read the file: {exc.strerror or exc}",
            node=str(path),
            hint="compile writes PATH.so and PATH.dab; is the path right?",
        ) from exc
    if len(data) > limit:
        raise FileError(f"the file is larger than {limit} bytes", node=str(path), hint=_HINT)
    return data


def _check_version(data: bytes, node: str | None) -> None:
    """Refuse a newer major version before reading anything whose meaning may have changed."""
    fields = schema().tables["Model"][:2]
    head = fbs.Schema({"Model": fields}, "Model", schema().identifier)
    version = fbs.read(head, data)
    major, minor = version["format_major"], version["format_minor"]
    if major > FORMAT_MAJOR:
        raise FileError(
            f"the .dab file has format {major}.{minor}; this bnn_tvm reads up to {FORMAT_MAJOR}.x",
            node=node,
            hint="update bnn_tvm, or compile the model with this version",
        )
    if major < 1:
        raise fbs.BufferInvalid("it has no format version")


def _to_plain(item: Any) -> dict[str, Any]:
    value = {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    for name, part in value.items():
        if name == "options":
            value[name] = [{"key": k, "value": v} for k, v in part]
        elif dataclasses.is_dataclass(part):
            value[name] = _to_plain(part)
        elif isinstance(part, tuple):
            value[name] = [_to_plain(p) if dataclasses.is_dataclass(p) else p for p in part]
        elif isinstance(part, np.generic):
            value[name] = part.item()
    return value


def _from_plain(table: str, value: dict[str, Any]) -> Any:
    kind = _TABLES[table]
    known = {f.name for f in dataclasses.fields(kind)}
    arguments: dict[str, Any] = {}
    for field in schema().tables[table]:
        if field.name not in known:
            continue
        item = value[field.name]
        if field.name == "options":
            item = tuple((o["key"] or "", o["value"] or "") for o in item or ())
        elif field.vector:
            nested = field.type in _TABLES
            item = tuple(_from_plain(field.type, i) if nested else i for i in item or ())
        elif field.type == "string":
            item = item or ""
        elif field.type in _TABLES:
            item = None if item is None else _from_plain(field.type, item)
        arguments[field.name] = item
    return kind(**arguments)


def _check(metadata: Metadata) -> None:
    """What the format cannot say: names of dtypes, sizes, the checksum's form."""
    for info in (*metadata.inputs, *metadata.outputs):
        if info.dtype not in _DTYPES:
            raise fbs.BufferInvalid(f"unknown dtype {info.dtype[:40]!r}")
        if len(info.shape) > _MAX_RANK or any(d < 0 for d in info.shape):
            raise fbs.BufferInvalid(f"impossible shape of {info.name[:40]!r}")
        if math.prod(info.shape) > _MAX_TENSOR_BYTES:
            raise fbs.BufferInvalid(f"impossible size of {info.name[:40]!r}")
    if not re.fullmatch(r"[0-9a-f]{64}", metadata.so_sha256):
        raise fbs.BufferInvalid("the checksum of the .so is missing")
    names = {family.name for family in metadata.families}
    if len(names) != len(metadata.families) or "" in names:
        raise fbs.BufferInvalid("the families of kernels are not named apart")
    for layer in metadata.layers:
        if not names.issuperset(layer.families):
            raise fbs.BufferInvalid(f"layer {layer.output[:40]!r} is of no known family")
    test = metadata.test_vector
    if test is not None and len(test.outputs) != len(metadata.outputs):
        raise fbs.BufferInvalid("the test vector does not fit the outputs")
