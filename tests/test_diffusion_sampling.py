import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny_models import tiny_transformer

from videogen.conditioning.camera import CAMERA_DIM
from videogen.conditioning.frames import build_frames
from videogen.diffusion.sampling import denoise, guide, initial_noise, sampling_sigmas

SIZE = (4, 2, 2)


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    model = tiny_transformer(latent_channels=4, text_width=8, cross_attention_layers=[0, 1])
    for param in model.parameters():
        if param.ndim > 1:
            torch.nn.init.normal_(param, std=0.1)
    return model.eval()


def _prompt(batch=1, length=3):
    torch.manual_seed(2)
    return torch.randn(batch, length, 8), torch.ones(batch, length, dtype=torch.bool)


def _generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _scheduler(shift=1.0):
    return FlowMatchEulerDiscreteScheduler(shift=shift)


def test_one_euler_step_by_hand(transformer):
    frames = build_frames(2, SIZE, fps=12.0)
    embeds, mask = _prompt()
    noise = initial_noise(frames, _generators(5))
    velocity = transformer(
        noise, torch.ones(1, 2), embeds, mask, frames.times, frames.kinds, frames.camera, return_dict=False
    )[0]
    result = denoise(transformer, _scheduler(), frames, embeds, mask, generators=_generators(5), num_inference_steps=1)
    torch.testing.assert_close(result, noise - velocity)


def test_two_steps_with_shift_by_hand(transformer):
    frames = build_frames(2, SIZE, fps=12.0)
    embeds, mask = _prompt()
    latents = initial_noise(frames, _generators(5))
    for sigma, following in ((1.0, 0.75), (0.75, 0.0)):  # 1 and 1/2 shifted by 3
        velocity = transformer(
            latents,
            torch.full((1, 2), sigma),
            embeds,
            mask,
            frames.times,
            frames.kinds,
            frames.camera,
            return_dict=False,
        )[0]
        latents = latents + (following - sigma) * velocity
    result = denoise(
        transformer, _scheduler(3.0), frames, embeds, mask, generators=_generators(5), num_inference_steps=2
    )
    torch.testing.assert_close(result, latents)


def test_known_latents_are_bit_exact_at_every_step(transformer):
    torch.manual_seed(1)
    known, guide_image, reference = torch.randn(2, 4, 1, 2, 2), torch.randn(2, 4, 1, 2, 2), torch.randn(2, 4, 1, 2, 2)
    frames = build_frames(
        5, SIZE, fps=12.0, batch_size=2, known_video=known, guides=guide_image, guide_frames=[16], references=reference
    )
    embeds, mask = _prompt(2)
    seen = []

    def callback(step, sigma, latents):
        seen.append((step, sigma))
        assert torch.equal(latents[:, :, frames.known], frames.latents[:, :, frames.known])

    result = denoise(
        transformer,
        _scheduler(),
        frames,
        embeds,
        mask,
        generators=_generators(0, 1),
        num_inference_steps=4,
        guidance_scale=3.0,
        negative_prompt_embeds=embeds[:1] * 0,
        negative_prompt_attention_mask=mask[:1],
        guidance_rescale=0.5,
        callback=callback,
    )
    assert torch.equal(result[:, :, :1], known)
    assert result.shape == (2, 4, 5, 2, 2)
    assert seen == [(0, 0.75), (1, 0.5), (2, 0.25), (3, 0.0)]


def test_a_callback_cancels_by_raising(transformer):
    frames, steps = build_frames(1, SIZE, fps=12.0), []

    def callback(step, sigma, latents):
        steps.append(step)
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        denoise(transformer, _scheduler(), frames, *_prompt(), generators=_generators(0), callback=callback)
    assert steps == [0, 1]


def test_a_video_does_not_depend_on_its_neighbours_in_the_batch(transformer):
    embeds, mask = _prompt(2)
    both = denoise(
        transformer,
        _scheduler(),
        build_frames(2, SIZE, fps=12.0, batch_size=2),
        embeds,
        mask,
        generators=_generators(3, 4),
    )
    alone = denoise(
        transformer, _scheduler(), build_frames(2, SIZE, fps=12.0), embeds[1:], mask[1:], generators=_generators(4)
    )
    torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-4)
    again = denoise(
        transformer, _scheduler(), build_frames(2, SIZE, fps=12.0), embeds[1:], mask[1:], generators=_generators(4)
    )
    assert torch.equal(alone, again)


