"""The product never needs PyTorch; its one part that does says so."""

from __future__ import annotations

import subprocess
import sys


def test_without_pytorch_the_import_says_how_to_get_it() -> None:
    code = "import sys; sys.modules['torch'] = None; import bnn_tvm; import bnn_tvm.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: bnn_tvm.torch needs PyTorch: pip install bnn-tvm[torch]" in done.stderr


def test_nothing_else_of_the_product_imports_pytorch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import bnn_tvm.api, bnn_tvm.pipeline, "
        "bnn_tvm.frontend, bnn_tvm.recognize, bnn_tvm.export, bnn_tvm.runtime, bnn_tvm.cli.main"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
