"""The cache of object code: fast where nothing changed, and never a reason for other code."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from pathlib import Path

import pytest
from tvm.ir import IRModule

import bnn_tvm
from bnn_tvm.export import kernels_abi
from bnn_tvm.lower import object_cache
from bnn_tvm.lower import schedule as schedule_room
from bnn_tvm.lower.object_cache import ObjectCache
from bnn_tvm.options import CompileOptions
from bnn_tvm.targets import resolve
from tests.export.programs import ARM64, X86, kernels


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; zig keeps its own, which is slow to fill."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(object_cache, "default_folder", lambda: folder)
    monkeypatch.setattr(object_cache, "read_versions", object_cache.versions)
    return folder


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is scheduled and compiled, as it happens."""
    done: list[str] = []
    schedule, generate = schedule_room.schedule_primfunc, kernels_abi._generate

    def scheduling(function: object, target: object) -> object:
        done.append("schedule")
        return schedule(function, target)

    def generating(module: object, symbols: set[str], target: object) -> object:
        done.extend(symbols)
        return generate(module, symbols, target)

    monkeypatch.setattr(schedule_room, "schedule_primfunc", scheduling)
    monkeypatch.setattr(kernels_abi, "_generate", generating)
    return done


def _compile(digits: Path, **options: object) -> tuple[bytes, bytes]:
    artifact = bnn_tvm.compile_model(digits, target="x86_64", **options).artifact
    return artifact.so, artifact.dab


def test_a_second_compile_does_no_work_and_makes_the_same_files(
    digits: Path, work: list[str]
) -> None:
    first = _compile(digits)
    assert "schedule" in work and len(work) > 4
    work.clear()
    assert _compile(digits) == first
    assert work == []


def test_without_the_cache_all_is_made_anew_and_nothing_kept(
    digits: Path, work: list[str], folder: Path
) -> None:
    first = _compile(digits)
    entries = {path.name: path.read_bytes() for path in folder.iterdir()}
    made = sorted(work)
    work.clear()
    assert _compile(digits, cache=False) == first
    assert sorted(work) == made
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == entries


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another's"])
def test_a_damaged_entry_is_made_anew(
    digits: Path, work: list[str], folder: Path, damage: str
) -> None:
    first = _compile(digits)
    entries = sorted(folder.iterdir())
    victim = entries[0]
    data = bytearray(victim.read_bytes())
    if damage == "cut":
        victim.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[-100] ^= 1
        victim.write_bytes(data)
    elif damage == "empty":
        victim.write_bytes(b"")
    else:
        victim.write_bytes(entries[1].read_bytes())
    work.clear()
    assert _compile(digits) == first
    assert work == ["schedule", victim.stem]
    work.clear()
    assert _compile(digits) == first
    assert work == []


def test_a_folder_that_cannot_be_written_is_no_error(
    digits: Path, work: list[str], folder: Path
) -> None:
    folder.write_text("a file where the folder should be")
    _compile(digits)
    assert "schedule" in work


def test_symbols_say_what_the_code_will_be() -> None:
    function = kernels()["affine"]
    other = kernels()["dense"]
    x86, arm = X86.tvm_target(), ARM64.tvm_target()
    symbol = object_cache.kernel_symbol("fused_add3", function, x86)
    assert symbol.startswith("bnn_fused_add_")
    assert symbol == object_cache.kernel_symbol("fused_add7", function, x86)
    assert symbol != object_cache.kernel_symbol("fused_add3", other, x86)
    assert symbol != object_cache.kernel_symbol("fused_add3", function, arm)
    core = dataclasses.replace(X86, mcpu="haswell").tvm_target()
    assert symbol != object_cache.kernel_symbol("fused_add3", function, core)


def test_symbols_change_with_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    target, function = X86.tvm_target(), kernels()["affine"]
    symbol = object_cache.kernel_symbol("affine", function, target)
    monkeypatch.setattr(object_cache, "versions", lambda: "another")
    assert object_cache.kernel_symbol("affine", function, target) != symbol


SOURCES = (
    "bnn_tvm/lower/schedule.py",
    "bnn_tvm/export/object_file.py",
    "bnn_tvm/export/kernels_abi.py",
    "topi_ext/x86/a.py",
)


@pytest.mark.parametrize("changed", SOURCES)
def test_versions_cover_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    monkeypatch.undo()
    for name in SOURCES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    monkeypatch.setattr(object_cache, "_ROOT", tmp_path / "bnn_tvm")
    before = object_cache.read_versions()
    assert before == object_cache.read_versions()
    (tmp_path / changed).write_text("x = 2\n")
    assert object_cache.read_versions() != before


def test_nothing_is_kept_if_the_sources_changed_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ObjectCache()
    assert not cache.look_up("bnn_a")
    monkeypatch.setattr(object_cache, "read_versions", lambda: "edited")
    cache.store({"bnn_a": b"code"})
    assert not folder.exists()


def test_only_what_was_looked_up_is_kept() -> None:
    cache = ObjectCache()
    assert not cache.look_up("bnn_a")
    cache.store({"bnn_a": b"code", "bnn_copy_float32_4": b"named by hand"})
    again = ObjectCache()
    assert again.look_up("bnn_a") and again.found == {"bnn_a": b"code"}
    assert not again.look_up("bnn_copy_float32_4")


def test_the_entries_unused_for_longest_go_first(folder: Path) -> None:
    def keep(symbol: str) -> None:
        cache = ObjectCache(max_bytes=3500)
        cache.look_up(symbol)
        cache.store({symbol: bytes(1000)})

    for age, symbol in enumerate(("a", "b", "c")):
        keep(symbol)
        os.utime(folder / f"{symbol}.kernel", (100 + age, 100 + age))
    assert ObjectCache().look_up("a")  # used just now
    keep("d")
    assert {path.stem for path in folder.iterdir()} == {"a", "c", "d"}


def _fill(folder: Path, start: int) -> None:
    object_cache.read_versions = object_cache.versions
    for i in range(60):
        symbol = f"k{(start + i) % 20}"
        cache = ObjectCache(folder, max_bytes=20_000)
        if not cache.look_up(symbol):
            cache.store({symbol: symbol.encode() * 1000})
        elif cache.found[symbol] != symbol.encode() * 1000:
            raise AssertionError(symbol)


def test_processes_may_share_it(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fill, args=(folder, 7 * i)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 20_000
    assert all(path.suffix == ".kernel" for path in folder.iterdir())


def test_kernels_compiled_side_by_side_are_the_same_as_one_by_one() -> None:
    module = IRModule({f"k{i}": f for i, f in enumerate(kernels().functions.values())})
    names = {symbol.name_hint for symbol in module.functions}
    target = X86.tvm_target()
    together = kernels_abi.compile_objects(module, names, target)
    for name in names:
        assert kernels_abi.compile_objects(module, {name}, target) == {name: together[name]}


def test_the_option_is_not_part_of_the_result() -> None:
    assert CompileOptions().cache
    assert not CompileOptions(cache=False).cache
    assert resolve(CompileOptions(cache=False)) == resolve(CompileOptions())