def test_guidance_leads_away_from_what_has_no_reference(transformer):
    torch.manual_seed(3)
    reference = torch.randn(1, 4, 1, 2, 2)
    with_it, bare = (build_frames(2, SIZE, fps=12.0, references=r) for r in (reference, None))
    (embeds, mask), (empty, empty_mask) = _prompt(), _prompt(length=1)
    noise = initial_noise(with_it, _generators(5))

    def velocity(frames, text, text_mask):
        latents = frames.keep_known(noise[:, :, : frames.latents.shape[2]])
        level = frames.frame_timesteps(torch.ones(1))
        return transformer(
            latents, level, text, text_mask, frames.times, frames.kinds, frames.camera, return_dict=False
        )[0][:, :, :2]

    cond, uncond = velocity(with_it, embeds, mask), velocity(bare, empty, empty_mask)
    result = denoise(
        transformer,
        _scheduler(),
        with_it,
        embeds,
        mask,
        generators=_generators(5),
        num_inference_steps=1,
        guidance_scale=3.0,
        negative_prompt_embeds=empty,
        negative_prompt_attention_mask=empty_mask,
    )
    torch.testing.assert_close(result, noise[:, :, :2] - (uncond + 3 * (cond - uncond)))


def test_noise_of_a_seed_does_not_depend_on_references():
    plain = initial_noise(build_frames(2, SIZE, fps=12.0), _generators(7))
    with_reference = initial_noise(
        build_frames(2, SIZE, fps=12.0, references=torch.zeros(1, 4, 1, 2, 2)), _generators(7)
    )
    assert torch.equal(plain, with_reference[:, :, :2])


def test_outside_its_interval_guidance_is_off_and_costs_nothing(transformer):
    embeds, mask = _prompt()
    rows = []
    handle = transformer.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))

    def sample(**guidance):
        return denoise(
            transformer,
            _scheduler(),
            build_frames(2, SIZE, fps=12.0),
            embeds,
            mask,
            generators=_generators(0),
            num_inference_steps=4,
            negative_prompt_embeds=embeds * 0,
            negative_prompt_attention_mask=mask,
            **guidance,
        )

    upper = sample(guidance_scale=3.0, guidance_interval=(0.5, 0.9))
    assert rows == [1, 2, 2, 1]  # at noise levels 1, 0.75, 0.5, 0.25
    plain, full = sample(guidance_scale=1.0), sample(guidance_scale=3.0)
    assert not torch.equal(upper, plain) and not torch.equal(upper, full)
    assert torch.equal(sample(guidance_scale=3.0, guidance_interval=(0.1, 0.2)), plain)
    assert torch.equal(sample(guidance_scale=3.0, guidance_interval=(0.0, 1.0)), full)
    handle.remove()


def test_guidance_of_equal_branches_changes_nothing_and_scale_extrapolates():
    torch.manual_seed(0)
    cond, uncond, known = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2), torch.tensor([True, False, False])
    for method in ("standard", "cfg_zero"):
        torch.testing.assert_close(guide(cond, cond, 5.0, known, method, 0.7), cond)
    torch.testing.assert_close(guide(cond, uncond, 2.0, known), 2 * cond - uncond)
    # cfg_zero ignores the length of the unconditional velocity.
    torch.testing.assert_close(
        guide(cond, uncond, 3.0, known, "cfg_zero"), guide(cond, 7 * uncond, 3.0, known, "cfg_zero")
    )
    rescaled = guide(cond, uncond, 6.0, known, guidance_rescale=1.0)
    torch.testing.assert_close(rescaled[:, :, 1:].flatten(1).std(1), cond[:, :, 1:].flatten(1).std(1))


def test_guidance_removes_the_camera_from_the_unconditional_branch(transformer):
    embeds, mask = _prompt()
    camera = torch.zeros(2, CAMERA_DIM)
    results = []
    for amount in (0.0, 1.0):
        frames = build_frames(2, SIZE, fps=12.0, camera=camera + amount)
        results.append(
            denoise(
                transformer,
                _scheduler(),
                frames,
                embeds,
                mask,
                generators=_generators(0),
                num_inference_steps=2,
                guidance_scale=0.0,  # the unconditional branch alone
                negative_prompt_embeds=embeds,
                negative_prompt_attention_mask=mask,
            )
        )
    torch.testing.assert_close(*results)


def test_misuse_is_refused(transformer):
    frames = build_frames(2, SIZE, fps=12.0)
    embeds, mask = _prompt()
    with pytest.raises(ValueError, match="`negative_prompt_embeds` and their mask are needed"):
        denoise(transformer, _scheduler(), frames, embeds, mask, generators=_generators(0), guidance_scale=2.0)
    with pytest.raises(ValueError, match="at least one unknown frame"):
        full = build_frames(1, SIZE, fps=12.0, known_video=torch.zeros(1, 4, 1, 2, 2))
        denoise(transformer, _scheduler(), full, embeds, mask, generators=_generators(0))
    with pytest.raises(ValueError, match="one generator per video"):
        denoise(transformer, _scheduler(), frames, embeds, mask, generators=_generators(0, 1))
    with pytest.raises(ValueError, match="`num_inference_steps` must be at least 1, got 0"):
        sampling_sigmas(0)


def test_latents_that_are_not_finite_are_an_error(transformer):
    embeds, mask = _prompt()
    with pytest.raises(FloatingPointError, match="not finite"):
        denoise(
            transformer,
            _scheduler(),
            build_frames(2, SIZE, fps=12.0),
            embeds * float("nan"),
            mask,
            generators=_generators(0),
        )
