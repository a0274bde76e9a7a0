#!/usr/bin/env python3
"""Train the binary network of examples/digits and export it to ONNX.

The data are scikit-learn's 1797 handwritten digits of 8x8 pixels, which come inside that package.
The network is of the Bi-Real kind (Liu et al., ECCV 2018): a float stem, three binary 3x3
convolutions each with batch norm, a shortcut and a PReLU, and a float head. Signs are trained with
the straight-through estimator; the gradient of an activation's sign is Bi-Real's triangle.

Needs PyTorch and scikit-learn (``pip install .[train]``). Writes three files:

    digits.onnx       the network; input ``image`` float32 [n, 1, 8, 8] in 0..1, output ``logits``
    test_digits.npz   the held-out digits: image, label, and logits as onnxruntime computes them
    digit.npy         one held-out digit, float32 [1, 1, 8, 8]

Everything is seeded: the same torch on the same kind of processor gives the same files.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

SEED = 0
SPLIT_SEED = 0
HELD_OUT = 450
EPOCHS = 40
BATCH = 64
LEARNING_RATE = 4e-3
OPSET = 13
DEFAULT_OUT = Path(__file__).resolve().parents[1] / "examples" / "digits"


def load_split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Digits as (train images, train labels, held-out images, held-out labels).

    Images are float32 [n, 1, 8, 8] in 0..1 (16 grey levels), labels int64 [n]. The split is a
    permutation by NumPy's RandomState, whose stream is frozen, so it is the same everywhere.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None, :, :]
    labels = digits.target.astype(np.int64)
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    train, held_out = order[:-HELD_OUT], order[-HELD_OUT:]
    return images[train], labels[train], images[held_out], labels[held_out]


def build_network() -> torch.nn.Module:
    """The untrained network: 64 512 binary weights, 3 658 float parameters."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class SignOfActivation(torch.autograd.Function):
        """sign(x); the gradient is that of Bi-Real's piecewise quadratic, max(0, 2 - 2|x|)."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return torch.sign(x)

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return grads[0] * (2 - 2 * x.abs()).clamp(min=0)

    class SignOfWeight(torch.autograd.Function):
        """sign(w); the gradient passes straight through (weights are clipped to [-1, 1])."""

        @staticmethod
        def forward(ctx: Any, w: torch.Tensor) -> torch.Tensor:
            return torch.sign(w)

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            return grads[0]

    class BinaryConv(nn.Module):
        """3x3 convolution of signs by signs; the border is -1, so that every tap is two-valued."""

        def __init__(self, ci: int, co: int, stride: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(co, ci, 3, 3).uniform_(-0.1, 0.1))
            self.stride = stride

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                s, t = SignOfActivation.apply(x), SignOfWeight.apply(self.weight)
            else:
                # Plain operators in evaluation, so that the exporter writes plain Sign nodes.
                s, t = torch.sign(x), torch.sign(self.weight)
            return F.conv2d(F.pad(s, (1, 1, 1, 1), value=-1.0), t, stride=self.stride)

    class Block(nn.Module):
        """PReLU(BN(BinaryConv(x)) + shortcut(x))."""

        def __init__(self, ci: int, co: int, stride: int) -> None:
            super().__init__()
            self.conv = BinaryConv(ci, co, stride)
            self.bn = nn.BatchNorm2d(co)
            self.act = nn.PReLU(co)
            self.shortcut: nn.Module = nn.Identity()
            if stride != 1 or ci != co:
                self.shortcut = nn.Sequential(
                    nn.AvgPool2d(stride), nn.Conv2d(ci, co, 1, bias=False), nn.BatchNorm2d(co)
                )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.bn(self.conv(x)) + self.shortcut(x))

    # Named children, because these names become the layer names of the ONNX file.
    layers: dict[str, nn.Module] = {
        "stem": nn.Conv2d(1, 32, 3, padding=1, bias=False),
        "stem_bn": nn.BatchNorm2d(32),
        "block1": Block(32, 32, stride=1),
        "block2": Block(32, 64, stride=2),
        "block3": Block(64, 64, stride=1),
        "pool": nn.AvgPool2d(4),
        "flatten": nn.Flatten(),
        "head": nn.Linear(64, 10),
    }
    return nn.Sequential(OrderedDict(layers))


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image [1, 8, 8] slightly turned, sheared, scaled and moved, differently every time."""
    import torch
    from torch.nn import functional as F

    n = len(images)
    uniform = torch.rand((n, 2, 3), generator=generator) * 2 - 1
    spread = torch.tensor([[0.15, 0.2, 0.15], [0.1, 0.15, 0.1]])
    identity = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    grid = F.affine_grid(identity + uniform * spread, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def train(images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> torch.nn.Module:
    """The network trained on images [n, 1, 8, 8] and labels [n], in evaluation mode."""
    import torch
    from torch.nn import functional as F

    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(seed)
    network = build_network()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    latent = [p for name, p in network.named_parameters() if name.endswith("conv.weight")]
    start = time.perf_counter()
    for epoch in range(epochs):
        network.train()
        total = 0.0
        order = torch.randperm(len(x), generator=generator)
        for step in range(len(x) // BATCH):
            batch = order[step * BATCH : (step + 1) * BATCH]
            logits = network(augmented(x[batch], generator))
            loss = F.cross_entropy(logits, y[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for weight in latent:
                    weight.clamp_(-1, 1)
            total += loss.item()
        if epoch % 10 == 9 or epoch == epochs - 1:
            mean = total / (len(x) // BATCH)
            seconds = time.perf_counter() - start
            print(f"epoch {epoch + 1:3d}  loss {mean:.4f}  {seconds:.0f} s", file=sys.stderr)
    return network.eval()


def export(network: torch.nn.Module, path: Path) -> None:
    """Write the network to path with a free batch size, Sign nodes kept.

    The TorchScript exporter is used because it fuses the float convolutions with their batch norm
    and leaves everything else as the network spells it.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, 8, 8),),
            str(path),
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
            dynamo=False,
        )


def infer(path: Path, images: np.ndarray) -> np.ndarray:
    """Logits [n, 10] of the exported network by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"image": images})[0])


def main(argv: list[str] | None = None) -> int:
    """Train, export and measure; 0 when done, 4 without PyTorch."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder to write to")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of PyTorch")
    args = parser.parse_args(argv)
    try:
        import torch
    except ImportError:
        print("train_digits.py needs PyTorch: pip install .[train]", file=sys.stderr)
        return 4
    torch.set_num_threads(args.threads)

    start = time.perf_counter()
    train_x, train_y, test_x, test_y = load_split()
    network = train(train_x, train_y, args.epochs, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    model = args.out / "digits.onnx"
    export(network, model)
    logits = infer(model, test_x)
    np.savez_compressed(args.out / "test_digits.npz", image=test_x, label=test_y, logits=logits)
    np.save(args.out / "digit.npy", test_x[:1])

    correct = int((logits.argmax(axis=1) == test_y).sum())
    print(
        f"{model}: {model.stat().st_size} bytes, {correct} of {len(test_y)} held-out digits right "
        f"({100 * correct / len(test_y):.2f} %), {time.perf_counter() - start:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
