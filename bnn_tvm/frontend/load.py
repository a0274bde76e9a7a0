"""From a file to a protobuf in memory, or to a message that says what the file is not."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from bnn_tvm.errors import FileError, ModelError
from bnn_tvm.frontend.graph import graphs_of, listing, printable, tensor_bytes
from bnn_tvm.frontend.text import check_text

_MAX_FILE_BYTES = 1 << 31  # protobuf's limit
# Tensors may share bytes of their data file, but not so that a small file fills the memory.
_SLACK_BYTES = 64 << 20
_EXPORT_HINT = "give a file written by an ONNX exporter, such as torch.onnx.export or tf2onnx"
_STARTS = {
    b"\x1f\x8b": "a gzip archive; unpack it first (gunzip)",
    b"PK": "a zip archive, such as a PyTorch checkpoint; export the network to ONNX first",
    b"\x89HDF": "an HDF5 (Keras) file; convert it with tf2onnx first",
    b"{": "text, perhaps JSON",
    b"<": "text, perhaps HTML: was the download complete?",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with `git lfs pull`",
}


def load(model: str | Path | onnx.ModelProto) -> tuple[onnx.ModelProto, str, str]:
    """Read a model: (the proto, the caller's own to change; its source name; its sha256).

    External data is read in, from below the folder of the file only.

    Raises FileError for a file that is missing, empty, truncated, a directory or no ONNX model,
    ModelError for external data that may not be read.
    """
    if isinstance(model, onnx.ModelProto):
        own = onnx.ModelProto()
        own.CopyFrom(model)
        check_text(own)
        _refuse_external(own)
        return own, "<proto>", _digest_of(own)
    path = Path(model)
    data = _read(path)
    proto = _parse(data, path)
    digest = hashlib.sha256(data).hexdigest()
    del data
    check_text(proto)
    _read_external(proto, path)
    return proto, path.name, digest


def _digest_of(model: onnx.ModelProto) -> str:
    try:
        return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    except (ValueError, DecodeError) as error:
        raise ModelError(
            "the model is larger than 2 GB and cannot be serialised",
            hint="save it with external data and give the path of the file",
        ) from error


def _read(path: Path) -> bytes:
    try:
        _check_kind(path)
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise FileError(
            "there is no such file", node=str(path), hint="check the path of the ONNX model"
        ) from error
    except IsADirectoryError as error:
        inside = sorted(p.name for p in path.glob("*.onnx"))
        hint = f"it holds {listing(inside, 5)}" if inside else "give the path of an .onnx file"
        raise FileError(
            "this is a directory, not an ONNX file", node=str(path), hint=hint
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(
            f"the file cannot be read: {reason}", node=repr(str(path)), hint="check its permissions"
        ) from error
    if not data:
        raise FileError(
            "the file is empty", node=str(path), hint="export or download the model again"
        )
    return data


def _check_kind(path: Path) -> None:
    """Refuse what can never be read to its end, or never parsed; raises OSError like stat."""
    status = path.stat()
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        if status.st_size >= _MAX_FILE_BYTES:
            raise FileError(
                f"the file has {status.st_size} bytes; an ONNX file is smaller than 2 GB",
                node=str(path),
                hint="save it with external data: onnx.save(..., save_as_external_data=True)",
            )
        return
    raise FileError(
        "this is a device, pipe or socket, not an ONNX file",
        node=str(path),
        hint="write the model to a file first",
    )


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    looks = next((what for start, what in _STARTS.items() if data.startswith(start)), None)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        if looks:
            message = "the file is not an ONNX model"
            hint = f"it looks like {looks}"
        elif data[:1] == b"\x08" and data[2:3] in (b"\x12", b"\x3a", b"\x42", b"\x1a"):
            message = "the ONNX model is truncated or damaged: it does not decode to its end"
            hint = "export or download it again, and compare the file sizes"
        else:
            message = "the file is not an ONNX model: it is no valid protobuf message"
            hint = _EXPORT_HINT
        raise FileError(message, node=str(path), hint=hint) from error
    if not proto.HasField("graph"):
        raise FileError(
            "the file is not an ONNX model: there is no graph in it",
            node=str(path),
            hint=f"it looks like {looks}" if looks else _EXPORT_HINT,
        )
    return proto


def _external(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors of all graphs and functions whose data lies outside the proto."""
    tensors: list[onnx.TensorProto] = []
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        for graph in graphs:
            tensors.extend(graph.initializer)
            for sparse in graph.sparse_initializer:
                tensors += [sparse.values, sparse.indices]
            nodes += graph.node
        graphs = []
        for node in nodes:
            graphs += graphs_of(node)
            for attr in node.attribute:
                tensors += [*attr.tensors, *([attr.t] if attr.HasField("t") else [])]
                if attr.HasField("sparse_tensor"):
                    tensors += [attr.sparse_tensor.values, attr.sparse_tensor.indices]
        nodes = []
    return [t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL]


def _refuse_external(model: onnx.ModelProto) -> None:
    outside = _external(model)
    if outside:
        raise ModelError(
            "the data of tensors lies in files, but a model in memory has no folder",
            node=listing([t.name for t in outside], 5),
            hint="give the path of the model, or load it with onnx.load, which reads the data",
        )


def _read_external(model: onnx.ModelProto, path: Path) -> None:
    """Move external data into the tensors; refuse any file that is not below the model's folder."""
    folder = path.resolve().parent
    files: dict[Path, int] = {}
    total = 0
    for tensor in _external(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = _inside(folder, entries.get("location", ""), tensor.name)
        files[file] = file.stat().st_size
        tensor.raw_data = _slice_of(file, entries, tensor)
        total += len(tensor.raw_data)
        if total > 2 * sum(files.values()) + _SLACK_BYTES:
            raise ModelError(
                f"the tensors up to {printable(tensor.name)!r} claim the same bytes of their data "
                "file many times over",
                node=printable(tensor.name),
                hint="save the model again with onnx.save(..., save_as_external_data=True)",
            )
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT


def _inside(folder: Path, location: str, name: str) -> Path:
    try:
        file = (folder / location).resolve()
        escapes = not location or Path(location).is_absolute() or not file.is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):  # a NUL byte, a loop of links, a name too long
        escapes, file = True, folder
    if escapes:
        raise ModelError(
            f"the data of tensor {name!r} is said to lie at {location[:200]!r}, "
            "which is not below the folder of the model",
            node=name,
            hint="save the model again with onnx.save(..., save_as_external_data=True)",
        )
    if not file.is_file():
        raise FileError(
            f"the file with the data of tensor {name!r} is missing",
            node=str(file),
            hint="keep the external data beside the .onnx file, under the name it was saved with",
        )
    return file


def _slice_of(file: Path, entries: dict[str, str], tensor: onnx.TensorProto) -> bytes:
    """The bytes of one tensor; never more than its dims ask for or than the file holds."""
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or tensor_bytes(tensor))
        valid = offset >= 0 and 0 <= length <= tensor_bytes(tensor)
    except (ValueError, TypeError, KeyError):
        offset, length, valid = 0, 0, False
    if not valid or offset + length > file.stat().st_size:
        raise ModelError(
            f"the external data of tensor {tensor.name!r} does not fit: {length} bytes from "
            f"{offset} of a file of {file.stat().st_size} bytes",
            node=tensor.name,
            hint="the data file is truncated or belongs to another model; copy both again",
        )
    with file.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)
