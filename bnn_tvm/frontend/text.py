"""Names must be text: protobuf hands out a string field that is no UTF-8 as bytes."""

from __future__ import annotations

import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]

from bnn_tvm.errors import ModelError


def check_text(model: onnx.ModelProto) -> None:
    """Refuse a model with strings that are not UTF-8, so that nothing after it can stumble.

    Weights are not looked into. Raises ModelError.
    """
    pending: list[Message] = [model]
    try:
        while pending:
            message = pending.pop()
            if isinstance(message, onnx.TensorProto):
                _check([message.name, message.doc_string])
                pending += message.external_data
                continue
            for descriptor, value in message.ListFields():
                values = value if descriptor.is_repeated else [value]
                if descriptor.type == descriptor.TYPE_STRING:
                    _check(values)
                elif descriptor.type == descriptor.TYPE_MESSAGE:
                    pending += values
    except UnicodeDecodeError as error:
        raise ModelError(
            "the model is not valid ONNX: a name in it is not UTF-8 text",
            hint="the file is damaged or its exporter is; export the model again",
        ) from error


def _check(values: list[str]) -> None:
    for value in values:
        if isinstance(value, bytes):
            value.decode("utf-8")  # raises: else it would have come as str
