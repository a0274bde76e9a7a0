"""torch.onnx.export by either exporter, quiet, from a module to a ModelProto in memory."""

from __future__ import annotations

import functools
import io
import logging
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import onnx
import pytest

needs_torch = pytest.mark.skipif(
    find_spec("torch") is None or find_spec("onnxscript") is None,
    reason="needs PyTorch and onnxscript: pip install .[torch]",
)

EXPORTERS = {"torchscript": False, "dynamo": True}
OPSETS = (13, 17, 18, 20, 21)

Axes = Sequence[tuple[int, str]]


def export(
    module: Any, example: Any, exporter: str, opset: int, axes: Axes = ()
) -> onnx.ModelProto:
    """The network as ONNX; its input is `x`, its output `y`; `axes` are left open by name.

    The dynamo exporter writes opset 18 or later; for older ones it converts, and where onnx has no
    way back (no Pad of opset 13, for one) the file stays at 18.
    """
    import torch

    dynamo = EXPORTERS[exporter]
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"], "opset_version": opset}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not dynamo:
            file = io.BytesIO()
            open_axes = {"x": dict(axes)} if axes else None
            torch.onnx.export(
                module, (example,), file, dynamo=False, dynamic_axes=open_axes, **names
            )
            return onnx.load_model_from_string(file.getvalue())
        _prepare_dynamo()
        shapes = ({axis: torch.export.Dim(name) for axis, name in axes},) if axes else None
        program = torch.onnx.export(
            module, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names
        )
        assert program is not None
        return program.model_proto


@functools.cache
def _prepare_dynamo() -> None:
    """Say less, and build the table of operators once: it is two thirds of an export's time."""
    from torch.onnx._internal.exporter import _registration

    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    registry = _registration.ONNXRegistry
    registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))  # type: ignore[method-assign]
