"""The modes as rules over evidence, and the reasons in words.

Everything the rules look at is in `Evidence`, so this file is the table of modes: strict is
contained in moderate, moderate in aggressive; the lists add to whichever mode is on.
"""

from __future__ import annotations

from dataclasses import dataclass

from bnn_tvm.recognize.types import Rule

LOST = "exporter dropped the binariser, as it does for x.data = sign(x.data)"
"""The likely cause of +-1 weights behind an input that is not binary."""

ORDER: tuple[Rule, ...] = ("strict", "moderate", "aggressive")


@dataclass(frozen=True)
class Evidence:
    """What is known about one layer.

    weights: None where they are +-alpha per output channel, else what they are.
    signed_weights: they come from a Sign (or another binariser) of a constant.
    evident_weights: their values alone speak of binary weights.
    proven: the input is two-valued; then `input` names the binariser, else what the input is.
    padding: how padded taps relate to the two values: "none", "member" or "third"; "dense" for a
        layer that has no such thing.
    pad_value: value of a constant Pad directly before the layer, None without one.
    zeros: why exact zeros are likely at the plain Sign that binarises the input.
    raw_input: the model input that the layer reads, None where something lies between.
    integer_input: that input holds integers of 8 bits.
    """

    weights: str | None
    signed_weights: bool
    evident_weights: bool
    proven: bool
    input: str
    padding: str
    pad_value: float | None
    zeros: str | None
    raw_input: str | None
    integer_input: bool


def failing(rule: Rule, e: Evidence, *, binarize_first: bool) -> str | None:
    """The first condition of a mode that does not hold, None where the layer is binary by it."""
    if e.weights is not None:
        return f"the weights are not +-1 up to a scale per output channel: {e.weights}"
    if rule == "strict":
        return _strict(e)
    if rule == "moderate":
        exact = _strict(e, zeros_matter=False)
        return None if exact is None or e.pad_value == -1 else _moderate(e, exact)
    if failing("moderate", e, binarize_first=binarize_first) is None or e.proven:
        return None
    if e.raw_input is not None and not binarize_first:
        kind = "8-bit integer input" if e.integer_input else "raw input"
        return (
            f"weights are +-1 but it reads the model's {kind} '{e.raw_input}': "
            "computed in float, exactly (--binarize-first would binarise that input: right if the "
            f"{LOST})"
        )
    if not e.evident_weights:
        return (
            f"the input is {e.input}, and the weights look like a scale or an average, not like "
            "binary weights (one weight per channel, or all of one sign)"
        )
    return None


def failing_with_all_before(rule: Rule, e: Evidence, *, binarize_first: bool) -> str | None:
    """`failing`, but None also where a stricter mode, which each contains, makes it binary."""
    for earlier in ORDER[: ORDER.index(rule)]:
        if failing(earlier, e, binarize_first=binarize_first) is None:
            return None
    return failing(rule, e, binarize_first=binarize_first)


def _strict(e: Evidence, *, zeros_matter: bool = True) -> str | None:
    if not e.proven:
        return f"weights are +-1 but the input is {e.input}{_lost(e)}"
    if zeros_matter and e.zeros:
        return f"the Sign of its input {e.zeros}, and sign(0) is neither -1 nor +1"
    if e.padding == "third":
        return "zero padding adds a third value to the binarised input"
    if not e.signed_weights:
        return "the weights are stored as +-1 constants, not computed by a Sign"
    return None


def _moderate(e: Evidence, strict: str) -> str | None:
    if not e.proven or e.padding == "third":
        return strict
    if e.padding == "dense":
        return None  # a dense layer has no padding for the Pad of -1 to vouch for
    value = "has no Pad of -1 before it"
    if e.pad_value is not None:
        value = f"is padded with {e.pad_value:g}, not -1"
    return f"the weights are stored as +-1 constants and the input {value}"


def _lost(e: Evidence) -> str:
    return f" (it may be that the {LOST})"


def choose(mode: Rule, e: Evidence, *, binarize_first: bool) -> tuple[Rule | None, str]:
    """The first rule up to `mode` by which the layer is binary, else None; and the reason."""
    allowed = ORDER[: ORDER.index(mode) + 1]
    for rule in allowed:
        if failing(rule, e, binarize_first=binarize_first) is None:
            return rule, _found(rule, e)
    reason = failing(mode, e, binarize_first=binarize_first)
    assert reason is not None
    if e.weights is not None:
        if e.proven:
            reason += f"; the input is binary ({e.input}), so a --binary-list could name it"
        return None, reason
    for rule in ORDER[len(allowed) :]:
        if failing(rule, e, binarize_first=binarize_first) is None:
            return None, f"{reason}; --{rule} makes it binary"
    return None, reason


def _found(rule: Rule, e: Evidence) -> str:
    weights = "weights from a Sign" if e.signed_weights else "constant +-1 weights"
    if not e.proven:
        if rule == "moderate":
            return f"{weights} behind a Pad of -1; input ({e.input}) binarised implicitly"
        return f"{weights}; input ({e.input}) binarised implicitly"
    padding = {
        "none": ", no padding",
        "member": ", padded with one of its values",
        "third": ", zero padding",
        "dense": "",
    }[e.padding]
    if e.padding == "third" and e.pad_value is not None:
        padding = f", padded with {e.pad_value:g}"
    return f"input is two-valued ({e.input}){padding}; {weights}"
