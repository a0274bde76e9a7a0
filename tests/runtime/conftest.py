from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.programs import artifact, host_spec


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test network compiled for this machine: the path of its .so."""
    return artifact(host_spec()).save(tmp_path_factory.mktemp("saved") / "net")[0]
