"""Programs of several families of kernels in one: every run is the run of its program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from bnn_tvm.export import memory_plan
from bnn_tvm.export.builder import check
from bnn_tvm.lower.merge import merge
from bnn_tvm.program import Call, Choice, KnownCore, Program, Tensor

FAMILIES = ("one", "three", "two")
CHOICE = Choice(FAMILIES, (KnownCore("core", 1, 2, "one"),), "two", "one")
TWO = replace(CHOICE, families=("one", "two"))
MODULE = tvm.IRModule({})
# What one layer is made of in each family: the names of its kernels, in order. The last one reads
# what the others prepared and what the layer before it wrote.
Layer = tuple[tuple[tuple[str, ...], ...], int, int]
layers = st.lists(
    st.tuples(
        st.lists(
            st.sampled_from(
                [("conv",), ("pack", "conv"), ("pack", "other"), ("pack", "fold", "x")]
            ),
            min_size=len(FAMILIES),
            max_size=len(FAMILIES),
        ),
        st.integers(1, 4),  # words of the result
        st.integers(1, 6),  # how many layers back a second operand comes from
    ),
    min_size=1,
    max_size=8,
)


def program(network: Sequence[Layer], family: int, padding: int = 0) -> Program:
    """The network with the kernels of a family; `padding` shifts the tensors' numbers."""
    tensors = [Tensor(f"p{i}", (7,), "int8", "constant", np.full(7, i, "int8")) for i in range(2)]
    tensors += [Tensor(f"u{i}", (1,), "int8", "workspace") for i in range(padding)]
    tensors.append(Tensor("x", (64,), "int8", "input"))
    calls: list[Call] = []
    results = [(len(tensors) - 1, 64)]
    for number, (kernels, words, back) in enumerate(network):
        data, size = results[-1]
        again, other_size = results[max(0, len(results) - back)]
        label = f"layer{number}"
        for stage, kernel in enumerate(kernels[family]):
            last = stage == len(kernels[family]) - 1
            constant = len(kernel) % 2
            made = 64 * words if last else 64 * (1 + len(kernel) % 3)
            tensors.append(Tensor(f"t{len(tensors)}", (made,), "int8", "workspace"))
            reads = (data, constant, again) if last else (data, constant)
            name = f"{kernel}_{size}_{other_size if last else ''}_{made}"
            out = len(tensors) - 1
            calls.append(Call(name, (*reads, out), label, kernel, kernel))
            data, size = out, made
        results.append((data, size))
    end = results[-1][0]
    tensors[end] = replace(tensors[end], name="y", role="output")
    return Program(tensors, calls, MODULE, [len(range(2)) + padding], [end])


def meaning(made: Program, family: str) -> list[object]:
    """The outputs of a run as terms over the input, on the buffers of the memory plan.

    A buffer that another tensor has overwritten gives no term.
    """
    plan = memory_plan.plan(made)
    arena: list[object] = [None] * (plan.arena_bytes // 64)
    outside: dict[int, object] = {}

    def cells(index: int) -> range:
        begin = plan.offsets[index] // 64
        return range(begin, begin + memory_plan.align(made.tensors[index].nbytes) // 64)

    def read(index: int) -> object:
        tensor = made.tensors[index]
        if tensor.role in ("input", "constant"):
            return tensor.role if tensor.data is None else tensor.data.tobytes()
        if index not in plan.offsets:
            return outside[index]
        found = {arena[cell] for cell in cells(index)}
        assert len(found) == 1, "a part of the tensor was overwritten"
        return found.pop()

    for _, call in made.run_with(family):
        term = hash((call.symbol, call.layer, tuple(read(i) for i in call.args[:-1])))
        out = call.args[-1]
        if out in plan.offsets:
            for cell in cells(out):
                arena[cell] = term
        else:
            outside[out] = term
    return [read(index) for index in made.outputs]


@given(layers, st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_run_gives_what_its_program_gives(network: list[Layer], padding: int) -> None:
    alone = {name: program(network, index, padding * index) for index, name in enumerate(FAMILIES)}
    merged = merge(alone, CHOICE)
    check(merged)
    for name, one in alone.items():
        assert meaning(merged, name) == meaning(one, "")
        made = [(call.symbol, call.layer) for _, call in merged.run_with(name)]
        assert made == [(call.symbol, call.layer) for call in one.calls]


@given(layers)
@settings(max_examples=30, deadline=None)
def test_the_arena_is_planned_for_the_largest_run_not_for_all_of_them(
    network: list[Layer],
) -> None:
    alone = {name: program(network, index) for index, name in enumerate(FAMILIES)}
    plan = memory_plan.plan(merge(alone, CHOICE))
    bounds = [memory_plan.plan(one).largest_live_bytes for one in alone.values()]
    assert plan.largest_live_bytes == max(bounds)
    assert plan.arena_bytes <= sum(memory_plan.plan(one).arena_bytes for one in alone.values())


SAME, PREPARED = [("conv",)] * 3, [("conv",), ("pack", "conv"), ("pack", "other")]


def test_calls_that_are_the_same_are_made_once() -> None:
    network = [(SAME, 1, 1), (PREPARED, 2, 1), (SAME, 1, 2), (SAME, 1, 3)]
    merged = merge({n: program(network, i) for i, n in enumerate(FAMILIES)}, CHOICE)
    assert merged.choice is CHOICE and merged.families == FAMILIES
    made = [(call.layer, call.kernel, call.families) for call in merged.calls]
    assert made == [
        ("layer0", "conv", ()),
        ("layer1", "conv", ("one",)),
        ("layer1", "pack", ("three", "two")),
        ("layer1", "conv", ("three",)),
        ("layer1", "other", ("two",)),
        ("layer2", "conv", ()),
        ("layer3", "conv", ()),
    ]
    # The three results of layer1 are one buffer, which the common call reads.
    results = {call.args[-1] for call in merged.calls if call.layer == "layer1"}
    assert len(results) == 2  # and the packed one


def test_programs_without_a_difference_leave_nothing_to_choose() -> None:
    network = [(SAME, 1, 1), (SAME, 2, 2)]
    first = program(network, 0)
    merged = merge({"one": first, "two": program(network, 1, 2)}, TWO)
    assert merged.choice is None and merged.families == ("",)
    assert merged.calls == first.calls and len(merged.tensors) == len(first.tensors)


def test_a_result_of_another_size_is_no_common_buffer() -> None:
    network = [(SAME, 1, 1), (SAME, 1, 1)]
    first, second = program(network, 0), program(network, 1)
    wider = second.calls[0].args[-1]
    second.tensors[wider] = replace(second.tensors[wider], shape=(128,))
    merged = merge({"one": first, "two": second}, TWO)
    assert [call.families for call in merged.calls] == [("one",), ("two",), ("one",), ("two",)]


def test_equal_constants_are_there_once_and_others_are_added() -> None:
    network = [(SAME, 1, 1)]
    first, second = program(network, 0), program(network, 1)
    second.tensors[0] = replace(second.tensors[0], data=np.full(7, 9, "int8"))
    second.calls = [replace(second.calls[0], args=(2, 0, 2, 3))]
    merged = merge({"one": first, "two": second}, TWO)
    data = [t.data[0] for t in merged.tensors if t.data is not None]
    assert sorted(data) == [0, 1, 9]
    check(merged)


def test_families_without_a_program_are_refused() -> None:
    with pytest.raises(ValueError, match=r"programs of \['one'\] for a choice between"):
        merge({"one": program([(SAME, 1, 1)], 0)}, TWO)
