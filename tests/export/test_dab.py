from __future__ import annotations

import dataclasses
import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bnn_tvm.errors import FileError
from bnn_tvm.export import dab, fbs
from bnn_tvm.export.metadata import (
    DecisionInfo,
    ExpectedOutput,
    FamilyInfo,
    LayerInfo,
    Metadata,
    TensorInfo,
    TestVector,
)

FULL = Metadata(
    tool_version="0.1.0",
    tvm_version="0.27.0",
    source="nét.onnx",
    source_sha256="12" * 32,
    mode="strict",
    options=(("target", "host"), ("batch", "1")),
    target="arm64",
    triple="aarch64-linux-gnu",
    cpu="cortex-a76",
    features=("neon", "dotprod"),
    isa="neon",
    runtime="c",
    inputs=(TensorInfo("input", (1, 3, 224, 224), "float32", "NCHW"),),
    outputs=(TensorInfo("a", (1, 10), "float32", "NC"), TensorInfo("scalar", (), "int64", "")),
    decisions=(
        DecisionInfo("c1", "Conv", False, "", "weights are not +-1"),
        DecisionInfo("c2", "Conv", True, "aggressive", "ok", ("binarized-input",)),
    ),
    layers=(
        LayerInfo("c1", "conv", "k", True, "r", (1, 2), (3,), 1 << 40, 12),
        LayerInfo("c2", "conv", "k2", families=("small", "big")),
    ),
    warnings=("w1", ""),
    workspace_bytes=1 << 33,
    largest_live_bytes=5,
    weight_bytes=6,
    so_bytes=7,
    so_sha256="ef" * 32,
    tuning_records=("r",),
    test_vector=TestVector(
        (1 << 64) - 1,
        (ExpectedOutput(3, (0.5, -2.0)), ExpectedOutput(1, ())),
        0.25,
        1e-3,
        -1.0,
        2.0,
    ),
    families=(FamilyInfo("small", 8, 9, ("cortex-a53",)), FamilyInfo("big")),
    family_rule="by the core",
)
SMALL = Metadata(so_sha256="00" * 32)
SMALL_LAYER = LayerInfo("c", "conv", "k")


@pytest.mark.parametrize("metadata", [FULL, SMALL])
def test_metadata_survives_the_round_trip(metadata: Metadata) -> None:
    assert dab.decode(dab.encode(metadata)) == metadata


def test_every_field_of_the_dataclasses_is_in_the_schema_and_the_reverse() -> None:
    schema = dab.schema()
    for table, kind in dab._TABLES.items():
        fields = [f.name for f in dataclasses.fields(kind)]
        names = [f.name for f in schema.tables[table]]
        if table == "Model":
            assert names[:2] == ["format_major", "format_minor"]
            names = names[2:]
        assert names == fields, table


@pytest.mark.skipif(shutil.which("flatc") is None, reason="flatc is not installed")
def test_flatc_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "model.dab"
    path.write_bytes(dab.encode(FULL))
    subprocess.run(
        ["flatc", "--json", "--strict-json", "-o", tmp_path, dab.schema_path(), "--", path],
        check=True,
    )
    value = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert value["source"] == "nét.onnx"
    assert value["inputs"][0]["shape"] == [1, 3, 224, 224]
    assert value["decisions"][1]["implied"] == ["binarized-input"]
    assert value["test_vector"]["seed"] == (1 << 64) - 1
    assert value["test_vector"]["outputs"][0] == {"stride": 3, "values": [0.5, -2.0]}


@pytest.mark.skipif(shutil.which("flatc") is None, reason="flatc is not installed")
def test_we_read_what_flatc_writes(tmp_path: Path) -> None:
    text = {"format_major": 1, "so_sha256": "ab" * 32, "mode": "strict", "features": ["x", "y"]}
    source = tmp_path / "model.json"
    source.write_text(json.dumps(text), encoding="utf-8")
    subprocess.run(["flatc", "--binary", "-o", tmp_path, dab.schema_path(), source], check=True)
    metadata = dab.read(tmp_path / "model.dab")
    assert (metadata.mode, metadata.features) == ("strict", ("x", "y"))


def with_schema(extra: str, value: dict[str, object]) -> bytes:
    """A file as a later version of the schema would write it."""
    text = dab.schema_path().read_text(encoding="utf-8")
    text = text.replace("test_vector: TestVector;\n}", f"test_vector: TestVector;\n{extra}\n}}")
    return fbs.write(fbs.parse(text), value)


def test_unknown_fields_are_ignored() -> None:
    value = {"format_major": 1, "format_minor": 9, "so_sha256": "ab" * 32, "later": "text", "n": 5}
    metadata = dab.decode(with_schema("later: string; n: int;", value))
    assert metadata.so_sha256 == "ab" * 32


# What format 1.1 added, at the ends of tables.
ADDED = {"Layer": ("families",), "Model": ("families", "family_rule"), "Family": None}


def before_families() -> fbs.Schema:
    """The schema of format 1.0."""
    schema = dab.schema()
    tables = dict(schema.tables)
    for table, names in ADDED.items():
        if names is None:
            del tables[table]
            continue
        assert tuple(field.name for field in tables[table][-len(names) :]) == names
        tables[table] = tables[table][: -len(names)]
    return fbs.Schema(tables, schema.root, schema.identifier)


