"""Help is quick, shows an example, and is the same for both spellings of a command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bnn_tvm.cli.main import COMMANDS

HEAVY = ("tvm", "onnx", "onnx_ir", "onnxruntime")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(cli, name: str) -> None:
    outcome = cli(name, "--help")
    assert outcome.code == 0
    assert "Example" in outcome.out
    assert f"bnn-tvm {name}" in outcome.out
    assert "--json" in outcome.out and "--debug" in outcome.out


def test_help_of_the_tool_lists_every_command(cli) -> None:
    outcome = cli("--help")
    assert outcome.code == 0
    assert all(f"\n  {name} " in outcome.out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_a_module_whose_help_imports_nothing_heavy(name: str) -> None:
    # As `python -m bnn_tvm.NAME --help`, with a look at what was imported.
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['x', '--help']\n"
        "try:\n"
        f"    runpy.run_module('bnn_tvm.{name}', run_name='__main__')\n"
        "except SystemExit as done:\n"
        "    assert not done.code, done.code\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "assert not heavy, heavy\n"
        "import inspect\n"
        "assert hasattr(inspect, 'signature'), 'the standard module is shadowed'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"python -m bnn_tvm.{name}" in done.stdout


def test_module_of_the_tool() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bnn_tvm", "targets", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert '"arm64"' in done.stdout
