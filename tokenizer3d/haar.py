"""Separable 4 x 4 x 4 Haar wavelets of a video whose first frame stands alone.

Shapes: B batch; c colours; F, H, W pixel frames, height, width.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

PATCH = 4  # frames, rows and columns of one block


def haar_matrix(dtype: torch.dtype, device: torch.device, dims: int = 3) -> Tensor:
    """Orthonormal separable Haar transform of a 4 x 4 x 4 block: [64 bands, 64 positions], time outermost, mean first.

    `dims=2` is that of a 4 x 4 block of one frame: [16, 16].
    """
    # [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, -0.5, -0.5], [r, -r, 0, 0], [0, 0, r, -r]], written where it is needed: copying it
    # to a GPU would wait for all that the GPU has been given before.
    r = 0.5**0.5
    one = torch.zeros(PATCH, PATCH, dtype=dtype, device=device)
    one[:2] = 0.5
    one[1, 2:] = -0.5
    one[2, 0], one[2, 1], one[3, 2], one[3, 3] = r, -r, r, -r
    plane = torch.kron(one, one)
    return torch.kron(one, plane) if dims == 3 else plane


def haar_forward(video: Tensor, low_gain: float = 1.0) -> Tensor:
    """Wavelet bands of a video; the mean band is multiplied by `low_gain`.

    [B, c, F, H, W], sides multiples of 4 -> [B, c * 64, F/4, H/4, W/4], channels_last_3d; channels are (c, band).
    """
    matrix = haar_matrix(video.dtype, video.device)
    matrix[0] *= low_gain
    blocks = rearrange(
        video, "b c (f u) (h p) (w q) -> b f h w c (u p q)", u=PATCH, p=PATCH, q=PATCH
    )  # [B, F/4, H/4, W/4, c, 64]
    return (blocks @ matrix.T).flatten(-2).permute(0, 4, 1, 2, 3)


def haar_inverse(bands: Tensor, low_gain: float = 1.0, first: bool = False) -> Tensor:
    """Inverse of `haar_forward`. `first`: the first group is one frame alone, without detail in time; F is 3 less."""
    x = bands.permute(0, 2, 3, 4, 1).unflatten(-1, (-1, PATCH**3)).contiguous()  # [B, F/4, H/4, W/4, c, 64]
    alone, groups = x.split([1, x.shape[1] - 1], dim=1) if first else (None, x)
    matrix = haar_matrix(x.dtype, x.device)
    matrix[0] /= low_gain
    video = rearrange(groups @ matrix, "b f h w c (u p q) -> b c (f u) (h p) (w q)", u=PATCH, p=PATCH, q=PATCH)
    if alone is None:
        return video
    plane = haar_matrix(x.dtype, x.device, dims=2) * 0.5  # 0.5: the mean over the group's four equal frames
    plane[0] /= low_gain
    image = rearrange(
        alone[..., : PATCH**2].contiguous() @ plane, "b f h w c (p q) -> b c f (h p) (w q)", p=PATCH, q=PATCH
    )
    return torch.cat([image, video], dim=2)


def repeat_first(x: Tensor, count: int) -> Tensor:
    """Put `count` copies of the first frame in front: [B, C, t, H, W] -> [B, C, t + count, H, W]."""
    return torch.cat([x[:, :, :1].expand(-1, -1, count, -1, -1), x], dim=2)
