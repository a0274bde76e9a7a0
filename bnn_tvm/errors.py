"""The errors a user can meet, each with its exit code, place and remedy.

Every error that bnn_tvm raises on purpose is a `BnnError`. Its text says what is wrong, `node`
says where (an ONNX output or node name, a file, an option) and `hint` says what to do. Anything
else that reaches the command line is a bug and ends with exit code 70.
"""

from __future__ import annotations


class BnnError(Exception):
    """Base of all errors with a cause the user can act on.

    Parameters
    ----------
    message: what is wrong, one sentence, without the place and the remedy.
    node: where: the ONNX node or output name, the file or the option concerned.
    hint: what to do about it.
    """

    code = 70
    kind = "bug"

    def __init__(self, message: str, *, node: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.hint = hint

    def __str__(self) -> str:
        where = f" [{self.node}]" if self.node else ""
        remedy = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{self.message}{where}{remedy}"

    def as_dict(self) -> dict[str, object]:
        """The `error` object of `--json`."""
        return {
            "code": self.code,
            "kind": self.kind,
            "message": self.message,
            "node": self.node,
            "hint": self.hint,
        }


class UsageError(BnnError):
    """An option, argument or input array is wrong."""

    code = 2
    kind = "usage"


class ModelError(BnnError):
    """This model cannot be compiled."""

    code = 3
    kind = "model"


class ToolchainError(BnnError):
    """A compiler, linker or emulator is missing or failed."""

    code = 4
    kind = "toolchain"


class DeviceError(BnnError):
    """A device, emulator run or RPC session failed."""

    code = 5
    kind = "device"


class FileError(BnnError):
    """A file cannot be read or written, or is not what its name says."""

    code = 6
    kind = "file"
