"""The Python API: options in, results out. The command line is a thin layer over it.

`bnn_tvm.compile_model` and `bnn_tvm.load` are the usual entrances; `verify`, `bench` and
`inspect` do what the commands of these names do.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bnn_tvm.errors import FileError, ModelError, UsageError
from bnn_tvm.inspection import Inspection, decision_dict
from bnn_tvm.options import CompileOptions
from bnn_tvm.targets import TargetSpec, resolve

if TYPE_CHECKING:
    import onnx

    from bnn_tvm.devices import Loaded
    from bnn_tvm.export import Artifact
    from bnn_tvm.export.metadata import TensorInfo
    from bnn_tvm.frontend import Prepared
    from bnn_tvm.measure import BenchReport
    from bnn_tvm.recognize import Decision, Recognition
    from bnn_tvm.recognize.explain import Explanation
    from bnn_tvm.runtime import Model
    from bnn_tvm.verification import VerifyReport

Progress = Callable[[str], None]


def _silent(phase: str) -> None:
    """No progress."""


@dataclasses.dataclass(frozen=True)
class SavedFiles:
    """Where a compiled model was written."""

    so: Path
    dab: Path


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled model in memory: `save` writes it.

    decisions: one per Conv, Gemm and MatMul in graph order. warnings: in what the result may
    differ from the ONNX graph.
    """

    artifact: Artifact
    options: CompileOptions
    spec: TargetSpec
    decisions: tuple[Decision, ...]
    warnings: tuple[str, ...]

    def save(self, stem: str | Path) -> SavedFiles:
        """Write `stem`.so and `stem`.dab, both or neither.

        A suffix .so or .dab of `stem` itself is dropped; its folder is made.

        Raises
        ------
        FileError: a file cannot be written.
        """
        path = Path(stem)
        if path.suffix in (".so", ".dab"):
            path = path.with_suffix("")
        with _folder_for(path):
            so, dab = self.artifact.save(path)
        return SavedFiles(so, dab)

    @property
    def target_text(self) -> str:
        """The target for people: preset, triple and core."""
        return f"{self.spec.name} ({self.spec.triple}, {self.spec.mcpu})"

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "target": self.spec.name,
            "mode": self.options.mode,
            "decisions": [decision_dict(decision) for decision in self.decisions],
            "warnings": list(self.warnings),
            "triple": self.spec.triple,
            "mcpu": self.spec.mcpu,
            "families": [family.name for family in self.artifact.metadata.families],
        }


