"""From the host to a device without waiting for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def indexed(device: str | torch.device) -> torch.device:
    """The device with its number, so that equal devices are equal keys: "cuda" is the current GPU."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def to_device(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """The array on a device.

    On the way to a GPU it passes through page-locked memory, and the host runs on: a plain copy would wait until the GPU has
    done all it was given before. On a CPU it may share its memory with `array`.
    """
    tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
