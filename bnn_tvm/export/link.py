"""Compiling C and linking for any target with zig, which comes from PyPI.

zig carries a C compiler, a linker and the symbol lists of every glibc, so the machine needs
nothing but Python. What it lacks for Android stands in `bionic`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bnn_tvm.errors import ToolchainError
from bnn_tvm.export import bionic

#: A first use for a target may have to build zig's C runtime; on a small board this takes minutes.
TIMEOUT_S = 600.0

_C_FLAGS = (
    "-std=gnu11",
    "-O2",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-sanitize=all",
    "-ffunction-sections",
    "-Wall",
    "-Wextra",
)
_HARDENING = ("-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack", "-Wl,-z,defs")


def runtime_dir() -> Path:
    """The folder of the C runtime: `include/bnn_tvm.h` and `src/*.c`."""
    return Path(__file__).resolve().parent.parent / "runtime"


def include_dir() -> Path:
    """The folder of `bnn_tvm.h`."""
    return runtime_dir() / "include"


def runtime_sources() -> list[Path]:
    """The C files that go into every model.so."""
    return sorted((runtime_dir() / "src").glob("*.c"))


def api_symbols() -> list[str]:
    """The functions that bnn_tvm.h declares: all that a model.so shows."""
    header = (include_dir() / "bnn_tvm.h").read_text(encoding="ascii")
    return sorted(set(re.findall(r"^BNN_API\b[^;(]*?\b(bnn_\w+)\(", header, re.M)))


def link_shared(
    zig_target: str,
    sources: Sequence[Path],
    output: Path,
    *,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Compile and link `sources` (.c, .S, .o) and the C runtime into the shared library `output`.

    Only the functions of bnn_tvm.h are visible in it. It has no SONAME, so that an app that links
    against it looks for the name under which it was saved. The folder of `output` is the working
    directory, so that `.incbin` finds its file. Raises `ToolchainError`.
    """
    compiled = [_compile(zig_target, s, timeout_s) if s.suffix != ".o" else s for s in sources]
    script = output.parent / "exports.map"
    names = "; ".join(api_symbols())
    script.write_text(f"{{ global: {names}; local: *; }};\n", encoding="ascii")
    arguments = [
        "cc", "-target", zig_target, "-shared", *_C_FLAGS, *compile_flags(zig_target),
        *link_flags(zig_target), *_HARDENING,
        "-s", "-Wl,--gc-sections", f"-Wl,--version-script,{script.name}",
        "-I", str(include_dir()), "-I", str(runtime_dir() / "src"),
        *(str(s) for s in compiled), *(str(s) for s in runtime_sources()),
        "-o", output.name, *libraries(zig_target, output.parent),
    ]  # fmt: skip
    try:
        run_zig(arguments, output.parent, timeout_s)
    except ToolchainError as error:
        lacking = re.findall(r"undefined symbol: (\S+)", error.message)
        if zig_target != bionic.ZIG_TARGET or not lacking:
            raise
        raise ToolchainError(
            f"the model needs what Android's C library may lack: {', '.join(sorted(set(lacking)))}",
            hint="this is a limit of bnn_tvm: please report it with the model; --target arm64 "
            "compiles it for Linux",
        ) from error


def libraries(zig_target: str, folder: Path) -> list[str]:
    """The linker's arguments for the C library.

    Android's are made in `folder`: see `bionic`. Raises `ToolchainError`.
    """
    if zig_target != bionic.ZIG_TARGET:
        return ["-lc", "-lm"]
    for library in bionic.SYMBOLS:
        source = folder / f"{library}.S"
        source.write_text(bionic.stub_assembly(library), encoding="ascii")
        link_named(zig_target, source, folder / library)
    return list(bionic.SYMBOLS)


def link_named(zig_target: str, source: Path, output: Path, arguments: Sequence[str] = ()) -> None:
    """Link a library that others ask for by the file name of `output`. Raises `ToolchainError`."""
    arguments = [
        "cc", "-target", zig_target, "-shared", "-s", "-fPIC", "-nostdlib",
        f"-Wl,-soname,{output.name}", str(source), "-o", str(output), *arguments,
    ]  # fmt: skip
    run_zig(arguments, output.parent)


