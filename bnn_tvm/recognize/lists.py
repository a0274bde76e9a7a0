"""The layers that a list option names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bnn_tvm.errors import FileError, UsageError
from bnn_tvm.recognize.layers import Layer

if TYPE_CHECKING:
    from bnn_tvm.options import CompileOptions


def read_names(path: Path) -> tuple[str, ...]:
    """Names in a list file: separated by any white space, duplicates dropped.

    Raises FileError where the file cannot be read as text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
        raise FileError(
            f"cannot read the list of binary layers: {why}",
            node=str(path),
            hint="give a text file with ONNX output names separated by white space",
        ) from None
    return tuple(dict.fromkeys(text.split()))


def listed(
    options: CompileOptions, layers: list[Layer], renamed: Mapping[str, str]
) -> frozenset[str]:
    """Output names of the layers to be made binary by --binary-list and its like.

    renamed: names that the file has for tensors which go by another name now.

    Raises UsageError for options that exclude one another, for names that are no layer's output
    (all at once, with near spellings), and for layers without constant weights.
    """
    given = {
        "--binary-list": options.binary_list is not None,
        "--binary-convs": bool(options.binary_convs),
        "--exclude-first-last": options.exclude_first_last,
    }
    used = [name for name, present in given.items() if present]
    if len(used) > 1:
        raise UsageError(
            f"{' and '.join(used)} exclude one another", node=used[1], hint="give one of them"
        )
    if options.exclude_first_last:
        able = [x.output for x in layers if x.op != "MatMul" or x.weights is not None]
        usable = {x.output for x in layers if x.weights is not None}
        return frozenset(able[1:-1]) & usable
    if options.binary_list is not None:
        names = read_names(Path(options.binary_list))
        where = str(options.binary_list)
        if not names:
            raise UsageError(
                "the list of binary layers names none",
                node=where,
                hint="give ONNX output names separated by white space",
            )
    else:
        names, where = tuple(options.binary_convs), "--binary-convs"
    names = tuple(dict.fromkeys(renamed.get(name, name) for name in names))
    _check(names, where, layers)
    return frozenset(names)


def _check(names: tuple[str, ...], where: str, layers: list[Layer]) -> None:
    known = {layer.output: layer for layer in layers}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise no_layer(unknown, where, known)
    for name in names:
        problem = known[name].problem
        if problem is not None:
            raise UsageError(
                f"{name} cannot be made binary: {problem}",
                node=where,
                hint="take it off the list",
            )


def no_layer(unknown: Iterable[str], where: str, known: Iterable[str]) -> UsageError:
    """The error for names that are no layer's output, with near spellings of those there are."""
    unknown, known = list(unknown), list(known)
    near = {n: difflib.get_close_matches(n, known, n=3, cutoff=0.6) for n in unknown}
    hints = [f"{n}: did you mean {' or '.join(found)}?" for n, found in near.items() if found]
    if not hints:
        shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        hints = [f"the model's layers are {shown}" if known else "the model has none"]
    return UsageError(
        f"no Conv, Gemm or MatMul has the output name {', '.join(unknown)}",
        node=where,
        hint="; ".join(hints),
    )
