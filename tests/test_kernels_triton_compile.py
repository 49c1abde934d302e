"""The Triton kernels compile for a Hopper GPU, with none at hand, and fit into its shared memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from triton_tools import needs_triton


@pytest.mark.slow
@needs_triton
def test_every_kernel_compiles_for_hopper(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    script = Path(__file__).with_name("triton_compile.py")
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert " 0 failed" in result.stdout
