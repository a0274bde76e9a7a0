"""A FlatBuffers schema as a table, with a writer and a verifying reader driven by it.

The PyPI package `flatbuffers` writes buffers but cannot verify them: its generated readers index
wherever a file tells them to. The reader here checks every offset against the buffer before it
follows it, and works within a budget, so that a small file that refers to one part a million times
is refused as well. Supported are tables, scalars, strings, and vectors of all three.

Format: https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

#: FlatBuffers scalar types: struct code, size, name of the writer's slot method.
SCALARS = {
    "bool": ("?", 1, "Bool"),
    "byte": ("b", 1, "Int8"),
    "ubyte": ("B", 1, "Uint8"),
    "short": ("h", 2, "Int16"),
    "ushort": ("H", 2, "Uint16"),
    "int": ("i", 4, "Int32"),
    "uint": ("I", 4, "Uint32"),
    "long": ("q", 8, "Int64"),
    "ulong": ("Q", 8, "Uint64"),
    "float": ("f", 4, "Float32"),
    "double": ("d", 8, "Float64"),
}


class BufferInvalid(ValueError):
    """The buffer breaks the FlatBuffers format or the schema."""


@dataclass(frozen=True)
class Field:
    """One field of a table: `type` is a scalar's name, "string", or a table's name."""

    name: str
    type: str
    vector: bool
    default: float | int


@dataclass(frozen=True)
class Schema:
    """All tables, each with its fields in the order of their ids."""

    tables: dict[str, tuple[Field, ...]]
    root: str
    identifier: bytes


def parse(text: str) -> Schema:
    """Parse the part of the schema language that `bnn_dab.fbs` uses. Raises `ValueError`."""
    text = re.sub(r"//[^\n]*", "", text)
    tables = {}
    for name, body in re.findall(r"table\s+(\w+)\s*\{(.*?)\}", text, re.S):
        fields = []
        for entry in filter(None, (part.strip() for part in body.split(";"))):
            match = re.fullmatch(r"(\w+)\s*:\s*(\[?)\s*(\w+)\s*(\]?)\s*(?:=\s*(\S+))?", entry)
            if match is None or bool(match[2]) != bool(match[4]):
                raise ValueError(f"cannot parse the field {entry!r} of table {name}")
            default = float(match[5]) if "." in (match[5] or "") else int(match[5] or 0)
            fields.append(Field(match[1], match[3], bool(match[2]), default))
        tables[name] = tuple(fields)
    root = re.search(r"root_type\s+(\w+)\s*;", text)
    identifier = re.search(r'file_identifier\s+"(.{4})"\s*;', text)
    if root is None or identifier is None:
        raise ValueError("the schema lacks root_type or file_identifier")
    known = {*SCALARS, *tables, "string"}
    for name, table in tables.items():
        for field in table:
            if field.type not in known:
                raise ValueError(f"unknown type {field.type} of {name}.{field.name}")
    return Schema(tables, root[1], identifier[1].encode("ascii"))


def write(schema: Schema, value: dict[str, Any]) -> bytes:
    """Encode nested dicts and lists as a finished buffer. Missing and None fields are left out."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(_write_table(builder, schema, schema.root, value), schema.identifier)
    return bytes(builder.Output())


def _write_table(builder: Any, schema: Schema, name: str, value: dict[str, Any]) -> int:
    fields = schema.tables[name]
    offsets: dict[str, int] = {}
    for field in fields:
        item = value.get(field.name)
        if item is None or (not field.vector and field.type in SCALARS):
            continue
        if field.vector:
            offsets[field.name] = _write_vector(builder, schema, field, list(item))
        elif field.type == "string":
            offsets[field.name] = builder.CreateString(item)
        else:
            offsets[field.name] = _write_table(builder, schema, field.type, item)
    builder.StartObject(len(fields))
    for slot, field in enumerate(fields):
        if field.name in offsets:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[field.name], 0)
        elif value.get(field.name) is not None:
            prepend = getattr(builder, f"Prepend{SCALARS[field.type][2]}Slot")
            prepend(slot, value[field.name], field.default)
    return int(builder.EndObject())


