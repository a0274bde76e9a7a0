"""`build`: from a program to an artifact, in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import bnn_tvm
from bnn_tvm.errors import BnnError
from bnn_tvm.export import driver, kernels_abi, link, memory_plan, object_file
from bnn_tvm.export.artifact import Artifact, sha256_hex
from bnn_tvm.export.metadata import (
    DecisionInfo,
    FamilyInfo,
    LayerInfo,
    Metadata,
    TensorInfo,
    default_layout,
)
from bnn_tvm.program import Call, Choice, Program

if TYPE_CHECKING:
    from bnn_tvm.lower.object_cache import ObjectCache
    from bnn_tvm.targets import TargetSpec


def build(
    program: Program,
    spec: TargetSpec,
    metadata: Metadata,
    cache: ObjectCache | None = None,
    dump: Path | None = None,
) -> Artifact:
    """Compile `program` for `spec` into an artifact whose bytes are in memory.

    `metadata` comes with what only the compiler knows; inputs and outputs (unless given, to set
    layouts), layers, target and sizes are filled in here. `cache` is the one that scheduling
    looked kernels up in: those that it found are not compiled, the others go into it. With `dump`
    the assembly of every kernel that is compiled is written into that folder. Raises
    `ToolchainError` if code generation or linking fails.
    """
    check(program)
    memory = memory_plan.plan(program)
    weights = driver.pack_weights(program)
    metadata = replace(
        complete(metadata, program, spec),
        workspace_bytes=memory.arena_bytes,
        largest_live_bytes=memory.largest_live_bytes,
        weight_bytes=len(weights.blob),
    )
    if dump is not None:
        _dump_assembly(program, spec, dump / "5-assembly")
    with tempfile.TemporaryDirectory(prefix="bnn_tvm-") as folder:
        work = Path(folder)
        code_by_symbol = _objects(program, spec, cache)
        metadata = replace(metadata, families=_families(program, code_by_symbol))
        objects = []
        for symbol, code in code_by_symbol.items():
            objects.append(work / f"{symbol}.o")
            objects[-1].write_bytes(code)
        (work / "weights.bin").write_bytes(weights.blob)
        (work / "weights.S").write_text(driver.WEIGHTS_ASSEMBLY, encoding="ascii")
        text = driver.generate(program, memory, weights, metadata)
        (work / "model.c").write_text(text, encoding="ascii")
        library = work / "model.so"
        link.link_shared(spec.zig_target, [work / "model.c", work / "weights.S", *objects], library)
        so = library.read_bytes()
        names = ["model.c", "weights.bin", "weights.S", *(o.name for o in objects)]
        parts = {name: (work / name).read_bytes() for name in names}
    return Artifact(so, replace(metadata, so_bytes=len(so), so_sha256=sha256_hex(so)), parts)


def complete(metadata: Metadata, program: Program, spec: TargetSpec) -> Metadata:
    """`metadata` with what the program and the target say; sizes are left to the caller."""
    from tvm import __version__ as tvm_version

    return replace(
        metadata,
        tool_version=metadata.tool_version or bnn_tvm.__version__,
        tvm_version=metadata.tvm_version or tvm_version,
        target=spec.name,
        triple=spec.triple,
        cpu=spec.mcpu or "",
        features=tuple(f.removeprefix("+") for f in spec.mattr if not f.startswith("-")),
        isa=spec.isa,
        inputs=metadata.inputs or _infos(program, program.inputs),
        outputs=metadata.outputs or _infos(program, program.outputs),
        layers=_layers(program, metadata.decisions),
        family_rule=_family_rule(program.choice) if program.choice else "",
    )


def check(program: Program) -> None:
    """Refuse a program that the driver could not run. Raises `BnnError`: a bug of the passes."""
    for index, tensor in enumerate(program.tensors):
        if tensor.role == "constant":
            data = tensor.data
            if data is None or data.shape != tensor.shape or data.dtype != np.dtype(tensor.dtype):
                raise BnnError("a constant lacks data of its shape and dtype", node=tensor.name)
        if tensor.role == "input" and index not in program.inputs:
            raise BnnError("an input tensor is not among the inputs", node=tensor.name)
        if tensor.role == "output" and index not in program.outputs:
            raise BnnError("an output tensor is not among the outputs", node=tensor.name)
    for family in program.families:
        _check_run(program, program.run_with(family))


def _check_run(program: Program, calls: Sequence[tuple[int, Call]]) -> None:
    """Refuse a run whose calls do not read what was written before."""
    count = len(program.tensors)
    written = set(program.inputs)
    written |= {i for i, t in enumerate(program.tensors) if t.role == "constant"}
    for step, call in calls:
        place = f"call {step}, {call.symbol}"
        if any(not 0 <= i < count for i in call.args):
            raise BnnError("a call has an argument that is no tensor", node=place)
        if not 1 <= call.num_outputs <= len(call.args):
            raise BnnError("a call has a wrong number of outputs", node=place)
        reads, writes = call.args[: -call.num_outputs], call.args[-call.num_outputs :]
        if not set(reads) <= written:
            names = sorted(program.tensors[i].name for i in set(reads) - written)
            raise BnnError(f"reads {names}, which nothing has written", node=place)
        if any(program.tensors[i].role in ("input", "constant") for i in writes):
            raise BnnError("a call writes an input or a constant", node=place)
        if set(reads) & set(writes):
            raise BnnError("a call reads and writes the same tensor", node=place)
        written |= set(writes)
    for index in program.outputs:
        if index not in written:
            raise BnnError("no call writes an output", node=program.tensors[index].name)


def _objects(program: Program, spec: TargetSpec, cache: ObjectCache | None) -> dict[str, bytes]:
    """Object code of every kernel that the program calls, by symbol, in order."""
    symbols = {call.symbol for call in program.calls}
    _check_parameters(program, kernels_abi.parameters_of(program.module, symbols))
    found = cache.found if cache is not None else {}
    made = kernels_abi.compile_objects(program.module, symbols - found.keys(), spec.tvm_target())
    if cache is not None:
        cache.store(made)
    known = {**found, **made}
    return {symbol: known[symbol] for symbol in sorted(symbols)}


def _dump_assembly(program: Program, spec: TargetSpec, folder: Path) -> None:
    """`<symbol>.s` for every kernel that the program calls, and nothing of an earlier dump."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.s"):
        old.unlink()
    for symbol in sorted({call.symbol for call in program.calls}):
        text = kernels_abi.assembly(program.module, {symbol}, spec.tvm_target())
        (folder / f"{symbol}.s").write_text(text, encoding="utf-8")


