"""Whole networks for arm64: modelled cycles per layer, by core.

Each network of `benchmarks.networks` goes through the product's pipeline for a core; its kernels
are linked with the weights and a small `main` into a static program whose every kernel call stands
between two of armcost's markers. The program runs under qemu-aarch64, its result is compared with
onnxruntime's, and armcost prices what was executed with llvm-mca's model of the core.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import in_order
from .arm64_program import arm64_target
from .networks import NETWORKS, sample_input

MEASURED = ("bireal18", "quicknet")

if TYPE_CHECKING:
    import onnx

    from bnn_tvm.program import Call, Program

# Cores to compile for, with the option that is compared, and armcost's model of each.
HALF = " --float16"
CORES = {
    "cortex-a53": "a53",
    "cortex-a72": "a72",
    "cortex-a76": "a76",
    f"cortex-a76{HALF}": "a76",
    "neoverse-n1": "a76",
}
# float32 multiply-adds a cycle at most in the core's model: four lanes times the vector
# multiply-adds a cycle (llvm-mca: one on Cortex-A53 and A72, two on Neoverse N1). Twice as many
# in half precision.
FMA_PEAK = {"a53": 4, "a72": 4, "a76": 8}
FLOAT_GOAL = 0.8
# LLVM's names of the models that issue in order: see `in_order`.
IN_ORDER = {"a53": "cortex-a53"}
TOLERANCE = 1e-4  # of the largest value: signs agree exactly, so only the head's rounding is left
_ALL_BLOCKS = 10**9
HALF_TOLERANCE = 0.25  # half precision turns signs
# dabnn's modelled cycles per 128 MACs on 3x3 layers by the channels of its benchmark list; a
# stride of two has its own figure. Its kernels were counted by the same tool.
DABNN = {
    "a72": {64: 2.96, 128: 1.82, 256: 1.85, 512: 2.26, "s2": 2.30},
    "a76": {64: 2.76, 128: 1.77, 256: 1.79, 512: 1.81, "s2": 1.84},
}


@dataclass(frozen=True)
class Layer:
    """The kernel calls of one layer and kind, with or without MACs, and their modelled cycles.

    kernel: of the last of them. bound: cycles by pipes and front end alone, without latencies.
    stalling: cycles by `in_order`, for cores that issue so.
    """

    name: str
    kind: str
    kernel: str
    macs: int
    cycles: float
    bound: float
    instructions: int
    stalling: float | None = None


def compile_program(proto: onnx.ModelProto, core: str, winograd: bool = True) -> Program:
    """The kernels and their calls as the product makes them for one of `CORES`."""
    from bnn_tvm import pipeline
    from bnn_tvm.frontend import prepare
    from bnn_tvm.options import CompileOptions
    from bnn_tvm.recognize import recognize
    from bnn_tvm.targets import resolve

    half = core.endswith(HALF)
    options = CompileOptions(target="arm64", mcpu=core.removesuffix(HALF), float16=half)
    recognition = recognize(prepare(proto), options)
    if half:
        recognition = pipeline.with_float16(recognition)
    return pipeline.build(
        recognition.model, resolve(options), halves=recognition.halves, winograd=winograd
    )


def link(program: Program, core: str, x: np.ndarray, folder: Path) -> Path:
    """A static executable that writes the outputs to the file of its argument."""
    import tvm

    from bnn_tvm.export import driver, memory_plan
    from bnn_tvm.export.kernels_abi import PREFIX, lower

    target = arm64_target(core.removesuffix(HALF))
    symbols = {call.symbol for call in program.calls}
    functions = {
        PREFIX + gvar.name_hint: func.with_attr("global_symbol", PREFIX + gvar.name_hint)
        for gvar, func in program.module.functions.items()
        if gvar.name_hint in symbols
    }
    built = tvm.get_global_func("target.build.llvm")(lower(tvm.IRModule(functions), target), target)
    built.write_to_file(str(folder / "kernels.o"), "o")
    memory, weights = memory_plan.plan(program), driver.pack_weights(program)
    (folder / "weights.bin").write_bytes(weights.blob)
    (folder / "input.bin").write_bytes(np.ascontiguousarray(x).tobytes())
    (folder / "main.c").write_text(_source(program, memory, weights, folder))
    path = folder / "program"
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
    flags = ["-O1", "-static", "-no-pie", "-fno-sanitize=all", "-w"]
    objects = [str(folder / "main.c"), str(folder / "kernels.o")]
    subprocess.run([*zig, *flags, *objects, "-lm", "-o", str(path)], check=True)
    return path


def _source(program: Program, memory: Any, weights: Any, folder: Path) -> str:
    from bnn_tvm.export.kernels_abi import PREFIX

    (output,) = program.outputs
    (only_input,) = program.inputs
    size = program.tensors[output].nbytes
    lines = [
        "#include <stdio.h>",
        "typedef struct { void *sync; int num_task; } group_env;",
        "static int launch(int (*task)(int, group_env *, void *), void *data, int tasks)",
        "{ group_env env = {0, 1}; (void)tasks; return task(0, &env, data); }",
        "int (*__TVMBackendParallelLaunch)(int (*)(int, group_env *, void *), void *, int)",
        "    = launch;",
        "#define MARK(n) __attribute__((noinline, used)) void n(void) \\",
        '    { __asm__ volatile("" ::: "memory"); }',
        f"static _Alignas(64) unsigned char arena[{max(memory.arena_bytes, 64)}];",
        f"static _Alignas(64) unsigned char result[{size}];",
        "extern unsigned char weights[], image[];",
        f'__asm__(".section .rodata\\n.balign 64\\nweights: .incbin \\"{folder}/weights.bin\\"\\n"',
        f'    ".balign 64\\nimage: .incbin \\"{folder}/input.bin\\"\\n.text\\n");',
    ]

    def address(index: int) -> str:
        if index == only_input:
            return "image"
        if index in weights.offsets:
            return f"weights + {weights.offsets[index]}"
        return f"arena + {memory.offsets[index]}" if index in memory.offsets else "result"

    body = []
    keys = list(_groups(program))
    for step in range(len(keys)):
        lines.append(f"MARK(armcost_begin_k{step}) MARK(armcost_end_k{step})")
    for call in program.calls:
        step = keys.index(_group(call))
        args = ", ".join(address(i) for i in call.args)
        body.append(f"armcost_begin_k{step}();")
        body.append(f"if ({PREFIX}{call.symbol}({args})) return 3;")
        body.append(f"armcost_end_k{step}();")
    arity = {call.symbol: len(call.args) for call in program.calls}
    lines += [f"int {PREFIX}{s}({', '.join(['void *'] * n)});" for s, n in arity.items()]
    body.append('FILE *f = fopen(argv[1], "wb");')
    body.append(f"if (!f || fwrite({address(output)}, 1, {size}, f) != {size}) return 4;")
    body.append("return fclose(f);")
    return "\n".join([*lines, "int main(int argc, char **argv) {", *body, "}\n"])


def _group(call: Call) -> tuple[str, str, bool]:
    """What is counted together: armcost tells at most 64 regions apart."""
    return call.layer, call.kind, call.macs > 0


def _groups(program: Program) -> dict[tuple[str, str, bool], list[Call]]:
    groups: dict[tuple[str, str, bool], list[Call]] = {}
    for call in program.calls:
        groups.setdefault(_group(call), []).append(call)
    return groups


def measure(network: str, core: str, armcost: Path, folder: Path) -> tuple[list[Layer], float]:
    """`measure_model` of one of `NETWORKS`."""
    return measure_model(NETWORKS[network](), core, armcost, folder)


def measure_model(
    proto: onnx.ModelProto, core: str, armcost: Path, folder: Path, winograd: bool = True
) -> tuple[list[Layer], float]:
    """The layers with their modelled cycles, and the largest relative error of the result.

    proto: of one input, `input`, and one output. core: a key of `CORES`. Without `winograd`, float
    convolutions add up plain products.
    """
    model = CORES[core]
    x = sample_input(proto)
    program = compile_program(proto, core, winograd)
    path = link(program, core, x, folder)
    out, report = folder / "outputs", folder / "armcost.json"
    command = [sys.executable, str(armcost), "--cores", model, "--json", str(report)]
    command += ["--top", str(_ALL_BLOCKS)] if model in IN_ORDER else []
    subprocess.run([*command, "--", str(path), str(out)], check=True, stdout=subprocess.DEVNULL)
    regions = {r["name"]: r for r in json.loads(report.read_text())["regions"]}
    layers = []
    for step, ((layer, kind, _), calls) in enumerate(_groups(program).items()):
        region = regions[f"k{step}"]
        price = region["cores"][model]
        macs = sum(call.macs for call in calls)
        layers.append(
            Layer(
                layer,
                kind,
                calls[-1].kernel,
                macs,
                float(price["cycles"]),
                float(price["resource_bound"]),
                region["instructions"],
                _stalling(region, IN_ORDER[model]) if model in IN_ORDER else None,
            )
        )
    return layers, _error(proto, x, np.fromfile(out, np.float32))


def _stalling(region: dict[str, Any], mcpu: str) -> float:
    """`in_order` on what armcost priced of a region."""
    blocks = region["blocks"]
    each = in_order.cycles([block["asm"] for block in blocks], mcpu)
    total = sum(block["count"] * one for block, one in zip(blocks, each, strict=True))
    return total / (region["priced_fraction"] or 1.0)


def _error(proto: Any, x: np.ndarray, ours: np.ndarray) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    reference = np.asarray(session.run(None, {"input": x})[0]).reshape(-1)
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def dabnn_binary_cycles(layers: list[Layer], model: str) -> float:
    """What dabnn's kernels would take for the binary layers, by its figures per 128 MACs.

    A layer that halves the map has half the MACs of its stage's others and twice the channels of
    its input: it gets the figure of a stride of two.
    """
    per_128 = DABNN[model]
    binary = [layer for layer in layers if layer.kind == "binary-conv"]
    full = max(layer.macs for layer in binary)
    stage_channels = [64, 128, 256, 512]
    total, stage = 0.0, 0
    for layer in binary:
        halved = layer.macs < full
        stage += halved
        total += layer.macs / 128 * per_128["s2" if halved else stage_channels[stage]]
    return total


def float_layers(layers: list[Layer]) -> list[Layer]:
    """The layers with float multiply-adds."""
    return [layer for layer in layers if layer.macs and layer.kind != "binary-conv"]


def tolerance(core: str) -> float:
    """The largest error that is right, by a key of `CORES`."""
    return HALF_TOLERANCE if core.endswith(HALF) else TOLERANCE


def fma_peak(core: str) -> int:
    """Multiply-adds a cycle at most, by a key of `CORES`."""
    return FMA_PEAK[CORES[core]] * (2 if core.endswith(HALF) else 1)


def fma_shares(layers: list[Layer], core: str) -> list[float]:
    """The part of the peak multiply-add rate that the float layers reach, by a key of `CORES`.

    With latencies, without, and for cores in order by what stalls for operands.
    """
    found = float_layers(layers)
    counts = [[one.cycles for one in found], [one.bound for one in found]]
    stalling = [one.stalling for one in found if one.stalling is not None]
    peak_cycles = sum(one.macs for one in found) / fma_peak(core)
    return [peak_cycles / sum(each) for each in (*counts, stalling) if each]


def against_dabnn(layers: list[Layer], model: str) -> tuple[float, float]:
    """dabnn's cycles over ours: of the binary layers with packing alone, and of the whole.

    dabnn's whole is its binary layers and our float layers at `FLOAT_GOAL` of the peak; ours is
    everything that runs, pools and packing too.
    """
    dabnn = dabnn_binary_cycles(layers, model)
    macs = sum(layer.macs for layer in float_layers(layers))
    peer = dabnn + macs / FMA_PEAK[model] / FLOAT_GOAL
    binary = sum(one.cycles for one in layers if one.kind in ("binary-conv", "pack"))
    return dabnn / binary, peer / sum(layer.cycles for layer in layers)


def document(
    results: dict[tuple[str, str], tuple[list[Layer], float]], float_table: Sequence[str] = ()
) -> str:
    """The tables as Markdown: totals, dabnn beside them, and the layers of each network.

    float_table: the lines of `arm64_float.table`.
    """
    lines = [
        "# Whole networks on arm64: modelled cycles",
        "",
        "Written by `python -m benchmarks.arm64 --models`. **All cycles are modelled**: exactly",
        "counted instructions of a run under qemu-aarch64, priced by llvm-mca's model of the core",
        "(one thread, every load a hit in the first-level cache). Nothing ran on Arm hardware.",
        "neoverse-n1 is priced with the same model as cortex-a76; in-order cores (cortex-a53) are",
        "priced too high. Every result was compared with onnxruntime's. `--float16` computes float",
        "layers in half precision: inexact. With random weights, as here, rounding turns signs at",
        "every binarisation, so its error says little about a trained network's.",
        "The float layers' part of the FMA peak counts the multiply-adds of direct convolutions;",
        "with the fewer ones of Winograd tiles (winograd.md) it may pass 100 %. The second figure",
        "leaves latencies out. Cores in order have a third one between: an instruction stalls for",
        "its operands and its pipe alone (benchmarks/in_order.py).",
        "",
        "| network | core | million cycles | binary layers | packing | float layers | other "
        "| float layers' part of the FMA peak | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (network, core), (layers, error) in results.items():
        parts = {"binary": 0.0, "pack": 0.0, "float": 0.0, "other": 0.0}
        for one in layers:
            kind = {"binary-conv": "binary", "pack": "pack"}.get(one.kind)
            parts[kind or ("float" if one.macs else "other")] += one.cycles
        cells = [f"{value / 1e6:.2f}" for value in (sum(parts.values()), *parts.values())]
        shares = ", ".join(f"{share:.0%}" for share in fma_shares(layers, core))
        lines.append(f"| {network} | {core} | {' | '.join(cells)} | {shares} | {error:.0e} |")
    lines += [
        "",
        "## Bi-Real-18 beside dabnn",
        "",
        "dabnn's 16 binary layers by its modelled cycles per 128 MACs on its own benchmark layers,",
        f"its float layers at {FLOAT_GOAL:.0%} of the FMA peak, nothing for packing and pools,",
        "against everything that runs here. The goal is 1.5 for the whole, of what is exact.",
        "",
        "| core | binary layers (ours with packing) | whole |",
        "|---|---|---|",
    ]
    for (network, core), (layers, _) in results.items():
        if network == "bireal18" and CORES[core] in DABNN:
            binary, whole = against_dabnn(layers, CORES[core])
            lines.append(f"| {core} | {binary:.2f}x | {whole:.2f}x |")
    if float_table:
        lines += [
            "",
            "## Float layers in half precision",
            "",
            "By `python -m benchmarks.arm64 --float-layers`: each layer alone with bias and ReLU,",
            "padding and conversions of its input and output counted with it. Kernels alone, by",
            "core and by what follows the layer: [arm64-float.md](arm64-float.md).",
            "",
            *float_table,
        ]
    for network in dict.fromkeys(name for name, _ in results):
        cores = [core for name, core in results if name == network]
        lines += ["", f"## {network}: thousand cycles of each layer", ""]
        lines.append("| layer | kind | " + " | ".join(cores) + " |")
        lines.append("|---|---|" + "---|" * len(cores))
        cycles: dict[tuple[str, str], dict[str, float]] = {}
        for core in cores:
            for one in results[network, core][0]:
                row = cycles.setdefault((one.name, one.kind), {})
                row[core] = row.get(core, 0.0) + one.cycles
        for (name, kind), row in cycles.items():
            values = " | ".join(f"{row.get(core, 0.0) / 1e3:.0f}" for core in cores)
            lines.append(f"| {name} | {kind} | {values} |")
    return "\n".join([*lines, ""])
