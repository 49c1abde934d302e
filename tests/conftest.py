"""Before anything imports triton: without a CUDA device its kernels run in the interpreter, on the CPU."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
