"""The builder of arm64 programs lives with the benchmarks: make the checkout importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
