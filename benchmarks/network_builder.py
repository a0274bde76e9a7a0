"""Builds a network as ONNX, node by node, with seeded weights that keep float sums exact."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 13
EPSILON = np.float32(1e-5)


class Builder:
    """Collects the nodes and seeded weights of one network; layout NCHW as PyTorch writes it.

    Methods take the name of the node and of its input tensor and return the name of the output,
    which is the name of the node. Channel counts are remembered by tensor.
    """

    def __init__(self, name: str, size: int, seed: int, channels: int = 3) -> None:
        self.name = name
        self.size = size
        self.rng = np.random.RandomState(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.channels = {"input": channels}

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, name: str, inputs: list[str], channels: int = 0, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attrs))
        self.channels[name] = channels or self.channels[inputs[0]]
        return name

    def float_conv(
        self, name: str, x: str, co: int, k: int, stride: int, pads: list[int], groups: int = 1
    ) -> str:
        """Float k x k convolution without bias; weights are -1, 0 or 1.

        About twelve per output are not 0, so that sums keep within 24 bits.
        """
        ci = self.channels[x] // groups
        signs = self.rng.choice(np.array([-1, 1], np.float32), (co, ci, k, k))
        keep = self.rng.rand(co, ci, k, k) < min(0.5, 12 / (ci * k * k))
        weight = self.constant(f"{name}.weight", np.where(keep, signs, np.float32(0)))
        return self.node(
            "Conv", name, [x, weight], co,
            kernel_shape=[k, k], strides=[stride] * 2, pads=pads, group=groups,
        )  # fmt: skip

    def binary_conv(
        self, name: str, x: str, co: int, stride: int = 1, one_padded: bool = False, k: int = 3,
        signs: str = "", pads: list[int] | None = None,
    ) -> str:  # fmt: skip
        """Sign and k x k convolution: zero padding and +-alpha weights, or +1 padding and +-1.

        With `signs` these are convolved instead, and are not made. pads: of the zero padding, by
        default half the kernel on all sides.
        """
        ci = self.channels[x]
        weights = self.rng.choice(np.array([-1, 1], np.float32), (co, ci, k, k))
        s = signs or self.node("Sign", f"{name}.sign", [x])
        pads = [k // 2] * 4 if pads is None else pads
        if one_padded:
            widths = self.constant(f"{name}.pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
            value = self.constant(f"{name}.pad_value", np.array(1, np.float32))
            s = self.node("Pad", f"{name}.pad", [s, widths, value], mode="constant")
            pads = [0, 0, 0, 0]
        else:
            alpha = self.rng.choice(np.array([1, 0.5], np.float32), (co, 1, 1, 1))
            weights = weights * alpha * np.float32(2.0 ** -spread(ci * k * k))
        weight = self.constant(f"{name}.weight", weights.astype(np.float32))
        return self.node(
            "Conv", name, [s, weight], co,
            kernel_shape=[k, k], strides=[stride] * 2, pads=pads, group=1,
        )  # fmt: skip

    def shift(self, name: str, x: str, mean: float = 0.0) -> str:
        """A bias per channel around `mean`, which is added to multiples of 1/8."""
        bias = mean + self.rng.randint(-2, 3, (1, self.channels[x], 1, 1)) / 8
        return self.node("Add", name, [x, self.constant(f"{name}.bias", bias.astype(np.float32))])

    def rprelu(self, name: str, x: str) -> str:
        """ReActNet's RPReLU: shift, PReLU, shift.

        Slopes are 0 or 1 so that no result needs more bits; the second shift keeps signs balanced.
        """
        x = self.shift(f"{name}.before", x)
        slope = (self.rng.rand(self.channels[x], 1, 1) < 0.3).astype(np.float32)
        x = self.node("PRelu", f"{name}.prelu", [x, self.constant(f"{name}.slope", slope)])
        return self.shift(f"{name}.after", x, mean=-0.25)

    def batch_norm(
        self, name: str, x: str, exponent: int, mean: float = 0.0, odd: int | None = None
    ) -> str:
        """Batch norm that divides exactly by 2**exponent, around a mean.

        With odd given it belongs to a float layer: gamma is 1 and beta gets 2**-odd, so that no
        result is zero. Otherwise gamma is 1 or 1/2.
        """
        c = self.channels[x]
        # sqrt(variance + epsilon) must come out as a power of two in float32.
        variance = np.full(c, np.float32(4.0**exponent) - EPSILON, np.float32)
        means = np.full(c, round(mean * 8) / 8, np.float32)
        gamma = np.ones(c, np.float32)
        beta = self.rng.randint(-2, 3, c).astype(np.float32) / 8
        if odd is None:
            gamma = self.rng.choice(np.array([0.5, 1], np.float32), c)
        else:
            beta += np.float32(2.0**-odd)
        parts: dict[str, np.ndarray] = {
            "gamma": gamma,
            "beta": beta,
            "mean": means,
            "variance": variance,
        }
        names = [self.constant(f"{name}.{part}", value) for part, value in parts.items()]
        return self.node("BatchNormalization", name, [x, *names], epsilon=float(EPSILON))

    def head(self, x: str, classes: int) -> str:
        """Global average pool and a dense layer with ordinary random weights."""
        ci = self.channels[x]
        pooled = self.node("GlobalAveragePool", "head.pool", [x])
        flat = self.node("Flatten", "head.flatten", [pooled], ci, axis=1)
        w = (self.rng.randn(classes, ci) / math.sqrt(ci)).astype(np.float32)
        b = (self.rng.randn(classes) / 10).astype(np.float32)
        weight, bias = self.constant("head.weight", w), self.constant("head.bias", b)
        return self.node("Gemm", "head.dense", [flat, weight, bias], classes, transB=1)

    def model(self, output: str) -> onnx.ModelProto:
        """The finished, checked model with input ``input`` [1, channels, size, size]."""
        shape = [1, self.channels["input"], self.size, self.size]
        self.nodes[-1].output[0] = "output"
        assert self.nodes[-1].name == output
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
            self.initializers,
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], producer_name="benchmarks.networks")
        model.ir_version = 8
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model)
        return model


def spread(taps: int) -> int:
    """The power of two nearest to the standard deviation of a sum of so many random signs."""
    return round(math.log2(math.sqrt(taps)))
