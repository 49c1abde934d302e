"""The mixers composed of the operators of the other packages; see the package for the arguments."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videogen_kernels.attention import attention, windowed_attention
from videogen_kernels.linear_attention import linear_attention
from videogen_kernels.rotary import gated_head_norm, head_norm, norm_rotary, norm_rotary_positive

#: Keeps the denominator of linear attention off 0.
_DENOMINATOR_FLOOR = 0.01


def linear_mixer_reference(
    qkvg: Tensor,
    gate: Tensor,
    norm_query: Tensor,
    norm_key: Tensor,
    norm_out: Tensor,
    conv: Tensor,
    cos: Tensor,
    sin: Tensor,
    grid: tuple[int, int, int],
    eps: float,
) -> Tensor:
    query, key, value, gate_out = qkvg.unbind(2)  # [B, L, N, K]
    wide = torch.promote_types(value.dtype, torch.float32)
    # On a CPU float32 from here to the output norm: the state is float32, and casting back and forth costs more than it
    # saves. On a GPU memory is what counts, and the kernels widen what they have read.
    between = wide if value.device.type == "cpu" else value.dtype
    query, query_den = norm_rotary_positive(query, norm_query, cos, sin, _DENOMINATOR_FLOOR, eps, dtype=between)
    key, key_den = norm_rotary_positive(key, norm_key, cos, sin, _DENOMINATOR_FLOOR, eps, dtype=between)
    out = linear_attention(
        query, key, value.to(between), gate=torch.sigmoid(gate.to(wide)), query_den=query_den, key_den=key_den
    )
    assert isinstance(out, Tensor)
    batch, _, heads, width = value.shape
    frames = value.reshape(batch * grid[0], grid[1], grid[2], heads * width).permute(0, 3, 1, 2)  # [B * n, N * K, h, w]
    local = F.conv2d(frames, conv.to(frames.dtype), padding=1, groups=heads * width).permute(0, 2, 3, 1)
    out = out + local.reshape(value.shape)
    return gated_head_norm(out, norm_out, gate_out, eps, dtype=gate_out.dtype).flatten(2)  # [B, L, N * K]


def softmax_mixer_reference(
    qkv: Tensor,
    norm_query: Tensor,
    norm_key: Tensor,
    cos: Tensor,
    sin: Tensor,
    gate: Tensor | None,
    key_mask: Tensor | None,
    visible: Tensor | None,
    eps: float,
) -> Tensor:
    query, key, value = qkv.unbind(2)  # [B, L, N, K]
    query, key = norm_rotary(query, norm_query, cos, sin, eps), norm_rotary(key, norm_key, cos, sin, eps)
    if visible is None:
        out = attention(query, key, value, key_mask)
    else:
        out = windowed_attention(query, key, value, visible)
    if gate is not None:
        out = out * torch.sigmoid(gate)[..., None]
    return out.flatten(2)


def cross_mixer_reference(
    query: Tensor, key_value: Tensor, norm_query: Tensor, norm_key: Tensor, key_mask: Tensor | None, eps: float
) -> Tensor:
    key, value = key_value.unbind(2)  # [B, S, N, K]
    return attention(head_norm(query, norm_query, eps), head_norm(key, norm_key, eps), value, key_mask).flatten(2)
