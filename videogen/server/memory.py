"""How much memory this process has."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def resident_bytes() -> int:
    """What lies in RAM now; 0 where the system does not tell (it is read from Linux's /proc)."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def peak_bytes() -> int:
    """The largest size that this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_peak_bytes(device: str) -> int:
    """The most that generation took where it is scarce: tensors on a GPU, otherwise the process."""
    if not device.startswith("cuda"):
        return peak_bytes()
    import torch

    return torch.cuda.max_memory_allocated(device)
