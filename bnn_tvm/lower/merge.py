"""One program out of several that compute the same with different families of kernels.

Where the programs make the same call it is made once; where they differ each family has calls of
its own, and a run makes those of one family. Nothing is assumed of what tensors mean: the other
programs' tensors are renamed to the first one's, each to a tensor of its own of equal shape and
type, so that a run with a family makes exactly the calls of its program, in their order, on
renamed buffers. Two calls are the same if they call one symbol for one layer and their arguments
can be renamed to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import groupby

from bnn_tvm.program import Call, Choice, Program, Tensor

#: A call of the merged program and the families that make it.
_Made = tuple[Call, frozenset[str]]


def merge(programs: Mapping[str, Program], choice: Choice) -> Program:
    """Merge `programs`, by family in the order of `choice`.

    They must have equal inputs and outputs; their modules are one. Where no call differs the
    result leaves nothing to choose. Raises ValueError if the programs are not those of the choice.
    """
    names = list(programs)
    if names != list(choice.families):
        raise ValueError(f"programs of {names} for a choice between {list(choice.families)}")
    merging = _Merging(names[0], programs[names[0]])
    for name in names[1:]:
        merging.add(name, programs[name])
    return merging.result(choice)


class _Merging:
    def __init__(self, name: str, program: Program) -> None:
        self.first = program
        self.tensors = list(program.tensors)
        self.calls: list[_Made] = [(call, frozenset({name})) for call in program.calls]
        self.families = frozenset({name})
        self.constants = {
            _content(tensor): index
            for index, tensor in enumerate(self.tensors)
            if tensor.role == "constant"
        }

    def add(self, name: str, program: Program) -> None:
        """Take in another family's program."""
        naming = self._fixed_names(program)
        merged: list[_Made] = []
        own: list[int] = []  # places in `merged` of calls that still have the program's arguments
        for ours, theirs in self._aligned(program, naming):
            if ours is not None and theirs is not None:
                call, families = ours
                if naming.unify(call, theirs):
                    merged.append((call, families | {name}))
                    continue
            if ours is not None:
                merged.append(ours)
            if theirs is not None:
                own.append(len(merged))
                merged.append((theirs, frozenset({name})))
        for place in own:
            call, families = merged[place]
            args = tuple(self._named(index, naming, name) for index in call.args)
            merged[place] = (replace(call, args=args), families)
        self.calls = merged
        self.families |= {name}

    def result(self, choice: Choice) -> Program:
        """The merged program."""
        calls = [
            call if families == self.families else replace(call, families=self._sorted(families))
            for call, families in self.calls
        ]
        differ = any(call.families for call in calls)
        return Program(
            self.tensors,
            calls,
            self.first.module,
            list(self.first.inputs),
            list(self.first.outputs),
            choice if differ else None,
        )

    @staticmethod
    def _sorted(families: frozenset[str]) -> tuple[str, ...]:
        return tuple(sorted(families))

    def _fixed_names(self, program: Program) -> _Naming:
        """Inputs and outputs by position, constants by content; new constants are added."""
        naming = _Naming(self.tensors, program.tensors)
        pairs = (
            *zip(program.inputs, self.first.inputs, strict=True),
            *zip(program.outputs, self.first.outputs, strict=True),
        )
        for theirs, ours in pairs:
            naming.bind(theirs, ours)
        for index, tensor in enumerate(program.tensors):
            if tensor.role == "constant":
                key = _content(tensor)
                if key not in self.constants:
                    self.constants[key] = len(self.tensors)
                    self.tensors.append(replace(tensor, name=f"const{len(self.constants) - 1}"))
                naming.bind(index, self.constants[key])
        return naming

    def _aligned(
        self, program: Program, naming: _Naming
    ) -> Iterator[tuple[_Made | None, Call | None]]:
        """Both lists in order; calls that may be the same come as a pair."""
        ours = [_key(call, self.tensors, {}) for call, _ in self.calls]
        theirs = [_key(call, program.tensors, naming.names) for call in program.calls]
        matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
        for tag, a, b, c, d in matcher.get_opcodes():
            if tag == "equal":
                yield from zip(self.calls[a:b], program.calls[c:d], strict=True)
            else:
                yield from _by_layer(self.calls[a:b], program.calls[c:d])

    def _named(self, index: int, naming: _Naming, family: str) -> int:
        """The tensor that stands for the program's tensor `index`: a new one if none does yet."""
        if index not in naming.names:
            tensor = naming.theirs[index]
            naming.bind(index, len(self.tensors))
            self.tensors.append(replace(tensor, name=f"{tensor.name}.{family}"))
        return naming.names[index]


class _Naming:
    """Tensors of one program as tensors of the merged one; no two have one name."""

    def __init__(self, ours: list[Tensor], theirs: list[Tensor]) -> None:
        self.ours = ours
        self.theirs = theirs
        self.names: dict[int, int] = {}
        self.taken: set[int] = set()

    def bind(self, theirs: int, ours: int) -> None:
        self.names[theirs] = ours
        self.taken.add(ours)

    def unify(self, ours: Call, theirs: Call) -> bool:
        """Rename the arguments of one call to those of the other, all or none."""
        found: dict[int, int] = {}
        for a, b in zip(ours.args, theirs.args, strict=True):
            known = self.names.get(b, found.get(b))
            free = a not in self.taken and a not in found.values()
            if known == a:
                continue
            if known is not None or not free or not _alike(self.ours[a], self.theirs[b]):
                return False
            found[b] = a
        for b, a in found.items():
            self.bind(b, a)
        return True


def _by_layer(ours: list[_Made], theirs: list[Call]) -> Iterator[tuple[_Made | None, Call | None]]:
    """Calls that differ, each list in its order, those of one layer side by side."""
    waiting = list(theirs)
    for layer, calls in groupby(ours, key=lambda entry: entry[0].layer):
        if any(call.layer == layer for call in waiting):
            while waiting[0].layer != layer:
                yield None, waiting.pop(0)
        yield from ((call, None) for call in calls)
        while waiting and waiting[0].layer == layer:
            yield None, waiting.pop(0)
    yield from ((None, call) for call in waiting)


def _alike(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype, a.role) == (b.shape, b.dtype, b.role) and a.role == "workspace"


def _content(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    assert tensor.data is not None
    return (tensor.dtype, tensor.shape, tensor.data.tobytes())


def _key(call: Call, tensors: list[Tensor], names: Mapping[int, int]) -> tuple[object, ...]:
    """What must be equal for two calls to be the same, before their tensors are compared."""
    arguments = tuple(
        (tensors[index].shape, tensors[index].dtype)
        if tensors[index].role == "workspace"
        else names.get(index, index)
        for index in call.args
    )
    return (call.symbol, call.layer, call.kind, call.kernel, call.num_outputs, arguments)
