import pytest
import torch

from videogen.diffusion.flow_matching import (
    add_noise,
    flow_matching_loss,
    sample_sigmas,
    shift_sigmas,
    velocity_target,
)

KNOWN = torch.tensor([True, False, False, True])


def _tensors():
    torch.manual_seed(0)
    return torch.randn(3, 4, 4, 2, 2), torch.randn(3, 4, 4, 2, 2), torch.tensor([0.1, 0.5, 0.9])


def test_known_frames_keep_their_clean_latent_and_timestep_zero():
    sample, noise, sigmas = _tensors()
    noisy, timestep = add_noise(sample, noise, sigmas, KNOWN)
    assert torch.equal(noisy[:, :, KNOWN], sample[:, :, KNOWN])
    torch.testing.assert_close(noisy[1, :, 1], 0.5 * sample[1, :, 1] + 0.5 * noise[1, :, 1])
    assert torch.equal(timestep, torch.tensor([[0, s, s, 0] for s in (0.1, 0.5, 0.9)]))


def test_velocity_leads_from_the_noisy_latent_to_the_clean_one():
    sample, noise, sigmas = _tensors()
    noisy, _ = add_noise(sample, noise, sigmas, torch.zeros(4, dtype=torch.bool))
    torch.testing.assert_close(noisy - sigmas.view(-1, 1, 1, 1, 1) * velocity_target(sample, noise), sample)


def test_target_of_a_clean_latent_network_is_reachable_below_the_smallest_divisor():
    sample, noise, _ = _tensors()
    sigmas = torch.tensor([0.01, 0.05, 0.8])
    noisy, _ = add_noise(sample, noise, sigmas, torch.zeros(4, dtype=torch.bool))
    perfect = (noisy - sample) / sigmas.clamp_min(0.05).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(velocity_target(sample, noise, sigmas, 0.05), perfect, rtol=1e-4, atol=1e-5)


def test_loss_ignores_known_frames():
    sample, noise, _ = _tensors()
    velocity = torch.randn_like(sample).requires_grad_()
    loss, per_item = flow_matching_loss(velocity, velocity_target(sample, noise), KNOWN)
    loss.backward()
    assert velocity.grad is not None
    assert torch.equal(velocity.grad[:, :, KNOWN], torch.zeros(3, 4, 2, 2, 2))
    assert (velocity.grad[:, :, ~KNOWN] != 0).all()
    spoiled = velocity.detach().clone()
    spoiled[:, :, KNOWN] = 1e6
    assert torch.equal(flow_matching_loss(spoiled, velocity_target(sample, noise), KNOWN)[1], per_item)
    torch.testing.assert_close(per_item.mean(), loss.detach())


def test_contrastive_term_rewards_distance_to_another_items_target():
    sample, noise, _ = _tensors()
    target = velocity_target(sample, noise)
    plain, _ = flow_matching_loss(target, target, KNOWN)
    contrastive, per_item = flow_matching_loss(target, target, KNOWN, contrastive_weight=0.05)
    assert plain == 0
    assert contrastive < 0
    assert torch.equal(per_item, torch.zeros(3))
    assert flow_matching_loss(target[:1], target[:1], KNOWN, contrastive_weight=0.05)[0] == 0


def test_temporal_term_punishes_errors_that_change_between_later_frames():
    known = torch.zeros(4, dtype=torch.bool)
    target = torch.zeros(2, 3, 4, 2, 2)
    steady = torch.ones_like(target)
    flicker = steady * torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 4, 1, 1)

    def loss(velocity, known=known, num_video_frames=4):
        return flow_matching_loss(velocity, target, known, 0.0, 0.5, num_video_frames)[0].item()

    assert loss(steady) == 1.0
    assert loss(flicker) == 1.0 + 0.5 * 4.0
    first_alone = steady.clone()
    first_alone[:, :, 0] = -1.0  # an image latent: its error may differ
    assert loss(first_alone) == 1.0
    assert loss(flicker, KNOWN | torch.tensor([True, True, False, False]), 4) == 1.0  # one unknown frame: no neighbour
    assert loss(flicker, num_video_frames=2) == 1.0  # guides behind the video are no neighbours


def test_sigmas_are_stratified_and_reproducible():
    sigmas = sample_sigmas(64, torch.Generator().manual_seed(1), tail=0.0)
    assert torch.equal(sigmas, sample_sigmas(64, torch.Generator().manual_seed(1), tail=0.0))
    assert 0 < sigmas.min() < sigmas.max() < 1
    # One draw per 64th of the distribution: quantiles are those of the logit-normal, to within a slice.
    quantiles = torch.special.ndtr(torch.logit(sigmas.double())).sort().values
    assert ((quantiles - (torch.arange(64) + 0.5) / 64).abs() <= 0.5 / 64 + 1e-6).all()


def test_tail_keeps_extreme_levels_alive():
    levels = sample_sigmas(4000, torch.Generator().manual_seed(0), mean=3.0, std=0.3, tail=0.2)
    assert 0.08 < (levels < 0.5).float().mean() < 0.12


@pytest.mark.parametrize(("shift", "expected"), [(1.0, 0.5), (3.0, 0.75)])
def test_shift_moves_levels_towards_noise(shift, expected):
    assert shift_sigmas(torch.tensor(0.5), shift).item() == pytest.approx(expected)
