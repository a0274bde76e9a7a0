"""Binary networks as people write them in PyTorch, one small module per habit.

Every module is deterministic (seeded), in evaluation mode, and its weights, BatchNorm statistics
and slopes are random rather than what a constructor sets, so that no two channels are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bnn_tvm.torch import BinaryConv2d, BinaryLinear


class SignFunction(torch.autograd.Function):
    """torch.sign with a clipped straight-through gradient: what most repositories have."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * (x.abs() <= 1)


class StepFunction(torch.autograd.Function):
    """x >= 0 gives 1, else -1, written with new tensors."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0]


Sign = Callable[[torch.Tensor], torch.Tensor]


def where_ge(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def cast_times_two(x: torch.Tensor) -> torch.Tensor:
    return (x >= 0).float() * 2 - 1


def hardtanh_sign(x: torch.Tensor) -> torch.Tensor:
    return torch.sign(functional.hardtanh(x))


def straight_through(x: torch.Tensor) -> torch.Tensor:
    clipped = functional.hardtanh(x)
    return (torch.sign(x) - clipped).detach() + clipped


def equal_where(x: torch.Tensor) -> torch.Tensor:
    s = torch.sign(x)
    return torch.where(s == 0, torch.ones_like(s), s)


def assigned(x: torch.Tensor) -> torch.Tensor:
    s = torch.sign(x)
    s[s == 0] = 1
    return s


def assigned_twice(x: torch.Tensor) -> torch.Tensor:
    s = torch.zeros_like(x)
    s[x >= 0] = 1
    s[x < 0] = -1
    return s


def sign_add_sign(x: torch.Tensor) -> torch.Tensor:
    return torch.sign(torch.sign(x) + 0.1)


def round_clamp(x: torch.Tensor) -> torch.Tensor:
    return torch.round(torch.clamp((x + 1) / 2, 0, 1)) * 2 - 1


def zero_one(x: torch.Tensor) -> torch.Tensor:
    return (x > 0).float()


class Conv(nn.Module):
    """Binariser, perhaps a Pad, convolution with binarised latent weights."""

    def __init__(
        self,
        ci: int,
        co: int,
        kernel: int | tuple[int, ...],
        *,
        sign: Sign = torch.sign,
        weight_sign: Sign | None = torch.sign,
        pad: int = 0,
        pad_value: float | None = None,
        **conv: Any,
    ) -> None:
        super().__init__()
        self.sign, self.weight_sign = sign, weight_sign
        self.pad, self.pad_value, self.conv = pad, pad_value, conv
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.weight = nn.Parameter(torch.randn(co, ci // conv.get("groups", 1), *size))
        if weight_sign is None:
            with torch.no_grad():
                self.weight.copy_(torch.where(self.weight >= 0, 1.0, -1.0))

    def weights(self) -> torch.Tensor:
        return self.weight if self.weight_sign is None else self.weight_sign(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.sign(x)
        dims = self.weight.ndim - 2
        padding = self.pad
        if self.pad and self.pad_value is not None:
            x = functional.pad(x, [self.pad] * (2 * dims), value=self.pad_value)
            padding = 0
        conv = functional.conv1d if dims == 1 else functional.conv2d
        return conv(x, self.weights(), padding=padding, **self.conv)


class ScaledConv(Conv):
    """XNOR-Net's weights: mean(|w|) * sign(w) of centred, clamped latent weights."""

    def weights(self) -> torch.Tensor:
        w = self.weight - self.weight.mean(1, keepdim=True)
        w = w.clamp(-1, 1)
        return w.abs().mean((1, 2, 3), keepdim=True) * torch.sign(w)


class HardBinaryConv(Conv):
    """Bi-Real's and ReActNet's weights: scale * sign(w), straight through a clamp."""

    def weights(self) -> torch.Tensor:
        w = self.weight
        scale = w.abs().mean(3, keepdim=True).mean(2, keepdim=True).mean(1, keepdim=True).detach()
        hard = scale * torch.sign(w)
        clipped = torch.clamp(w, -1.0, 1.0)
        return hard.detach() - clipped.detach() + clipped


class IRConv(Conv):
    """IR-Net: standardised weights, sign, times a power of two near their mean magnitude."""

    def weights(self) -> torch.Tensor:
        w, co = self.weight, self.weight.size(0)
        w = w - w.view(co, -1).mean(-1).view(co, 1, 1, 1)
        w = w / w.view(co, -1).std(-1).view(co, 1, 1, 1)
        magnitude = w.abs().view(co, -1).mean(-1)
        power = torch.pow(2.0, (torch.log(magnitude) / 0.6931471805599453).round()).float()
        return SignFunction.apply(w) * power.view(co, 1, 1, 1).detach()