def _write_vector(builder: Any, schema: Schema, field: Field, items: list[Any]) -> int:
    if field.type in SCALARS:
        _, size, method = SCALARS[field.type]
        builder.StartVector(size, len(items), size)
        for item in reversed(items):
            getattr(builder, f"Prepend{method}")(item)
    else:
        if field.type == "string":
            offsets = [builder.CreateString(item) for item in items]
        else:
            offsets = [_write_table(builder, schema, field.type, item) for item in items]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def read(schema: Schema, data: bytes) -> dict[str, Any]:
    """Decode a whole buffer to nested dicts and lists; unknown fields are ignored.

    Raises `BufferInvalid` for anything that is not a sound buffer of this schema, after work
    that is bounded by the size of `data`.
    """
    if len(data) < 8:
        raise BufferInvalid("the file is too short")
    if data[4:8] != schema.identifier:
        raise BufferInvalid("the file identifier is missing")
    reader = _Reader(schema, data)
    return reader.table(schema.root, reader.follow(0))


class _Reader:
    def __init__(self, schema: Schema, data: bytes) -> None:
        self.schema = schema
        self.data = data
        # Writers may share parts, but no sound file is read many times over.
        self.budget = 8 * len(data) + 1024

    def spend(self, cost: int) -> None:
        self.budget -= cost
        if self.budget < 0:
            raise BufferInvalid("the file refers to its parts too often")

    def unpack(self, code: str, position: int) -> Any:
        size = struct.calcsize("<" + code)
        if not 0 <= position <= len(self.data) - size:
            raise BufferInvalid(f"an offset points outside the file: {position}")
        if code == "?":  # any non-zero byte is true
            return self.data[position] != 0
        return struct.unpack_from("<" + code, self.data, position)[0]

    def follow(self, position: int) -> int:
        """The target of the offset stored at `position`."""
        offset = self.unpack("I", position)
        if offset == 0:
            raise BufferInvalid("an offset is zero")
        return int(position + offset)

    def table(self, name: str, position: int) -> dict[str, Any]:
        self.spend(16)
        vtable = position - self.unpack("i", position)
        vtable_size = self.unpack("H", vtable)
        table_size = self.unpack("H", vtable + 2)
        if vtable_size < 4 or vtable_size % 2 or vtable + vtable_size > len(self.data):
            raise BufferInvalid(f"the field index of a {name} is broken")
        if table_size < 4 or position + table_size > len(self.data):
            raise BufferInvalid(f"a {name} reaches beyond the end")
        result: dict[str, Any] = {}
        for slot, field in enumerate(self.schema.tables[name]):
            entry = 4 + 2 * slot
            offset = self.unpack("H", vtable + entry) if entry < vtable_size else 0
            scalar = field.type in SCALARS and not field.vector
            if offset == 0:
                result[field.name] = field.default if scalar else None
                continue
            size = SCALARS[field.type][1] if scalar else 4
            if offset < 4 or offset + size > table_size:
                raise BufferInvalid(f"{name}.{field.name} lies outside its table")
            result[field.name] = self.field(field, position + offset)
        return result

    def field(self, field: Field, position: int) -> Any:
        if field.vector:
            return self.vector(field, self.follow(position))
        return self.element(field.type, position)

    def element(self, kind: str, position: int) -> Any:
        if kind in SCALARS:
            return self.unpack(SCALARS[kind][0], position)
        if kind == "string":
            return self.string(self.follow(position))
        return self.table(kind, self.follow(position))

    def extent(self, position: int, size: int) -> int:
        """The length of the vector at `position`, all of which lies in the buffer."""
        count = int(self.unpack("I", position))
        if count * size > len(self.data) - position - 4:
            raise BufferInvalid("a vector reaches beyond the end")
        self.spend(4 + count * size)
        return count

    def vector(self, field: Field, position: int) -> list[Any]:
        size = SCALARS[field.type][1] if field.type in SCALARS else 4
        count = self.extent(position, size)
        return [self.element(field.type, position + 4 + size * i) for i in range(count)]

    def string(self, position: int) -> str:
        count = self.extent(position, 1)
        if self.unpack("B", position + 4 + count) != 0:
            raise BufferInvalid("a text does not end with zero")
        try:
            return self.data[position + 4 : position + 4 + count].decode("utf-8")
        except UnicodeDecodeError:
            raise BufferInvalid("a text is not UTF-8") from None
