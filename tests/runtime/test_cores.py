"""The choice of kernels by core id, in C, on this machine: made-up cores and made-up files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bnn_tvm.export import link
from tests.export.programs import host_spec
from tests.export.two_families import artifact
from topi_ext.arm_cpu.cores import ANY_PART, UNKNOWN, UNREADABLE, cores_by_name

HERE = Path(__file__).parent


def midr(implementer: int, part: int, variant: int = 0, revision: int = 0) -> str:
    return hex(implementer << 24 | variant << 20 | 0xF << 16 | part << 4 | revision)


A53, A55, A72, A76, A78, X1, X3 = (
    midr(0x41, part) for part in (0xD03, 0xD05, 0xD08, 0xD0B, 0xD41, 0xD44, 0xD4E)
)
SOMETHING_NEW = midr(0x41, 0xDFF)


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cores_check.c` with the model's table, which the compiler wrote."""
    folder = tmp_path_factory.mktemp("cores")
    parts = artifact(host_spec()).parts
    for name, data in parts.items():
        (folder / name).write_bytes(data)
    sources = [
        HERE / "cores_check.c",
        *(folder / name for name in parts if name.endswith((".c", ".S", ".o"))),
        *link.runtime_sources(),
    ]
    flags = ["-I", str(link.runtime_dir() / "src"), "-Werror"]
    path = folder / "check"
    link.link_executable(
        host_spec().zig_target, sources, path, flags=flags, libraries=["-lpthread", "-lm"]
    )
    return path


