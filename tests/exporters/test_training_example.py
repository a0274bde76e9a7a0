"""examples/torch_training does what its README says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.exporters.export import needs_torch

pytestmark = needs_torch

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "torch_training" / "train.py"


@pytest.mark.filterwarnings("ignore")
def test_training_ends_in_a_library_that_answers_as_pytorch_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    spec = importlib.util.spec_from_file_location("train_with_torch", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(["--epochs", "2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count(": binary by strict: ") == 2
    assert said.count(": binary by moderate: ") == 1
    assert said.count(": float: ") == 1
    accuracy = float(said.split("compiled: ")[1].split(" %")[0])
    assert accuracy > 75
    assert (tmp_path / "digits.so").exists() and (tmp_path / "digits.dab").exists()
