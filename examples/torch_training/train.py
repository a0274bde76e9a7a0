#!/usr/bin/env python3
"""Train a binary network with bnn_tvm.torch, export it, compile it, and run what was compiled.

The data are scikit-learn's 1797 handwritten digits of 8x8 pixels. Half a minute on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import bnn_tvm
from bnn_tvm.torch import BinaryConv2d, BinaryLinear

HELD_OUT = 450
BATCH = 64


class Block(nn.Module):
    """Binary convolution, batch norm, shortcut, PReLU: the shortcut carries what signs cannot."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = BinaryConv2d(channels, channels, 3, padding=1, gradient="bireal")
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.PReLU(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, channels, h, w] -> the same."""
        y: torch.Tensor = self.act(self.norm(self.conv(x)) + x)
        return y


def build() -> nn.Module:
    """Images [n, 1, 8, 8] -> logits [n, 10]. The first layer reads grey values and stays float."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        Block(32),
        Block(32),
        nn.Flatten(),
        nn.BatchNorm1d(512),
        BinaryLinear(512, 10, scale=True),
    )


def train(x: torch.Tensor, y: torch.Tensor, epochs: int) -> nn.Module:
    """The network after `epochs` over images [n, 1, 8, 8] and labels [n], in evaluation mode."""
    network = build()
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        network.train()
        for batch in torch.randperm(len(x)).split(BATCH):
            loss = functional.cross_entropy(network(x[batch]), y[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for layer in network.modules():
                if isinstance(layer, BinaryConv2d | BinaryLinear):
                    layer.clip_weights()
        schedule.step()
        print(f"epoch {epoch + 1:2d}  loss {loss.item():.3f}", file=sys.stderr)
    return network.eval()


def main(argv: list[str] | None = None) -> int:
    """Train, export, compile, run; 0 if the compiled network answers as PyTorch does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write to")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    x = torch.from_numpy((digits.images[order] / 16).astype(np.float32)[:, None])
    y = torch.from_numpy(digits.target[order].astype(np.int64))
    network = train(x[:-HELD_OUT], y[:-HELD_OUT], args.epochs)

    onnx_file = args.out / "digits.onnx"
    torch.onnx.export(
        network,
        (x[:2],),
        onnx_file,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )

    compiled = bnn_tvm.compile_model(onnx_file)
    for decision in compiled.decisions:
        kind = f"binary by {decision.rule}" if decision.binary else "float"
        print(f"{decision.output}: {kind}: {decision.reason}")
    files = compiled.save(args.out / "digits")
    model = bnn_tvm.load(files.so)

    images, labels = x[-HELD_OUT:], y[-HELD_OUT:].numpy()
    got = np.concatenate([model.run(image[None])["logits"] for image in images.numpy()])
    with torch.no_grad():
        wanted = network(images).numpy()
    differing = int((np.abs(got - wanted).max(axis=1) > 1e-3).sum())
    print(f"PyTorch:  {100 * (wanted.argmax(axis=1) == labels).mean():.2f} % of {HELD_OUT} right")
    print(f"compiled: {100 * (got.argmax(axis=1) == labels).mean():.2f} %")
    print(f"logits differ on {differing} images; the library has {files.so.stat().st_size} bytes")
    # A number that is 0 but for rounding may get the other sign: one such image is no error.
    return 0 if differing <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
