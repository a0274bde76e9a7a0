"""The tables of docs/recognition.md are what the recogniser really decides."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from bnn_tvm.frontend import Prepared, prepare
from bnn_tvm.options import CompileOptions
from bnn_tvm.recognize import Recognition, recognize
from tests.exporters.export import export, needs_torch

DOC = (Path(__file__).resolve().parents[2] / "docs" / "recognition.md").read_text("utf-8")
SHAPE = (1, 16, 6, 6)
BOTH = ("torchscript", pytest.param("dynamo", marks=pytest.mark.slow))
BINARISER = "torch.where(x >= 0, 1.0, -1.0)"


def rows(table: str) -> list[list[str]]:
    """The cells of one marked table, without its two header lines."""
    text = DOC.split(f"<!-- {table} -->")[1].split("<!-- end -->")[0]
    lines = [line.strip().strip("|") for line in text.strip().splitlines()[2:]]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def code(cell: str) -> str:
    """The first code span of a cell."""
    found = re.match(r"`([^`]*)`", cell)
    assert found, cell
    return found[1]


def plain(cell: str) -> str:
    """A cell without its footnote."""
    return re.sub(r" \(\d\)$", "", cell)


def evaluate(expression: str, **values: Any) -> Any:
    import torch
    from torch.nn import functional

    from bnn_tvm.torch import sign
    from tests.exporters import modules

    torch.manual_seed(2)
    scope = {**vars(modules), "torch": torch, "F": functional, "sign": sign, **values}
    scope["constant"] = lambda w: torch.where(w >= 0, 1.0, -1.0)
    scope["alpha"] = torch.rand(4, 1, 1, 1) + 0.5
    return eval(expression, scope)


@functools.cache
def prepared(activation: str, weights: str, exporter: str) -> Prepared:
    """The one layer conv(activation, weights) exported; s is a binarised x."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.w = nn.Parameter(torch.randn(4, 16, 3, 3))
            self.stored = "constant" in weights
            if self.stored:
                self.w = nn.Parameter(evaluate(weights, w=self.w.detach()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = evaluate(activation, x=x, s=evaluate(BINARISER, x=x))
            return functional.conv2d(a, self.w if self.stored else evaluate(weights, w=self.w))

    opset = {"torchscript": 17, "dynamo": 18}[exporter]
    return prepare(export(Layer().eval(), torch.randn(SHAPE), exporter, opset))


def find(
    activation: str, weights: str, exporter: str = "torchscript", mode: str = "aggressive"
) -> Recognition:
    """What is decided about conv(activation, weights)."""
    options = CompileOptions(mode=mode)  # type: ignore[arg-type]
    found = recognize(prepared(activation, weights, exporter), options)
    assert len(found.decisions) == 1
    return found


def verdict(found: Recognition) -> str:
    """How the tables write a decision; an implied binarisation must come with a warning."""
    (decision,) = found.decisions
    if not decision.binary:
        return "float"
    if decision.implied:
        assert decision.implied == ("binarized-input",) and found.warnings
        return f"{decision.rule}, implied"
    return str(decision.rule)


@needs_torch
@pytest.mark.parametrize("row", rows("binarisers"), ids=lambda row: row[0])
@pytest.mark.parametrize("exporter", BOTH)
def test_binarisers_become_the_step_of_the_table(row: list[str], exporter: str) -> None:
    import torch

    expression = code(row[0])
    found = find(expression, "torch.sign(w)", exporter)
    (decision,) = found.decisions
    assert decision.binary and not decision.implied and not found.warnings
    if exporter == "dynamo" or "bnn_tvm" in row[0]:  # TorchScript has a Cast more here and there
        nodes = re.search(r"two-valued \(([^)]*) of x\)", decision.reason)
        assert nodes
        assert nodes[1] in (plain(row[1]), plain(row[1]) + ", Cast")
    step = re.fullmatch(r"`x (>=|>) (\S+)`: (\S+), else (\S+)", plain(row[2]))
    assert step
    threshold = np.float32(step[2])
    if step[1] == ">":
        threshold = np.nextafter(threshold, np.float32(1))
    (binarize,) = [n for n in found.model.graph.node if n.op_type == "Binarize"]
    held = {t.name: numpy_helper.to_array(t) for t in found.model.graph.initializer}
    assert (held[binarize.input[1]] == threshold).all()
    assert (held[binarize.input[2]] == 1).all()
    below = np.nextafter(threshold, np.float32(-1))
    exactly_at = not row[2].endswith("(1)")
    probes = [5.0, float(threshold) if exactly_at else 5.0, -5.0, float(below)]
    values = evaluate(expression, x=torch.tensor(probes)).tolist()
    assert values == [float(step[3])] * 2 + [float(step[4])] * 2


@needs_torch
@pytest.mark.parametrize("row", rows("weights"), ids=lambda row: row[0])
@pytest.mark.parametrize("exporter", BOTH)
def test_weights_are_found_by_the_rule_of_the_table(row: list[str], exporter: str) -> None:
    import torch

    cell = row[2] if exporter == "torchscript" else row[3]
    assert verdict(find(BINARISER, code(row[0]), exporter)) == plain(cell)
    w = evaluate(code(row[0]), w=torch.randn(4, 16, 3, 3)).detach().flatten(1)
    if row[1] == "-1, +1":
        torch.testing.assert_close(w.abs(), torch.ones_like(w))
    elif row[1].startswith("±alpha"):
        torch.testing.assert_close(w.abs(), w.abs()[:, :1].expand_as(w))


@needs_torch
@pytest.mark.parametrize("row", rows("between"), ids=lambda row: row[0])
def test_structure_between_is_crossed_as_the_table_says(row: list[str]) -> None:
    wanted = "aggressive, implied" if row[1] == "implied" else row[1]
    found = find(code(row[0]), "torch.sign(w)")
    assert verdict(found) == wanted


@needs_torch
@pytest.mark.parametrize("row", rows("modes"), ids=lambda row: " ".join(row[:3]))
def test_modes_take_what_the_table_says(row: list[str]) -> None:
    activation = code(row[0])
    if row[1] != "none":
        activation = f"F.pad({activation}, (1, 1, 1, 1), value={float(row[1])})"
    for mode, cell in zip(("strict", "moderate", "aggressive"), row[3:], strict=True):
        assert verdict(find(activation, code(row[2]), mode=mode)) == cell


# A layer that gets each reason of the last table, in its order: activation, weights, mode.
REASONS = (
    (BINARISER, "w", "aggressive"),
    (BINARISER, "constant(w) * (torch.arange(576).view(4, 16, 3, 3) < 575)", "aggressive"),
    (f"F.pad({BINARISER}, (1, 1, 1, 1))", "torch.sign(w)", "strict"),
    (BINARISER, "constant(w)", "strict"),
    ("torch.round(x.clamp(-1, 1))", "torch.sign(w)", "strict"),
    ("torch.sign(F.relu(x))", "torch.sign(w)", "strict"),
    ("x", "constant(w)", "aggressive"),
    ("F.relu(x)", "constant(w.abs()) * 0.5", "aggressive"),
)


@needs_torch
@pytest.mark.parametrize(("row", "layer"), list(zip(rows("reasons"), REASONS, strict=True)))
def test_reasons_read_as_the_page_quotes_them(row: list[str], layer: tuple[str, str, str]) -> None:
    activation, weights, mode = layer
    (decision,) = find(activation, weights, mode=mode).decisions
    assert not decision.binary
    pattern = ".*".join(re.escape(part) for part in re.split(r"\.\.\.|\d", code(row[0])))
    assert re.search(pattern, decision.reason), decision.reason