def test_files_of_format_1_0_are_read() -> None:
    old = dataclasses.replace(FULL, families=(), family_rule="", layers=(SMALL_LAYER,))
    value = fbs.read(dab.schema(), dab.encode(old))
    data = fbs.write(before_families(), {**value, "format_minor": 0})
    assert dab.decode(data) == old


def test_readers_of_format_1_0_read_ours() -> None:
    value = fbs.read(before_families(), dab.encode(FULL))
    assert value["so_sha256"] == FULL.so_sha256
    assert [layer["kernel"] for layer in value["layers"]] == ["k", "k2"]
    assert (value["format_major"], value["format_minor"]) == (1, 1)


def test_a_newer_major_version_is_refused_with_the_remedy() -> None:
    data = with_schema("", {"format_major": 2, "format_minor": 3})
    with pytest.raises(FileError, match=r"format 2\.3; this bnn_tvm reads up to 1\.x") as caught:
        dab.decode(data, node="m.dab")
    assert "update bnn_tvm" in str(caught.value)
    assert caught.value.node == "m.dab"


@pytest.mark.parametrize("data", [b"", b"short", b"\0" * 100, b"\x7fELF" + b"\0" * 60])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(FileError, match=r"this is no \.dab file"):
        dab.decode(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"so_sha256": "zz"}, "checksum of the .so is missing"),
        ({"families": (FamilyInfo("a"), FamilyInfo("a"))}, "families .* are not named apart"),
        ({"families": (FamilyInfo(""),)}, "families .* are not named apart"),
        ({"layers": (LayerInfo("c", "k", "k", families=("x",)),)}, "'c' is of no known family"),
        ({"inputs": (TensorInfo("x", (1,), "object"),)}, "unknown dtype"),
        ({"inputs": (TensorInfo("x", (-1,), "int8"),)}, "impossible shape"),
        ({"inputs": (TensorInfo("x", (1 << 40, 1 << 40), "int8"),)}, "impossible size"),
        ({"inputs": (TensorInfo("x", (1,) * 20, "int8"),)}, "impossible shape"),
        ({"outputs": ()}, "test vector does not fit"),
    ],
)
def test_impossible_content_is_refused(change: dict[str, object], message: str) -> None:
    data = dab.encode(dataclasses.replace(FULL, **change))  # type: ignore[arg-type]
    with pytest.raises(FileError, match=message):
        dab.decode(data)


def test_every_truncation_is_refused() -> None:
    data = dab.encode(FULL)
    end = len(data.rstrip(b"\0")) + 1  # what follows the last text's zero is padding
    for length in range(end):
        with pytest.raises(FileError):
            dab.decode(data[:length])


def decodes_or_refuses(data: bytes) -> None:
    try:
        dab.decode(data)
    except FileError as error:
        assert error.hint


DATA = dab.encode(FULL)


@given(st.data())
@settings(max_examples=250, deadline=1000, suppress_health_check=list(HealthCheck))
def test_damaged_bytes_are_refused_or_read_but_never_crash(data: st.DataObject) -> None:
    blob = bytearray(DATA)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(8, len(blob) - 4))
        value = data.draw(
            st.one_of(
                st.integers(0, 255).map(lambda v: bytes([v])),
                st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0]).map(
                    lambda v: struct.pack("<I", v)
                ),
            )
        )
        blob[position : position + len(value)] = value
    decodes_or_refuses(bytes(blob))


@given(st.binary(max_size=300))
@example(b"\xff\xff\xff\xff")
@example(b"\x00\x00\x00\x00")
@settings(max_examples=300, deadline=1000)
def test_arbitrary_bytes_behind_the_identifier_never_crash(tail: bytes) -> None:
    decodes_or_refuses(struct.pack("<I", 12) + b"BNND" + tail)


def test_a_file_that_refers_to_one_part_a_million_times_is_refused() -> None:
    """200 000 warnings, all the same text of 100 KB, would be 20 GB."""
    count, text = 200_000, b"x" * 100_000
    # root offset | id | vtable: size, table size, 21 slots | table: soffset, version, vector
    slots = [0] * 21
    slots[0], slots[18] = 8, 4
    vtable = struct.pack("<HH21H", 4 + 42, 12, *slots) + b"\0\0"
    table_at = 8 + len(vtable)
    vector_at = table_at + 12
    string_at = vector_at + 4 + 4 * count
    blob = bytearray(struct.pack("<I", table_at) + b"BNND" + vtable)
    blob += struct.pack("<iIHH", table_at - 8, vector_at - (table_at + 4), 1, 0)
    blob += struct.pack("<I", count)
    for i in range(count):
        blob += struct.pack("<I", string_at - (vector_at + 4 + 4 * i))
    blob += struct.pack("<I", len(text)) + text + b"\0"
    assert dab.schema().tables["Model"][18].name == "warnings"
    with pytest.raises(FileError, match="refers to its parts too often"):
        dab.decode(bytes(blob))


def test_too_large_a_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.dab"
    with path.open("wb") as file:
        file.truncate(dab.MAX_BYTES + 1)
    with pytest.raises(FileError, match="larger than"):
        dab.read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        dab.read(tmp_path / "none.dab")
    with pytest.raises(FileError, match="Is a directory"):
        dab.read(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        'table T { a: [int; } root_type T; file_identifier "ABCD";',
        'table T { a: Unknown; } root_type T; file_identifier "ABCD";',
        "table T { a: int; }",
    ],
)
def test_a_broken_schema_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot parse|unknown type|lacks root_type"):
        fbs.parse(text)
