"""Names must be text that can be shown: UTF-8 without control characters."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]

from bnn_tvm.errors import ModelError

_HINT = "the file is damaged or its exporter is; export the model again"
_FREE_TEXT = ("doc_string", "producer_name", "producer_version")


def check_text(model: onnx.ModelProto) -> None:
    """Refuse names that are no UTF-8 or hold control characters.

    protobuf hands out a string that is no UTF-8 as bytes, or raises, at any later time; control
    characters would reach terminals and generated files. Weights are not looked into.
    Raises ModelError.
    """
    pending: list[Message] = [model]
    try:
        while pending:
            message = pending.pop()
            if isinstance(message, onnx.TensorProto):
                _check([message.name])
                pending += message.external_data
                continue
            for descriptor, value in message.ListFields():
                values = value if descriptor.is_repeated else [value]
                if descriptor.type == descriptor.TYPE_STRING:
                    free = descriptor.name in _FREE_TEXT
                    _check(values, free or isinstance(message, onnx.StringStringEntryProto))
                elif descriptor.type == descriptor.TYPE_MESSAGE:
                    pending += values
    except UnicodeDecodeError as error:
        raise ModelError(
            "the model is not valid ONNX: a name in it is not UTF-8 text", hint=_HINT
        ) from error


def _check(values: Iterable[str | bytes], free: bool = False) -> None:
    for value in values:
        if isinstance(value, bytes):
            value.decode("utf-8")  # raises: else it would have come as str
        elif not free and not value.isprintable():
            raise ModelError(
                f"the model is not valid ONNX: the name {value[:80]!r} holds control characters",
                hint=_HINT,
            )
