"""How much stack the calling thread of a model needs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from benchmarks.layer_peers import Layer
from benchmarks.networks import sample_input
from bnn_tvm import compile_model, load

STACK = 256 * 1024  # what bnn_tvm.h says

# The most that kernels keep there: sums of words (44 KB), counters of pairs, products of tiles.
LAYERS = (Layer(56, 512, 64), Layer(14, 256, 256, k=5), Layer(9, 40, 70))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_small_stack_is_enough(layer: Layer, tmp_path: Path) -> None:
    proto = layer.model()
    x = sample_input(proto)
    compile_model(proto, target="host").save(tmp_path / "m")
    found = []
    with load(tmp_path / "m.so") as model:
        expected = model.run(x)
        before = threading.stack_size(STACK)
        try:
            thread = threading.Thread(target=lambda: found.append(model.run(x)))
            thread.start()
        finally:
            threading.stack_size(before)
        thread.join()
    ((name, result),) = found[0].items()
    assert result.tobytes() == expected[name].tobytes()
