"""The networks of benchmarks.networks as OpenVINO runs them best: with its BinaryConvolution.

OpenVINO has no importer that makes a BinaryConvolution of an ONNX model. Its graph is therefore
read from ONNX and every binary layer in it is put in by hand: a FakeQuantize of two levels, which
its CPU plugin turns into packed bits, then BinaryConvolution with one-bit weights, then the scale
of each output channel.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx


def installed() -> bool:
    """Whether the package openvino can be imported."""
    return importlib.util.find_spec("openvino") is not None


def runner(model: onnx.ModelProto, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function input -> output through OpenVINO, binary layers as BinaryConvolution.

    Raises ValueError if a layer of the network is binary in another way than networks.py makes.
    """
    compiled = _compile(model, threads)
    request, output = compiled.create_infer_request(), compiled.output(0)

    def run(x: np.ndarray) -> np.ndarray:
        return np.asarray(request.infer({0: x}, share_inputs=True, share_outputs=True)[output])

    return run


def binary_ms(model: onnx.ModelProto, threads: int, x: np.ndarray, repeat: int) -> float:
    """Least milliseconds that OpenVINO's own profile gives for packing and BinaryConvolution."""
    request = _compile(model, threads, PERF_COUNT=True).create_infer_request()
    totals = []
    for _ in range(repeat):
        request.infer({0: x})
        parts = [
            part.real_time.total_seconds()
            for part in request.get_profiling_info()
            if part.node_type in ("FakeQuantize", "BinaryConvolution")
        ]
        totals.append(1e3 * sum(parts))
    return min(totals)


def _compile(model: onnx.ModelProto, threads: int, **more: Any) -> Any:
    import openvino

    core = openvino.Core()
    graph = core.read_model(model.SerializeToString(), b"")
    if not _binarise(graph):
        raise ValueError("the network has no binary layer")
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        # It would pin the threads of whoever calls it, and so slow the others down.
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(graph, "CPU", {**options, **more})


def _binarise(graph: Any) -> int:
    """Replace the convolutions of signs by +-scale weights; how many there were."""
    import openvino.opset1 as ops

    bits: dict[str, Any] = {}
    count = 0
    for conv in list(graph.get_ordered_ops()):
        if conv.get_type_name() != "Convolution":
            continue
        source, pads, value = conv.input_value(0).get_node(), np.zeros(4, np.int64), 0.0
        if source.get_type_name() == "Pad":
            begin, end, fill = (source.input_value(i).get_node().data for i in (1, 2, 3))
            pads, value = np.concatenate([begin[2:], end[2:]]), float(fill)
            source = source.input_value(0).get_node()
        if source.get_type_name() != "Sign":
            continue
        weights = _constant(conv.input_value(1).get_node())
        scale = np.abs(weights[:, :1, :1, :1])
        if not np.array_equal(np.abs(weights), np.broadcast_to(scale, weights.shape)):
            raise ValueError(f"the weights of {conv.get_friendly_name()} are not +-scale")
        name = source.get_friendly_name()
        if name not in bits:
            # The operator reads 0 and 1 as -1 and +1.
            zero, one = (ops.constant(np.float32(v)) for v in (0, 1))
            bits[name] = ops.fake_quantize(source.input_value(0), zero, zero, zero, one, 2)
        attributes = conv.get_attributes()
        begin = np.add(attributes["pads_begin"], pads[:2])
        end = np.add(attributes["pads_end"], pads[2:])
        binary = ops.binary_convolution(
            bits[name],
            _one_bit(weights),
            attributes["strides"],
            [int(v) for v in begin],
            [int(v) for v in end],
            attributes["dilations"],
            "xnor-popcount",
            value,
        )
        scaled = ops.multiply(binary, ops.constant(scale.reshape(1, -1, 1, 1)))
        conv.output(0).replace(scaled.output(0))
        count += 1
    graph.validate_nodes_and_infer_types()
    return count


def _constant(node: Any) -> np.ndarray:
    """The value of a constant, or of what is computed from constants."""
    import openvino

    if node.get_type_name() == "Constant":
        return np.asarray(node.data)
    values = [openvino.Tensor(_constant(value.get_node())) for value in node.input_values()]
    result = openvino.Tensor(node.get_output_element_type(0), node.get_output_shape(0))
    if not node.evaluate([result], values):
        raise ValueError(f"{node.get_friendly_name()} is not constant")
    return np.asarray(result.data)


def _one_bit(weights: np.ndarray) -> Any:
    """The signs of weights as a constant of one-bit numbers, the first in the lowest bit."""
    import openvino

    packed = np.packbits(weights.reshape(-1) > 0, bitorder="little")
    tensor = openvino.Tensor(packed, openvino.Shape(weights.shape), openvino.Type.u1)
    return openvino.op.Constant(tensor, shared_memory=False)
