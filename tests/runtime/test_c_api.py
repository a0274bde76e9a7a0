"""The C API as a C programmer meets it: built with zig against the header alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bnn_tvm.export import link
from tests.export.programs import H_NAME, X_NAME, Y_NAME, host_spec

ROOT = Path(__file__).resolve().parents[2]


def c_program(source: Path, library: Path, output: Path, *flags: str) -> Path:
    """Link `source` with the model, as an application would."""
    target = host_spec().zig_target
    link.link_executable(target, [source, library], output, flags=flags, libraries=["-lpthread"])
    return output


def run(program: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    return subprocess.run(
        [str(program), *arguments], env=env, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def folder(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("c")
    shutil.copy(saved, folder / "net.so")
    return folder


def test_the_example_application_loads_and_runs_a_model(folder: Path) -> None:
    example = ROOT / "examples" / "c" / "main.c"
    program = c_program(example, folder / "net.so", folder / "example", "-Werror", "-pedantic")
    done = run(program, folder, "2")
    assert done.returncode == 0, done.stderr
    assert "net.onnx, compiled by bnn_tvm" in done.stdout
    assert f"input {X_NAME}: float32 [24, 96] NC" in done.stdout
    assert f"output {H_NAME}: float32 [24, 40]" in done.stdout
    assert "ms  h (dense, dense-f32)" in done.stdout
    assert f"{Y_NAME} = " in done.stdout
    failing = run(program, folder, "0")
    assert failing.returncode == 1
    assert "no context: an argument is NULL or out of range" in failing.stderr


def test_every_status_of_the_api(folder: Path) -> None:
    program = c_program(
        Path(__file__).with_name("api_check.c"), folder / "net.so", folder / "check", "-Werror"
    )
    done = run(program, folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.strip() == "all checks passed"


def test_failing_allocations_are_reported_and_leak_nothing(folder: Path) -> None:
    """Each allocation of create and the first run fails once; the rest must be freed."""
    program = folder / "alloc"
    from tests.export.programs import artifact

    parts = artifact(host_spec()).parts
    for name, data in parts.items():
        (folder / name).write_bytes(data)
    sources = [
        Path(__file__).with_name("alloc_check.c"),
        *(folder / name for name in parts if name.endswith((".c", ".S", ".o"))),
        *link.runtime_sources(),
    ]
    wrap = [f"-Wl,--wrap={f}" for f in ("calloc", "posix_memalign", "free", "pthread_create")]
    link.link_executable(
        host_spec().zig_target,
        sources,
        program,
        flags=["-I", str(link.runtime_dir() / "src"), *wrap],
        libraries=["-lpthread", "-lm"],
    )
    done = run(program, folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "leaks 0" in done.stdout


def test_the_header_is_valid_c_plus_plus(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "app.cpp"
    source.write_text(
        "#include <bnn_tvm.h>\n"
        "int main() { return bnn_get_api()->abi_version == BNN_ABI_VERSION ? 0 : 1; }\n"
    )
    # As C++, but not by `zig c++`: that would build a C++ library first.
    link.run_zig(
        ["cc", "-x", "c++", "-target", host_spec().zig_target, "-std=c++11", "-Wall", "-Wextra",
         "-Werror", "-pedantic", "-I", str(link.include_dir()), "-c", str(source), "-o", "app.o"],
        tmp_path,
    )  # fmt: skip
    assert (tmp_path / "app.o").is_file()
