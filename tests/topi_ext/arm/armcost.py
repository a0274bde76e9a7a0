"""The mark of tests that count instructions."""

from __future__ import annotations

import pytest

from benchmarks import counter

needs_armcost = pytest.mark.skipif(
    counter.missing(counter.ARMCOST) is not None, reason=str(counter.missing(counter.ARMCOST))
)
