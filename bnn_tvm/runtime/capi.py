"""`bnn_tvm.h` in ctypes, and the errors that its status codes become."""

from __future__ import annotations

import _ctypes
import ctypes
import tempfile
from pathlib import Path

from bnn_tvm.errors import BnnError, DeviceError, FileError, UsageError
from bnn_tvm.export.metadata import TensorInfo

ABI_VERSION = 1
MAX_THREADS = 256

OK, ARGUMENT, MEMORY, THREAD, CPU, BUSY, KERNEL, SELF_TEST, UNSUPPORTED, FAMILY = range(10)

_HINTS = {
    ARGUMENT: f"threads must be 1 to {MAX_THREADS}",
    MEMORY: "the machine is out of memory",
    THREAD: "use fewer threads",
    CPU: "compile for this machine: --target host, or a lower --mcpu",
    BUSY: "load the model once for each thread",
    SELF_TEST: "the files or the machine differ from what was compiled for: compile again",
    UNSUPPORTED: "load it with self_test=False",
    FAMILY: "set BNN_TVM_KERNELS to one of the names that inspect shows, or unset it",
}


class CTensorInfo(ctypes.Structure):
    """bnn_tensor_info"""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("layout", ctypes.c_char_p),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("nbytes", ctypes.c_uint64),
    )

    def to_info(self) -> TensorInfo:
        """The same as a plain value."""
        return TensorInfo(
            self.name.decode(),
            tuple(int(self.shape[i]) for i in range(self.rank)),
            self.dtype.decode(),
            self.layout.decode(),
        )


def open_library(path: Path) -> ctypes.CDLL:
    """dlopen a model.so and declare its functions.

    Raises `FileError` if it cannot be loaded or has another ABI version.
    """
    try:
        library = _dlopen(path)
        library.bnn_abi_version.restype = ctypes.c_uint32
        version = library.bnn_abi_version()
    except (OSError, AttributeError) as exc:
        raise FileError(f"cannot load the library: {exc}", node=str(path)) from exc
    if version != ABI_VERSION:
        close_library(library)
        raise FileError(
            f"the library has ABI version {version}, this bnn_tvm needs {ABI_VERSION}",
            node=str(path),
            hint="compile the model with this version of bnn_tvm",
        )
    pointer = tables = ctypes.c_void_p
    info = ctypes.POINTER(CTensorInfo)
    text, int32 = ctypes.c_char_p, ctypes.c_int32
    signatures: dict[str, tuple[object, list[object]]] = {
        "bnn_num_inputs": (int32, []),
        "bnn_num_outputs": (int32, []),
        "bnn_num_layers": (int32, []),
        "bnn_input": (info, [int32]),
        "bnn_output": (info, [int32]),
        "bnn_create": (int32, [int32, ctypes.POINTER(pointer)]),
        "bnn_destroy": (None, [pointer]),
        "bnn_run": (int32, [pointer, tables, tables]),
        "bnn_run_profiled": (int32, [pointer, tables, tables, ctypes.POINTER(ctypes.c_double)]),
        "bnn_self_test": (int32, [pointer, ctypes.POINTER(ctypes.c_double)]),
        "bnn_error_message": (text, [pointer]),
        "bnn_status_text": (text, [int32]),
    }
    if hasattr(library, "bnn_create_with"):  # not in libraries of bnn_tvm 0.1
        signatures["bnn_create_with"] = (int32, [int32, text, ctypes.POINTER(pointer)])
        signatures["bnn_family"] = (text, [pointer])
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def _dlopen(path: Path) -> ctypes.CDLL:
    """A library that is open already under this very path is handed out again by dlopen, even if
    the file has been replaced since. Under a name never used before it compares the files.
    """
    with tempfile.TemporaryDirectory(prefix="bnn_tvm-") as folder:
        name = Path(folder) / path.name
        name.symlink_to(path)
        return ctypes.CDLL(str(name))


def close_library(library: ctypes.CDLL) -> None:
    """Undo `open_library`: nothing of the library may be called any more."""
    _ctypes.dlclose(library._handle)


def error(status: int, message: str, node: str) -> BnnError:
    """The error for a status other than OK."""
    kind: type[BnnError] = UsageError if status in (ARGUMENT, FAMILY) else DeviceError
    return kind(message, node=node, hint=_HINTS.get(status))
