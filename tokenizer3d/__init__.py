"""The causal 3D video tokenizer (the component `vae` of the pipelines)."""

from tokenizer3d.autoencoder import CausalVideoAutoencoder, EncoderOutput, StreamState
from tokenizer3d.shapes import check_num_frames, num_latent_frames, num_pixel_frames

__all__ = [
    "CausalVideoAutoencoder",
    "EncoderOutput",
    "StreamState",
    "check_num_frames",
    "num_latent_frames",
    "num_pixel_frames",
]
