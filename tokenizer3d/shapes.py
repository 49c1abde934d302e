"""How pixel frames map to latent frames: `1 + k * s` frames are `1 + k` latent frames. The one home of this arithmetic."""

from __future__ import annotations


def num_latent_frames(num_frames: int, scale_factor_temporal: int = 4) -> int:
    """Latent frames of a clip.

    Args:
        num_frames: pixel frames, 1 plus a multiple of `scale_factor_temporal`.
        scale_factor_temporal: pixel frames that every latent frame after the first stands for.

    Raises:
        ValueError: the number is off the grid.
    """
    check_num_frames(num_frames, scale_factor_temporal)
    return (num_frames - 1) // scale_factor_temporal + 1


def num_pixel_frames(num_latent: int, scale_factor_temporal: int = 4) -> int:
    """Pixel frames that `num_latent` latent frames (at least 1) decode to.

    Raises:
        ValueError: `num_latent` is below 1.
    """
    if num_latent < 1:
        raise ValueError(f"`num_latent` must be at least 1, got {num_latent}.")
    return (num_latent - 1) * scale_factor_temporal + 1


def check_num_frames(num_frames: int, scale_factor_temporal: int = 4, name: str = "num_frames") -> None:
    """Refuse frame counts off the grid.

    Args:
        num_frames: pixel frames.
        scale_factor_temporal: grid step in frames.
        name: the argument's name in the message.

    Raises:
        ValueError: `num_frames` is not 1 plus a multiple of `scale_factor_temporal`; names the nearest that are.
    """
    if num_frames >= 1 and (num_frames - 1) % scale_factor_temporal == 0:
        return
    below = max(0, (num_frames - 1) // scale_factor_temporal) * scale_factor_temporal + 1
    good = f"{below} or {below + scale_factor_temporal}" if num_frames > 1 else str(below)
    raise ValueError(f"`{name}` must be 1 plus a multiple of {scale_factor_temporal}, got {num_frames}; use {good}.")
