"""What docs/android.md says works: its commands, and its C against the header."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bnn_tvm.devices import find_qemu
from bnn_tvm.export import link

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs" / "android.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```bash\n(.*?)\n```", DOC, re.DOTALL)


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: line.split()[1])
def test_commands(cli, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    program, *arguments = shlex.split(line)
    if arguments[0] == "verify" and find_qemu("aarch64") is None:
        pytest.skip("needs qemu-aarch64")
    outcome = cli(*arguments)
    assert (program, outcome.code) == ("bnn-tvm", 0), outcome
    if arguments[0] == "compile":
        assert (tmp_path / "out" / "libdigits.so").is_file()
        assert (tmp_path / "out" / "libdigits.dab").is_file()


def test_the_program_compiles(tmp_path: Path) -> None:
    (code,) = re.findall(r"```c\n(.*?)```", DOC, re.DOTALL)
    (tmp_path / "app.c").write_text(code)
    link.run_zig(
        ["cc", "-target", "aarch64-linux-musl", "-std=c11", "-Wall", "-Wextra", "-Werror", "-c",
         "-I", str(link.include_dir()), "app.c", "-o", "app.o"],
        tmp_path,
    )  # fmt: skip
