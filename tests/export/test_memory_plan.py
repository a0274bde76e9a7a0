from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from bnn_tvm.errors import BnnError
from bnn_tvm.export.memory_plan import Interval, align, largest_live, place, plan
from bnn_tvm.program import Call, Program, Tensor

intervals = st.lists(
    st.builds(
        lambda n, first, length: Interval(n, first, first + length),
        st.integers(0, 5000),
        st.integers(0, 30),
        st.integers(0, 10),
    ),
    max_size=25,
)


@given(intervals)
@settings(max_examples=200, deadline=None)
def test_tensors_that_live_together_never_overlap(lives: list[Interval]) -> None:
    offsets, arena = place(lives)
    assert len(offsets) == len(lives)
    for i, a in enumerate(lives):
        assert offsets[i] % 64 == 0
        assert offsets[i] + a.nbytes <= arena
        for j, b in enumerate(lives[:i]):
            if a.meets(b):
                assert offsets[i] + a.nbytes <= offsets[j] or offsets[j] + b.nbytes <= offsets[i], (
                    a,
                    b,
                )


@given(intervals)
@settings(max_examples=100, deadline=None)
def test_arena_is_at_least_the_largest_live_set_and_at_most_the_sum(lives: list[Interval]) -> None:
    _, arena = place(lives)
    assert largest_live(lives) <= arena <= sum(align(x.nbytes) for x in lives)


def test_largest_live_set_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        lives = [Interval(int(n), int(a), int(a + d)) for n, a, d in rng.integers(1, 9, (12, 3))]
        brute = max(
            sum(align(x.nbytes) for x in lives if x.first <= t <= x.last) for t in range(20)
        )
        assert largest_live(lives) == brute


def resnet_like(blocks: int) -> list[Interval]:
    """Per block: packed input, conv output, and a shortcut that lives across the block."""
    lives = []
    size = 401408
    for block in range(blocks):
        step = 4 * block
        lives += [
            Interval(size, step, step + 5),
            Interval(size // 32, step + 1, step + 2),
            Interval(size, step + 2, step + 3),
        ]
        if block % 4 == 3:
            size //= 2
    return lives


@pytest.mark.parametrize("blocks", [1, 4, 16, 40])
def test_residual_network_is_within_ten_per_cent_of_the_largest_live_set(blocks: int) -> None:
    lives = resnet_like(blocks)
    _, arena = place(lives)
    assert arena <= 1.1 * largest_live(lives)


def test_random_networks_are_within_ten_per_cent_on_average() -> None:
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(20):
        first = np.sort(rng.integers(0, 60, 60))
        lives = [
            Interval(int(n), int(f), int(f + d))
            for n, f, d in zip(
                rng.integers(64, 400000, 60), first, rng.geometric(0.4, 60), strict=True
            )
        ]
        ratios.append(place(lives)[1] / largest_live(lives))
    assert np.mean(ratios) < 1.1


def test_plan_is_deterministic() -> None:
    lives = resnet_like(16)
    assert place(lives) == place(lives)


def chain(roles: list[str]) -> Program:
    tensors = [Tensor(f"t{i}", (16,), "float32", role) for i, role in enumerate(roles)]  # type: ignore[arg-type]
    calls = [Call("k", (i, i + 1), "l", "k", "generic") for i in range(len(roles) - 1)]
    return Program(tensors, calls, tvm.IRModule({}), [0], [len(roles) - 1])


def test_a_chain_needs_two_buffers() -> None:
    program = chain(["input", *["workspace"] * 6, "output"])
    result = plan(program)
    assert result.arena_bytes == result.largest_live_bytes == 128
    assert set(result.offsets) == {1, 2, 3, 4, 5, 6}


def test_no_workspace_means_no_arena() -> None:
    assert plan(chain(["input", "output"])).arena_bytes == 0


def test_a_workspace_tensor_that_is_an_output_lives_to_the_end() -> None:
    program = chain(["input", *["workspace"] * 4])
    program.outputs = [1, 4]
    result = plan(program)
    assert result.offsets[1] not in {result.offsets[i] for i in (2, 3, 4)}


def test_reading_before_writing_is_refused() -> None:
    program = chain(["input", "workspace", "workspace", "output"])
    program.calls.reverse()
    with pytest.raises(BnnError, match="nothing has written"):
        plan(program)
