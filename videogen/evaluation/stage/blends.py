"""Does a second sprite show through an actor? A half-transparent blend of two actors matches either of them better than chance.

Two models of the picture under an actor's sprite `s` are fitted by weighted least squares over all colour channels:

    single:   g * s                + b * (1 - a)
    mixture:  g * s + h * (a * t)  + b * (1 - a),   g, h > 0

where `t`, of opacity `a`, is the other sprite, and `b` the colour of the ground that shows through where the other one is not. They differ by one
coefficient, so the drop of the squared residual is what the second sprite explains and nothing else does (a partial R^2). Blur, noise and a tint
that is slightly off leave residuals that look like no other sprite; the partner of a blend explains half of them and more. So does, in part, a flat
sprite of the ground's colour when an actor is half transparent: such a ghost is a mixture too, one of nine tenths of its opacity is not.

B pictures, K second sprites (with their shifts and sizes), P points across the sprite's square.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLUR = 0.3  # a residual below this share of the picture's variance may be blur, and counts as that much
_GROUND_PRIOR = 0.02  # keeps `b` small where the second sprite covers nearly everything; in shares of the weight


def shown_by_second(values: Tensor, weights: Tensor, sprites: Tensor, seconds: Tensor) -> Tensor:
    """What a second sprite explains of what the first one leaves over.

    Args:
        values: The picture, [B, 3, P], colours 0..1 divided by the tint of the light.
        weights: How much each point counts, at least 0, [B, P]: the first sprite's opacity, 0 outside the frame.
        sprites: Colour of the first sprite, [B, 3, P].
        seconds: Colour times opacity, and opacity, of the others, [K, 4, P].

    Returns:
        [B, K], 0 (nothing) to 1 (a sharp blend); 0 where the best fit would subtract either sprite. Without any weight all are 0.
    """
    colours, through = seconds[:, :3], 1 - seconds[:, 3]
    weighted = values * weights[:, None]
    weighted_sprites = sprites * weights[:, None]
    total = weights.sum(-1, keepdim=True).clamp(min=1e-6)  # [B, 1]
    # The ground's coefficients, one per channel, are eliminated first: products of residuals about it follow.
    ground = 1 / (weights @ through.square().T + _GROUND_PRIOR * total)  # [B, K]
    value_ground = torch.einsum("bcp,kp->bck", weighted, through)
    sprite_ground = torch.einsum("bcp,kp->bck", weighted_sprites, through)
    second_ground = torch.einsum("bp,kcp->bck", weights, colours * through[:, None])

    def product(raw: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return raw - (left * right).sum(1) * ground  # [B, K]

    value = product((weighted * values).sum((1, 2))[:, None], value_ground, value_ground)
    sprite = product((weighted_sprites * sprites).sum((1, 2))[:, None], sprite_ground, sprite_ground)
    second = product(weights @ colours.square().sum(1).T, second_ground, second_ground)
    value_sprite = product((weighted * sprites).sum((1, 2))[:, None], value_ground, sprite_ground)
    value_second = product(torch.einsum("bcp,kcp->bk", weighted, colours), value_ground, second_ground)
    sprite_second = product(torch.einsum("bcp,kcp->bk", weighted_sprites, colours), sprite_ground, second_ground)

    sprite, second = sprite + 1e-4 * total, second + 1e-4 * total
    determinant = (sprite * second - sprite_second.square()).clamp(min=1e-12)
    own = (second * value_sprite - sprite_second * value_second) / determinant
    other = (sprite * value_second - sprite_second * value_sprite) / determinant
    single = value - value_sprite.square() / sprite
    mixture = value - own * value_sprite - other * value_second
    mean = weighted.sum(-1) / total
    variance = (weighted * values).sum((1, 2))[:, None] - mean.square().sum(1, keepdim=True) * total
    drop = (single - mixture) / (single + _BLUR * variance + 1e-3 * total)
    return torch.where((own > 0) & (other > 0), drop, 0.0).clamp(0, 1)


__all__ = ["shown_by_second"]
