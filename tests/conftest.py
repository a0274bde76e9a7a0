"""Fixtures for all tests."""

from __future__ import annotations

import gzip
from collections.abc import Callable
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


@pytest.fixture(scope="session")
def unpacked(
    shared_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Paths of shared models as plain .onnx: `unpacked("real/x.onnx.gz")` unzips it once."""
    folder = tmp_path_factory.mktemp("unpacked")

    def unpack(name: str) -> Path:
        packed = shared_models / name
        if packed.suffix != ".gz":
            return packed
        plain = folder / packed.stem
        if not plain.exists():
            plain.write_bytes(gzip.decompress(packed.read_bytes()))
        return plain

    return unpack
