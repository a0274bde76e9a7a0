"""Float kernels on arm64 execute no more instructions than they did, and spill no vectors."""

from __future__ import annotations

import re

import pytest

from benchmarks.arm64_fma import in_order, measure
from benchmarks.arm64_models import compile_program
from benchmarks.arm64_program import arm64_target, function_text, loops_with
from benchmarks.counter import ARMCOST
from benchmarks.float_models import EPILOGUES, LAYERS, model
from bnn_tvm.export.kernels_abi import PREFIX, assembly
from tests.topi_ext.arm.armcost import needs_armcost

# Instructions for one vector multiply-add of the direct convolution (four multiply-adds, eight in
# half precision), by layer and epilogue of `benchmarks.float_models`. Counts are exact: a per cent
# or two is room enough for another version of LLVM.
BUDGET = {
    "cortex-a53": {
        ("stem 7x7 s2, 224x224x3 to 64, direct", "relu"): 1.52,
        ("1x1, 28x28x64 to 128", "relu"): 1.36,
        ("dense, 512 to 1000", "relu"): 2.10,
        ("depthwise 3x3, 14x14x256", "relu"): 1.86,
    },
    "cortex-a72": {
        ("stem 7x7 s2, 224x224x3 to 64", "relu"): 0.82,
        ("3x3, 28x28x128", "relu"): 0.63,
        ("3x3, 14x14x256, direct", "bn"): 1.29,
        ("1x1, 28x28x64 to 128", "prelu"): 1.38,
        ("dense, 512 to 1000", "relu"): 1.71,
        ("depthwise 3x3 s2, 27x27x128", "none"): 1.85,
        ("depthwise 3x3 s2, 27x27x128", "relu-bn"): 2.43,
    },
    "cortex-a76": {
        ("stem 7x7 s2, 224x224x3 to 64", "relu"): 0.82,
        ("stem 3x3 s2, 224x224x3 to 8", "prelu"): 1.35,
        ("stem 3x3 s2, 224x224x3 to 16", "relu"): 1.37,
        ("3x3, 28x28x128", "relu"): 0.63,
        ("1x1, 56x56x16 to 64", "bn"): 1.42,
        ("1x1, 56x56x16 to 64", "prelu"): 1.51,
        ("1x1, 28x28x64 to 128", "relu"): 1.33,
        ("1x1, 28x28x64 to 128", "relu-bn"): 1.36,
        ("1x1, 28x28x64 to 128", "add-relu"): 1.37,
        ("dense, 512 to 1000", "prelu"): 1.72,
        ("depthwise 3x3 s2, 27x27x128", "relu"): 2.09,
        ("depthwise 3x3 s2, 112x112x16", "bn"): 1.94,
        ("depthwise 3x3, 14x14x256", "relu"): 1.83,
        ("depthwise 3x3, 14x14x256", "bn"): 1.73,
        ("depthwise 3x3, 14x14x256", "prelu"): 1.99,
        ("depthwise 3x3, 14x14x256", "add"): 1.96,
    },
    "cortex-a76 --float16": {
        ("depthwise 3x3 s2, 55x55x64", "add"): 2.12,
        ("depthwise 3x3, 14x14x256", "relu"): 1.82,
    },
    "neoverse-n1": {
        ("depthwise 3x3 s2, 112x112x16", "none"): 1.83,
        ("depthwise 3x3 s2, 55x55x64", "add-relu"): 2.33,
        ("depthwise 3x3 s2, 27x27x128", "add"): 2.21,
    },
}
ROWS = [(core, *what, most) for core, rows in BUDGET.items() for what, most in rows.items()]


@needs_armcost
@pytest.mark.parametrize(("core", "layer", "epilogue", "most"), ROWS)
def test_counts_stay_within_the_budget(core: str, layer: str, epilogue: str, most: float) -> None:
    row = measure(layer, epilogue, core, ARMCOST)
    assert row.correct, row
    found = row.instructions / (row.macs / (8 if "_f16" in row.kernel else 4))
    # Below its multiply-adds a count would be wrong; Winograd tiles of 4x4 do with a quarter.
    least = 0.25 if "winograd" in row.kernel else 1.0
    assert least < found <= most, (found, row)
    assert 0 < row.cycles_by_pipes <= row.cycles
    assert (row.cycles_in_order is not None) == in_order(core)
    if row.cycles_in_order is not None:
        # What finishes in order stalls more; the model's pipes are the same.
        assert 0.99 * row.cycles_by_pipes <= row.cycles_in_order <= row.cycles
    assert row.reached == "yes"


# test_float_arm64 looks at depthwise tiles.
NAMES = [name for name in LAYERS if not name.startswith("depthwise")]


@pytest.mark.parametrize("name", NAMES)
def test_inner_loops_spill_no_vector(name: str) -> None:
    layer, core = LAYERS[name], "cortex-a76"
    program = compile_program(model(layer, EPILOGUES["prelu"]), core, winograd=not layer.direct)
    (symbol,) = {call.symbol for call in program.calls if call.macs}
    text = function_text(assembly(program.module, {symbol}, arm64_target(core)), PREFIX + symbol)
    loops = loops_with(text, "fmla")
    assert loops
    for loop in loops:
        assert not [line for line in loop if re.match(r"(ld|st)[rp]\s+q.*\[sp", line)]
