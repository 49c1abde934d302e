"""Modulated RMS norm and gated residual in plain PyTorch, float32 inside. Shapes: B batch, n frames, L tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor


def modulated_norm_reference(x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    frames = x.unflatten(1, (scale.shape[1], -1))  # [B, n, L/n, D]
    wide = frames.to(torch.promote_types(x.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        normed = normed * weight
    return (normed * (1 + scale[:, :, None]) + shift[:, :, None]).to(x.dtype).flatten(1, 2)


def gated_residual_reference(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    num_frames = gate.shape[1]
    return (x.unflatten(1, (num_frames, -1)) + gate[:, :, None] * branch.unflatten(1, (num_frames, -1))).to(x.dtype).flatten(1, 2)
