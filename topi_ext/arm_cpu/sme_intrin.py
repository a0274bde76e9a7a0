"""Arm's Scalable Matrix Extension in TIR: streaming mode, the array ZA, and BMOPA.

The length of a streaming vector (SVL) is not known when code is generated: `words()` is the number
of 32-bit words in one, 4 * vscale. ZA is viewed as four 32-bit tiles of words() x words().

TVM's code generator for aarch64 turns the attribute `pragma_aarch64_pstate_sm` into LLVM's
function attribute of that name. With the value "body" a function enters streaming mode in its
prologue and leaves it before it returns (Arm's `__arm_locally_streaming`). `compute_scope` makes a
function of its own of a statement, so that only the statement runs in streaming mode. The
generator takes the pragma once a function of TIR.

Its pragma for ZA (`pragma_aarch64_pstate_za`) spells a name that LLVM has given up, so the
state of ZA is managed here, as AAPCS64 asks of a function with a private ZA that uses
it: whoever called may have left ZA dormant, with a buffer for it named by TPIDR2_EL0; then it is
saved first. `__arm_tpidr2_save` is AAPCS64's support routine for that; the C runtime brings one.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir import StringImm
from tvm.tirx import Stmt

from ..emit import seq

TILES = 4  # of 32-bit elements
MAX_WORDS = 64  # of the longest vector that the architecture allows, 2048 bits


def words() -> Any:
    """32-bit words of a streaming vector, an int32 expression; only for streaming code."""
    return 4 * tirx.vscale()


def streaming(name: str, stmts: list[Stmt]) -> list[Stmt]:
    """Statements that run `stmts` in streaming mode with ZA on, in a function called `name`.

    `stmts` must hold all that depends on the vector length, and no vector of fixed length: most
    of NEON is not there in streaming mode.
    """
    body = seq([_do("za.enable"), *stmts, _do("za.disable")])
    zero = tirx.const(0, "int32")
    body = tirx.AttrStmt(zero, "pragma_aarch64_pstate_sm", StringImm("body"), body)
    return [_save_dormant_za(), tirx.AttrStmt(zero, "compute_scope", StringImm(name), body)]


def zero_tiles() -> Stmt:
    """Set all of ZA to 0."""
    return _do("zero", tirx.const(255, "int32"))


def all_lanes() -> Any:
    """The predicate that is true everywhere."""
    return tirx.Broadcast(tirx.const(True, "bool"), words())


def lanes_below(first: Any, limit: Any) -> Any:
    """The predicate of the lanes i with first + i < limit."""
    return tirx.get_active_lane_mask("uint1xvscalex4", first, limit)


def load(buffer: tirx.Buffer, indices: list[Any]) -> Any:
    """A streaming vector of 32-bit neighbours; the last index is the first of them."""
    *outer, last = indices
    return tirx.BufferLoad(buffer, [*outer, tirx.Ramp(last, 1, words())])


def count_agreeing(tile: int, rows: Any, columns: Any) -> Stmt:
    """BMOPA: tile[i, j] += popcount(~(rows[i] ^ columns[j])) of two uint32 vectors."""
    lanes = all_lanes()
    return _do("bmopa.za32", tirx.const(tile, "int32"), lanes, lanes, rows, columns)


def store_row(buffer: tirx.Buffer, at: Any, tile: int, row: Any, lanes: Any) -> Stmt:
    """Store the lanes of row `row` of a tile to the 32-bit elements of `buffer` from `at` on."""
    address = tirx.address_of(tirx.BufferLoad(buffer, [at]))
    return _do("st1w.horiz", lanes, address, tirx.const(tile, "int32"), row)


def _save_dormant_za() -> Stmt:
    block = tirx.call_llvm_intrin("int64", "llvm.aarch64.sme.get.tpidr2")
    save = tirx.Evaluate(tirx.call_extern("void", "__arm_tpidr2_save"))
    done = _do("set.tpidr2", tirx.const(0, "int64"))
    return tirx.IfThenElse(tirx.NE(block, tirx.const(0, "int64")), seq([save, done]), None)


def _do(name: str, *args: Any) -> Stmt:
    return tirx.Evaluate(tirx.call_llvm_intrin("void", f"llvm.aarch64.sme.{name}", *args))
