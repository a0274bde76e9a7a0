"""`--runtime tvm`: a library for apps that ship the TVM runtime already.

It is loaded by `tvm.runtime.load_module` and run by `tvm.relax.VirtualMachine`, or by the same
calls of TVM's C++ API; `main` takes the ONNX inputs in order and returns a tuple of the outputs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bnn_tvm.errors import ToolchainError
from bnn_tvm.export import link
from bnn_tvm.export.artifact import Artifact, sha256_hex
from bnn_tvm.export.builder import check, complete
from bnn_tvm.export.metadata import Metadata
from bnn_tvm.program import Program
from bnn_tvm.targets import is_android

if TYPE_CHECKING:
    from tvm.ir import IRModule

    from bnn_tvm.targets import TargetSpec


def build_for_vm(
    program: Program, module: IRModule, spec: TargetSpec, metadata: Metadata
) -> Artifact:
    """Compile `module` (see `lower.relax_vm`) for the VM; `program` describes it in the .dab.

    The VM plans its own memory, so the artifact's workspace is unknown (0). Raises
    `ToolchainError` if code generation or linking fails.
    """
    from tvm import relax
    from tvm.ir.transform import Sequential

    check(program)
    transform = relax.transform
    # TVM's default pipeline without what needs unscheduled kernels; `lower.relax_vm` did that.
    passes = Sequential(
        [
            transform.ToNonDataflow(),
            transform.RemovePurityChecking(),
            transform.CallTIRRewrite(),
            transform.StaticPlanBlockMemory(),
            transform.LowerAllocTensor(),
            transform.KillAfterLastUse(),
            transform.LowerRuntimeBuiltin(),
            transform.ComputePrimValue(),
            transform.VMShapeLower(),
            transform.AttachGlobalSymbol(),
        ]
    )
    with tempfile.TemporaryDirectory(prefix="bnn_tvm-") as folder:
        library = Path(folder) / "model.so"

        def zig(output: str, files: Sequence[str], options: object = None) -> None:
            flags = ["-shared", "-s", *link.link_flags(spec.zig_target)]
            arguments = ["cc", "-target", spec.zig_target, *flags, *map(str, files)]
            if "sme2" in spec.features:
                arguments.append(str(link.runtime_dir() / "src" / "sme.c"))
            if is_android(spec.triple):  # whose linker looks in the libraries named alone
                arguments += link.libraries(spec.zig_target, Path(folder))
            link.run_zig([*arguments, "-o", output], Path(folder), link.TIMEOUT_S)

        zig.output_format = "so"  # type: ignore[attr-defined]
        try:
            executable = relax.build(module, target=spec.tvm_target(), relax_pipeline=passes)
            executable.export_library(str(library), fcompile=zig)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ToolchainError(
                f"TVM could not build the module for its virtual machine: {error}",
                hint="compile without --runtime tvm, or rerun with --debug",
            ) from error
        so = library.read_bytes()
    metadata = replace(
        complete(metadata, program, spec), runtime="tvm", so_bytes=len(so), so_sha256=sha256_hex(so)
    )
    return Artifact(so, metadata)
