"""bnn_tvm.torch: its signs and gradients, its layers, and what either exporter makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from bnn_tvm.frontend import prepare
from bnn_tvm.options import CompileOptions
from bnn_tvm.recognize import Recognition, expand, recognize
from tests.exporters.export import EXPORTERS, export, needs_torch
from tests.recognize.nets import session

pytestmark = needs_torch


def find(model: onnx.ModelProto, mode: str) -> Recognition:
    return recognize(prepare(model), CompileOptions(mode=mode))  # type: ignore[arg-type]


@pytest.mark.parametrize("gradient", ["clip", "bireal"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_sign_has_two_values_and_nan_is_minus_one(gradient: Any, dtype: str) -> None:
    import torch

    from bnn_tvm.torch import sign

    values = [float("-inf"), -2, -1e-7, -0.0, 0.0, 1e-7, 3, float("inf"), float("nan")]
    x = torch.tensor(values, dtype=getattr(torch, dtype), requires_grad=True)
    expected = [-1, -1, -1, 1, 1, 1, 1, 1, -1]
    if dtype == "float16":  # the last number before 0 is 6e-8
        assert x[2] < 0
    for y in (sign(x, gradient), sign(x.detach(), gradient)):
        assert y.dtype == x.dtype
        assert y.tolist() == expected
    with torch.no_grad():
        assert sign(x, gradient).tolist() == expected


def test_clip_gradient_is_that_of_a_clip() -> None:
    import torch

    from bnn_tvm.torch import sign

    x = torch.tensor([-1.5, -1.0, -0.25, 0.0, 0.5, 1.0, 1.01], requires_grad=True)
    (sign(x) * torch.arange(1.0, 8.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]


def test_bireal_gradient_is_that_of_the_piecewise_quadratic() -> None:
    import torch

    from bnn_tvm.torch import sign

    x = torch.linspace(-1.6, 1.6, 65, dtype=torch.float64, requires_grad=True)
    sign(x, "bireal").sum().backward()
    z = x.detach().clone().requires_grad_()
    below, above = 2 * z + z * z, 2 * z - z * z
    quadratic = torch.where(z < -1, -1.0, torch.where(z > 1, 1.0, torch.where(z < 0, below, above)))
    quadratic.sum().backward()
    assert x.grad is not None and z.grad is not None
    torch.testing.assert_close(x.grad, z.grad)


def test_an_unknown_gradient_is_refused() -> None:
    import torch

    from bnn_tvm.torch import BinaryConv2d, BinaryLinear, sign

    wrong: Any = "tanh"
    for call in (
        lambda: sign(torch.ones(1), wrong),
        lambda: BinaryConv2d(1, 1, 1, gradient=wrong),
        lambda: BinaryLinear(1, 1, gradient=wrong),
    ):
        with pytest.raises(ValueError, match="gradient is one of clip, bireal, not 'tanh'"):
            call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding_value": 2}, "padding_value is -1, 0 or 1, not 2"),
        ({"padding": (1, -1)}, r"padding is 0 or more, not \(1, -1\)"),
        ({"groups": 3}, "3 groups divide neither or only one of 4 input and 6 output channels"),
    ],
)
def test_wrong_arguments_of_a_convolution_are_refused(arguments: Any, message: str) -> None:
    from bnn_tvm.torch import BinaryConv2d

    with pytest.raises(ValueError, match=message):
        BinaryConv2d(4, 6, 3, **arguments)


@pytest.mark.parametrize("padding_value", [-1, 0, 1])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_counts_signs(padding_value: int, scale: bool, groups: int) -> None:
    import torch

    from bnn_tvm.torch import BinaryConv2d

    torch.manual_seed(3)
    layer = BinaryConv2d(
        4,
        6,
        (3, 2),
        stride=(2, 1),
        padding=(1, 2),
        dilation=(1, 2),
        groups=groups,
        padding_value=padding_value,
        scale=scale,
    )
    x = torch.randn(2, 4, 7, 5)
    x[0, 0] = 0
    s = np.where(x.numpy() >= 0, 1, -1)
    s = np.pad(s, ((0, 0), (0, 0), (1, 1), (2, 2)), constant_values=padding_value)
    t = np.where(layer.weight.detach().numpy() >= 0, 1, -1)
    ho, wo = (s.shape[2] - 3) // 2 + 1, s.shape[3] - 2
    wanted = np.zeros((2, 6, ho, wo))
    for o in range(6):
        first = o // (6 // groups) * (4 // groups)
        for i in range(4 // groups):
            for kh in range(3):
                for kw in range(2):
                    rows = slice(kh, kh + 2 * ho - 1, 2)
                    columns = slice(2 * kw, 2 * kw + wo)
                    wanted[:, o] += t[o, i, kh, kw] * s[:, first + i, rows, columns]
    if scale:
        assert layer.scale is not None
        wanted = wanted * layer.scale.detach().numpy()[:, None, None]
    got = layer(x).detach().numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    if not scale:
        np.testing.assert_array_equal(got, wanted)


def test_dense_layer_counts_signs() -> None:
    import torch

    from bnn_tvm.torch import BinaryLinear

    torch.manual_seed(4)
    layer, x = BinaryLinear(9, 5, scale=True), torch.randn(2, 3, 9)
    s, t = (np.where(a.detach().numpy() >= 0, 1, -1) for a in (x, layer.weight))
    assert layer.scale is not None
    wanted = s @ t.T * layer.scale.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, rtol=1e-6)


def test_scale_begins_as_the_mean_magnitude_of_the_weights() -> None:
    from bnn_tvm.torch import BinaryConv2d

    layer = BinaryConv2d(4, 6, 3, scale=True)
    assert layer.scale is not None
    mean = layer.weight.detach().abs().numpy().mean(axis=(1, 2, 3))
    np.testing.assert_allclose(layer.scale.detach().numpy(), mean, rtol=1e-6)


def test_training_moves_the_latent_weights_and_clipping_keeps_them_in_reach() -> None:
    import torch

    from bnn_tvm.torch import BinaryConv2d

    torch.manual_seed(0)
    layer = BinaryConv2d(8, 4, 3, padding=1, scale=True, gradient="bireal")
    optimizer = torch.optim.SGD(layer.parameters(), lr=5.0)
    x, target = torch.randn(4, 8, 6, 6), torch.randn(4, 4, 6, 6)
    before = layer.weight.detach().clone()
    first = None
    for _ in range(3):
        loss = (layer(x) - target).square().mean()
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        layer.clip_weights()
    assert not torch.equal(torch.sign(before), torch.sign(layer.weight.detach()))
    assert layer.weight.abs().max() <= 1
    assert layer.scale is not None and layer.scale.grad is not None
    assert layer.scale.grad.abs().sum() > 0


def test_layers_print_their_arguments() -> None:
    from bnn_tvm.torch import BinaryConv2d, BinaryLinear

    assert repr(BinaryConv2d(4, 6, 3, padding=1, groups=2)) == (
        "BinaryConv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), "
        "groups=2, padding_value=-1, scale=False, gradient='clip')"
    )
    assert repr(BinaryLinear(4, 6)) == "BinaryLinear(4, 6, scale=False, gradient='clip')"


def network(padding_value: int = -1, scale: bool = True) -> Any:
    import torch
    from torch import nn

    from bnn_tvm.torch import BinaryConv2d, BinaryLinear

    torch.manual_seed(7)
    return nn.Sequential(
        BinaryConv2d(16, 24, 3, padding=1, padding_value=padding_value, scale=scale),
        nn.BatchNorm2d(24),
        BinaryConv2d(24, 8, 3, stride=2, padding=1, padding_value=padding_value, scale=scale),
        nn.Flatten(),
        BinaryLinear(128, 10, scale=scale),
    ).eval()


def exact(model: onnx.ModelProto, found: Recognition) -> None:
    """The rewritten model equals the original and PyTorch, exact zeros among the inputs."""
    import torch

    x = np.random.default_rng(1).integers(-2, 3, (1, 16, 8, 8)).astype(np.float32)
    (wanted,) = session(prepare(model).model).run(None, {"x": x})
    (got,) = session(expand(found.model)).run(None, {"x": x})
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
    with torch.no_grad():
        y = network()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, y, rtol=0, atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize("gradients", [True, False])
def test_strict_takes_every_layer_where_the_exporter_keeps_the_sign_of_the_weights(
    gradients: bool,
) -> None:
    import torch

    with torch.set_grad_enabled(gradients):
        model = export(network(), torch.randn(1, 16, 8, 8), "torchscript", 13)
    found = find(model, "strict")
    assert [d.rule for d in found.decisions] == ["strict"] * 3
    assert not found.warnings and not any(d.implied for d in found.decisions)
    exact(model, found)


def test_moderate_takes_every_layer_where_the_exporter_folds_the_weights() -> None:
    """Moderate does: a Pad of -1 is before the convs, and a dense layer needs none."""
    import torch

    model = export(network(), torch.randn(1, 16, 8, 8), "dynamo", 18)
    assert "Sign" not in {n.op_type for n in model.graph.node}
    assert not any(d.binary for d in find(model, "strict").decisions)
    found = find(model, "moderate")
    assert [d.rule for d in found.decisions] == ["moderate"] * 3
    assert not found.warnings and not any(d.implied for d in found.decisions)
    exact(model, found)


def test_strict_takes_what_is_too_large_for_the_dynamo_exporter_to_fold() -> None:
    """Its folding stops at inputs of 8192 elements, which 32x32x3x3 weights exceed."""
    import torch

    from bnn_tvm.torch import BinaryConv2d

    layer = BinaryConv2d(32, 32, 3, padding=1).eval()
    (decision,) = find(export(layer, torch.randn(1, 32, 4, 4), "dynamo", 18), "strict").decisions
    assert decision.rule == "strict"


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("padding_value", [0, 1])
def test_other_paddings_are_exact_in_the_default_mode(exporter: str, padding_value: int) -> None:
    import torch

    module = network(padding_value, scale=False)
    model = export(module, torch.randn(1, 16, 8, 8), exporter, 18)
    found = find(model, "aggressive")
    assert all(d.binary for d in found.decisions) and not found.warnings
    assert not any(d.implied for d in found.decisions)
    if exporter == "torchscript":
        rule = "strict" if padding_value else "aggressive"
        assert [d.rule for d in found.decisions] == [rule, rule, "strict"]
    x = np.random.default_rng(2).integers(-2, 3, (1, 16, 8, 8)).astype(np.float32)
    (got,) = session(expand(found.model)).run(None, {"x": x})
    with torch.no_grad():
        np.testing.assert_array_equal(got, module(torch.from_numpy(x)).numpy())


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_networks_of_other_float_types_are_binary_and_exact_too(dtype: str) -> None:
    import torch

    module = network().to(getattr(torch, dtype))
    x = torch.randn(1, 16, 8, 8).to(getattr(torch, dtype))
    found = find(export(module, x, "torchscript", 18), "strict")
    assert [d.rule for d in found.decisions] == ["strict"] * 3
    (got,) = session(expand(found.model)).run(None, {"x": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(
            got, module(x).numpy(), rtol=1e-3 if dtype == "float16" else 1e-6
        )


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_exports_hold_standard_operators_only(exporter: str) -> None:
    import torch

    model = export(network(), torch.randn(1, 16, 8, 8), exporter, 18)
    assert {n.domain for n in model.graph.node} == {""}
    assert {o.domain for o in model.opset_import} == {""}
    assert not model.functions
