"""`targets`: the presets, and what each needs on the device."""

from __future__ import annotations

from typing import Any

import click

from bnn_tvm.cli.arguments import output_flags
from bnn_tvm.cli.console import print_json, show
from bnn_tvm.targets import HOST, PRESETS


@click.command("targets")
@output_flags
def command(as_json: bool) -> None:
    """List the presets of --target and what each needs on the device.

    \b
    Example:
      bnn-tvm targets
    """
    rows: list[dict[str, Any]] = [
        {
            "name": HOST,
            "description": "this machine, all its features",
            "triple": None,
            "mcpu": None,
            "mattr": [],
            "needs": "this machine or one with the same core",
        },
        *(
            {
                "name": p.name,
                "description": p.description,
                "triple": p.triple,
                "mcpu": p.mcpu,
                "mattr": list(p.mattr),
                "needs": p.needs,
            }
            for p in PRESETS.values()
        ),
    ]
    if as_json:
        print_json({"targets": rows})
        return
    from bnn_tvm.cli.tables import table

    keys = ("name", "description", "triple", "mcpu", "needs")
    lines = [[row[key] or "" for key in keys] for row in rows]
    show(table(("target", "what", "triple", "core", "needs on the device"), lines))
