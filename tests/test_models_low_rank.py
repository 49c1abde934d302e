"""Low-rank changes: they start as nothing, train alone, and merge into the plain network."""

import pytest
import torch
from tiny_models import fill_zeros, tiny_transformer

from videogen.models.low_rank import add_low_rank, low_rank_tensors, merge_low_rank


def run(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    c = model.config
    hidden = torch.randn(1, c.latent_channels, 2, 2, 2, generator=generator)
    text = torch.randn(1, 3, c.text_width, generator=generator)
    times, kinds = torch.tensor([0.0, 0.3]), torch.tensor([0, 1])
    camera = torch.zeros(1, 2, c.camera_dim)
    mask = torch.ones(1, 3, dtype=torch.bool)
    return model(hidden, torch.full((1, 2), 0.5), text, mask, times, kinds, camera, return_dict=False)[0]


def transformer():
    torch.manual_seed(0)
    model = tiny_transformer().float()
    fill_zeros(model)
    return model.eval()


def test_a_trained_change_merges_into_the_plain_network():
    model, plain = transformer(), transformer()
    before = run(plain)
    add_low_rank(model, rank=2, expert_rank=2)
    torch.testing.assert_close(run(model), before)  # nothing is changed yet
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert any("router" in name for name in frozen) and any(name.endswith("original") for name in frozen)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        run(model).square().mean().backward()
        optimizer.step()
    after = run(model)
    assert float((after - before).detach().abs().max()) > 1e-3
    assert all(torch.equal(frozen[name], p) for name, p in model.named_parameters() if name in frozen)
    tensors = low_rank_tensors(model)
    assert any(name.endswith("w_in.up") for name in tensors) and "modulation_out" in tensors
    merge_low_rank(plain, tensors)
    torch.testing.assert_close(run(plain), after, atol=1e-5, rtol=1e-4)


def test_what_does_not_fit_is_refused():
    model = transformer()
    with pytest.raises(ValueError, match="which has no `elsewhere`"):
        merge_low_rank(model, {"elsewhere": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"`proj_out.bias` must be \[\d+\], got \[3\]"):
        merge_low_rank(model, {"proj_out.bias": torch.zeros(3)})
    with pytest.raises(ValueError, match="`expert_rank` must be at least 1, got 0"):
        add_low_rank(model, 2, 0)
