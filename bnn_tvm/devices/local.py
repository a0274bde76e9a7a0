"""This machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bnn_tvm.devices.base import Loaded, Source
from bnn_tvm.export.artifact import Artifact
from bnn_tvm.runtime.model import load


class LocalDevice:
    """Runs models in this process."""

    name = "local"
    emulated = False

    def load(self, model: Source, threads: int = 1, kernels: str | None = None) -> Loaded:
        """See `Device.load`."""
        if not isinstance(model, Artifact):
            return load(model, threads, kernels=kernels)
        with tempfile.TemporaryDirectory(prefix="bnn_tvm-") as folder:
            # Once it is mapped, the library needs its file no more.
            return load(model.save(Path(folder) / "model")[0], threads, kernels=kernels)