class PolynomialSign(nn.Module):
    """Bi-Real's activation: the sign, with the gradient of a piecewise quadratic."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.sign(x)
        low, middle, high = x < -1, x < 0, x < 1
        first = (-1) * low.float() + (x * x + 2 * x) * (1 - low.float())
        second = first * middle.float() + (-x * x + 2 * x) * (1 - middle.float())
        third = second * high.float() + 1 * (1 - high.float())
        return out.detach() - third.detach() + third


class Shift(nn.Module):
    """ReActNet's learned shift per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, channels, 1, 1) * 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias.expand_as(x)


class BiRealBlock(nn.Module):
    """Activation, 3x3 conv, BatchNorm, shortcut (average pool and float 1x1 where it strides)."""

    def __init__(self, ci: int, co: int, stride: int) -> None:
        super().__init__()
        self.sign = PolynomialSign()
        self.conv = HardBinaryConv(ci, co, 3, sign=nn.Identity(), pad=1, stride=stride)
        self.norm = nn.BatchNorm2d(co)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or ci != co:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride), nn.Conv2d(ci, co, 1, bias=False), nn.BatchNorm2d(co)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(self.sign(x))) + self.shortcut(x)


class ReActBlock(nn.Module):
    """RSign, 3x3 conv, shortcut, RPReLU, then RSign, two 1x1 convs, concatenated, RPReLU."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.shift1, self.shift2 = Shift(c), Shift(c)
        self.sign = PolynomialSign()
        self.conv3 = HardBinaryConv(c, c, 3, sign=nn.Identity(), pad=1, stride=2)
        self.left = HardBinaryConv(c, c, 1, sign=nn.Identity())
        self.right = HardBinaryConv(c, c, 1, sign=nn.Identity())
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for _ in range(3))
        self.relu1 = nn.Sequential(Shift(c), nn.PReLU(c), Shift(c))
        self.relu2 = nn.Sequential(Shift(2 * c), nn.PReLU(2 * c), Shift(2 * c))
        self.pool = nn.AvgPool2d(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norms[0](self.conv3(self.sign(self.shift1(x))))
        y = self.relu1(y + self.pool(x))
        s = self.sign(self.shift2(y))
        left = self.norms[1](self.left(s)) + y
        right = self.norms[2](self.right(s)) + y
        return self.relu2(torch.cat([left, right], dim=1))


class Dense(nn.Module):
    """Linear of signs: `matmul` writes s @ w, else functional.linear with w transposed."""

    def __init__(self, k: int, n: int, sign: Sign = torch.sign, matmul: bool = False) -> None:
        super().__init__()
        self.sign, self.matmul = sign, matmul
        self.weight = nn.Parameter(torch.randn(*((k, n) if matmul else (n, k))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s, t = self.sign(x), self.sign(self.weight)
        return s @ t if self.matmul else functional.linear(s, t)


class Between(nn.Module):
    """What may stand between binariser and conv: max pool, concatenation, channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.3)
        self.conv = Conv(32, 16, 3, sign=nn.Identity(), weight_sign=where_ge, groups=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = self.drop(self.pool(where_ge(x)))
        s = torch.cat([s, self.pool(where_ge(x - 0.5))], dim=1)
        n, c, h, w = s.shape
        s = s.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.conv(s)


def net(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A builder: seed, build, randomise what constructors leave regular, evaluation mode."""

    def build() -> nn.Module:
        torch.manual_seed(20)
        module = nn.Sequential(*(layer() for layer in layers))
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(part.weight)  # scales of both signs
                nn.init.normal_(part.bias)
                assert part.running_mean is not None and part.running_var is not None
                part.running_mean.normal_()
                part.running_var.uniform_(0.3, 2)
            elif isinstance(part, nn.PReLU):
                nn.init.normal_(part.weight)
        return module.eval()

    return build


def two_convs(sign: Sign, **more: Any) -> Callable[[], nn.Module]:
    """conv, BatchNorm, conv with one spelling of the binariser, padded with -1."""
    return net(
        lambda: Conv(16, 24, 3, sign=sign, pad=1, pad_value=-1.0, **more),
        lambda: nn.BatchNorm2d(24),
        lambda: Conv(24, 8, 3, sign=sign, stride=2, pad=1, pad_value=-1.0, **more),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dabnn_standard": two_convs(torch.sign),
    "dabnn_constant_weights": net(
        lambda: Conv(16, 24, 3, weight_sign=None, pad=1, pad_value=-1.0),
        lambda: nn.BatchNorm2d(24),
        lambda: nn.ReLU(),
        lambda: nn.BatchNorm2d(24),
        lambda: Conv(24, 8, 3, weight_sign=None, pad=1, pad_value=-1.0),
        lambda: nn.BatchNorm2d(8),
    ),
    "xnor_net": net(
        lambda: nn.BatchNorm2d(16),
        lambda: ScaledConv(16, 24, 3, pad=1),
        lambda: nn.ReLU(),
        lambda: nn.MaxPool2d(2),
        lambda: nn.BatchNorm2d(24),
        lambda: ScaledConv(24, 8, 1),
    ),
    "bireal": net(lambda: BiRealBlock(16, 16, 1), lambda: BiRealBlock(16, 32, 2)),
    "reactnet": net(lambda: ReActBlock(16)),
    "irnet": net(
        lambda: IRConv(16, 16, 3, sign=SignFunction.apply, pad=1),
        lambda: nn.BatchNorm2d(16),
        lambda: nn.Hardtanh(),
        lambda: IRConv(16, 8, 3, sign=SignFunction.apply, pad=1),
    ),
    "where_ge": two_convs(where_ge, weight_sign=where_ge),
    "cast_times_two": two_convs(cast_times_two),
    "hardtanh_sign": two_convs(hardtanh_sign),
    "straight_through": two_convs(straight_through),
    "autograd_sign": two_convs(SignFunction.apply, weight_sign=SignFunction.apply),
    "autograd_step": two_convs(StepFunction.apply, weight_sign=StepFunction.apply),
    "equal_where": two_convs(equal_where, weight_sign=equal_where),
    "assigned_by_mask": two_convs(assigned, weight_sign=assigned),
    "assigned_twice": two_convs(assigned_twice),
    "sign_add_sign": two_convs(sign_add_sign),
    "round_clamp": two_convs(round_clamp),
    "zero_one": net(
        lambda: Conv(16, 24, 3, sign=zero_one, pad=1),
        lambda: nn.BatchNorm2d(24),
        lambda: Conv(24, 8, 3, sign=zero_one, pad=1),
    ),
    "linear": net(lambda: Dense(40, 30), lambda: nn.BatchNorm1d(30), lambda: Dense(30, 10)),
    "matmul": net(
        lambda: Dense(40, 30, sign=where_ge, matmul=True),
        lambda: nn.BatchNorm1d(30),
        lambda: Dense(30, 10, sign=where_ge, matmul=True),
    ),
    "grouped": net(
        lambda: Conv(48, 32, 3, sign=where_ge, pad=1, pad_value=-1.0, groups=4),
        lambda: nn.BatchNorm2d(32),
        lambda: Conv(32, 6, 3, sign=where_ge, pad=1, pad_value=1.0, groups=2, dilation=2),
    ),
    "depthwise": net(
        lambda: Conv(37, 37, 3, sign=where_ge, pad=1, pad_value=-1.0, groups=37),
        lambda: nn.BatchNorm2d(37),
        lambda: Conv(37, 3, 1, sign=where_ge),
    ),
    "conv1d": net(
        lambda: Conv(12, 20, (5,), sign=where_ge, pad=2, pad_value=-1.0),
        lambda: nn.BatchNorm1d(20),
        lambda: Conv(20, 7, (3,), sign=where_ge, stride=2),
    ),
    "between": net(lambda: Between()),
    "batch_3": two_convs(where_ge),
    "dynamic_batch": net(
        lambda: Conv(16, 24, 3, sign=where_ge, pad=1, pad_value=-1.0),
        lambda: nn.BatchNorm2d(24),
        lambda: nn.AdaptiveAvgPool2d(1),
        lambda: nn.Flatten(),
        lambda: Dense(24, 10, sign=where_ge),
    ),
    "dynamic_size": two_convs(assigned),
    "dynamic_reactnet": net(lambda: ReActBlock(16)),
    "bnn_tvm_layers": net(
        lambda: BinaryConv2d(16, 24, 3, padding=1),
        lambda: nn.BatchNorm2d(24),
        lambda: BinaryConv2d(24, 8, 3, stride=2, padding=1, padding_value=1, scale=True),
        lambda: nn.BatchNorm2d(8),
        lambda: nn.Flatten(),
        lambda: BinaryLinear(128, 10, scale=True),
    ),
}
