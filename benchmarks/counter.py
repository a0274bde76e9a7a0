"""Where the counting tool armcost is, and whether it can work here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from . import arm64_program

#: Beside the checkout, if nobody says otherwise.
ARMCOST = Path(__file__).resolve().parents[2] / "shared" / "tools" / "armcost" / "armcost.py"
_LEAST_LLVM = 19
# What armcost calls, and the variable that names another one.
_TOOLS = {"llvm-mc": "LLVM_MC", "llvm-mca": "LLVM_MCA"}


def missing(armcost: Path) -> str | None:
    """Why `armcost` cannot count here, or None."""
    if (linker := arm64_program.missing_tool()) is not None:
        return linker
    if not armcost.is_file():
        return f"armcost is not at {armcost}: give its path with --armcost"
    if not all(_is_new(tool(name)) for name in _TOOLS):
        return f"armcost needs LLVM {_LEAST_LLVM} or newer: apt install llvm-{_LEAST_LLVM}"
    return None


def tool(name: str) -> str | None:
    """The path of the LLVM tool that armcost takes, the newest by its name."""
    variable = _TOOLS[name]
    versions = (f"{name}-{version}" for version in range(30, _LEAST_LLVM - 1, -1))
    names = [os.environ[variable]] if os.environ.get(variable) else [*versions, name]
    return next((path for path in map(shutil.which, names) if path), None)


def _is_new(found: str | None) -> bool:
    if found is None:
        return False
    done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"LLVM version (\d+)", done.stdout)
    return version is not None and int(version[1]) >= _LEAST_LLVM
