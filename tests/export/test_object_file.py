from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tvm.ir import IRModule

from bnn_tvm.export import kernels_abi
from bnn_tvm.export.object_file import LINE, align_code, loaded_bytes
from tests.export.programs import ARM64, ARMV7, X86, kernels

readelf = pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")


def code(spec: object) -> bytes:
    module = IRModule({"affine": kernels()["affine"]})
    return kernels_abi.compile_objects(module, {"affine"}, spec.tvm_target())["affine"]  # type: ignore[attr-defined]


def sections(code: bytes, folder: Path) -> list[tuple[str, int, str, int]]:
    """Name, size, flags and alignment of each section, as readelf has them."""
    path = folder / "kernel.o"
    path.write_bytes(code)
    text = subprocess.run(
        ["readelf", "-W", "-S", path], check=True, capture_output=True, text=True
    ).stdout
    row = r"\] (\S+) +\w+ +[0-9a-f]+ [0-9a-f]+ ([0-9a-f]+) [0-9a-f]+ +([A-Z]*) +\d+ +\d+ +(\d+)$"
    return [
        (name, int(size, 16), flags, int(align))
        for name, size, flags, align in re.findall(row, text, re.M)
    ]


@readelf
@pytest.mark.parametrize("spec", [X86, ARM64], ids=lambda s: s.name)
def test_kernels_begin_on_a_cache_line(spec: object, tmp_path: Path) -> None:
    made = code(spec)
    found = sections(made, tmp_path)
    assert {align for _, size, flags, align in found if "X" in flags} == {LINE}
    assert loaded_bytes(made) == sum(size for _, size, flags, _ in found if "A" in flags)


def test_nothing_but_the_alignment_of_code_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = code(X86)
    assert align_code(made) == made
    monkeypatch.setattr(kernels_abi, "align_code", lambda code: code)
    before = code(X86)
    changes = {(old, new) for old, new in zip(before, made, strict=True) if old != new}
    assert changes == {(16, LINE)}


def test_files_of_another_kind_stay() -> None:
    made = code(ARMV7)
    assert made[4] == 1  # ELFCLASS32
    assert align_code(made) == made
    assert loaded_bytes(made) == len(made)
