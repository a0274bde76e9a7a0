"""Well-known binary networks as ONNX models with seeded weights, to measure speed with.

    python -m benchmarks.networks --out DIR

writes ``bireal18.onnx``, ``quicknet.onnx`` and ``reactnet_a.onnx``: the structures of
Bi-Real-Net-18 (Liu et al., ECCV 2018), QuickNet (Bannink et al., MLSys 2021, as larq-zoo builds it)
and ReActNet-A (Liu et al., ECCV 2020), untrained.

A binary network with random weights is chaotic: one sign that falls differently because a float
sum was rounded in another order changes every later layer, and an end-to-end comparison then says
nothing. So all weights, batch-norm factors and inputs are small multiples of powers of two:
float32 sums before the head are then exact in whatever order they are taken, and a correct compiler
agrees with onnxruntime on every sign. No sign is ever taken of zero: the float layers put every
shortcut on odd multiples of a power of two that is finer than what the binary layers add to it; in
ReActNet-A the shifts before the signs do.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
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

    def __init__(self, name: str, size: int, seed: int) -> None:
        self.name = name
        self.size = size
        self.rng = np.random.RandomState(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.channels = {"input": 3}

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
        signs: str = "",
    ) -> str:  # fmt: skip
        """Sign and k x k convolution: zero padding and +-alpha weights, or +1 padding and +-1.

        With `signs` these are convolved instead, and are not made.
        """
        ci = self.channels[x]
        weights = self.rng.choice(np.array([-1, 1], np.float32), (co, ci, k, k))
        s = signs or self.node("Sign", f"{name}.sign", [x])
        pads = [k // 2] * 4
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
        """The finished, checked model with input ``input`` [1, 3, size, size]."""
        shape = [1, 3, self.size, self.size]
        self.nodes[-1].output[0] = "output"
        assert self.nodes[-1].name == output
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
            [
                helper.make_tensor_value_info(
                    "output", TensorProto.FLOAT, [1, self.channels[output]]
                )
            ],
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


def bireal18(size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """Bi-Real-Net-18: 16 binary 3x3 convolutions, each with its own shortcut, zero padding.

    Weights are +-alpha per output channel; three shortcuts go through a 2x2 average pool and a
    float 1x1 convolution.
    """
    net = Builder("bireal18", size, seed)
    x = net.float_conv("stem.conv", "input", 64, k=7, stride=2, pads=[3, 3, 3, 3])
    # The maximum of nine lies above the mean: shift it back, so that signs are balanced.
    x = net.batch_norm("stem.bn", x, exponent=2, mean=6, odd=8)
    x = net.node("MaxPool", "stem.pool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, co in enumerate([64, 128, 256, 512], start=1):
        for index in range(4):
            name = f"stage{stage}.{index}"
            stride = 2 if co != net.channels[x] else 1
            y = net.binary_conv(f"{name}.conv", x, co, stride)
            y = net.batch_norm(f"{name}.bn", y, exponent=0)
            if stride == 2:
                x = net.node(
                    "AveragePool", f"{name}.down.pool", [x], kernel_shape=[2, 2], strides=[2, 2]
                )
                x = net.float_conv(f"{name}.down.conv", x, co, k=1, stride=1, pads=[0] * 4)
                x = net.batch_norm(f"{name}.down.bn", x, exponent=2, odd=3 + 5 * stage)
            x = net.node("Add", f"{name}.add", [y, x])
    return net.model(net.head(x, classes))


def quicknet(size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """QuickNet: four sections of four binary 3x3 convolutions, ReLU before batch norm, +1 padding.

    Between sections: ReLU, 2x2 max pool of stride 1, depthwise 3x3 of stride 2 and a float 1x1
    convolution. TensorFlow's SAME padding of the stem is asymmetric.
    """
    same = [0, 0, 1, 1]
    net = Builder("quicknet", size, seed)
    x = net.float_conv("stem.conv", "input", 16, k=3, stride=2, pads=same)
    x = net.node("Relu", "stem.relu", [net.batch_norm("stem.bn", x, exponent=2, odd=8)])
    x = net.float_conv("stem.depthwise", x, 16, k=3, stride=2, pads=same, groups=16)
    x = net.batch_norm("stem.depthwise_bn", x, exponent=1, odd=9)
    x = net.float_conv("stem.pointwise", x, 64, k=1, stride=1, pads=[0] * 4)
    x = net.batch_norm("stem.pointwise_bn", x, exponent=1, odd=11)
    for section, co in enumerate([64, 128, 256, 512], start=1):
        if section > 1:
            name = f"transition{section - 1}"
            x = net.node("Relu", f"{name}.relu", [x])
            x = net.node("MaxPool", f"{name}.pool", [x], kernel_shape=[2, 2], strides=[1, 1])
            groups = net.channels[x]
            x = net.float_conv(f"{name}.blur", x, groups, 3, stride=2, pads=[1] * 4, groups=groups)
            x = net.float_conv(f"{name}.conv", x, co, k=1, stride=1, pads=[0] * 4)
            x = net.batch_norm(f"{name}.bn", x, exponent=3, odd=7 + 4 * section)
        for index in range(4):
            name = f"section{section}.{index}"
            y = net.binary_conv(f"{name}.conv", x, co, one_padded=True)
            y = net.node("Relu", f"{name}.relu", [y])
            exponent = spread(co * 9)
            # The mean of max(0, normal) is 0.4 standard deviations.
            y = net.batch_norm(f"{name}.bn", y, exponent, mean=0.4 * 2**exponent)
            x = net.node("Add", f"{name}.add", [y, x])
    x = net.node("Relu", "head.relu", [x])
    dense = net.head(x, classes)
    return net.model(net.node("Softmax", "head.softmax", [dense], axis=1))


def reactnet_a(size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """ReActNet-A: MobileNet's thirteen blocks of a 3x3 and a 1x1 convolution, both binary.

    Shifts per channel stand before every sign and around every PReLU. Where channels double, two
    1x1 convolutions read the same signs, and their results are concatenated.
    """
    net = Builder("reactnet_a", size, seed)
    fine = 2.0**-18  # finer than all results, so that no sign is of zero
    x = net.float_conv("stem.conv", "input", 32, k=3, stride=2, pads=[1] * 4)
    x = net.batch_norm("stem.bn", x, exponent=2, odd=8)
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    blocks += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    for index, (co, stride) in enumerate(blocks, start=1):
        name = f"block{index}"
        ci = net.channels[x]
        moved = net.shift(f"{name}.move1", x, mean=fine)
        y = net.batch_norm(
            f"{name}.bn1", net.binary_conv(f"{name}.conv1", moved, ci, stride), exponent=0
        )
        if stride == 2:
            x = net.node("AveragePool", f"{name}.down", [x], kernel_shape=[2, 2], strides=[2, 2])
        x = net.rprelu(f"{name}.act1", net.node("Add", f"{name}.add1", [y, x]))
        signs = net.node("Sign", f"{name}.conv2.sign", [net.shift(f"{name}.move2", x, mean=fine)])
        halves = []
        for half in range(co // ci):
            part = f"{name}.conv2.{half}"
            y = net.binary_conv(part, x, ci, k=1, signs=signs)
            y = net.batch_norm(f"{part}.bn", y, exponent=0)
            halves.append(net.node("Add", f"{part}.add", [y, x]))
        x = halves[0]
        if len(halves) > 1:
            x = net.node("Concat", f"{name}.concat", halves, co, axis=1)
        x = net.rprelu(f"{name}.act2", x)
    return net.model(net.head(x, classes))


NETWORKS: dict[str, Callable[..., onnx.ModelProto]] = {
    "bireal18": bireal18,
    "quicknet": quicknet,
    "reactnet_a": reactnet_a,
}


def sample_input(model: onnx.ModelProto, seed: int = 0) -> np.ndarray:
    """An input for one of these networks: float32, multiples of 1/4 in -2..2."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = [dim.dim_value for dim in dims]
    return (np.random.RandomState(seed).randint(-8, 9, shape) / 4).astype(np.float32)


def count_macs(model: onnx.ModelProto) -> tuple[int, int]:
    """Multiply-adds of one of these networks as (binary, float), padded taps counted too."""
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in [*model.graph.value_info, *model.graph.output]
    }
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    made_by = {node.output[0]: node.op_type for node in model.graph.node}
    binary = floating = 0
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        positions = math.prod(shapes[node.output[0]][2:])
        macs = positions * math.prod(weights[node.input[1]])
        if made_by.get(node.input[0]) in ("Sign", "Pad"):
            binary += macs
        else:
            floating += macs
    return binary, floating


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--only", choices=sorted(NETWORKS), help="write one network")
    parser.add_argument("--size", type=int, default=224, help="height and width of the input")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [args.only] if args.only else NETWORKS:
        path = args.out / f"{name}.onnx"
        model = NETWORKS[name](size=args.size, seed=args.seed)
        onnx.save(model, path)
        binary, floating = count_macs(model)
        print(
            f"{path}: {path.stat().st_size / 1e6:.1f} MB, "
            f"{binary / 1e9:.3f} G binary and {floating / 1e9:.3f} G float multiply-adds"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
