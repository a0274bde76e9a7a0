"""The speed limit of popcount convolutions on this machine, as loops made by TVM.

The loop does nothing but xor, popcount and add on vectors of the ISA: VPOPCNTDQ on 32-bit lanes
with AVX512, the vpshufb popcount of bytes with AVX2 (LLVM's own expansion of ctpop), cnt on NEON.
It reads one vector a step from the first-level cache, so that nothing but the three operations
counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import tirx
from tvm.target import Target

from topi_ext.emit import local, loop, seq, splat, vload, vstore
from topi_ext.isa import isa_of

STEPS = 64  # vectors read per sweep: 4 KB at most
SWEEPS = 256


@dataclass(frozen=True)
class PeakLoop:
    """lanes of dtype: a vector; accumulators: as many as hide the latency without a spill."""

    dtype: str
    lanes: int
    accumulators: int

    @property
    def bits(self) -> int:
        """Bits of a vector, which are its multiply-accumulates."""
        return self.lanes * np.dtype(self.dtype).itemsize * 8

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call."""
        return self.bits * self.accumulators * STEPS * SWEEPS


LOOPS = {
    "avx512_vpopcntdq": PeakLoop("uint32", 16, 12),
    "avx2": PeakLoop("uint8", 32, 6),
    "sme2": PeakLoop("uint8", 16, 12),  # of NEON: no peak of BMOPA is known
    "neon": PeakLoop("uint8", 16, 12),
    "neon32": PeakLoop("uint8", 16, 6),
    "generic": PeakLoop("uint32", 4, 4),
}


def peak_loop(target: Target) -> tuple[PeakLoop, tirx.PrimFunc]:
    """The loop for `target`: (a [STEPS*lanes], w [accumulators*lanes], out like w)."""
    spec = LOOPS[isa_of(target)]
    lanes, count = spec.lanes, spec.accumulators
    vector = f"{spec.dtype}x{lanes}"
    a = tirx.decl_buffer((STEPS * lanes,), spec.dtype, "a")
    w = tirx.decl_buffer((count * lanes,), spec.dtype, "w")
    out = tirx.decl_buffer((count * lanes,), spec.dtype, "out")
    body: list[tirx.Stmt] = []
    sums = local("sums", (count * lanes,), spec.dtype, body)
    body += [vstore(sums, splat(0, vector), [i * lanes], lanes) for i in range(count)]

    def step(k: tirx.Var) -> tirx.Stmt:
        data = vload(a, [k * lanes], lanes)
        stmts = []
        for i in range(count):
            bits = tirx.popcount(data ^ vload(w, [i * lanes], lanes))
            place = [i * lanes]
            stmts.append(vstore(sums, vload(sums, place, lanes) + bits, place, lanes))
        return seq(stmts)

    body.append(loop(SWEEPS, lambda _: loop(STEPS, step, "k"), "sweep"))
    for i in range(count):
        body.append(vstore(out, vload(sums, [i * lanes], lanes), [i * lanes], lanes))
    func = tirx.PrimFunc([a, w, out], seq(body))
    return spec, func.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)


def build_peak(target: Target) -> tuple[PeakLoop, tvm.runtime.Module, list[tvm.runtime.Tensor]]:
    """The compiled loop and its arguments."""
    spec, func = peak_loop(target)
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 1 << 8 * np.dtype(spec.dtype).itemsize, size, spec.dtype)
        for size in (STEPS * spec.lanes, spec.accumulators * spec.lanes)
    ]
    tensors = [tvm.runtime.tensor(x) for x in (*arrays, np.zeros_like(arrays[1]))]
    return spec, tvm.compile(func, target=target).jit(), tensors
