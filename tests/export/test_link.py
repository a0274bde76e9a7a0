from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bnn_tvm.errors import ToolchainError
from bnn_tvm.export import build, link
from tests.export.programs import ARM64, X86, artifact, metadata, network

readelf = pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")


def elf(so: bytes, folder: Path, *options: str) -> str:
    path = folder / "m.so"
    path.write_bytes(so)
    return subprocess.run(
        ["readelf", "-W", *options, path], check=True, capture_output=True, text=True
    ).stdout


@readelf
@pytest.mark.parametrize("spec", [X86, ARM64], ids=lambda s: s.name)
def test_only_the_functions_of_the_header_are_visible(spec: object, tmp_path: Path) -> None:
    rows = elf(artifact(spec).so, tmp_path, "--dyn-syms").splitlines()  # type: ignore[arg-type]
    defined = {row.split()[-1] for row in rows if re.search(r"(FUNC|OBJECT) .* \d+ \w+$", row)}
    header = (link.include_dir() / "bnn_tvm.h").read_text()
    assert "bnn_run" in defined
    assert defined == set(link.api_symbols())
    assert all(f" {name}(" in header.replace("*", " ") for name in defined)


@readelf
@pytest.mark.parametrize("spec", [X86, ARM64], ids=lambda s: s.name)
def test_the_library_needs_libc_alone(spec: object, tmp_path: Path) -> None:
    text = elf(artifact(spec).so, tmp_path, "-d")  # type: ignore[arg-type]
    needed = set(re.findall(r"NEEDED.*\[(.*?)\]", text))
    assert needed <= {
        "libc.so.6",
        "libm.so.6",
        "libpthread.so.0",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    }
    assert "libc.so.6" in needed


@readelf
@pytest.mark.parametrize("spec", [X86, ARM64], ids=lambda s: s.name)
def test_the_library_is_hardened_and_stripped(spec: object, tmp_path: Path) -> None:
    so = artifact(spec).so  # type: ignore[arg-type]
    assert re.search(r"GNU_STACK .* RW +0", elf(so, tmp_path, "-l"))
    assert "GNU_RELRO" in elf(so, tmp_path, "-l")
    dynamic = elf(so, tmp_path, "-d")
    assert "BIND_NOW" in dynamic
    assert "soname" not in dynamic  # apps look for the file by the name it was saved under
    assert "TEXTREL" not in dynamic
    assert ".symtab" not in elf(so, tmp_path, "-S")
    assert ".debug_info" not in elf(so, tmp_path, "-S")


@readelf
def test_the_library_runs_on_glibc_2_17(tmp_path: Path) -> None:
    text = elf(artifact(X86).so, tmp_path, "-V")
    versions = {tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_(\d+\.[\d.]*\d)", text)}
    assert versions
    assert max(versions) <= (2, 17)


def test_no_path_of_this_machine_is_in_the_library() -> None:
    so = artifact(X86).so
    for word in (b"/tmp/", b"/home/", b"/root/", str(Path(__file__).parents[2]).encode()):
        assert word not in so


def test_the_same_program_gives_the_same_bytes() -> None:
    again = build(network(), X86, metadata())
    assert again.so == artifact(X86).so
    assert again.dab == artifact(X86).dab


def test_a_missing_zig_is_a_toolchain_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match="linker is missing") as caught:
        link.run_zig(["version"], tmp_path)
    assert caught.value.hint == "pip install ziglang"
    assert caught.value.code == 4


def test_a_failing_zig_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text("int f(void) { return nonsense; }\n")
    with pytest.raises(ToolchainError, match=r"zig failed: .*nonsense"):
        link.link_shared("x86_64-linux-gnu.2.17", [tmp_path / "bad.c"], tmp_path / "m.so")
    assert not (tmp_path / "m.so").exists()


def test_an_undefined_symbol_is_found_when_linking(tmp_path: Path) -> None:
    (tmp_path / "model.c").write_text("int nowhere(void);\nint bnn_x(void){return nowhere();}\n")
    with pytest.raises(ToolchainError, match="undefined symbol"):
        link.link_shared("x86_64-linux-gnu.2.17", [tmp_path / "model.c"], tmp_path / "m.so")


def test_a_hanging_zig_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    with pytest.raises(ToolchainError, match=r"did not finish within 0\.2 s"):
        link.run_zig(["version"], tmp_path, timeout_s=0.2)


def test_without_a_home_the_caches_lie_in_the_work_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made there
    monkeypatch.delenv("ZIG_GLOBAL_CACHE_DIR", raising=False)
    env = link._zig_environment(tmp_path, keep=True)
    assert Path(env["ZIG_GLOBAL_CACHE_DIR"]).parent == tmp_path
    assert Path(env["ZIG_LOCAL_CACHE_DIR"]).parent == tmp_path
