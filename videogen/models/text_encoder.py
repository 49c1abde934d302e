"""A small bidirectional text encoder, trained together with the backbone.

Pre-norm blocks of softmax attention (1-D rotary positions, qk-norm) and SwiGLU. Shapes: B batch, S text tokens, D width,
N heads, K key width.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from videogen.models.transformer import SwiGLU, compute_dtype
from videogen_kernels.mixers import softmax_mixer
from videogen_kernels.modulated_norm import rms_norm


class TextBlock(nn.Module):
    def __init__(self, width: int, num_heads: int, hidden: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm_1 = nn.RMSNorm(width, eps=1e-6)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.norm_query = nn.Parameter(torch.ones(width // num_heads))
        self.norm_key = nn.Parameter(torch.ones(width // num_heads))
        self.to_out = nn.Linear(width, width, bias=False)
        self.norm_2 = nn.RMSNorm(width, eps=1e-6)
        self.feed_forward = SwiGLU(width, hidden)

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        dtype = compute_dtype(x)
        qkv = self.to_qkv(rms_norm(x, self.norm_1.weight, dtype=dtype))
        qkv = qkv.unflatten(-1, (3, self.num_heads, -1))  # [B, S, 3, N, K]
        out = softmax_mixer(qkv, self.norm_query, self.norm_key, cos, sin, key_mask=mask)
        x = x + self.to_out(out)
        return x + self.feed_forward(rms_norm(x, self.norm_2.weight, dtype=dtype))


class TextEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Token ids in, one vector per token out. The defaults are the shipped model's, which has fewer ids (`BytePairTokenizer.compact`).

    Args:
        vocab_size: ids are 0..vocab_size - 1.
        width: D, also the width of the output.
        num_heads: N.
        num_layers: blocks.
        hidden: hidden width of the feed-forward.
    """

    config: Any  # the arguments of __init__

    @register_to_config
    def __init__(
        self, vocab_size: int = 1024, width: int = 128, num_heads: int = 2, num_layers: int = 2, hidden: int = 280
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(TextBlock(width, num_heads, hidden) for _ in range(num_layers))
        self.norm_out = nn.RMSNorm(width, eps=1e-6)
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encodes a batch of padded sequences.

        Args:
            input_ids: [B, S] int64.
            attention_mask: [B, S] bool, True = a real token. Padding changes nothing for the real tokens.

        Returns:
            [B, S, D]; rows at padding mean nothing.
        """
        half = self.config.width // self.config.num_heads // 2
        positions = torch.arange(input_ids.shape[1], dtype=torch.float32, device=input_ids.device)
        exponents = torch.arange(half, dtype=torch.float32, device=input_ids.device) / half
        angles = positions[:, None] * 1000.0**-exponents  # [S, K/2]
        cos, sin = angles.cos(), angles.sin()
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x, attention_mask.bool(), cos, sin)
        return rms_norm(x, self.norm_out.weight)