def ask(check: Path, *arguments: object, cpus: set[int] | None = None) -> str:
    done = subprocess.run(
        [str(check), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        # Other tests' thread pools may have bound this process to one processor since.
        preexec_fn=lambda: os.sched_setaffinity(0, cpus or CPUS),
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", list(cores_by_name()))
def test_the_device_knows_every_core_of_the_table(check: Path, name: str) -> None:
    core = cores_by_name()[name]
    for implementer, part in core.ids:
        parts = [0x000, 0x023, 0xFFF] if part == ANY_PART else [part]
        for each in parts:
            for variant, revision in ((0, 0), (3, 1), (0xF, 0xF)):
                asked = midr(implementer, each, variant, revision)
                assert ask(check, "core", asked) == core.family


def test_other_cores_take_what_new_ones_are_likely_to(check: Path) -> None:
    # The part of an A53 by somebody else is no A53.
    for unknown in (SOMETHING_NEW, midr(0x53, 0xD03), midr(0, 0x51), midr(0xFF, 0xFFF)):
        assert ask(check, "core", unknown) == UNKNOWN == "tbl"


@pytest.mark.parametrize(
    ("cores", "families"),
    [
        # All of a kind, whether or not their speed is known.
        ([f"{A53}:0"] * 4, {1: "cnt", 4: "cnt", 8: "cnt"}),
        ([f"{A76}:1024"] * 4, {1: "tbl", 4: "tbl", 8: "tbl"}),
        # Two big cores and six small ones: from three threads on a small one is the last to finish.
        ([f"{A55}:400"] * 6 + [f"{A76}:1024"] * 2, {1: "tbl", 2: "tbl", 3: "cnt", 8: "cnt"}),
        # The same without speeds: the big ones are those of the later family.
        ([f"{A55}:0"] * 6 + [f"{A76}:0"] * 2, {1: "tbl", 2: "tbl", 3: "cnt"}),
        # One X1, which takes cnt, beside three A78 and four A55.
        (
            [f"{A55}:250"] * 4 + [f"{A78}:800"] * 3 + [f"{X1}:1024"],
            {1: "cnt", 2: "tbl", 4: "tbl", 5: "cnt"},
        ),
        # The order of the processors does not matter.
        ([f"{X3}:1024", f"{A55}:300", f"{A72}:500"], {1: "tbl", 2: "cnt", 3: "cnt"}),
        # A core that cannot be identified is passed over, one that is not known counts as new.
        ([f"{A53}:100", "0x0:1024"], {1: "cnt", 2: "cnt"}),
        ([f"{A53}:100", f"{SOMETHING_NEW}:1024"], {1: "tbl", 2: "cnt"}),
        # More than are looked at.
        ([f"{A53}:100"] * 64 + [f"{A76}:1024"] * 8, {1: "cnt"}),
    ],
)
def test_the_slowest_of_the_threads_cores_decides(
    check: Path, cores: list[str], families: dict[int, str]
) -> None:
    for threads, family in families.items():
        assert ask(check, "choose", threads, *cores) == family, threads


def test_without_any_id_the_kernels_are_those_that_lose_least(check: Path) -> None:
    assert ask(check, "choose", 1) == UNREADABLE == "cnt"
    assert ask(check, "choose", 4, "0x0:5", "0x0:7") == "cnt"


CPUS = sorted(os.sched_getaffinity(0))


def system(folder: Path, files: dict[str, list[object]]) -> Path:
    """A folder like /sys/devices/system/cpu: a file's contents for each usable processor."""
    for name, contents in files.items():
        for cpu, content in zip(CPUS, contents, strict=False):
            if content is not None:
                path = folder / f"cpu{cpu}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{content}\n")
    return folder


MIDR, CAPACITY, FREQUENCY = (
    "regs/identification/midr_el1",
    "cpu_capacity",
    "cpufreq/cpuinfo_max_freq",
)
needs_two = pytest.mark.skipif(len(CPUS) < 2, reason="needs two processors")


def two(a: object, b: object) -> list[object]:
    """`a` for the first processor, `b` for the others."""
    return [a, *([b] * (len(CPUS) - 1))]


def long_midr(short: str) -> str:
    """As sysfs prints it: 64 bits."""
    return f"0x{int(short, 16):016x}"


def test_ids_and_capacities_come_from_sysfs(check: Path, tmp_path: Path) -> None:
    ids, capacities = two(long_midr(A55), long_midr(A76)), two(404, 1024)
    files = system(tmp_path, {MIDR: ids, CAPACITY: capacities, FREQUENCY: two(1, 2)})
    lines = ask(check, "read", files, tmp_path / "none").splitlines()
    assert lines == [f"{A55}:404", *([f"{A76}:1024"] * (len(CPUS) - 1))]


@needs_two
def test_only_processors_that_the_thread_may_use_count(check: Path, tmp_path: Path) -> None:
    ids = two(long_midr(A55), long_midr(A76))
    files = system(tmp_path, {MIDR: ids, CAPACITY: two(404, 1024)})
    for cpu, line in ((CPUS[0], f"{A55}:404"), (CPUS[1], f"{A76}:1024")):
        assert ask(check, "read", files, tmp_path / "none", cpus={cpu}) == line


@needs_two
def test_speeds_are_of_one_kind_for_all(check: Path, tmp_path: Path) -> None:
    ids = two(long_midr(A55), long_midr(A76))
    files = {MIDR: ids, CAPACITY: two(404, None), FREQUENCY: two(1800000, 2400000)}
    lines = ask(check, "read", system(tmp_path / "a", files), tmp_path / "none").splitlines()
    assert lines[:2] == [f"{A55}:1800000", f"{A76}:2400000"]
    files[FREQUENCY] = two(1800000, None)
    lines = ask(check, "read", system(tmp_path / "b", files), tmp_path / "none").splitlines()
    assert lines[:2] == [f"{A55}:0", f"{A76}:0"]


def cpuinfo(cpu: int, implementer: int, part: int) -> str:
    return (
        f"processor\t: {cpu}\nBogoMIPS\t: 38.40\nFeatures\t: fp asimd cpuid\n"
        f"CPU implementer\t: {implementer:#x}\nCPU architecture: 8\nCPU variant\t: 0x1\n"
        f"CPU part\t: {part:#x}\nCPU revision\t: 4\n\n"
    )


def test_cpuinfo_stands_in_for_sysfs(check: Path, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    kinds = two((0x51, 0x805), (0x51, 0x804))
    path.write_text("".join(cpuinfo(cpu, *kind) for cpu, kind in zip(CPUS, kinds, strict=True)))
    lines = ask(check, "read", tmp_path / "none", path).splitlines()
    expected = [f"{midr(*kind, variant=1)}:0" for kind in kinds]
    assert lines == expected
    # Processors that may not be used are left out, whatever their lines say.
    more = path.read_text() + cpuinfo(1000, 0x41, 0xD03)
    path.write_text(more)
    assert ask(check, "read", tmp_path / "none", path).splitlines() == expected


def test_an_old_kernel_tells_one_id_for_all(check: Path, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    heads = "".join(f"processor\t: {cpu}\n" for cpu in CPUS)
    tail = (
        "Hardware\t: some board\nCPU implementer\t: 0x41\nCPU variant\t: 0x0\nCPU part\t: 0xd03\n"
    )
    path.write_text(f"Processor\t: AArch64 Processor rev 3 (aarch64)\n{heads}\n{tail}")
    assert ask(check, "read", tmp_path / "none", path).splitlines() == [f"{A53}:0"] * len(CPUS)


@needs_two
def test_cpuinfo_fills_in_what_sysfs_lacks(check: Path, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo(CPUS[1], 0x41, 0xD0B))
    files = system(tmp_path / "system", {MIDR: [long_midr(A55)]})
    lines = ask(check, "read", files, path, cpus=set(CPUS[:2])).splitlines()
    assert lines == [f"{A55}:0", f"{midr(0x41, 0xD0B, variant=1)}:0"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vendor_id\t: GenuineIntel\nprocessor\t: 0\n",
        "CPU part",
        "CPU part\t:\nCPU implementer\t: rubbish\n",
        "processor" * 2000 + "\n" + "x" * 5000,
        "\0\xff\0",
    ],
)
def test_files_of_another_kind_tell_nothing_and_hurt_nothing(
    check: Path, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text, encoding="latin-1")
    broken: list[object] = [text.replace("\0", "")] * len(CPUS)
    files = system(tmp_path, {MIDR: broken, CAPACITY: broken})
    for line in ask(check, "read", files, path).splitlines():
        implementer_and_part = int(line.split(":")[0], 16) & 0xFF00FFF0
        assert implementer_and_part == 0
