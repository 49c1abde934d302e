"""Freed memory is kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

_COUNT_FAULTS = """
import resource, torch
from videogen.data.allocator import keep_freed_memory
{setting}
torch.set_num_threads(1)
for _ in range(12):
    torch.ones(24_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(24_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has the setting")
def test_kept_memory_is_not_faulted_in_again():
    def faults(setting: str) -> int:
        program = _COUNT_FAULTS.format(setting=setting)
        return int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)

    assert faults("assert keep_freed_memory()") < 1000
