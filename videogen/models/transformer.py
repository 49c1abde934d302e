"""The video backbone: a transformer of gated linear attention, softmax anchors and a mixture of experts.

Pre-norm blocks with one shared AdaLN projection plus a table per block (PixArt-alpha, arXiv 2310.00426). The mixer of a
layer is gated linear attention with a depth-wise convolution beside it (SANA-Video 2.0, arXiv 2607.21553; the convolution
is ours) or a softmax anchor that may be windowed in time. The feed-forward of a layer is a dense SwiGLU or token-choice experts
(DeepSeek-V3, arXiv 2412.19437). Every latent frame has a timestep, a kind and a camera vector of its own: known frames
(a first image, guides, references) come with timestep 0 and their clean latent, so one set of weights serves every task.

The network predicts the clean latent; `forward` turns it into the velocity `noise - sample` (JiT, arXiv 2511.13720).

Shapes: B batch, C latent channels, n latent frames (video, then guides, then references), h w latent height and width,
L tokens, D model width, N heads, K key width, S text tokens, E experts, k chosen experts, T = B * L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from einops import rearrange
from torch import Tensor, nn

from videogen.models.embeddings import (
    NUM_CAMERA_MOVES,
    FrameEmbedding,
    TokenPosition,
    camera_displacement,
    frame_visibility,
    pool_text,
    rotary_tables,
    scenery_positions,
    screen_positions,
)
from videogen_kernels import moe
from videogen_kernels.mixers import cross_mixer, linear_mixer, softmax_mixer
from videogen_kernels.modulated_norm import gated_residual, modulated_norm, rms_norm

Mixer = Literal["linear", "softmax"]
FeedForward = Literal["dense", "moe"]

#: Truck, pan, push (from rest), pedestal, tilt and zoom of Stage where its actors stand (`videogen.data.stage.render`).
STANDARD_CAMERA_SPEEDS = (0.2, 0.28, 0.1625, 0.175, 0.22, 0.24)

#: Smallest noise level that the conversion to velocity divides by.
MIN_SIGMA = 0.05


@dataclass
class VideoTransformerOutput(BaseOutput):
    """
    Args:
        sample: velocity [B, C, n, h, w].
        load_balancing_loss: mean over the expert layers, scalar; None unless asked for.
        router_z_loss: likewise.
    """

    sample: Tensor
    load_balancing_loss: Tensor | None = None
    router_z_loss: Tensor | None = None


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that matrix products of `x` are taken in: autocast's where it is on."""
    device_type = x.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype


class LinearMixer(nn.Module):
    """Gated linear attention over all tokens, with a 3x3 depth-wise convolution inside each latent frame."""

    def __init__(self, width: int, num_heads: int, head_dim: int):
        super().__init__()
        inner = num_heads * head_dim
        self.num_heads = num_heads
        self.to_qkvg = nn.Linear(width, 4 * inner, bias=False)  # query, key, value, output gate
        self.to_beta = nn.Linear(width, num_heads)
        self.norm_query = nn.Parameter(torch.ones(head_dim))
        self.norm_key = nn.Parameter(torch.ones(head_dim))
        self.norm_out = nn.Parameter(torch.ones(head_dim))
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, grid: tuple[int, int, int]) -> Tensor:
        out = linear_mixer(
            self.to_qkvg(x).unflatten(-1, (4, self.num_heads, -1)),
            self.to_beta(x),
            self.norm_query,
            self.norm_key,
            self.norm_out,
            self.conv.weight,
            cos,
            sin,
            grid,
        )
        return self.to_out(out)


class SoftmaxMixer(nn.Module):
    """Softmax attention with a gate per head, over all frames or over those that `visible` allows."""

    def __init__(self, width: int, num_heads: int, head_dim: int):
        super().__init__()
        inner = num_heads * head_dim
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(width, 3 * inner, bias=False)
        self.to_gate = nn.Linear(width, num_heads)
        self.norm_query = nn.Parameter(torch.ones(head_dim))
        self.norm_key = nn.Parameter(torch.ones(head_dim))
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor | None) -> Tensor:
        qkv = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [B, L, 3, N, K]
        gate = self.to_gate(x)
        out = softmax_mixer(qkv, self.norm_query, self.norm_key, cos, sin, gate, visible=visible)
        return self.to_out(out)


