"""What pyproject.toml offers is what the texts ask for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/*.*", "scripts/*.*")
    for path in ROOT.glob(pattern)
    if path.suffix in (".md", ".py", ".sh")
)


def _extras() -> dict[str, list[str]]:
    """The optional dependencies; read without tomllib, which Python 3.10 lacks."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = text.split("[project.optional-dependencies]\n")[1].split("\n[project")[0]
    extras: dict[str, list[str]] = {}
    name = ""
    for line in table.splitlines():
        start = re.match(r"(\w+) = \[", line)
        name = start.group(1) if start else name
        if not line.startswith("#"):
            extras.setdefault(name, []).extend(re.findall(r'"([^"]+)"', line))
    return extras


def test_every_extra_that_a_text_names_exists() -> None:
    named = {
        name
        for path in TEXTS
        for names in re.findall(r"\.\[([\w,]+)\]", path.read_text(encoding="utf-8"))
        for name in names.split(",")
    }
    assert "train" in named
    assert named <= _extras().keys()


@pytest.mark.parametrize("package", ["torch", "scikit-learn", "onnxscript"])
def test_a_package_has_the_same_pins_in_every_extra(package: str) -> None:
    pins = {
        tuple(line for line in lines if re.match(rf"{package}\W", line))
        for lines in _extras().values()
    } - {()}
    assert len(pins) == 1
    assert all("==" in line for line in pins.pop())
