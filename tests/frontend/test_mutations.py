"""Mutated files: whatever their bytes say, the answer is a model or an error with a hint."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnn_tvm.errors import BnnError
from bnn_tvm.frontend import prepare
from tests.frontend.models import parse, with_initializers
from tests.frontend.test_clean import CALLS, FUNCTION
from tests.frontend.test_opset import MOVED, SIGNATURE

EXTREMES = (b"\xff", b"\x00", b"\x7f", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f")


def seeds() -> list[bytes]:
    conv = parse("(float[1,2,4,4] x) => (float[1,3,4,4] y)", "b = Sign(w) y = Conv(x, b)")
    with_initializers(conv, w=np.arange(-3, 3, dtype=np.float32).reshape(3, 2, 1, 1))
    branch = parse(
        "(float[2,3] x) => (float[2,3] y) <bool c = {1}>",
        """t = If(c) <then_branch = a () => (float[2,3] o) { o = Neg(x) },
        else_branch = b () => (float[2,3] p) { p = Identity(x) }> y = Abs(t)""",
    )
    shape = parse(
        "(float[N,3,4,4] x) => (float[N,K] y) <int64 z = {0}, int64[1] m = {-1}, int64[1] q = {0}>",
        """s = Shape(x) n = Gather(s, z) u = Unsqueeze(n, q) t = Concat<axis = 0>(u, m)
        y = Reshape(x, t)""",
    )
    models = [
        parse(SIGNATURE, MOVED, opset=9, ir=4),
        parse("(float[1,3] x) => (float[1,3] y)", CALLS, opset=18, more=FUNCTION),
        conv,
        branch,
        shape,
    ]
    return [model.SerializeToString() for model in models]


def mutate(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(out))
        kind = rng.randrange(5)
        if kind == 0:
            out[at] = rng.randrange(256)
        elif kind == 1:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2 and len(out) > 40:
            del out[at : at + rng.randrange(1, 20)]
        elif kind == 3:
            other = rng.randrange(len(out))
            out[at:at] = out[other : other + rng.randrange(1, 40)]
        else:
            out[at : at + 1] = rng.choice(EXTREMES)
    return bytes(out)


def check(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    start = time.monotonic()
    try:
        prepared = prepare(path)
    except BnnError as error:
        assert error.hint, f"no hint: {error}"
        outcome = error.kind
    else:
        onnx.checker.check_model(prepared.model)
        outcome = "prepared"
    assert time.monotonic() - start < 20
    return outcome


def fuzz(folder: Path, rounds: int, seed: int) -> set[str]:
    rng = random.Random(seed)
    starts = seeds()
    path = folder / "mutant.onnx"
    return {check(path, mutate(rng.choice(starts), rng)) for _ in range(rounds)}


def test_mutants_are_prepared_or_refused(tmp_path: Path) -> None:
    assert fuzz(tmp_path, 400, seed=1) == {"prepared", "file", "model"}


@pytest.mark.slow
def test_many_mutants_are_prepared_or_refused(tmp_path: Path) -> None:
    assert fuzz(tmp_path, 20_000, seed=2) == {"prepared", "file", "model"}
