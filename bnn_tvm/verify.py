"""`python -m bnn_tvm.verify`: the verify command."""

from __future__ import annotations

from bnn_tvm.cli.main import run_command

if __name__ == "__main__":
    run_command("verify")
