"""A small program with two families of kernels, for this machine or another."""

from __future__ import annotations

from functools import cache

import tvm
from tvm import te

from bnn_tvm.export import Artifact, build
from bnn_tvm.lower.choice import choice_by_core
from bnn_tvm.lower.merge import merge
from bnn_tvm.program import Call, Program, Tensor
from tests.export.programs import C, K, N, Spec, kernels, metadata, network


@cache
def _module() -> tvm.IRModule:
    """`programs.kernels` and another dense: halves first, then the sum of both."""
    x = te.placeholder((N, C), "float32", "x")
    w = te.placeholder((C, K), "float32", "w")
    r = te.reduce_axis((0, C // 2), "r")
    halves = te.compute(
        (2, N, K), lambda h, i, j: te.sum(x[i, h * (C // 2) + r] * w[h * (C // 2) + r, j], axis=r)
    )
    s = te.placeholder((2, N, K), "float32", "s")
    both = te.compute((N, K), lambda i, j: s[0, i, j] + s[1, i, j], "both")
    return tvm.IRModule(
        {
            **{symbol.name_hint: f for symbol, f in kernels().functions.items()},
            "halves": te.create_prim_func([x, w, halves]),
            "both": te.create_prim_func([s, both]),
        }
    )


def program() -> Program:
    """`programs.network` with dense by one kernel ("cnt") or by two ("tbl")."""
    cnt, tbl = network(), network()
    cnt.module = tbl.module = _module()
    tbl.tensors.append(Tensor("halves", (2, N, K), "float32", "workspace"))
    tbl.calls[1:2] = [
        Call("halves", (1, 2, 6), "h", "dense", "dense-halves", macs=N * C * K),
        Call("both", (6, 3), "h", "dense", "dense-both"),
    ]
    return merge({"cnt": cnt, "tbl": tbl}, choice_by_core())


@cache
def artifact(spec: Spec) -> Artifact:
    return build(program(), spec, metadata())
