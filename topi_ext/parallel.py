"""From which size on a loop is worth a launch on several threads.

A launch costs about a microsecond where the threads are awake. Each limit is some two
microseconds of work of a fast core, so that slower cores, whose launches cost little more, gain
more.
"""

from __future__ import annotations

#: Elements of an elementwise function, a pool, a packing.
PARALLEL_ELEMENTS = 64_000
#: Float multiply-accumulates.
PARALLEL_FLOAT_MACS = 200_000
#: Binary multiply-accumulates.
PARALLEL_BINARY_MACS = 2_000_000
