"""Every option of a compilation, its default and its help text, stated once.

The command line is generated from these fields, the Python API takes them as keyword arguments,
and the `.dab` records them. A `CompileOptions` that exists is valid: wrong values raise
`UsageError` on construction.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from bnn_tvm.errors import UsageError

Mode = Literal["strict", "moderate", "aggressive"]
SignOfZero = Literal["plus", "minus"]
Runtime = Literal["c", "tvm"]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]

MODES: tuple[str, ...] = get_args(Mode)
SIGNS_OF_ZERO: tuple[str, ...] = get_args(SignOfZero)
RUNTIMES: tuple[str, ...] = get_args(Runtime)


class OptionHelp(TypedDict, total=False):
    """Metadata of a field: what the command line needs to offer it."""

    help: str
    metavar: str
    flags: tuple[str, ...]


def _option(default: Any, *flags: str, help: str, metavar: str | None = None) -> Any:
    metadata: OptionHelp = {"help": help, "flags": flags}
    if metavar is not None:
        metadata["metavar"] = metavar
    return field(default=default, metadata=dict(metadata))


@dataclass(frozen=True)
class CompileOptions:
    """How to compile: where for, which convolutions become binary, which shapes.

    Sequences and mappings are accepted for the tuple fields and stored as tuples, so that equal
    options compare and hash equal. `dabnn_compatible` sets `sign_zero` to "minus" and
    `binarize_first`, which it implies.
    """

    target: str = _option(
        "host",
        "--target",
        help="Preset to compile for (bnn-tvm targets lists them); host is this machine.",
        metavar="T",
    )
    mcpu: str | None = _option(
        None,
        "--mcpu",
        help="Core, as LLVM names it: cortex-a53, cortex-a76, neoverse-n1, znver4 ...",
        metavar="CORE",
    )
    mattr: tuple[str, ...] = _option(
        (),
        "--mattr",
        help="CPU features to add or remove: +dotprod,-sve (comma-separated).",
        metavar="F,F",
    )
    mode: Mode = _option(
        "aggressive",
        "--mode",
        help="Which convolutions become binary: strict, moderate or aggressive.",
    )
    binary_list: Path | None = _option(
        None,
        "--binary-list",
        "--binary-convs-file",
        help="File with ONNX output names of layers to make binary whatever their weights are.",
        metavar="FILE",
    )
    binary_convs: tuple[str, ...] = _option(
        (),
        "--binary-convs",
        help="The same as names, comma-separated.",
        metavar="A,B",
    )
    exclude_first_last: bool = _option(
        False,
        "--exclude-first-last",
        help="Make every conv and dense layer binary except the first and the last.",
    )
    binarize_first: bool = _option(
        False,
        "--binarize-first",
        help="Let the layer that reads the raw model input be binary too.",
    )
    dabnn_compatible: bool = _option(
        False,
        "--dabnn-compatible",
        help="dabnn's values: sign(0) is -1, padding is -1, every marked layer is binarised.",
    )
    sign_zero: SignOfZero = _option(
        "plus",
        "--sign-zero",
        help="What a plain ONNX Sign becomes at exactly 0.",
    )
    float16: bool = _option(
        False,
        "--float16",
        help="Compute float layers in half precision: faster, inexact. Needs a 64-bit Arm core "
        "with FullFP16, such as --mcpu cortex-a76.",
    )
    batch: int = _option(
        1,
        "--batch",
        help="Batch size to compile for where the model leaves it open.",
        metavar="N",
    )
    shapes: Shapes = _option(
        (),
        "--shape",
        help="Shape of an input that the model leaves open: input=1,3,224,224 (repeatable).",
        metavar="NAME=DIMS",
    )
    winograd: bool = _option(
        True,
        "--no-winograd",
        help="Let float convolutions add up plain products: slower, but an infinity or NaN stays "
        "within the windows that hold it.",
    )
    runtime: Runtime = _option(
        "c",
        "--runtime",
        help="What the library needs on the device: c is nothing but libc, tvm the TVM runtime, "
        "whose virtual machine then runs it.",
    )
    dump: Path | None = _option(
        None,
        "--dump",
        help="Folder to write the module after each phase and the assembly of every kernel to.",
        metavar="DIR",
    )
    cache: bool = _option(
        True,
        "--no-cache",
        help="Compile every kernel anew instead of taking unchanged ones from ~/.cache/bnn_tvm.",
    )

    def __post_init__(self) -> None:
        """Normalise containers and paths, then check every value."""
        set_field = object.__setattr__
        set_field(self, "mattr", _names(self.mattr))
        set_field(self, "binary_convs", _names(self.binary_convs))
        set_field(self, "shapes", _shapes(self.shapes))
        for name in ("binary_list", "dump"):
            value = getattr(self, name)
            set_field(self, name, None if value is None else Path(value))
        self._check()
        if self.dabnn_compatible:
            set_field(self, "sign_zero", "minus")
            set_field(self, "binarize_first", True)

    def _check(self) -> None:
        _choice("mode", self.mode, MODES)
        _choice("sign-zero", self.sign_zero, SIGNS_OF_ZERO)
        _choice("runtime", self.runtime, RUNTIMES)
        if isinstance(self.batch, bool) or not isinstance(self.batch, int) or self.batch < 1:
            raise UsageError(
                f"the batch size must be a whole number from 1, not {self.batch!r}",
                node="--batch",
                hint="give for example --batch 1",
            )
        lists = {
            "--binary-list": self.binary_list is not None,
            "--binary-convs": bool(self.binary_convs),
            "--exclude-first-last": self.exclude_first_last,
        }
        given = [name for name, present in lists.items() if present]
        if len(given) > 1:
            raise UsageError(
                f"{' and '.join(given)} exclude one another",
                node=given[1],
                hint="give one of them",
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain values by field name, for JSON and the `.dab`."""
        return {
            f.name: str(value) if isinstance(value := getattr(self, f.name), Path) else value
            for f in dataclasses.fields(self)
        }


def _choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UsageError(
            f"{value!r} is no {name}",
            node=f"--{name}",
            hint=did_you_mean(str(value), choices),
        )


def _names(value: str | Iterable[str]) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _shapes(value: Mapping[str, Sequence[int]] | Iterable[tuple[str, Sequence[int]]]) -> Shapes:
    pairs = value.items() if isinstance(value, Mapping) else value
    result: dict[str, tuple[int, ...]] = {}
    for name, dims in pairs:
        shape = tuple(int(dim) for dim in dims)
        if not shape or any(dim < 1 for dim in shape):
            raise UsageError(
                f"the shape of input {name!r} must be whole numbers from 1, not {list(dims)}",
                node="--shape",
                hint="give for example --shape input=1,3,224,224",
            )
        if name in result:
            raise UsageError(
                f"input {name!r} has two shapes", node="--shape", hint="give one shape per input"
            )
        result[name] = shape
    return tuple(result.items())


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Hint text: near spellings of `word` among `known`, else the first of `known`."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"choose one of {shown}" if names else "there is none to choose from"
