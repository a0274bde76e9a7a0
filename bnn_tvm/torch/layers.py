"""Convolution and dense layer of signs, with latent float weights that training moves."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bnn_tvm.torch.sign import Gradient, check_gradient, sign

Pair = int | tuple[int, int]


class _Binary(nn.Module):
    """What both layers have: latent weights [co, ...], and perhaps a scale per output channel."""

    def __init__(
        self, shape: tuple[int, ...], scale: bool, gradient: Gradient, factory: dict[str, Any]
    ) -> None:
        super().__init__()
        check_gradient(gradient)
        self.gradient: Gradient = gradient
        self.weight = nn.Parameter(torch.empty(shape, **factory))
        self.scale = nn.Parameter(torch.empty(shape[0], **factory)) if scale else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Latent weights as nn.Conv2d begins with; the scale as these weights' mean magnitude."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.scale is not None:
            with torch.no_grad():
                self.scale.copy_(self.weight.abs().flatten(1).mean(1))

    def clip_weights(self) -> None:
        """Bring the latent weights back to [-1, 1]; call it after every step of the optimiser.

        Beyond, the straight-through gradient is 0 and a weight could not change its sign again.
        """
        with torch.no_grad():
            self.weight.clamp_(-1, 1)


class BinaryConv2d(_Binary):
    """Convolution of sign(x) with sign(weight): integers, which the compiled model counts in bits.

    Input [n, in_channels, h, w], any floats; output [n, out_channels, ho, wo], integers as floats,
    times `scale` [out_channels] where there is one. `weight` [out_channels, in_channels / groups,
    kh, kw] are the latent weights. No bias: a BatchNorm2d behind it has one, and costs the
    compiled model nothing.

    padding: taps on every side, of height and width. padding_value: what they hold, as a Pad in
    front of the convolution. -1 and +1 are signs; 0 is a third value, which only the default mode
    takes, exactly but somewhat slower.
    In the default mode the layer is always binary. `--strict` takes it where the export holds the
    latent weights: by the TorchScript exporter always, by the dynamo exporter above 8192 weights;
    smaller ones it folds to +-1 constants, which `--moderate` takes behind a padding of -1.
    scale: a learned factor per output channel (it begins as mean |weight|, as in XNOR-Net).
    gradient: of both signs, see `sign`.

    Raises ValueError for channels that `groups` does not divide, an unknown gradient, negative
    padding, or another padding value.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        *,
        padding_value: int = -1,
        scale: bool = False,
        gradient: Gradient = "clip",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{groups} groups divide neither or only one of {in_channels} input and "
                f"{out_channels} output channels"
            )
        if padding_value not in (-1, 0, 1):
            raise ValueError(f"padding_value is -1, 0 or 1, not {padding_value!r}")
        if min(_pair(padding)) < 0:
            raise ValueError(f"padding is 0 or more, not {padding!r}")
        shape = (out_channels, in_channels // groups, *_pair(kernel_size))
        super().__init__(shape, scale, gradient, {"device": device, "dtype": dtype})
        self.stride, self.dilation, self.groups = _pair(stride), _pair(dilation), groups
        self.padding, self.padding_value = _pair(padding), padding_value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [n, in_channels, h, w] -> [n, out_channels, ho, wo]."""
        s = sign(x, self.gradient)
        rows, columns = self.padding
        if rows or columns:
            s = functional.pad(s, (columns, columns, rows, rows), value=float(self.padding_value))
        t = sign(self.weight, self.gradient)
        y = functional.conv2d(s, t, stride=self.stride, dilation=self.dilation, groups=self.groups)
        return y if self.scale is None else y * self.scale.view(-1, 1, 1)

    def extra_repr(self) -> str:
        """The arguments, for print(network)."""
        co, ci, *kernel = self.weight.shape
        return (
            f"{ci * self.groups}, {co}, kernel_size={tuple(kernel)}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"padding_value={self.padding_value}, scale={self.scale is not None}, "
            f"gradient={self.gradient!r}"
        )


class BinaryLinear(_Binary):
    """Dense layer of sign(x) with sign(weight): integers, which the compiled model counts in bits.

    Input [..., in_features], any floats; output [..., out_features], times `scale` [out_features]
    where there is one. `weight` [out_features, in_features] are the latent weights. No bias: a
    BatchNorm1d behind it has one. scale, gradient: as in BinaryConv2d. Raises ValueError for an
    unknown gradient.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        scale: bool = False,
        gradient: Gradient = "clip",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        super().__init__((out_features, in_features), scale, gradient, factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [..., in_features] -> [..., out_features]."""
        y = functional.linear(sign(x, self.gradient), sign(self.weight, self.gradient))
        return y if self.scale is None else y * self.scale

    def extra_repr(self) -> str:
        """The arguments, for print(network)."""
        co, ci = self.weight.shape
        return f"{ci}, {co}, scale={self.scale is not None}, gradient={self.gradient!r}"


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
