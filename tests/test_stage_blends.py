"""A second sprite that shows through an actor is measured; blur, noise and slightly pale colours are not mistaken for one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from videogen.evaluation.stage.actors import actor_bank
from videogen.evaluation.stage.blends import shown_by_second

BANK = actor_bank(("fox", "pig", "owl", "whale"))
FOX, PIG, OWL, WHALE = (BANK.templates_of[k][0] for k in range(4))
GROUND = torch.tensor([0.3, 0.6, 0.4])[:, None, None]
SIDE = BANK.pictures.shape[-1]


def drawn(template: Tensor) -> Tensor:
    """A sprite on a plain ground, [3, 18, 18]."""
    premultiplied = BANK.pictures[template]
    return premultiplied[:3] + (1 - premultiplied[3:]) * GROUND


def shown(picture: Tensor, first: Tensor = FOX) -> Tensor:
    """What fox, pig, owl and whale each explain beside `first`, [4]."""
    premultiplied = BANK.pictures[first].flatten(1)
    sprite = premultiplied[:3] / premultiplied[3].clamp(min=1e-3)
    seconds = BANK.pictures[torch.stack([FOX, PIG, OWL, WHALE])].flatten(2)
    return shown_by_second(picture.flatten(1)[None], premultiplied[3:] ** 3, sprite[None], seconds)[0]


@pytest.mark.parametrize("other", [PIG, OWL, WHALE], ids=["pig", "owl", "whale"])
def test_the_partner_of_a_blend_is_found(other):
    values = shown((drawn(FOX) + drawn(other)) / 2)
    partner = [FOX, PIG, OWL, WHALE].index(other)
    assert int(values.argmax()) == partner
    assert values[partner] > 0.3


def test_one_actor_alone_has_no_partner():
    others = slice(1, None)
    assert shown(drawn(FOX))[others].max() < 0.01
    blurred = F.avg_pool2d(F.pad(drawn(FOX)[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    noise = 0.03 * torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert shown(blurred + noise)[others].max() < 0.12


@pytest.mark.parametrize(("opacity", "least", "most"), [(0.9, 0.0, 0.1), (0.5, 0.4, 1.0)], ids=["pale", "ghost"])
def test_a_ghost_before_the_ground_is_a_mixture_and_a_pale_actor_is_none(opacity, least, most):
    assert least <= shown(opacity * drawn(FOX) + (1 - opacity) * GROUND)[1:].max() <= most


def test_it_agrees_with_ordinary_least_squares():
    generator = torch.Generator().manual_seed(1)
    values, sprite = torch.rand(2, 3, 50, generator=generator, dtype=torch.float64)
    weights = torch.rand(50, generator=generator, dtype=torch.float64)
    opacity = torch.rand(50, generator=generator, dtype=torch.float64)
    second = torch.rand(3, 50, generator=generator, dtype=torch.float64) * opacity
    values = 0.6 * sprite + 0.4 * second + 0.2 * values + (1 - opacity) * 0.3
    root = weights.sqrt()
    ground = torch.block_diag(*[(1 - opacity)[:, None]] * 3)
    prior = torch.zeros(3, 5, dtype=torch.float64)
    prior[:, 2:] = (0.02 * weights.sum()).sqrt() * torch.eye(3, dtype=torch.float64)

    def residual(columns: list[Tensor]) -> float:
        design = torch.cat([torch.stack([c.flatten() for c in columns], 1), ground], 1) * root.repeat(3)[:, None]
        design = torch.cat([design, prior[:, 2 - len(columns) :]])
        target = torch.cat([(values * root).flatten(), torch.zeros(3, dtype=torch.float64)])
        return float((target - design @ torch.linalg.lstsq(design, target[:, None]).solution[:, 0]).square().sum())

    single, mixture = residual([sprite]), residual([sprite, second])
    mean = (values * weights).sum(-1, keepdim=True) / weights.sum()
    variance = float((weights * (values - mean).square()).sum())
    expected = (single - mixture) / (single + 0.3 * variance + 1e-3 * float(weights.sum()))
    found = shown_by_second(values[None], weights[None], sprite[None], torch.cat([second, opacity[None]])[None])
    assert expected > 0.02
    assert found.item() == pytest.approx(expected, rel=2e-2)


def test_nothing_to_weigh_shows_nothing():
    seconds = BANK.pictures[torch.stack([PIG, OWL])].flatten(2)
    empty = torch.zeros(1, SIDE * SIDE)
    assert shown_by_second(torch.zeros(1, 3, SIDE * SIDE), empty, torch.zeros(1, 3, SIDE * SIDE), seconds).max() == 0
