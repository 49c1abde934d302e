"""Rotary positions and head norm in plain PyTorch, float32 inside. Shapes: B batch, L tokens, N heads, K key width."""

from __future__ import annotations

import torch
from torch import Tensor


def head_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def rotary_reference(x: Tensor, cos: Tensor, sin: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """(a, b) -> (a cos - b sin, b cos + a sin) for the two halves a, b of each head."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if weight is not None:
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight
    first, second = wide.chunk(2, dim=-1)  # [B, L, N, K/2] each
    cos, sin = cos[:, None], sin[:, None]  # [L, 1, K/2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