@contextlib.contextmanager
def _folder_for(path: Path) -> Iterator[None]:
    """Make the folder of `path`; what was made goes again if the block fails."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot make the output folder: {error.strerror}",
            node=str(path.parent),
            hint="choose a folder that exists and is writable",
        ) from error
    try:
        yield
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def compile_model(model: str | Path | onnx.ModelProto, **options: Any) -> Compiled:
    """Compile an ONNX model.

    model: path or ModelProto. options: the fields of `CompileOptions`, for example
    target="arm64", mode="strict", batch=4, shapes={"input": (1, 3, 224, 224)}.

    Raises
    ------
    UsageError, ModelError, FileError, ToolchainError: see `bnn_tvm.errors`.
    """
    return compile_with(model, CompileOptions(**options))


def compile_with(
    model: str | Path | onnx.ModelProto, options: CompileOptions, progress: Progress = _silent
) -> Compiled:
    """`compile_model` with options as a value; `progress` is told each phase as it begins."""
    prepared, recognition, spec = _front(model, options, progress)
    artifact = _build(prepared, recognition, recognition.model, options, spec, progress)
    warnings = artifact.metadata.warnings
    return Compiled(artifact, options, spec, recognition.decisions, warnings)


def _front(
    model: str | Path | onnx.ModelProto, options: CompileOptions, progress: Progress
) -> tuple[Prepared, Recognition, TargetSpec]:
    from bnn_tvm import pipeline
    from bnn_tvm.frontend import prepare
    from bnn_tvm.recognize import recognize

    progress("prepare")
    spec = resolve(options)
    prepared = prepare(model, batch=options.batch, shapes=dict(options.shapes))
    progress("recognise")
    recognition = recognize(prepared, options)
    if options.float16:
        recognition = pipeline.with_float16(recognition)
    return prepared, recognition, spec


def _build(
    prepared: Prepared,
    recognition: Recognition,
    graph: onnx.ModelProto,
    options: CompileOptions,
    spec: TargetSpec,
    progress: Progress,
) -> Artifact:
    """Lower and link `graph`, which is the recognised model or a part of it."""
    from bnn_tvm import __version__, export, pipeline
    from bnn_tvm.export.metadata import DecisionInfo, Metadata
    from bnn_tvm.lower.object_cache import ObjectCache
    from bnn_tvm.verification.deployment import deployment_test

    # A dump and TVM's virtual machine need every kernel scheduled, not its object code.
    usable = options.cache and options.dump is None and options.runtime == "c"
    cache = ObjectCache() if usable else None
    halves = recognition.halves
    lowered = pipeline.lower(
        graph,
        spec,
        progress=progress,
        dump=options.dump,
        cache=cache,
        halves=halves,
        winograd=options.winograd,
    )
    program = lowered.program()
    inputs, outputs = _tensor_infos(graph)
    progress("self test")
    test_vector, warnings = None, recognition.warnings
    try:
        test_vector = deployment_test(graph, inputs, outputs, inexact=bool(halves))
    except ModelError as error:
        warnings = (*warnings, f"the result carries no test vector: {error.message}")
    metadata = Metadata(
        tool_version=__version__,
        source=prepared.source,
        source_sha256=prepared.sha256,
        mode=options.mode,
        options=tuple(
            (name, str(value)) for name, value in options.as_dict().items() if name != "cache"
        ),
        inputs=inputs,
        outputs=outputs,
        decisions=tuple(
            DecisionInfo(d.output, d.op, d.binary, d.rule or "", d.reason, tuple(d.implied))
            for d in recognition.decisions
        ),
        warnings=warnings,
        test_vector=test_vector,
    )
    progress("build and link")
    if options.runtime == "tvm":
        from bnn_tvm.export.relax_vm import build_for_vm

        return build_for_vm(program, lowered.vm_module(), spec, metadata)
    return export.build(program, spec, metadata, cache, options.dump)


def _tensor_infos(graph: onnx.ModelProto) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Inputs and outputs of a clean or rewritten model."""
    import onnx

    from bnn_tvm.export.metadata import TensorInfo, default_layout

    def info(value: onnx.ValueInfoProto) -> TensorInfo:
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        return TensorInfo(value.name, shape, str(dtype), default_layout(len(shape)))

    constants = {tensor.name for tensor in graph.graph.initializer}
    inputs = tuple(info(value) for value in graph.graph.input if value.name not in constants)
    return inputs, tuple(info(value) for value in graph.graph.output)


def load(
    path: str | Path, *, threads: int = 1, self_test: bool = False, kernels: str | None = None
) -> Model:
    """Load a compiled model, .so or .dab, on this machine; both files are checked.

    threads: how many a run uses. self_test: run the stored test vector. kernels: the family of
    kernels to run, where the model has several ("cnt" or "tbl"); None lets the device choose.

    Raises
    ------
    FileError: a file is missing, damaged, or does not belong to the other. DeviceError: this
    machine cannot run it. UsageError: the model has no such family of kernels.
    """
    from bnn_tvm import runtime

    return runtime.load(Path(path), threads=threads, self_test=self_test, kernels=kernels)


