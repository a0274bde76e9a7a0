"""`python -m bnn_tvm.inspect`: the inspect command."""

from __future__ import annotations

from bnn_tvm.cli.main import run_command

if __name__ == "__main__":
    run_command("inspect")
