"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """A folder of real and trained networks next to the checkout; not part of the repository."""
    folder = ROOT.parent / "shared" / "models"
    if not folder.is_dir():
        pytest.skip("needs the model collection in ../shared/models, which is not here")
    return folder


@pytest.fixture(scope="session")
def digits() -> Path:
    """The trained network that ships with the repository."""
    return ROOT / "examples" / "digits" / "digits.onnx"
