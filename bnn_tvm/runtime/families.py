"""Asking for a family of kernels by name, before the library is asked."""

from __future__ import annotations

import os

from bnn_tvm.errors import UsageError
from bnn_tvm.export.metadata import Metadata

#: The environment variable that the C runtime reads where no family is asked for.
VARIABLE = "BNN_TVM_KERNELS"


def check_family(metadata: Metadata, kernels: str | None) -> None:
    """Refuse to ask the model for a family of kernels that it lacks.

    kernels: the name; None leaves the choice to `VARIABLE` and then to the device. Raises
    `UsageError`. A model with one set of kernels does not look at the variable.
    """
    names = [family.name for family in metadata.families]
    place = "--kernels"
    if kernels is None and names:
        kernels, place = os.environ.get(VARIABLE) or None, VARIABLE
    if kernels is None:
        return
    if not names:
        raise UsageError(
            f"this model has one set of kernels, so {kernels!r} cannot be chosen",
            node=place,
            hint="leave it out; a model compiled with --target arm64 and no --mcpu has a choice "
            "where its binary layers have several kernels",
        )
    if kernels not in names:
        raise UsageError(
            f"the model has no kernels called {kernels!r}",
            node=place,
            hint=f"it has: {', '.join(names)}; leave it out to let the device choose",
        )