class CrossAttention(nn.Module):
    """Softmax attention of the video tokens to the text tokens; its output projection starts at zero."""

    def __init__(self, width: int, text_width: int, num_heads: int, head_dim: int):
        super().__init__()
        inner = num_heads * head_dim
        self.num_heads = num_heads
        self.norm = nn.Parameter(torch.ones(width))
        self.to_query = nn.Linear(width, inner, bias=False)
        self.to_key_value = nn.Linear(text_width, 2 * inner, bias=False)
        self.norm_query = nn.Parameter(torch.ones(head_dim))
        self.norm_key = nn.Parameter(torch.ones(head_dim))
        self.to_out = nn.Linear(inner, width, bias=False)
        nn.init.zeros_(self.to_out.weight)

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        query = self.to_query(rms_norm(x, self.norm, dtype=compute_dtype(x)))
        query = query.unflatten(-1, (self.num_heads, -1))  # [B, L, N, K]
        key_value = self.to_key_value(text).unflatten(-1, (2, self.num_heads, -1))  # [B, S, 2, N, K]
        return self.to_out(cross_mixer(query, key_value, self.norm_query, self.norm_key, text_mask))


class SwiGLU(nn.Module):
    """(silu(x w_gate) * (x w_up)) w_out."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.to_hidden = nn.Linear(width, 2 * hidden, bias=False)
        self.to_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out(moe.swiglu(self.to_hidden(x)))


class Router(nn.Module):
    """Scores of the experts, in float32 whatever the rest of the model is cast to; keeps count of the choices."""

    weight: Tensor
    bias: Tensor
    choices: Tensor
    load: Tensor

    def __init__(self, width: int, num_experts: int, top_k: int):
        super().__init__()
        self.top_k = top_k
        self.weight = nn.Parameter(torch.empty(num_experts, width))
        nn.init.normal_(self.weight, std=width**-0.5)
        self.register_buffer("bias", torch.zeros(num_experts))  # moves the choice only; see `update_router_bias`
        self.register_buffer("choices", torch.zeros(num_experts), persistent=False)  # since the last update of the bias
        self.register_buffer("load", torch.zeros(num_experts), persistent=False)  # since the last reset

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[T, D] -> logits [T, E], expert_indices [T, k], expert_weights [T, k]."""
        logits = moe.router_logits(x, self.weight)
        expert_indices, expert_weights = moe.route(logits, self.bias, self.top_k)
        with torch.no_grad():
            counts = moe.tokens_per_expert(expert_indices, self.weight.shape[0])
            self.load += counts
            if self.training:
                self.choices += counts
        return logits, expert_indices, expert_weights

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """Moves between devices as usual, but refuses to be rounded to fewer than 32 bits."""

        def keep_precision(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            if result.dtype.itemsize < tensor.dtype.itemsize and result.dtype.itemsize < 4:
                return tensor.to(result.device)
            return result

        return super()._apply(keep_precision, recurse)


class MixtureOfExperts(nn.Module):
    """Routed SwiGLU experts and one shared expert that sees every token."""

    def __init__(self, width: int, expert_hidden: int, shared_hidden: int, num_experts: int, top_k: int):
        super().__init__()
        self.router = Router(width, num_experts, top_k)
        self.w_in = nn.Parameter(torch.empty(num_experts, width, 2 * expert_hidden))
        self.w_out = nn.Parameter(torch.empty(num_experts, expert_hidden, width))
        self.shared = SwiGLU(width, shared_hidden)
        nn.init.uniform_(self.w_in, -(width**-0.5), width**-0.5)
        nn.init.uniform_(self.w_out, -(expert_hidden**-0.5), expert_hidden**-0.5)

    def forward(self, x: Tensor, losses: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        tokens = x.flatten(0, 1)  # [T, D]
        logits, expert_indices, expert_weights = self.router(tokens)
        if losses is not None:
            losses.append((moe.load_balancing_loss(logits, expert_indices), moe.router_z_loss(logits)))
        routed = moe.experts(tokens, self.w_in, self.w_out, expert_indices, expert_weights)
        return self.shared(x) + routed.view_as(x)


class Block(nn.Module):
    """Mixer, cross-attention to text where the layer has it, feed-forward."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        head_dim: int,
        mixer: Mixer,
        feed_forward: FeedForward,
        cross_attention: bool,
        text_width: int,
        dense_hidden: int,
        expert_hidden: int,
        shared_hidden: int,
        num_experts: int,
        top_k: int,
    ):
        super().__init__()
        self.mixer = (LinearMixer if mixer == "linear" else SoftmaxMixer)(width, num_heads, head_dim)
        self.cross_attention = CrossAttention(width, text_width, num_heads, head_dim) if cross_attention else None
        self.feed_forward: MixtureOfExperts | SwiGLU
        if feed_forward == "moe":
            self.feed_forward = MixtureOfExperts(width, expert_hidden, shared_hidden, num_experts, top_k)
        else:
            self.feed_forward = SwiGLU(width, dense_hidden)
        self.modulation = nn.Parameter(torch.zeros(6, width))

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        text: Tensor,
        text_mask: Tensor,
        cos: Tensor,
        sin: Tensor,
        grid: tuple[int, int, int],
        visible: Tensor | None,
        losses: list[tuple[Tensor, Tensor]] | None,
    ) -> Tensor:
        """x [B, L, D], modulation [B, n, 6, D] -> [B, L, D]."""
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = (modulation + self.modulation).unbind(2)  # [B, n, D]
        dtype = compute_dtype(x)
        hidden = modulated_norm(x, scale_1, shift_1, dtype=dtype)
        if isinstance(self.mixer, LinearMixer):
            x = gated_residual(x, self.mixer(hidden, cos, sin, grid), gate_1)
        else:
            x = gated_residual(x, self.mixer(hidden, cos, sin, visible), gate_1)
        if self.cross_attention is not None:
            x = x + self.cross_attention(x, text, text_mask)
        hidden = modulated_norm(x, scale_2, shift_2, dtype=dtype)
        if isinstance(self.feed_forward, MixtureOfExperts):
            return gated_residual(x, self.feed_forward(hidden, losses), gate_2)
        return gated_residual(x, self.feed_forward(hidden), gate_2)


class VideoTransformer(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Noisy latents, text tokens and per-frame conditions in, velocity out. The defaults are the shipped model's, but for `camera_speeds`.

    Args:
        latent_channels: C.
        patch_size: latent rows and columns that make one token's side.
        width: D.
        num_heads: N.
        head_dim: K.
        mixers: "linear" or "softmax" for every layer; its length is the number of layers.
        feed_forwards: "dense" or "moe" for every layer.
        cross_attention_layers: indices of the layers that read the text.
        text_width: width of the text tokens.
        dense_hidden: hidden width of a dense feed-forward.
        expert_hidden: of a routed expert.
        shared_hidden: of the shared expert.
        num_experts: E.
        top_k: experts chosen per token.
        window: latent frames that an anchor sees to either side, besides first frame, guides and references; None = all.
        camera_dim: entries of a camera vector.
        camera_speeds: how far one second of each standard command goes, see `scenery_places`: rotary positions are those of the
            spots that tokens show, so that what an actor does and what the camera does add up by themselves
            (`STANDARD_CAMERA_SPEEDS` for Stage, as in the shipped weights). None = rotary positions on the screen.
        rotary_theta: ratio of the highest to the lowest rotary frequency.
        rotary_time_scale: radians per second of the quickest pair.

    Raises:
        ValueError: lists of different lengths, unknown mixers or feed-forwards, layers that do not exist, or another number of
            camera speeds.
    """

    _keep_in_fp32_modules = ["router"]  # type: ignore[assignment]  # noqa: RUF012 (diffusers reads a list)
    _no_split_modules = ["Block"]  # type: ignore[assignment]  # noqa: RUF012

    config: Any  # the arguments of __init__

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 64,
        patch_size: int = 1,
        width: int = 192,
        num_heads: int = 3,
        head_dim: int = 64,
        mixers: Sequence[str] = ("linear", "softmax") * 4,
        feed_forwards: Sequence[str] = ("dense", "dense", *("moe",) * 5, "dense"),
        cross_attention_layers: Sequence[int] = (0, 2, 4, 6),
        text_width: int = 128,
        dense_hidden: int = 272,
        expert_hidden: int = 96,
        shared_hidden: int = 80,
        num_experts: int = 8,
        top_k: int = 2,
        window: int | None = None,
        camera_dim: int = 9,
        camera_speeds: Sequence[float] | None = None,
        rotary_theta: float = 100.0,
        rotary_time_scale: float = 4.0,
    ):
        super().__init__()
        _check_layers(mixers, feed_forwards, cross_attention_layers)
        if camera_speeds is not None and len(camera_speeds) != NUM_CAMERA_MOVES:
            raise ValueError(
                f"`camera_speeds` must be {NUM_CAMERA_MOVES} numbers, of truck, pan, push, pedestal, tilt and zoom, or None, "
                f"got {camera_speeds}."
            )
        self.proj_in = nn.Linear(latent_channels * patch_size**2, width)
        self.token_position = TokenPosition(width, camera_speeds)
        self.frame_embedding = FrameEmbedding(width, camera_dim, text_width)
        self.to_modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(
            Block(
                width,
                num_heads,
                head_dim,
                mixer,  # type: ignore[arg-type]
                feed_forward,  # type: ignore[arg-type]
                layer in cross_attention_layers,
                text_width,
                dense_hidden,
                expert_hidden,
                shared_hidden,
                num_experts,
                top_k,
            )
            for layer, (mixer, feed_forward) in enumerate(zip(mixers, feed_forwards, strict=True))
        )
        self.modulation_out = nn.Parameter(torch.zeros(2, width))
        self.modulation_out_proj = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, latent_channels * patch_size**2)
        for layer in (self.to_modulation, self.modulation_out_proj, self.proj_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        frame_times: Tensor,
        frame_kinds: Tensor,
        camera: Tensor,
        return_dict: bool = True,
        return_router_losses: bool = False,
    ) -> VideoTransformerOutput | tuple[Tensor, ...]:
        """One evaluation of the network.

        Args:
            hidden_states: [B, C, n, h, w] noisy latents; known frames carry their clean latent.
            timestep: [B, n] noise level sigma in 0..1 of each frame; 0 = known.
            encoder_hidden_states: [B, S, text_width].
            encoder_attention_mask: [B, S] bool, True = a real token; a row without any reads no text.
            frame_times: [n] seconds; ignored for references.
            frame_kinds: [n] int: 0 first video latent, 1 later one, 2 guide, 3 and 4 references; video latents first.
            camera: [B, n, camera_dim], zeros = not specified.
            return_dict: False returns a tuple.
            return_router_losses: also compute the auxiliary losses of the routers.

        Returns:
            `VideoTransformerOutput`, or its entries that are not None as a tuple; `sample` is the velocity
            `noise - sample`, [B, C, n, h, w], in the dtype of `hidden_states`. On known frames it means nothing.

        Raises:
            ValueError: a latent height or width that is no multiple of the patch size, or arguments whose number of
                frames differ.
        """
        batch, _, n, height, width = hidden_states.shape
        patch = self.config.patch_size
        if height % patch or width % patch:
            raise ValueError(
                f"`hidden_states` must have a height and width that are multiples of {patch}, got {height}x{width}."
            )
        given = {
            "timestep": (timestep.shape, (batch, n)),
            "frame_times": (frame_times.shape, (n,)),
            "frame_kinds": (frame_kinds.shape, (n,)),
            "camera": (camera.shape, (batch, n, self.config.camera_dim)),
        }
        for name, (shape, expected) in given.items():
            if shape != expected:
                raise ValueError(
                    f"`{name}` must be {list(expected)} for latents of {list(hidden_states.shape)}, got {list(shape)}."
                )
        h, w = height // patch, width // patch
        displacement = camera_displacement(camera, frame_times, frame_kinds)  # [B, n, 6]
        if self.config.camera_speeds is None:
            rows, columns = screen_positions(h, w, displacement.device)
        else:
            rows, columns = scenery_positions(displacement, h, w, self.config.camera_speeds)
        cos, sin = rotary_tables(
            frame_times,
            frame_kinds,
            rows,
            columns,
            self.config.head_dim,
            self.config.rotary_theta,
            self.config.rotary_time_scale,
        )
        visible = frame_visibility(frame_kinds, self.config.window)
        dtype = self.proj_in.weight.dtype  # of the residual stream; under autocast this is float32

        x = rearrange(hidden_states, "b c n (h p) (w q) -> b (n h w) (c p q)", p=patch, q=patch)
        x = (self.proj_in(x.to(dtype)) + self.token_position(displacement, h, w)).to(dtype)  # [B, L, D]
        text = encoder_hidden_states.to(dtype)
        pooled = pool_text(text, encoder_attention_mask)
        temb = F.silu(self.frame_embedding(timestep, frame_times, frame_kinds, camera, displacement, pooled))
        modulation = self.to_modulation(temb).to(dtype).unflatten(-1, (6, -1))  # [B, n, 6, D]
        losses: list[tuple[Tensor, Tensor]] | None = [] if return_router_losses else None
        for block in self.blocks:
            x = block(x, modulation, text, encoder_attention_mask, cos, sin, (n, h, w), visible, losses)
        scale, shift = (self.modulation_out_proj(temb).to(dtype).unflatten(-1, (2, -1)) + self.modulation_out).unbind(2)
        x = self.proj_out(modulated_norm(x, scale, shift))  # [B, L, C * p * q]
        clean = rearrange(x, "b (n h w) (c p q) -> b c n (h p) (w q)", n=n, h=h, w=w, p=patch, q=patch)
        sigma = timestep[:, None, :, None, None].float().clamp_min(MIN_SIGMA)
        velocity = ((hidden_states.float() - clean.float()) / sigma).to(hidden_states.dtype)

        balance = z_loss = None
        if losses:
            balance = torch.stack([loss[0] for loss in losses]).mean()
            z_loss = torch.stack([loss[1] for loss in losses]).mean()
        output = VideoTransformerOutput(sample=velocity, load_balancing_loss=balance, router_z_loss=z_loss)
        return output if return_dict else output.to_tuple()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As diffusers has it, but what the weights lack is an error.

        Raises:
            ValueError: weights of another version: without all of this network's tensors.
        """
        informed = kwargs.pop("output_loading_info", False)
        model, found = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        if found["missing_keys"]:
            raise ValueError(
                f"`pretrained_model_name_or_path` must hold weights that this version made, {str(pretrained_model_name_or_path)!r} "
                f"has no {sorted(found['missing_keys'])[0]}; train anew, or use the version that made them."
            )
        return (model, found) if informed else model

    def routers(self) -> list[Router]:
        """The routers of the expert layers, first layer first."""
        return [module for module in self.modules() if isinstance(module, Router)]

    def expert_load(self) -> Tensor:
        """Share of the choices that went to each expert since `reset_expert_load`: [expert layers, E], rows sum to 1.

        Counted in training and evaluation. Rows are 0 before anything was counted.
        """
        loads = [router.load for router in self.routers()]
        if not loads:
            return torch.zeros(0, self.config.num_experts)
        load = torch.stack(loads)
        return load / load.sum(-1, keepdim=True).clamp_min(1)

    def reset_expert_load(self) -> None:
        for router in self.routers():
            router.load.zero_()

    @torch.no_grad()
    def update_router_bias(self, rate: float) -> None:
        """Moves every expert's bias by `rate` towards the mean load of the steps since the last call.

        DeepSeek-V3, arXiv 2412.19437, section 2.1.2; there `rate` is 0.001. The counts are those of this process: in
        distributed training they are summed over all processes first.
        """
        for router in self.routers():
            choices = router.choices
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(choices)
            router.bias += rate * torch.sign(choices.mean() - choices)
            choices.zero_()

    def num_parameters_active(self) -> int:
        """Parameters that take part in one token: all but the experts it does not choose."""
        total = sum(parameter.numel() for parameter in self.parameters())
        for module in self.modules():
            if isinstance(module, MixtureOfExperts):
                routed = module.w_in.numel() + module.w_out.numel()
                total -= routed - routed * module.router.top_k // module.w_in.shape[0]
        return total


def _check_layers(mixers: Sequence[str], feed_forwards: Sequence[str], cross_attention_layers: Sequence[int]) -> None:
    if not mixers or len(mixers) != len(feed_forwards):
        raise ValueError(
            f"`feed_forwards` must name one feed-forward per entry of `mixers` ({len(mixers)}), got {len(feed_forwards)}."
        )
    for name, values, allowed in (
        ("mixers", mixers, ("linear", "softmax")),
        ("feed_forwards", feed_forwards, ("dense", "moe")),
    ):
        unknown = [value for value in values if value not in allowed]
        if unknown:
            raise ValueError(f"`{name}` must contain only {allowed[0]!r} and {allowed[1]!r}, got {unknown[0]!r}.")
    outside = [layer for layer in cross_attention_layers if not 0 <= layer < len(mixers)]
    if outside:
        raise ValueError(f"`cross_attention_layers` must lie in 0..{len(mixers) - 1}, got {outside[0]}.")
