"""Models made to harm, and large ones: refused or analysed in bounded time, never a crash."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnn_tvm import api
from bnn_tvm.errors import ModelError
from bnn_tvm.frontend import prepare
from tests.frontend.models import parse
from tests.recognize.nets import Net, find

SIGNATURE = "(float[2,3] x) => (float[2,3] y)"


def test_constants_that_kill_the_process_are_refused() -> None:
    """The smallest int64 over -1 is a floating point exception of x86, in onnxruntime too."""
    least = f"{SIGNATURE} <int64[1] a = {{-9223372036854775808}}, int64[1] m = {{-1}}>"
    body = "d = Div(a, m) c = Cast<to=1>(d) y = Add(x, c)"
    try:
        prepared = prepare(parse(least, body))
    except ModelError as error:
        assert "SIGFPE" in str(error) and error.hint
    else:  # other processors give a number
        assert len(prepared.model.graph.node) == 1


def test_integer_division_by_what_may_be_zero_is_not_evaluated() -> None:
    for divisor in (0, -1):
        net = Net([1, 2, 4, 4])
        ratio = net.op("Div", net.op("Cast", "x", to=6), net.const(divisor, np.int32))
        sign = net.op("Sign", net.op("Cast", ratio, to=1))
        net.conv(sign, net.signs(3, 2, 1, 1))
        (decision,) = find(net, mode="strict").decisions
        assert not decision.binary


def many(blocks: int) -> Net:
    """Blocks of Conv, BatchNormalization, Sign and Mul."""
    net = Net([1, 4, 5, 5])
    x = net.op("Sign", "x")
    for _ in range(blocks):
        x = net.bn(net.conv(x, net.signs(4, 4, 3, 3), pads=[1, 1, 1, 1]), 4)
        x = net.op("Mul", net.op("Sign", x), net.const(0.5))
    net.op("Relu", x)
    return net


def test_nodes_by_the_thousand_are_analysed_in_linear_time() -> None:
    """Process time, so that other work on the machine does not count; five times is slack."""
    find(many(5))
    taken = []
    for blocks in (100, 300):
        begun = time.process_time()
        found = find(many(blocks))
        taken.append(time.process_time() - begun)
        assert sum(d.binary for d in found.decisions) == blocks
    assert taken[1] < 5 * taken[0] + 1


@pytest.mark.slow
def test_5000_nodes_are_analysed_in_seconds(tmp_path: Path) -> None:
    onnx.save(many(1250).model(), tmp_path / "large.onnx")
    begun = time.process_time()
    inspection = api.inspect(tmp_path / "large.onnx")
    assert sum(d["binary"] for d in inspection.decisions) == 1250
    assert time.process_time() - begun < 60


@pytest.mark.slow
def test_a_deep_chain_is_walked_without_recursion(tmp_path: Path) -> None:
    net = Net([1, 2])
    x = "x"
    for _ in range(20_000):
        x = net.op("Neg", x)
    net.op("MatMul", net.op("Sign", x), net.const(net.signs(2, 3)))
    onnx.save(net.model(), tmp_path / "deep.onnx")
    begun = time.process_time()
    assert api.inspect(tmp_path / "deep.onnx").decisions[0]["binary"]
    assert time.process_time() - begun < 60


@pytest.mark.slow
def test_500_mb_are_analysed_in_seconds(tmp_path: Path) -> None:
    net = Net([1, 4096])
    x = "x"
    for _ in range(8):
        weights = net.signs(4096, 4096)
        x = net.op("Gemm", net.op("Sign", x), net.const(weights), transB=1)
    onnx.save(net.model(), tmp_path / "wide.onnx")
    assert (tmp_path / "wide.onnx").stat().st_size > 500e6
    begun = time.process_time()
    assert all(d["binary"] for d in api.inspect(tmp_path / "wide.onnx").decisions)
    assert time.process_time() - begun < 60
