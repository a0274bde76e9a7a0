"""The tables of whole networks: the peer's cycles, the float layers' part of the peak, the text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.arm64_models import (
    DABNN,
    Layer,
    against_dabnn,
    dabnn_binary_cycles,
    document,
    float_layers,
    fma_shares,
)

FULL = 128_000  # MACs of a binary layer that does not halve the map


def _layers() -> list[Layer]:
    layers = [Layer("stem", "conv", "c", 80_000, 20_000.0, 10_000.0, 1)]
    for stage in range(4):
        for index in range(4):
            macs = FULL // 2 if stage and not index else FULL
            name = f"s{stage}.{index}"
            layers.append(Layer(name, "pack", "p", 0, 100.0, 100.0, 1))
            layers.append(Layer(name, "binary-conv", "b", macs, 900.0, 900.0, 1))
    return [*layers, Layer("pool", "maxpool", "generic", 0, 500.0, 500.0, 1)]


@pytest.mark.parametrize("model", list(DABNN))
def test_dabnn_is_priced_by_the_stage_and_the_stride(model: str) -> None:
    rate = DABNN[model]
    stages = 4 * rate[64] + 3 * (rate[128] + rate[256] + rate[512])
    assert dabnn_binary_cycles(_layers(), model) == pytest.approx(
        1000 * stages + 3 * 500 * rate["s2"]
    )


def test_ratios_take_packing_and_pools_into_account() -> None:
    layers = _layers()
    dabnn = dabnn_binary_cycles(layers, "a76")
    binary, whole = against_dabnn(layers, "a76")
    assert binary == pytest.approx(dabnn / 16_000)
    assert whole == pytest.approx((dabnn + 80_000 / 8 / 0.8) / 36_500)


def test_float_layers_are_measured_against_the_peak() -> None:
    assert [layer.name for layer in float_layers(_layers())] == ["stem"]
    assert fma_shares(_layers(), "cortex-a76") == pytest.approx([0.5, 1.0])
    assert fma_shares(_layers(), "cortex-a76 --float16") == pytest.approx([0.25, 0.5])


def test_the_document_says_modelled_and_adds_up_a_layers_calls() -> None:
    layers = [*_layers(), Layer("stem", "conv", "c", 0, 1_000.0, 1_000.0, 1)]
    text = document({("bireal18", "cortex-a76"): (layers, 0.0)})
    assert "modelled" in text and "python -m benchmarks.arm64 --models" in text
    assert "| stem | conv | 21 |" in text
    assert "| bireal18 | cortex-a76 | 0.04 |" in text


def test_cores_in_order_have_a_third_part_of_the_peak() -> None:
    # 80 000 multiply-adds at 4 a cycle in 40 000, 20 000 and 25 000 cycles.
    layer = Layer("stem", "conv", "c", 80_000, 40_000.0, 20_000.0, 1, 25_000.0)
    text = document({("quicknet", "cortex-a53"): ([layer], 0.0)})
    assert "| 50%, 100%, 80% |" in text and "benchmarks/in_order.py" in text
    assert "| 25%, 50% |" in document(
        {("quicknet", "cortex-a76"): ([replace(layer, stalling=None)], 0.0)}
    )