def _compile(zig_target: str, source: Path, timeout_s: float) -> Path:
    """One generated .c or .S to an object beside it, past the cache: no other model has it."""
    result = source.with_suffix(".o")
    arguments = [
        "cc", "-target", zig_target, "-c", *_C_FLAGS, *compile_flags(zig_target),
        "-I", str(include_dir()), "-I", str(runtime_dir() / "src"),
        source.name, "-o", result.name,
    ]  # fmt: skip
    run_zig(arguments, source.parent, timeout_s, keep=False)
    return result


def link_executable(
    zig_target: str,
    sources: Sequence[Path],
    output: Path,
    *,
    flags: Sequence[str] = (),
    libraries: Sequence[str] = ("-lc", "-ldl", "-lpthread"),
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Compile and link a C program that uses bnn_tvm.h. Raises `ToolchainError`."""
    arguments = [
        "cc", "-target", zig_target, *_C_FLAGS, "-I", str(include_dir()), *flags,
        *(str(s) for s in sources), "-o", str(output), *libraries,
    ]  # fmt: skip
    run_zig(arguments, output.parent, timeout_s)


def compile_flags(zig_target: str) -> list[str]:
    """C flags of a target: atomics inline, since zig's helpers for them are not linked.

    For Android what `bionic` says.
    """
    flags = ["-mno-outline-atomics"] if zig_target.startswith("aarch64") else []
    if zig_target == bionic.ZIG_TARGET:
        flags += [*bionic.COMPILE_FLAGS, "-isystem", str(runtime_dir() / "bionic")]
    return flags


def link_flags(zig_target: str) -> list[str]:
    """Flags that spare the link zig's own C runtime, which takes long to build the first time.

    32-bit Arm has no division instruction in the baseline and needs it. For Android what its
    linker wants besides.
    """
    flags = ["-nostdlib"] if zig_target.startswith(("x86_64", "aarch64")) else []
    return [*flags, *bionic.LINK_FLAGS] if zig_target == bionic.ZIG_TARGET else flags


def run_zig(
    arguments: Sequence[str], cwd: Path, timeout_s: float = TIMEOUT_S, *, keep: bool = True
) -> str:
    """Run `zig ARGUMENTS` in `cwd` and return what it printed.

    With `keep` compiled C goes into zig's cache, for next time. Raises `ToolchainError`.
    """
    if importlib.util.find_spec("ziglang") is None:
        raise ToolchainError(
            "the linker is missing: Python has no module ziglang",
            hint="pip install ziglang",
        )
    command = [sys.executable, "-m", "ziglang", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=_zig_environment(cwd, keep),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError(
            f"zig did not finish within {timeout_s:g} s",
            hint="the first use for a target builds zig's C runtime; try again on an idle machine",
        ) from None
    except OSError as exc:
        raise ToolchainError(
            f"zig could not be started: {exc}", hint="pip install --force-reinstall ziglang"
        ) from exc
    if done.returncode != 0:
        message = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise ToolchainError(
            f"zig failed: {message[-2000:]}",
            hint="is the disk full, or is the package damaged? pip install --force-reinstall "
            "ziglang, and look at the free space of the temporary folder",
        )
    return done.stdout


def _zig_environment(cwd: Path, keep: bool) -> dict[str, str]:
    """The environment for zig: its caches must be writable, even where there is no home."""
    env = dict(os.environ)
    if not keep:
        env["ZIG_LOCAL_CACHE_DIR"] = str(cwd / ".zig-cache")
    if "ZIG_GLOBAL_CACHE_DIR" not in env:
        base = env.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        cache = Path(base) / "zig"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=cache):
                pass
        except OSError:
            env["ZIG_GLOBAL_CACHE_DIR"] = str(cwd / ".zig-global-cache")
            env["ZIG_LOCAL_CACHE_DIR"] = str(cwd / ".zig-cache")
    return env
