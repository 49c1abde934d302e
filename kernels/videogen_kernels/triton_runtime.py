"""What the Triton kernels of all operators share. Importing it needs triton; nothing does so before a kernel is wanted.

With `TRITON_INTERPRET=1` in the environment before triton is first imported, kernels run on the CPU in Triton's interpreter:
slow, for tests. There `tl.dot` is wrong on bfloat16 operands, and autotuning takes one configuration only.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["INTERPRETED", "autotune", "dot_precision", "on_device", "sigmoid"]


@triton.jit
def sigmoid(x):
    """Of a float32 tile, without overflow at either end."""
    return 1.0 / (1.0 + tl.exp(-tl.maximum(x, -80.0)))


#: Whether kernels run in the interpreter, on CPU tensors, instead of being compiled.
INTERPRETED = not isinstance(sigmoid, triton.JITFunction)


def autotune(configs: Sequence[tuple[dict[str, int], int, int]], key: Sequence[str]):
    """`triton.autotune` over (sizes, warps, stages); the interpreter takes the first.

    Kernels write each output once, from inputs they do not change, so trying several configurations is harmless.
    """
    chosen = configs[:1] if INTERPRETED else configs
    return triton.autotune(
        [triton.Config(sizes, num_warps=warps, num_stages=stages) for sizes, warps, stages in chosen], key=list(key)
    )


def dot_precision(*tensors: Tensor | None) -> str:
    """How `tl.dot` multiplies these tensors after they were made float32.

    Half-precision values fit into TensorFloat-32 without a rounding; float32 ones are multiplied as they are, unless
    `torch.backends.cuda.matmul.allow_tf32` is set.
    """
    if torch.backends.cuda.matmul.allow_tf32:
        return "tf32"
    return "ieee" if any(t is not None and t.dtype == torch.float32 for t in tensors) else "tf32"


def on_device(tensor: Tensor) -> AbstractContextManager:
    """Launches go to the device of the tensor, whichever is current."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
