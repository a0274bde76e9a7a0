"""Binary layers for training in PyTorch, spelled so that bnn_tvm compiles them exactly.

    from bnn_tvm.torch import BinaryConv2d, BinaryLinear, sign

What they compute in PyTorch is what their ONNX export computes and what the compiled model
computes: there is no sign of zero and no padding that a bit could not hold, so nothing has to be
implied. Both exporters of PyTorch (`torch.onnx.export` with dynamo=False and dynamo=True) write
them with standard operators.

The one part of bnn_tvm that needs PyTorch: `pip install bnn-tvm[torch]`.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "bnn_tvm.torch needs PyTorch: pip install bnn-tvm[torch]", name="torch"
    ) from error

from bnn_tvm.torch.layers import BinaryConv2d, BinaryLinear
from bnn_tvm.torch.sign import sign

__all__ = ["BinaryConv2d", "BinaryLinear", "sign"]
