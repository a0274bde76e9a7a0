"""The threads of a context by themselves: loops shared out, late, failing, many at once."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bnn_tvm.export import link
from tests.export.programs import host_spec

HERE = Path(__file__).parent


def sources() -> list[Path]:
    return [
        HERE / "pool_check.c",
        *(link.runtime_dir() / "src" / n for n in ("pool.c", "current.c")),
    ]


def check(program: Path, rounds: int, delay_us: int) -> None:
    done = subprocess.run(
        [program, str(rounds), str(delay_us)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr[:4000]
    assert done.stdout.strip() == "all checks passed"


@pytest.mark.parametrize(("rounds", "delay_us"), [(400, 0), (60, 100)])
def test_every_turn_runs_once_whoever_is_late(rounds: int, delay_us: int, tmp_path: Path) -> None:
    flags = ["-I", str(link.runtime_dir() / "src"), "-Werror"]
    link.link_executable(
        host_spec().zig_target, sources(), tmp_path / "check", flags=flags, libraries=["-lpthread"]
    )
    check(tmp_path / "check", rounds, delay_us)


def test_threads_do_not_race(tmp_path: Path) -> None:
    """By ThreadSanitizer, which comes with gcc."""
    if (gcc := shutil.which("gcc")) is None:
        pytest.skip("needs gcc with ThreadSanitizer")
    command = [gcc, "-fsanitize=thread", "-O1", "-g", "-std=gnu11", *map(str, sources())]
    command += ["-I", str(link.runtime_dir() / "src"), "-I", str(link.include_dir()), "-pthread"]
    built = subprocess.run(
        [*command, "-o", str(tmp_path / "check")], capture_output=True, text=True, timeout=120
    )
    if "tsan" in built.stderr:
        pytest.skip("gcc has no ThreadSanitizer here")
    assert built.returncode == 0, built.stderr
    check(tmp_path / "check", 150, 0)
    check(tmp_path / "check", 30, 50)
