"""What Android's linker wants of a model.so, and that nothing is asked of it but the table."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm
from tvm import te, tirx
from tvm.target import Target

from bnn_tvm.errors import ToolchainError
from bnn_tvm.export import bionic, kernels_abi, link
from bnn_tvm.targets import PRESETS
from tests.export.programs import ANDROID, artifact, kernels

pytestmark = pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")

PAGE = 16384


def readelf(path: Path, *options: str) -> str:
    return subprocess.run(
        ["readelf", "-W", *options, path], check=True, capture_output=True, text=True
    ).stdout


def undefined(path: Path, table: str) -> set[str]:
    rows = [row.split() for row in readelf(path, table).splitlines()]
    return {row[7] for row in rows if len(row) == 8 and row[6] == "UND"}


@pytest.fixture(scope="module")
def so(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("android") / "libnet.so"
    path.write_bytes(artifact(ANDROID).so)
    return path


def test_the_preset_is_the_one_that_is_tested() -> None:
    preset = PRESETS["arm64-android"]
    assert (preset.triple, preset.zig_target) == (ANDROID.triple, ANDROID.zig_target)
    assert preset.zig_target == bionic.ZIG_TARGET
    assert "API level 21" in preset.needs


def test_only_the_table_is_asked_for_and_all_of_it(so: Path) -> None:
    asked = undefined(so, "--dyn-syms")
    assert asked <= {name for names in bionic.SYMBOLS.values() for name in names}
    by_llvm = {"memcpy", "memmove", "memset", "ldexp"}
    assert (
        set(bionic.SYMBOLS["libc.so"]) - by_llvm == asked & set(bionic.SYMBOLS["libc.so"]) - by_llvm
    )
    assert "expf" in asked


UNARY = (
    *("acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp"),
    *("exp10", "exp2", "floor", "log", "log10", "log1p", "log2", "nearbyint", "round", "rsqrt"),
    *("sigmoid", "sin", "sinh", "sqrt", "tan", "tanh", "trunc"),
)
BINARY = ("atan2", "copysign", "hypot", "nextafter", "power", "truncmod")


def _elementwise(dtype: str, arity: int, function: Callable[..., object]) -> tirx.PrimFunc:
    operands = [te.placeholder((64,), dtype, name) for name in "xy"[:arity]]
    result = te.compute((64,), lambda i: function(*(x[i] for x in operands)), "z")
    return te.create_prim_func([*operands, result])


def test_mathematics_is_in_the_table_and_no_row_is_idle(tmp_path: Path) -> None:
    functions = {}
    for dtype in ("float32", "float64"):
        for arity, names in ((1, UNARY), (2, BINARY)):
            for name in names:
                kernel = _elementwise(dtype, arity, getattr(tirx, name))
                functions[f"{name}_{dtype}"] = kernel
        functions[f"exp2_of_an_integer_{dtype}"] = _elementwise(
            dtype, 1, lambda x: tirx.exp2(x.astype("int32").astype(x.dtype))
        )
    asked = set()
    for code in kernels_abi.compile_objects(
        tvm.IRModule(functions), set(functions), ANDROID.tvm_target()
    ).values():
        (tmp_path / "k.o").write_bytes(code)
        asked |= undefined(tmp_path / "k.o", "-s")
    assert asked == set(bionic.SYMBOLS["libm.so"]) | {"ldexp"}


def test_what_every_android_linker_takes(so: Path) -> None:
    dynamic = readelf(so, "-d")
    tags = set(re.findall(r"^ 0x\w+ \((\w+)\)", dynamic, re.M))
    assert set(re.findall(r"NEEDED.*\[(.*?)\]", dynamic)) == {"libc.so", "libm.so"}
    assert {"HASH", "GNU_HASH"} <= tags
    assert not tags & {"TEXTREL", "RELR", "SYMBOLIC", "RUNPATH", "RPATH", "VERNEED", "VERSYM"}
    assert not any(tag.startswith("ANDROID") for tag in tags)
    assert "No version information found" in readelf(so, "-V")
    assert re.findall(r"Flags: (.*)", dynamic) == ["NOW"]  # of DT_FLAGS_1 it knows few
    assert ".dynamic" in readelf(so, "-S")  # section headers: asked for from API level 26 on
    relocations = set(re.findall(r"R_AARCH64_\w+", readelf(so, "-r")))
    assert relocations == {"R_AARCH64_RELATIVE", "R_AARCH64_JUMP_SLOT"} | relocations & {
        "R_AARCH64_GLOB_DAT",
        "R_AARCH64_ABS64",
    }


def test_segments_are_right_for_pages_of_16_kib(so: Path) -> None:
    rows = [row.split() for row in readelf(so, "-l").splitlines()]
    segments = [row for row in rows if row[:1] and row[0].isupper() and len(row) >= 8]
    kinds = {row[0] for row in segments}
    assert "TLS" not in kinds
    loads = [row for row in segments if row[0] == "LOAD"]
    relro = next(row for row in segments if row[0] == "GNU_RELRO")
    for row in loads:
        offset, address, align = int(row[1], 16), int(row[2], 16), int(row[-1], 16)
        assert align == PAGE
        assert offset % PAGE == address % PAGE
        assert "W" not in row[6:-1] or "E" not in row[6:-1]
    protected = -(-(int(relro[2], 16) + int(relro[5], 16)) // PAGE)  # pages up to its end
    later = [int(row[2], 16) for row in loads if int(row[2], 16) > int(relro[2], 16)]
    assert later and all(address // PAGE >= protected for address in later)


def test_nothing_uses_the_register_that_android_keeps(tmp_path: Path) -> None:
    used = re.compile(r"\b[xw]18\b")
    names = {"affine", "dense", "scratch", "exp"}
    assert not used.search(kernels_abi.assembly(kernels(), names, ANDROID.tvm_target()))
    linux = Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "generic"})
    assert used.search(kernels_abi.assembly(kernels(), names, linux)), "the test sees nothing"
    flags = ["-S", "-O2", "-I", str(link.include_dir()), *link.compile_flags(ANDROID.zig_target)]
    for source in link.runtime_sources():
        arguments = ["cc", "-target", ANDROID.zig_target, *flags, str(source), "-o", "x.s"]
        link.run_zig(arguments, tmp_path)
        assert not used.search((tmp_path / "x.s").read_text())


@pytest.mark.parametrize(
    ("code", "symbol"),
    [
        ("int pthread_setaffinity_np(void);\nint f(void) { return pthread_setaffinity_np(); }",
         "pthread_setaffinity_np"),
        ("_Thread_local int x;\nint f(void) { return x++; }", "__emutls_get_address"),
    ],
    ids=["function-of-level-36", "thread-local-variable"],
)  # fmt: skip
def test_what_old_androids_lack_is_refused_when_linking(
    tmp_path: Path, code: str, symbol: str
) -> None:
    parts = artifact(ANDROID).parts
    for name, data in parts.items():
        (tmp_path / name).write_bytes(data)
    use = "__attribute__((constructor)) static void use(void) { f(); }\n"
    (tmp_path / "extra.c").write_text(f"{code}\n{use}")
    names = [*(name for name in parts if not name.endswith(".bin")), "extra.c"]
    with pytest.raises(ToolchainError) as caught:
        link.link_shared(ANDROID.zig_target, [tmp_path / n for n in names], tmp_path / "m.so")
    assert caught.value.message == f"the model needs what Android's C library may lack: {symbol}"
    assert "--target arm64 compiles it for Linux" in (caught.value.hint or "")


def test_another_failure_of_the_linker_is_quoted_for_android_too(tmp_path: Path) -> None:
    (tmp_path / "model.c").write_text("int f(void) { return nonsense; }\n")
    with pytest.raises(ToolchainError, match=r"zig failed: .*nonsense"):
        link.link_shared(ANDROID.zig_target, [tmp_path / "model.c"], tmp_path / "m.so")


def test_an_app_that_links_with_the_model_asks_for_its_file_name(so: Path, tmp_path: Path) -> None:
    shutil.copy(so, tmp_path / "libnet.so")
    (tmp_path / "app.c").write_text(
        "#include <bnn_tvm.h>\nint32_t f(void) { return bnn_num_inputs(); }\n"
    )
    link.run_zig(
        ["cc", "-target", ANDROID.zig_target, "-shared", "-nostdlib", "-fPIC", "-I",
         str(link.include_dir()), "app.c", "-L", str(tmp_path), "-lnet", "-o", "libapp.so"],
        tmp_path,
    )  # fmt: skip
    assert re.findall(r"NEEDED.*\[(.*?)\]", readelf(tmp_path / "libapp.so", "-d")) == ["libnet.so"]
