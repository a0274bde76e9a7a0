"""Every command and program in the README works, in the order in which it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line for language, text in BLOCKS if language == "bash" for line in text.strip().splitlines()
]
PROGRAMS = {language: text for language, text in BLOCKS if language in ("python", "c")}
OUTPUTS = [text for language, text in BLOCKS if language == "text"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Looks like the checkout to the commands, but nothing is written into that."""
    path = tmp_path_factory.mktemp("readme")
    (path / "examples").symlink_to(ROOT / "examples")
    (path / "app.c").write_text(PROGRAMS["c"])
    return path


@pytest.fixture(scope="module")
def shell(folder: Path):
    """Run a line of bash as a user with an active virtual environment would."""
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(bin_folder.parent),
        "COLUMNS": "110",
    }

    def run(line: str, cwd: Path = folder) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=cwd, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def has_qemu() -> bool:
    from bnn_tvm.devices import find_qemu

    return find_qemu("aarch64") is not None


def test_the_demo_script(shell) -> None:
    assert "scripts/demo" in COMMANDS
    out = shell("scripts/demo", ROOT)
    assert "digit: 0" in out
    assert out.count("verified: the compiled model computes") == (2 if has_qemu() else 1)


def test_the_test_script(shell) -> None:
    assert "scripts/test" in COMMANDS
    assert "passed" in shell("scripts/test -n 0 tests/cli/test_options.py", ROOT)


def test_the_commands(shell, folder: Path) -> None:
    lines = [line for line in COMMANDS if not line.startswith("scripts/")]
    assert len(lines) >= 9
    shown = {}
    for line in lines:
        if "verify --target arm64" in line and not has_qemu():
            continue
        shown[line] = shell(line)
    compiled = next(out for line, out in shown.items() if " compile " in line)
    # Up to the summary: what follows names this machine and sizes.
    summary = "3 of 6 layers are binary"
    assert compiled.split(summary)[0] == OUTPUTS[0].split(summary)[0]
    for line, out in shown.items():
        if "verify" in line:
            assert OUTPUTS[1].splitlines()[-1] in out
    assert re.search(r"^9: -?\d+\.\d+$", shown["LD_LIBRARY_PATH=. ./app"], re.MULTILINE)


def test_the_python_program(shell, folder: Path) -> None:
    (folder / "program.py").write_text(PROGRAMS["python"])
    out = shell("python program.py").splitlines()
    assert len(out) == 7
    assert out[-1].startswith("0 "), "the example image is a zero"


def test_the_map_names_what_is_there() -> None:
    rows = README.split("## Map")[1].split("\n\n")[1].splitlines()[2:]
    for row in rows:
        names = re.findall(r"`([^`]+)`", row.split("|")[1])
        for name in names:
            assert (ROOT / name).exists() or (ROOT / "bnn_tvm" / name).exists(), name
