"""Find out, by evaluating it, whether a region is a step between two values.

The finite float32 numbers are searched for every point at which the region's discrete state (the
sign of each intermediate, the result of each comparison) changes, down to neighbouring floats;
between these points the region is one smooth formula, of which a grid of probes is a proof. The
region is a step where all probes lie on one of two values and the value changes once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnn_tvm.recognize import floats
from bnn_tvm.recognize.graph import Graph
from bnn_tvm.recognize.probe import Evaluator, NotEvaluable, Region, Sessions

TOLERANCE = 1e-6
"""Relative distance from its value at which an output still counts: straight-through sums."""

NOT_FINITE = "gives NaN or infinity for ordinary inputs"
"""What is said of a region that is not to be taken for a step even of a nearer tensor."""

_WIDE_KEY = int(floats.to_key(2.0**24))
_ABSORBED = 2.0**15
_MODERATE_KEY = int(floats.to_key(64.0))
_MAX_BREAKS = 64
_BUDGET = 400_000


@dataclass(frozen=True)
class Step:
    """result = high where (direction > 0 ? x >= threshold : x <= threshold) else low.

    All arrays are [channels] along `axis` of the source (one element for None). A channel that
    is constant has low == high and threshold NaN. `zero_low`/`zero_high` bound the inputs where
    a plain Sign would have given 0 instead (NaN: none): there the step follows --sign-zero.
    `zero_used`: a plain Sign's 0 is one of the two values.
    """

    axis: int | None
    threshold: np.ndarray
    direction: np.ndarray
    low: np.ndarray
    high: np.ndarray
    zero_low: np.ndarray | None = None
    zero_high: np.ndarray | None = None
    zero_used: bool = False


class NotAStep(Exception):
    """The region is no step; the message says what it is."""


def find_step(
    graph: Graph,
    region: Region,
    sessions: Sessions,
    *,
    sign_zero: str = "plus",
    non_negative: bool = False,
) -> Step:
    """The step that a region is, over all x, or over x >= 0 only.

    Raises NotAStep with what the region is instead.
    """
    return _Search(graph, region, sessions, sign_zero, non_negative).find()


class _Search:
    def __init__(
        self, graph: Graph, region: Region, sessions: Sessions, sign_zero: str, non_negative: bool
    ) -> None:
        self.graph, self.region, self.sessions = graph, region, sessions
        self.sign_zero = sign_zero
        self.evaluate = Evaluator(graph, region, sessions)
        self.first_key = 0 if non_negative else int(floats.to_key(-floats.LARGE))
        self.last_key = int(floats.to_key(floats.LARGE))
        self.keys: list[np.ndarray] = []
        self.values: list[list[np.ndarray]] = []
        self._double: Evaluator | None = None

    def find(self) -> Step:
        keys = self._grid()
        state = self._probe(keys)
        self._reject_early(keys)
        self._same_at_both_zeros()
        self._refine(keys, state)
        all_keys = np.concatenate(self.keys)
        order = np.argsort(all_keys, axis=0, kind="stable")
        all_keys = np.take_along_axis(all_keys, order, axis=0)
        values = {
            variant: np.take_along_axis(np.concatenate([v[i] for v in self.values]), order, axis=0)
            for i, variant in enumerate(self.evaluate.variants)
        }
        return self._decide(all_keys, values)

    # Probing ---------------------------------------------------------------------------------

    def _grid(self) -> np.ndarray:
        channels = self.region.channels
        budget = _BUDGET // (channels * (len(self.region.nodes) + 4))
        keys = floats.grid(int(np.clip(budget, 160, 640)))
        rows = [np.broadcast_to(keys[:, None], (len(keys), channels))]
        for array in self.region.constants.values():
            if array.dtype != np.float32 or not np.isfinite(array).all():
                continue
            if array.size == 1:
                value = np.broadcast_to(array.reshape(1, 1), (1, channels))
            elif array.size == channels:
                value = array.reshape(1, channels)
            else:
                continue
            key = floats.to_key(value)
            rows += [key - 1, key, key + 1, -key]
        keys = np.clip(np.concatenate(rows), self.first_key, self.last_key)
        return np.sort(keys, axis=0)

    def _probe(self, keys: np.ndarray) -> np.ndarray:
        values, state = self.evaluate(floats.from_key(keys))
        assert state is not None
        self.keys.append(keys)
        self.values.append(values)
        return state

    def _reject_early(self, keys: np.ndarray) -> None:
        """Refuse what plainly takes more than three values before any search is done."""
        usual = np.abs(keys[:, 0]) <= _MODERATE_KEY
        y = self.values[0][0][usual]
        with np.errstate(invalid="ignore"):
            low, high = np.nanmin(y, axis=0), np.nanmax(y, axis=0)
            gap = high - low
            middle = ~((y - low <= 1e-3 * gap) | (high - y <= 1e-3 * gap))
        if not np.isfinite(y).all():
            raise NotAStep(NOT_FINITE)
        if (gap <= TOLERANCE * np.abs(high)).all():
            raise NotAStep("is a constant")
        for c in np.flatnonzero(middle.any(axis=0))[:4]:
            count = len(np.unique(np.round(y[middle[:, c], c] / gap[c], 4)))
            if count > 1:
                raise NotAStep(f"takes {'many' if count > 6 else count + 2} values, not two")

    def _same_at_both_zeros(self) -> None:
        zeros = np.zeros((2, self.region.channels), np.float32)
        zeros[0] = -0.0
        values, _ = self.evaluate(zeros)
        if not np.array_equal(values[0][0], values[0][1]):
            raise NotAStep("tells -0.0 from 0.0")

    def _refine(self, keys: np.ndarray, state: np.ndarray) -> None:
        """Bisect (by 16) every change of state down to neighbouring floats."""
        row, channel = np.nonzero((state[1:] != state[:-1]) & (keys[1:] - keys[:-1] > 1))
        low, high = keys[row, channel], keys[row + 1, channel]
        s_low, s_high = state[row, channel], state[row + 1, channel]
        parts = 16
        while len(low):
            order = np.argsort(channel, kind="stable")
            channel, low, high = channel[order], low[order], high[order]
            s_low, s_high = s_low[order], s_high[order]
            counts = np.bincount(channel, minlength=self.region.channels)
            most = int(counts.max())
            if most > _MAX_BREAKS:
                raise NotAStep("has too many pieces to be a step")
            starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
            rank = np.arange(len(channel)) - starts[channel]
            fraction = np.arange(parts + 1)
            marks = low[:, None] + (high - low)[:, None] * fraction // parts
            block = np.zeros((most, parts - 1, self.region.channels), np.int64)
            block[rank, :, channel] = marks[:, 1:-1]
            inner = self._probe(block.reshape(-1, self.region.channels)).reshape(block.shape)
            states = np.concatenate([s_low[:, None], inner[rank, :, channel], s_high[:, None]], 1)
            b, i = np.nonzero(
                (states[:, 1:] != states[:, :-1]) & (marks[:, 1:] - marks[:, :-1] > 1)
            )
            channel, low, high = channel[b], marks[b, i], marks[b, i + 1]
            s_low, s_high = states[b, i], states[b, i + 1]

    # Judging ---------------------------------------------------------------------------------

    def _decide(self, keys: np.ndarray, values: dict[str, np.ndarray]) -> Step:
        try:
            step, _ = self._judge(keys, values[""], "")
        except NotAStep:
            if self.sign_zero not in values:
                raise
            plain = values[""]
        else:
            if "plus" in values:
                tolerance = 1e-3 * (step.high - step.low)
                differs = [
                    (np.abs(values[v] - values[""]) > tolerance).any() for v in ("plus", "minus")
                ]
                if all(differs):
                    step = _replace(step, zero_used=True)
            return step
        step, chosen = self._judge(keys, values[self.sign_zero], self.sign_zero)
        with np.errstate(invalid="ignore"):
            zero = ~(np.abs(plain - chosen) <= 1e-3 * np.abs(step.high - step.low))
        zero &= np.abs(keys) <= (_WIDE_KEY if self._double else self.last_key)
        x = floats.from_key(keys)
        z_low = np.where(zero, x, np.inf).min(axis=0)
        z_high = np.where(zero, x, -np.inf).max(axis=0)
        some = zero.any(axis=0)
        wide = some & (z_high - z_low > 1e-5 * np.maximum(abs(z_low), abs(z_high)) + 1e-30)
        if wide.any():
            raise NotAStep("takes three values: its Sign gives 0 on a whole interval")
        nan = np.float32(np.nan)
        return _replace(
            step, zero_low=np.where(some, z_low, nan), zero_high=np.where(some, z_high, nan)
        )

    def _judge(self, keys: np.ndarray, y: np.ndarray, variant: str) -> tuple[Step, np.ndarray]:
        """The step that the probes show, and the values used; in float64 where float32 rounds."""
        try:
            return self._step(keys, y, y), y
        except NotAStep as refusal:
            exact = self._in_double(keys, variant)
            if exact is None:
                raise
            used = np.abs(keys) <= _WIDE_KEY
            # float64 tells the values wherever float32 is off them; float32 decides on which
            # side a probe lies wherever its rounding leaves that clear.
            low = np.where(used, exact, np.inf).min(axis=0)
            high = np.where(used, exact, -np.inf).max(axis=0)
            tolerance = TOLERANCE * np.maximum(np.abs(low), np.abs(high))
            with np.errstate(invalid="ignore"):
                at_low, at_high = np.abs(y - low) <= tolerance, np.abs(y - high) <= tolerance
            # Beyond this, x absorbs the step that a straight-through sum adds to it.
            near = np.abs(keys) <= floats.to_key((high - low) * _ABSORBED)
            at_low, at_high = at_low & near, at_high & near
            snapped = np.where(at_low, low, np.where(at_high, high, exact))
            values = np.where(used, snapped, np.nan)
            shown = np.where(used, np.where(near, y, exact), np.nan)
            try:
                return self._step(keys, values, shown), np.where(used, shown, exact)
            except NotAStep:
                raise refusal from None

    def _in_double(self, keys: np.ndarray, variant: str) -> np.ndarray | None:
        try:
            if self._double is None:
                self._double = Evaluator(self.graph, self.region, self.sessions, double=True)
            values, _ = self._double(floats.from_key(keys).astype(np.float64))
        except NotEvaluable:  # there is no float64 kernel for one of the ops
            return None
        return values[self._double.variants.index(variant)]

    def _step(self, keys: np.ndarray, y: np.ndarray, shown: np.ndarray) -> Step:
        """Check that y (NaN: not to be looked at) is a step whose sides are those of `shown`."""
        skip = np.isnan(y) & np.isnan(shown) & (np.abs(keys) > _WIDE_KEY)
        if not np.isfinite(y[~skip]).all() or not np.isfinite(shown[~skip]).all():
            raise NotAStep("gives NaN or infinity for some inputs")
        low = np.where(skip, np.inf, y).min(axis=0)
        high = np.where(skip, -np.inf, y).max(axis=0)
        tolerance = TOLERANCE * np.maximum(np.abs(low), np.abs(high))
        constant = high - low <= 2 * tolerance
        at_low, at_high = y - low <= tolerance, high - y <= tolerance
        if not (at_low | at_high | skip | constant).all():
            raise NotAStep("takes more than two values")
        upper = shown > (low + high) / 2
        if ((upper != (y > (low + high) / 2)) & ~skip & ~constant).any():
            raise NotAStep("is lost in rounding")
        upper = np.where(constant, False, upper)
        # Skipped probes lie at both ends only: give them their neighbour's side.
        upper = _fill_ends(upper, skip)
        changes = upper[1:] != upper[:-1]
        count = changes.sum(axis=0)
        if (count > 1).any():
            raise NotAStep("takes two values but changes between them more than once")
        constant = constant | (count == 0)
        if constant.all():
            raise NotAStep("is a constant")
        at = np.argmax(changes, axis=0)
        columns = np.arange(keys.shape[1])
        rising = upper[-1]
        threshold = floats.from_key(np.where(rising, keys[at + 1, columns], keys[at, columns]))
        value_low = _most_common(np.where(at_low & ~skip, y, np.nan))
        value_high = _most_common(np.where(at_high & ~skip, y, np.nan))
        value_low = np.where(constant, value_high, value_low)
        return Step(
            axis=self.region.axis,
            threshold=np.where(constant, np.float32(np.nan), threshold).astype(np.float32),
            direction=np.where(rising | constant, 1, -1).astype(np.int8),
            low=value_low.astype(np.float32),
            high=value_high.astype(np.float32),
        )


def _fill_ends(upper: np.ndarray, skip: np.ndarray) -> np.ndarray:
    if not skip.any():
        return upper
    valid = ~skip
    first = np.argmax(valid, axis=0)
    last = len(valid) - 1 - np.argmax(valid[::-1], axis=0)
    rows = np.clip(np.arange(len(upper))[:, None], first, last)
    return np.take_along_axis(upper, rows, axis=0)


def _most_common(y: np.ndarray) -> np.ndarray:
    """The value most probes have, per channel (all NaN: 0)."""
    low = np.nanmin(np.where(np.isnan(y), np.inf, y), axis=0)
    high = np.nanmax(np.where(np.isnan(y), -np.inf, y), axis=0)
    result = np.where(np.isfinite(low), low, 0.0)
    for c in np.flatnonzero(np.isfinite(low) & (low != high)):
        column = y[:, c]
        values, counts = np.unique(column[~np.isnan(column)].astype(np.float32), return_counts=True)
        result[c] = values[np.argmax(counts)]
    return result


def _replace(step: Step, **changes: object) -> Step:
    from dataclasses import replace

    return replace(step, **changes)  # type: ignore[arg-type]
