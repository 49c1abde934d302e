"""Tiny untrained models that tests share: the real classes, every kind of layer, milliseconds a step.

What a function builds depends on torch's seed when it is called; keyword arguments replace settings of `TRANSFORMER` and `VAE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import FlowMatchEulerDiscreteScheduler

from tokenizer3d.autoencoder import CausalVideoAutoencoder
from videogen.models.text_encoder import TextEncoder
from videogen.models.text_tokenizer import BytePairTokenizer
from videogen.models.transformer import VideoTransformer
from videogen_pipelines import TextToVideoPipeline

PROMPT = "a fox jumps in the snow"

# Lists, not tuples: the same tables are written to YAML files.
VAE: dict[str, Any] = {
    "latent_channels": 8,
    "encoder_widths": [16, 16, 16],
    "encoder_blocks": [1, 1],
    "decoder_widths": [16, 16, 16],
    "decoder_blocks": [1, 1, 1],
}
TRANSFORMER: dict[str, Any] = {
    "latent_channels": 8,
    "width": 32,
    "num_heads": 1,
    "head_dim": 32,
    "mixers": ["linear", "softmax"],
    "feed_forwards": ["dense", "moe"],
    "cross_attention_layers": [0],
    "text_width": 32,
    "dense_hidden": 32,
    "expert_hidden": 16,
    "shared_hidden": 16,
    "num_experts": 4,
    "window": 2,  # less than the 5 latent frames of 17: later frames do not see each other all
}
TEXT_ENCODER: dict[str, Any] = {"width": 32, "num_heads": 1, "num_layers": 1, "hidden": 32}
MODEL = {"transformer": TRANSFORMER, "text_encoder": TEXT_ENCODER}
"""A model file as a training run names it; the run sets the channels and the widths of the text by itself."""


def tiny_vae(**changes: Any) -> CausalVideoAutoencoder:
    """A tokenizer of 8 latent channels."""
    return CausalVideoAutoencoder(**{**VAE, **changes})


def tiny_transformer(**changes: Any) -> VideoTransformer:
    """Two layers: linear attention and a windowed softmax anchor, a dense feed-forward and experts; only the first reads the text.

    Fresh, as training starts: its gates and its head are zero, see `fill_zeros`.
    """
    return VideoTransformer(**{**TRANSFORMER, **changes})


def fill_zeros(model: torch.nn.Module, std: float = 0.1) -> None:
    """Fill parameters that are all zero; zero gates and a zero head would make every input give the same output."""
    for parameter in model.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=std)


def tiny_text() -> tuple[TextEncoder, BytePairTokenizer]:
    """A text encoder, and a tokenizer that has read `PROMPT` alone."""
    tokenizer = BytePairTokenizer.train([PROMPT] * 3, 300)
    return TextEncoder(**TEXT_ENCODER, vocab_size=tokenizer.vocab_size), tokenizer


def tiny_pipeline(vocabulary: Mapping[str, Any], shift: float = 1.0, **changes: Any) -> TextToVideoPipeline:
    """A pipeline whose output depends on all of its inputs, the same one every time.

    Args:
        vocabulary: what the pipeline says it was trained on; its sizes are what a request gets by default.
        shift: the scheduler's.
        changes: settings of the transformer.
    """
    torch.manual_seed(0)
    vae = tiny_vae().eval()
    transformer = tiny_transformer(**changes).eval()
    fill_zeros(transformer)
    text_encoder, tokenizer = tiny_text()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    pipe = TextToVideoPipeline(vae, transformer, text_encoder.eval(), tokenizer, scheduler)
    pipe.vocabulary = dict(vocabulary)
    return pipe


def write_training_files(folder: Path) -> None:
    """Save what a training run starts from: a tokenizer with random weights, `folder/vae`, and `folder/model.yaml`."""
    torch.manual_seed(0)
    tiny_vae().save_pretrained(folder / "vae")
    (folder / "model.yaml").write_text(yaml.safe_dump(MODEL), encoding="utf-8")
