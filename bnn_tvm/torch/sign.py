"""The binariser: +1 where x >= 0, -1 elsewhere, with a gradient that training can follow."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch

Gradient = Literal["clip", "bireal"]


def sign(x: torch.Tensor, gradient: Gradient = "clip") -> torch.Tensor:
    """+1.0 where x >= 0 (so at 0 and -0.0), else -1.0 (so at NaN); shape and dtype of x.

    `torch.sign` gives 0 at 0, which one bit cannot hold; this one is exported as
    Where(GreaterOrEqual(x, 0), 1, -1), of which the compiled model is an exact copy.

    gradient: the straight-through estimator that stands for the derivative, which is 0 wherever
    it exists:
    "clip": 1 where |x| <= 1, else 0: the derivative of clip(x, -1, 1) (Courbariaux et al.,
    "Binarized Neural Networks", 2016).
    "bireal": max(0, 2 - 2|x|): the derivative of a piecewise quadratic, nearer to the sign (Liu
    et al., "Bi-Real Net", ECCV 2018).

    Raises ValueError for another `gradient`.
    """
    check_gradient(gradient)
    if torch.onnx.is_in_onnx_export() or not torch.is_grad_enabled():
        return _step(x)
    result: torch.Tensor = _Sign.apply(x, gradient)
    return result


def check_gradient(gradient: str) -> None:
    """Raise ValueError unless `gradient` is one that `sign` has."""
    if gradient not in get_args(Gradient):
        raise ValueError(f"gradient is one of {', '.join(get_args(Gradient))}, not {gradient!r}")


def _step(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


class _Sign(torch.autograd.Function):
    """`_step` forward, an estimated derivative backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gradient: Gradient) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.gradient = gradient
        return _step(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        if ctx.gradient == "bireal":
            return grads[0] * (2 - 2 * x.abs()).clamp(min=0), None
        return grads[0] * (x.abs() <= 1).to(grads[0].dtype), None
