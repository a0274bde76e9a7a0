"""Where compiled models run: the presets, and how an option set becomes a target.

`resolve` is the only place that asks LLVM about cores and features. Listing the presets imports
no TVM. `python -m bnn_tvm.targets` is the command of the same name.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bnn_tvm.errors import UsageError
from bnn_tvm.options import CompileOptions, did_you_mean

if TYPE_CHECKING:
    from tvm.target import Target

    from topi_ext.isa import Isa


@dataclass(frozen=True)
class Preset:
    """A row of the table of targets.

    `triple` is LLVM's spelling, `zig_target` the linker's (with the oldest glibc that the result
    runs on; for Android see `bnn_tvm.export.bionic`), `mcpu` and `mattr` the least the device must
    have, `needs` the same in words.
    """

    name: str
    triple: str
    zig_target: str
    mcpu: str
    mattr: tuple[str, ...]
    num_cores: int
    description: str
    needs: str


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "arm64",
            "aarch64-linux-gnu",
            "aarch64-linux-gnu.2.17",
            "generic",
            ("+neon",),
            4,
            "64-bit Arm Linux: boards, servers",
            "Armv8-A with NEON, Linux with glibc 2.17 or newer",
        ),
        Preset(
            "arm64-android",
            # With all four parts: of three LLVM reads the wrong ones, and uses Android's x18.
            "aarch64-unknown-linux-android",
            "aarch64-linux-none",
            "generic",
            ("+neon",),
            4,
            "64-bit Android phones",
            "Armv8-A with NEON, Android 5.0 (API level 21) or newer, pages of 4 or 16 KiB",
        ),
        Preset(
            "armv7",
            "armv7-linux-gnueabihf",
            "arm-linux-gnueabihf.2.17",
            "generic",
            ("+neon", "+vfp4"),
            4,
            "32-bit Arm Linux, hard float",
            "Armv7-A with NEON and VFPv4, Linux with glibc 2.17 or newer",
        ),
        Preset(
            "x86_64",
            "x86_64-linux-gnu",
            "x86_64-linux-gnu.2.17",
            "x86-64-v3",
            (),
            4,
            "64-bit x86 Linux",
            "x86-64-v3 (AVX2, FMA, BMI2: from 2013 on), Linux with glibc 2.17 or newer",
        ),
    )
}
HOST = "host"


@dataclass(frozen=True)
class TargetSpec:
    """A target with everything decided.

    `mattr` lists every instruction-set feature that generated code may use ("+avx2"), and those
    it must not although the core's name promises them ("-pku", masked by a hypervisor).
    `families` are the families of binary kernels among which the device chooses when it loads the
    model; none where the core is known now.
    """

    name: str
    triple: str
    zig_target: str
    mcpu: str
    mattr: tuple[str, ...]
    isa: Isa
    num_cores: int
    is_host: bool
    families: tuple[str, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """The features the device must have, without signs."""
        return tuple(f[1:] for f in self.mattr if f.startswith("+"))

    def tvm_target(self) -> Target:
        """The TVM target: llvm with triple, core, features and number of cores."""
        return _tvm_target(self.triple, self.mcpu, self.mattr, self.num_cores)

    def selection_target(self, family: str | None) -> Target:
        """The target by which kernels are chosen, of one of `families` or of what the core takes.

        Raises ValueError if there is no such family.
        """
        from topi_ext.arm_cpu.cores import with_family

        target = self.tvm_target()
        return target if family is None else with_family(target, family)


def is_android(triple: str) -> bool:
    """Whether code for an LLVM triple runs on Android."""
    return "-android" in triple


def target_names() -> tuple[str, ...]:
    """Names that `--target` takes, the default first."""
    return (HOST, *PRESETS)


def resolve(options: CompileOptions) -> TargetSpec:
    """Decide the target of `options`.

    Raises
    ------
    UsageError: the preset, the core or a feature is unknown, this machine has no preset, or half
    precision is asked for where the target has none.
    """
    if options.target not in target_names():
        raise UsageError(
            f"unknown target {options.target!r}",
            node="--target",
            hint=did_you_mean(options.target, target_names()),
        )
    preset = _host_preset() if options.target == HOST else PRESETS[options.target]
    mcpu, mattr = preset.mcpu, preset.mattr
    if options.mcpu is not None:
        _check_core(options.mcpu, preset.triple)
        mcpu = options.mcpu
        mattr = () if options.target == HOST else mattr
    extra = tuple(f if f[0] in "+-" else f"+{f}" for f in options.mattr)
    _check_features(extra, preset.triple, mcpu)
    mattr = _full_features(preset.triple, mcpu, (*mattr, *extra))
    if options.float16:
        _check_half_precision(preset.triple, mcpu, mattr)
    from topi_ext.isa import isa_of

    isa = isa_of(_tvm_target(preset.triple, mcpu, mattr, preset.num_cores))
    return TargetSpec(
        name=preset.name,
        triple=preset.triple,
        zig_target=preset.zig_target,
        mcpu=mcpu,
        mattr=mattr,
        isa=isa,
        num_cores=preset.num_cores,
        is_host=options.target == HOST,
        families=_families(options, mcpu, isa),
    )


def _families(options: CompileOptions, mcpu: str, isa: Isa) -> tuple[str, ...]:
    """All, where the core is not known before the device loads the model.

    TVM's virtual machine has nobody to choose: one family there.
    """
    from topi_ext.arm_cpu.cores import FAMILIES

    known = options.mcpu is not None or mcpu != "generic"
    return () if known or isa != "neon" or options.runtime != "c" else FAMILIES


def _tvm_target(triple: str, mcpu: str, mattr: tuple[str, ...], num_cores: int) -> Target:
    from tvm.target import Target

    from topi_ext.arm_cpu.cores import tuning_of

    config: dict[str, object] = {"kind": "llvm", "mtriple": triple, "mcpu": mcpu}
    tuning = tuning_of(mcpu) if triple.startswith("aarch64") else ()
    if tuning or mattr:
        config["mattr"] = [*tuning, *mattr]  # of two that contradict, the latter counts
    if triple.endswith("hf"):
        # LLVM does not read it off the triple here; soft-float calls of libm would go wrong.
        config["mfloat-abi"] = "hard"
    config["num-cores"] = num_cores
    return Target(config)


# Features that change what code may be generated, in LLVM's spelling -> the kernel's, as
# /proc/cpuinfo prints it. Tuning hints and system instructions of a core are of no concern.
_X86_FEATURES: dict[str, str] = {
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "popcnt": "popcnt",
    "lzcnt": "abm",
    "movbe": "movbe",
    "avx": "avx",
    "f16c": "f16c",
    "fma": "fma",
    "avx2": "avx2",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "gfni": "gfni",
    "avxvnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512cd": "avx512cd",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
}
_ARM64_FEATURES: dict[str, str] = {
    "neon": "asimd",
    "lse": "atomics",
    "rdm": "asimdrdm",
    "fullfp16": "asimdhp",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
    "sme2": "sme2",
}
_ARM32_FEATURES: dict[str, str] = {
    "neon": "neon",
    "vfp3": "vfpv3",
    "vfp4": "vfpv4",
    "d32": "vfpd32",
}


def _relevant_features(triple: str) -> dict[str, str]:
    if triple.startswith("x86_64"):
        return _X86_FEATURES
    return _ARM64_FEATURES if triple.startswith("aarch64") else _ARM32_FEATURES


def _full_features(triple: str, mcpu: str, mattr: tuple[str, ...]) -> tuple[str, ...]:
    """All relevant features of `mcpu` as changed by `mattr`; what the caller named is kept."""
    available = _llvm_features(triple, mcpu, mattr)
    relevant = _relevant_features(triple)
    named = {f[1:] for f in mattr}
    added = [f"+{f}" for f in available if f in relevant or f in named]
    removed = [f for f in mattr if f[0] == "-" and f[1:] not in available]
    return tuple(dict.fromkeys((*added, *removed)))


def _llvm_features(triple: str, mcpu: str, mattr: tuple[str, ...] = ()) -> list[str]:
    from tvm.target.codegen import llvm_get_cpu_features

    return sorted(str(f) for f in llvm_get_cpu_features(_tvm_target(triple, mcpu, mattr, 1)))


def _check_core(mcpu: str, triple: str) -> None:
    from tvm.target.codegen import llvm_get_cpu_archlist, llvm_is_valid_cpu

    if mcpu == "generic" or llvm_is_valid_cpu(mcpu, triple):
        return
    known = [str(c) for c in llvm_get_cpu_archlist(_tvm_target(triple, "generic", (), 1))]
    raise UsageError(
        f"LLVM knows no core {mcpu!r} for {triple}", node="--mcpu", hint=did_you_mean(mcpu, known)
    )


def _check_features(mattr: tuple[str, ...], triple: str, mcpu: str) -> None:
    for feature in mattr:
        name = feature[1:]
        if name not in _llvm_features(triple, mcpu, (f"+{name}",)):
            raise UsageError(
                f"LLVM knows no CPU feature {name!r} for {triple}",
                node="--mattr",
                hint=did_you_mean(name, _relevant_features(triple)),
            )


def _check_half_precision(triple: str, mcpu: str, mattr: tuple[str, ...]) -> None:
    if not triple.startswith("aarch64"):
        raise UsageError(
            f"there are no half-precision kernels for {triple}",
            node="--float16",
            hint="leave --float16 out, or compile for a 64-bit Arm core that has FullFP16: "
            "--target arm64 --mcpu cortex-a76",
        )
    if "+fullfp16" not in mattr:
        raise UsageError(
            f"half precision needs FullFP16 (Armv8.2-A), which {mcpu} does not promise",
            node="--float16",
            hint="name a core that has it (--mcpu cortex-a76), or add --mattr +fullfp16 where the "
            "device's /proc/cpuinfo lists asimdhp",
        )


def _host_preset() -> Preset:
    """This machine: LLVM's name of its core, corrected by the features the kernel reports."""
    machine = platform.machine().lower()
    base = {
        "x86_64": "x86_64",
        "amd64": "x86_64",
        "aarch64": "arm64",
        "arm64": "arm64",
        "armv7l": "armv7",
    }.get(machine)
    if base is None or not sys.platform.startswith("linux"):
        raise UsageError(
            f"there is no host target for {platform.system()} on {machine}",
            node="--target",
            hint="name the device's target, for example --target arm64",
        )
    from tvm.target.codegen import llvm_get_system_cpu, llvm_is_valid_cpu

    preset = PRESETS[base]
    mcpu = str(llvm_get_system_cpu())
    if not llvm_is_valid_cpu(mcpu, preset.triple):
        mcpu = "generic" if base != "x86_64" else "x86-64"
    return Preset(
        HOST,
        preset.triple,
        preset.zig_target,
        mcpu,
        _host_features(preset.triple, mcpu),
        usable_cores(),
        f"this machine: {mcpu}",
        "this machine",
    )


def _host_features(triple: str, mcpu: str) -> tuple[str, ...]:
    reported = _cpuinfo_flags()
    if not reported:
        return ()
    promised = set(_llvm_features(triple, mcpu))
    features = []
    for feature, flag in _relevant_features(triple).items():
        if flag in reported:
            features.append(f"+{feature}")
        elif feature in promised:
            features.append(f"-{feature}")
    return tuple(features)


def _cpuinfo_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def usable_cores() -> int:
    """Number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    from bnn_tvm.cli.main import run_command

    run_command("targets")
