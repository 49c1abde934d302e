"""The causal 3D video tokenizer (the component `vae` of the pipelines)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokenizer3d.shapes import check_num_frames, num_latent_frames, num_pixel_frames

if TYPE_CHECKING:
    from tokenizer3d.autoencoder import CausalVideoAutoencoder, EncoderOutput, StreamState

__all__ = [
    "CausalVideoAutoencoder",
    "EncoderOutput",
    "StreamState",
    "check_num_frames",
    "num_latent_frames",
    "num_pixel_frames",
]

_HOMES = dict.fromkeys(("CausalVideoAutoencoder", "EncoderOutput", "StreamState"), "tokenizer3d.autoencoder")


def __getattr__(name: str) -> Any:
    """The network, imported when first asked for: `shapes` alone needs no torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
