"""`python -m bnn_tvm COMMAND`: the same as the `bnn-tvm` script."""

from __future__ import annotations

from bnn_tvm.cli.main import main

if __name__ == "__main__":
    main()
