"""Well-known binary networks as ONNX models with seeded weights, to measure speed with.

    python -m benchmarks.networks --out DIR

writes them as ONNX files, untrained: the structures of Bi-Real-Net-18 (Liu et al., ECCV 2018),
BinaryResNetE-18 and BinaryDenseNet-28 (Bethge et al., 2019), QuickNet small, medium and large
(Bannink et al., MLSys 2021) as larq-zoo builds them, and of ReActNet-A (Liu et al., ECCV 2020).

A binary network with random weights is chaotic: one sign that falls differently because a float
sum was rounded in another order changes every later layer, and an end-to-end comparison then says
nothing. So all weights, batch-norm factors and inputs are small multiples of powers of two:
float32 sums before the head are then exact in whatever order they are taken, and a correct compiler
agrees with onnxruntime on every sign. No sign is ever taken of zero: the float layers put every
shortcut on odd multiples of a power of two that is finer than what the binary layers add to it; in
ReActNet-A the shifts before the signs do, in BinaryDenseNet-28 the batch norms.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from benchmarks.network_builder import Builder, spread

SAME = [0, 0, 1, 1]  # pads of a 3x3 window of stride 2 as TensorFlow places them


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
    return net.model(net.head(_residual_stages(net, x, [1] * 4), classes))


def _residual_stages(net: Builder, x: str, pads: list[int]) -> str:
    """Four stages of four binary 3x3 convolutions, each with its own shortcut; three of them halve
    the map, with these pads, beside a 2x2 average pool and a float 1x1 convolution.
    """
    for stage, co in enumerate([64, 128, 256, 512], start=1):
        for index in range(4):
            name = f"stage{stage}.{index}"
            stride = 2 if co != net.channels[x] else 1
            y = net.binary_conv(f"{name}.conv", x, co, stride, pads=pads if stride == 2 else None)
            y = net.batch_norm(f"{name}.bn", y, exponent=0)
            if stride == 2:
                x = net.node(
                    "AveragePool", f"{name}.down.pool", [x], kernel_shape=[2, 2], strides=[2, 2]
                )
                x = net.float_conv(f"{name}.down.conv", x, co, k=1, stride=1, pads=[0] * 4)
                x = net.batch_norm(f"{name}.down.bn", x, exponent=2, odd=3 + 5 * stage)
            x = net.node("Add", f"{name}.add", [y, x])
    return x


def resnet_e18(size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """BinaryResNetE-18: as Bi-Real-Net-18, with a ReLU and two batch norms in the stem and
    TensorFlow's asymmetric padding.
    """
    net = Builder("resnet_e18", size, seed)
    x = net.batch_norm("stem.bn2", _relu_stem(net), exponent=0, mean=1.25, odd=8)
    return net.model(net.head(_residual_stages(net, x, SAME), classes))


def _relu_stem(net: Builder) -> str:
    """7x7 convolution, batch norm, ReLU, max pool: positive multiples of 1/32."""
    x = net.float_conv("stem.conv", "input", 64, k=7, stride=2, pads=[2, 2, 3, 3])
    x = net.node("Relu", "stem.relu", [net.batch_norm("stem.bn", x, exponent=2)])
    return net.node("MaxPool", "stem.pool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=SAME)


def densenet28(size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """BinaryDenseNet-28: four blocks of 6, 6, 6 and 5 binary 3x3 convolutions, each of which reads
    everything before it in its block and adds 64 channels.

    Between blocks: batch norm, 2x2 max pool, ReLU and a float 1x1 convolution.
    """
    net = Builder("densenet28", size, seed)
    x = _relu_stem(net)
    # Means and powers of two that keep signs balanced: what is positive lies above 0.
    mean, exponent = 1.25, 0
    for block, (layers, reduced) in enumerate([(6, 160), (6, 192), (6, 256), (5, 0)], start=1):
        for index in range(layers):
            name = f"block{block}.{index}"
            y = net.batch_norm(
                f"{name}.bn", x, exponent, mean if index == 0 else 0.0, odd=8 + 2 * block
            )
            y = net.binary_conv(f"{name}.conv", y, 64)
            channels = net.channels[x] + 64
            x = net.node("Concat", f"{name}.concat", [x, y], channels, axis=1)
        name = f"transition{block}"
        x = net.batch_norm(f"{name}.bn", x, exponent)
        mean, exponent = 0.0, 1
        if reduced:
            x = net.node("MaxPool", f"{name}.pool", [x], kernel_shape=[2, 2], strides=[2, 2])
            x = net.node("Relu", f"{name}.relu", [x])
            x = net.float_conv(f"{name}.conv", x, reduced, k=1, stride=1, pads=[0] * 4)
    x = net.node("Relu", "head.relu", [x])
    return net.model(net.node("Softmax", "head.softmax", [net.head(x, classes)], axis=1))


def quicknet(
    size: int = 224,
    classes: int = 1000,
    seed: int = 0,
    name: str = "quicknet",
    widths: tuple[int, ...] = (64, 128, 256, 512),
    depths: tuple[int, ...] = (4, 4, 4, 4),
) -> onnx.ModelProto:
    """QuickNet: four sections of binary 3x3 convolutions, ReLU before batch norm, +1 padding.

    Between sections: ReLU, 2x2 max pool of stride 1, depthwise 3x3 of stride 2 and a float 1x1
    convolution. TensorFlow's SAME padding of the stem is asymmetric.
    """
    net = Builder(name, size, seed)
    first = widths[0] // 4
    x = net.float_conv("stem.conv", "input", first, k=3, stride=2, pads=SAME)
    x = net.node("Relu", "stem.relu", [net.batch_norm("stem.bn", x, exponent=2, odd=8)])
    x = net.float_conv("stem.depthwise", x, first, k=3, stride=2, pads=SAME, groups=first)
    x = net.batch_norm("stem.depthwise_bn", x, exponent=1, odd=9)
    x = net.float_conv("stem.pointwise", x, widths[0], k=1, stride=1, pads=[0] * 4)
    x = net.batch_norm("stem.pointwise_bn", x, exponent=1, odd=11)
    for section, (co, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        if section > 1:
            name = f"transition{section - 1}"
            x = net.node("Relu", f"{name}.relu", [x])
            x = net.node("MaxPool", f"{name}.pool", [x], kernel_shape=[2, 2], strides=[1, 1])
            groups = net.channels[x]
            x = net.float_conv(f"{name}.blur", x, groups, 3, stride=2, pads=[1] * 4, groups=groups)
            x = net.float_conv(f"{name}.conv", x, co, k=1, stride=1, pads=[0] * 4)
            x = net.batch_norm(f"{name}.bn", x, exponent=3, odd=7 + 4 * section)
        for index in range(depth):
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


def quicknet_small(size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """QuickNetSmall: half the channels in the first two sections."""
    return quicknet(size, classes, seed, "quicknet_small", (32, 64, 256, 512))


def quicknet_large(size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """QuickNetLarge: sections of 6, 8, 12 and 6 binary convolutions."""
    return quicknet(size, classes, seed, "quicknet_large", depths=(6, 8, 12, 6))


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
    "resnet_e18": resnet_e18,
    "densenet28": densenet28,
    "quicknet_small": quicknet_small,
    "quicknet": quicknet,
    "quicknet_large": quicknet_large,
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