def verify(
    model: str | Path | onnx.ModelProto,
    options: CompileOptions | None = None,
    *,
    inputs: Mapping[str, np.ndarray] | Sequence[str] = (),
    samples: int = 2,
    seed: int = 0,
    kernels: str | None = None,
    progress: Progress = _silent,
) -> VerifyReport:
    """Compile `model`, run it, and compare with onnxruntime, end to end and layer by layer.

    inputs: arrays by name, or `--input` texts (files); one or more samples along the first axis.
    samples: how many random inputs to try besides, made with `seed`. kernels: the family of kernels
    to compare, where the model has several; None compares every one.

    Raises
    ------
    Those of `compile_model` and `load`; DeviceError when a foreign target cannot be emulated.
    """
    from bnn_tvm.arrays import read_inputs
    from bnn_tvm.devices import device_for
    from bnn_tvm.runtime.families import check_family
    from bnn_tvm.verification import verify as verify_recognised
    from bnn_tvm.verification.reference import random_inputs
    from bnn_tvm.verification.samples import split

    options = options or CompileOptions()
    prepared, recognition, spec = _front(model, options, progress)
    infos = _tensor_infos(prepared.model)[0]
    if not isinstance(inputs, Mapping):
        inputs = read_inputs(inputs, [info.name for info in infos]) if inputs else {}
    given = split(inputs, infos) if inputs else []
    random = [random_inputs(prepared.model, seed + index) for index in range(samples)]
    if not given and not random:
        raise UsageError(
            "nothing to verify with", node="--samples", hint="give --input or --samples 1"
        )
    device = device_for(spec.triple)
    with contextlib.ExitStack() as stack:

        def build(graph: onnx.ModelProto) -> dict[str, Loaded]:
            artifact = _build(prepared, recognition, graph, options, spec, progress)
            if graph is recognition.model and kernels is not None:
                check_family(artifact.metadata, kernels)
            families = [family.name for family in artifact.metadata.families]
            loaded = {
                name: device.load(artifact, kernels=name or None)
                for name in families or [""]
                if kernels in (None, name) or not families
            }
            for one in loaded.values():
                stack.callback(one.close)
            return loaded

        return verify_recognised(
            prepared, recognition, [*given, *random], build, spec.name, progress
        )


def bench(
    path: str | Path,
    *,
    threads: int = 1,
    repeat: int = 50,
    profile: bool = False,
    kernels: str | None = None,
) -> BenchReport:
    """Measure a compiled model on this machine, with random inputs.

    With `profile` the report has every kernel call's median time over the same number of runs.
    `kernels` as in `load`.
    """
    from bnn_tvm.export.test_vector import make_inputs
    from bnn_tvm.measure import BenchReport, latency

    model = load(path, threads=threads, kernels=kernels)
    inputs = make_inputs(model.inputs, seed=0)
    layers = model.profile(inputs, repeat) if profile else ()
    times = latency(model, inputs, repeat)
    return BenchReport(model.metadata.target, threads, times, layers, model.kernels)


def inspect(path: str | Path, options: CompileOptions | None = None) -> Inspection:
    """What is in a .dab or .so (through the .dab beside it), or what an .onnx would become.

    `options` matter for an ONNX file alone.

    Raises
    ------
    FileError: the file cannot be read or is not what its suffix says.
    ModelError: see `compile_model`.
    """
    from bnn_tvm import inspection

    path = Path(path)
    if path.suffix in (".so", ".dab"):
        from bnn_tvm.export import dab
        from bnn_tvm.runtime.files import open_files

        metadata = open_files(path).metadata if path.suffix == ".so" else dab.read(path)
        return inspection.of_metadata(metadata)
    options = options or CompileOptions()
    prepared, recognition, _ = _front(path, options, _silent)
    inputs, outputs = _tensor_infos(prepared.model)
    return inspection.of_onnx(
        prepared, inputs, outputs, recognition.decisions, recognition.warnings, options.mode
    )


def explain(
    model: str | Path | onnx.ModelProto, name: str, options: CompileOptions | None = None
) -> Explanation:
    """The evidence behind the decision about the layer of an ONNX model with output `name`.

    Raises
    ------
    UsageError: no layer has that output, or `model` is a compiled one. Those of `compile_model`.
    """
    from bnn_tvm.frontend import prepare
    from bnn_tvm.recognize.explain import explain as explain_layer

    if isinstance(model, str | Path) and Path(model).suffix in (".so", ".dab"):
        raise UsageError(
            "a compiled model no longer holds the evidence for its decisions",
            node=str(model),
            hint="give the .onnx file that it was compiled from",
        )
    options = options or CompileOptions()
    if not options.float16:
        prepared = prepare(model, batch=options.batch, shapes=dict(options.shapes))
        return explain_layer(prepared, options, name)
    prepared, recognition, _ = _front(model, options, _silent)
    explanation = explain_layer(prepared, options, name)
    output = explanation.decision.output
    decision = next(d for d in recognition.decisions if d.output == output)
    return dataclasses.replace(explanation, decision=decision)


def include_dir() -> Path:
    """The folder of `bnn_tvm.h`, the C header that is the same for every compiled model."""
    from bnn_tvm.export import link

    return link.include_dir()