def _check_parameters(
    program: Program, params: dict[str, tuple[kernels_abi.Parameter, ...]]
) -> None:
    for step, call in enumerate(program.calls):
        expected = params[call.symbol]
        place = f"call {step}, {call.symbol}"
        if len(expected) != len(call.args):
            raise BnnError(
                f"a call passes {len(call.args)} tensors to a kernel of {len(expected)}", node=place
            )
        for position, (index, param) in enumerate(zip(call.args, expected, strict=True)):
            tensor = program.tensors[index]
            count = int(np.prod(tensor.shape, dtype=np.int64))
            if param.dtype != tensor.dtype or param.count != count:
                raise BnnError(
                    f"argument {position} ({tensor.name}) is {count} x {tensor.dtype}, the kernel "
                    f"takes {param.count} x {param.dtype}",
                    node=place,
                )


def _infos(program: Program, indices: list[int]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(t.name, t.shape, t.dtype, default_layout(len(t.shape)))
        for t in (program.tensors[i] for i in indices)
    )


def _layers(program: Program, decisions: tuple[DecisionInfo, ...]) -> tuple[LayerInfo, ...]:
    by_output = {decision.output: decision for decision in decisions}
    layers = []
    for call in program.calls:
        reads = call.args[: -call.num_outputs]
        decision = by_output.get(call.layer)
        constants = {i for i in reads if program.tensors[i].role == "constant"}
        data = [program.tensors[i].shape for i in reads if i not in constants]
        layers.append(
            LayerInfo(
                output=call.layer,
                kind=call.kind,
                kernel=call.kernel,
                binary=bool(decision and decision.binary and call.macs),
                reason=decision.reason if decision else "",
                input_shape=data[0] if data else (),
                output_shape=program.tensors[call.args[-call.num_outputs]].shape,
                macs=call.macs,
                weight_bytes=sum(program.tensors[i].nbytes for i in constants),
                families=call.families,
            )
        )
    return tuple(layers)


def _families(program: Program, objects: Mapping[str, bytes]) -> tuple[FamilyInfo, ...]:
    """What each family of kernels has for itself in the library, and which cores take it."""
    choice = program.choice
    if choice is None:
        return ()
    infos = []
    for family in choice.families:
        own, shared = _used(program, True, family), _used(program, False, family)
        constants, symbols = own[0] - shared[0], own[1] - shared[1]
        cores = dict.fromkeys(core.name for core in choice.cores if core.family == family)
        infos.append(
            FamilyInfo(
                family,
                sum(memory_plan.align(program.tensors[index].nbytes) for index in constants),
                sum(object_file.loaded_bytes(objects[symbol]) for symbol in symbols),
                tuple(cores),
            )
        )
    return tuple(infos)


def _used(program: Program, alone: bool, family: str) -> tuple[set[int], set[str]]:
    """Constants and symbols of the calls that only `family` makes, or of all others."""
    calls = [call for call in program.calls if (call.families == (family,)) == alone]
    constants = {i for call in calls for i in call.args if program.tensors[i].role == "constant"}
    return constants, {call.symbol for call in calls}


def _family_rule(choice: Choice) -> str:
    """How the device chooses, for people."""
    return (
        "when it is loaded, by the core's id (MIDR_EL1): for the slowest of the THREADS fastest "
        f"cores that the process may run on; {choice.unknown} for a core that is not listed, "
        f"{choice.unreadable} where no id can be read; --kernels, kernels=, bnn_create_with or "
        "BNN_TVM_KERNELS override it"
    )
