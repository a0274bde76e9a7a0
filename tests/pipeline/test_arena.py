"""The arena of every real network is hardly larger than its largest live set."""

from __future__ import annotations

import gzip
from pathlib import Path

import onnx
import pytest

from benchmarks.networks import NETWORKS
from bnn_tvm import pipeline
from bnn_tvm.export import memory_plan
from bnn_tvm.frontend import prepare
from bnn_tvm.lower.object_cache import ObjectCache
from bnn_tvm.options import CompileOptions
from bnn_tvm.program import Call, Program
from bnn_tvm.recognize import recognize
from bnn_tvm.targets import resolve

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "models"
MODELS = sorted(
    str(path.relative_to(SHARED))
    for folder in ("patterns", "trained", "real")
    for path in (SHARED / folder).glob("*.onnx*")
    if "customop" not in path.name  # an operator that only its author can run is refused
)


class _Unscheduled(ObjectCache):
    """Every kernel counts as compiled, so none is scheduled: a plan needs their shapes alone."""

    def look_up(self, symbol: str) -> bool:
        return True


def check(model: onnx.ModelProto, target: str) -> None:
    options = CompileOptions(target=target)
    recognised = recognize(prepare(model), options).model
    program = pipeline.build(recognised, resolve(options), cache=_Unscheduled())
    plan = memory_plan.plan(program)
    runs = [[call for _, call in program.run_with(family)] for family in program.families]
    largest = max(
        (
            sum(memory_plan.align(program.tensors[i].nbytes) for i in _alive(program, calls, step))
            for calls in runs
            for step in range(len(calls))
        ),
        default=0,
    )
    assert plan.largest_live_bytes == largest
    assert plan.largest_live_bytes <= plan.arena_bytes <= 1.1 * plan.largest_live_bytes


def _alive(program: Program, calls: list[Call], step: int) -> set[int]:
    """Workspace tensors that call `step` or one on either side of it still needs."""
    before = {i for call in calls[: step + 1] for i in call.args}
    after = {i for call in calls[step:] for i in call.args}
    return {i for i in before & after if program.tensors[i].role == "workspace"}


@pytest.mark.parametrize("name", MODELS)
def test_shared_models(shared_models: Path, name: str) -> None:
    data = (shared_models / name).read_bytes()
    model = onnx.load_from_string(gzip.decompress(data) if name.endswith(".gz") else data)
    check(model, "arm64")


@pytest.mark.parametrize("target", ["arm64", "x86_64"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks(name: str, target: str) -> None:
    check(NETWORKS[name](), target)
