"""Who else runs these networks: onnxruntime in fp32 and int8, and OpenVINO's BinaryConvolution."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from benchmarks import openvino_model
from benchmarks.networks import sample_input

Runner = Callable[[np.ndarray], np.ndarray]


def runners(model: onnx.ModelProto, threads: int) -> dict[str, Runner]:
    """Functions input -> output by name: "fp32", "int8", and "openvino" where it is installed."""
    found = {
        "fp32": onnxruntime_runner(model, threads),
        "int8": onnxruntime_runner(quantized(model), threads),
    }
    if openvino_model.installed():
        found["openvino"] = openvino_model.runner(model, threads)
    return found


def onnxruntime_runner(model: onnx.ModelProto, threads: int) -> Runner:
    """A function input -> output through onnxruntime with all its optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: np.asarray(session.run(["output"], {"input": x})[0])


def quantized(model: onnx.ModelProto, samples: int = 4) -> onnx.ModelProto:
    """`model` in 8 bits as onnxruntime quantises it: per channel, calibrated with random inputs."""
    from onnxruntime import quantization

    class Random(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"input": sample_input(model, seed)} for seed in range(samples)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it suggests its preprocessing, for accuracy
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            own = onnx.ModelProto()
            own.CopyFrom(model)  # it moves the weights of what it is given into a file
            quantization.quantize_static(
                own,
                path,
                Random(),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            return onnx.load(path)
    finally:
        logging.getLogger().setLevel(level)
