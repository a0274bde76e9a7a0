"""Running commands in-process, with streams and exit code caught."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from bnn_tvm.cli.boundary import execute
from bnn_tvm.cli.main import group


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]):
    """Call with arguments, get an `Outcome`."""

    def run(*args: object) -> Outcome:
        code = execute(group, [str(arg) for arg in args], "bnn-tvm")
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run
