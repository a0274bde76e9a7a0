"""`targets`: the presets, and what each needs on the device."""

from __future__ import annotations

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
    rows = [
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

    lines = [
        (row["name"], row["description"], row["triple"] or "", row["mcpu"] or "", row["needs"])
        for row in rows
    ]
    show(table(("target", "what", "triple", "core", "needs on the device"), lines))
