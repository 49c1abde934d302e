import copy
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import PROMPT, tiny_pipeline

from videogen.conditioning.camera import camera_vectors
from videogen.conditioning.wording import Read
from videogen.data.stage import rungs
from videogen.models.low_rank import add_low_rank, low_rank_tensors
from videogen_pipelines import (
    GenerationCancelled,
    ImageToVideoPipeline,
    SubjectToVideoPipeline,
    TextToVideoPipeline,
    VideoExtensionPipeline,
    base,
    joins,
    requests,
)
from videogen_pipelines.joins import without_colour_step

QUICK = {"num_inference_steps": 2, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def text_pipe():
    vocabulary = {
        "sizes": [[32, 32]],
        "fps": [12],
        "num_frames": [17],
        "cameras": ["Static shot", "Pan left"],
        "words": {"en": ["fox", "jumps", "in the snow"], "zh": ["狐狸"]},
    }
    pipe = tiny_pipeline(vocabulary, shift=2.0, num_heads=2, head_dim=24, cross_attention_layers=[0, 1])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sibling(pipe_class, pipe):
    pipe = pipe_class.from_pipe(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def image_pipe(text_pipe):
    return sibling(ImageToVideoPipeline, text_pipe)


@pytest.fixture(scope="module")
def subject_pipe(text_pipe):
    return sibling(SubjectToVideoPipeline, text_pipe)


@pytest.fixture(scope="module")
def extension_pipe(text_pipe):
    return sibling(VideoExtensionPipeline, text_pipe)


def picture(seed, size=32):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size))


def reconstruction(pipe, image):
    """The image as the tokenizer gives it back, [H, W, 3] in 0..1."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    return (pipe.decode_latents(pipe.encode_video(pixels))[0, :, 0].permute(1, 2, 0).numpy() + 1) / 2


# Text


def test_output_and_determinism(text_pipe):
    first = text_pipe(PROMPT, seed=7, **QUICK)
    again = text_pipe(PROMPT, seed=7, **QUICK)
    other = text_pipe(PROMPT, seed=8, **QUICK)
    assert first.frames.shape == (1, 17, 32, 32, 3) and first.frames.dtype == np.float32
    assert first.frames.min() >= 0 and first.frames.max() <= 1 and first.frames.std() > 0
    assert np.array_equal(first.frames, again.frames) and not np.array_equal(first.frames, other.frames)
    assert first.seeds == [7] and first.fps == 12 and first.num_frames == 17
    assert first.adjusted == [] and first.warnings == [] and first.camera == [()]
    assert json.loads(json.dumps(first.settings))["num_inference_steps"] == 2


def test_output_types_agree(text_pipe):
    outputs = {kind: text_pipe(PROMPT, seed=1, output_type=kind, **QUICK) for kind in ("np", "pt", "pil", "latent")}
    array = outputs["np"].frames
    assert np.array_equal(outputs["pt"].frames.permute(0, 1, 3, 4, 2).numpy(), array)
    assert len(outputs["pil"].frames[0]) == 17
    assert np.array_equal(outputs["pil"].uint8(), outputs["np"].uint8())
    assert np.array_equal(outputs["pt"].uint8(), np.round(array * 255).astype(np.uint8))
    latents = outputs["latent"].frames
    assert latents.shape == (1, 8, 5, 2, 2)
    decoded = text_pipe.decode_latents(latents)
    assert np.allclose((decoded[0].permute(1, 2, 3, 0).numpy() + 1) / 2, array[0], atol=1e-6)
    with pytest.raises(ValueError, match="to have pictures"):
        outputs["latent"].uint8()
    (frames,) = text_pipe(PROMPT, seed=1, return_dict=False, **QUICK)
    assert np.array_equal(frames, array)


def test_text_camera_and_guidance_reach_the_video(text_pipe):
    plain = text_pipe(PROMPT, seed=1, **QUICK).frames
    changed = {
        "prompt": text_pipe("a fox", seed=1, **QUICK),
        "bracket": text_pipe(f"{PROMPT}, [Pan left]", seed=1, **QUICK),
        "static": text_pipe(f"{PROMPT}, [Static shot]", seed=1, **QUICK),
        "guidance": text_pipe(PROMPT, seed=1, num_inference_steps=2, guidance_scale=1.0),
        "negative": text_pipe(PROMPT, "a fox", seed=1, **QUICK),
        "steps": text_pipe(PROMPT, seed=1, num_inference_steps=3, guidance_scale=2.0),
    }
    for name, output in changed.items():
        assert not np.array_equal(output.frames, plain), name
    assert changed["bracket"].camera == [(("Pan left",),)]


def test_every_way_to_tell_the_camera_is_the_same(text_pipe):
    bracket = text_pipe(f"{PROMPT} [Pan left]", seed=1, **QUICK)
    vectors = camera_vectors((("Pan left",),), 17)
    for camera in ("[Pan left]", "pan left", "左摇", vectors, vectors.tolist()):
        assert np.array_equal(text_pipe(PROMPT, seed=1, camera=camera, **QUICK).frames, bracket.frames)
    alias = text_pipe(f"{PROMPT} [Push out]", seed=1, **QUICK)
    assert alias.adjusted == ["camera command [Push out] was read as [Pull out]."]
    assert alias.warnings == ["the model has not learnt [Pull out]; it knows Static shot, Pan left."]


def test_batch_equals_singles_and_seeds_count_up(text_pipe):
    arguments = {"num_videos_per_prompt": 2, "seed": 3, **QUICK}
    prompts = [PROMPT, "a fox"]  # of different length, so that a batch pads
    singles = text_pipe(prompts, **arguments)
    batch = text_pipe(prompts, batch_size=3, **arguments)
    assert singles.seeds == batch.seeds == [3, 4, 5, 6]
    assert singles.frames.shape[0] == 4 and batch.settings["batch_size"] == 3
    assert np.abs(singles.frames - batch.frames).mean() <= 1 / 255
    for index, seed in ((1, 4), (2, 5)):  # a video never depends on its neighbours
        alone = text_pipe(prompts[index // 2], seed=seed, **QUICK)
        assert np.array_equal(alone.frames[0], singles.frames[index])


def test_generator_latents_and_embeddings_instead_of_seed_and_prompt(text_pipe):
    seeded = text_pipe(PROMPT, seed=5, **QUICK)
    by_generator = text_pipe(PROMPT, generator=torch.Generator().manual_seed(5), **QUICK)
    assert np.array_equal(seeded.frames, by_generator.frames) and by_generator.seeds == [5]
    noise = torch.randn(8, 5, 2, 2, generator=torch.Generator().manual_seed(5))[None]
    assert np.array_equal(text_pipe(PROMPT, seed=0, latents=noise, **QUICK).frames, seeded.frames)
    embeds, mask = text_pipe.encode_prompt(PROMPT)
    by_embeds = text_pipe(prompt_embeds=embeds, prompt_attention_mask=mask, seed=5, **QUICK)
    assert np.array_equal(by_embeds.frames, seeded.frames)
    unseeded = text_pipe(PROMPT, **QUICK)
    assert np.array_equal(text_pipe(PROMPT, seed=unseeded.seeds[0], **QUICK).frames, unseeded.frames)


def test_callback_counts_steps_over_all_videos(text_pipe):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, timestep, pipe.num_timesteps, tuple(tensors["latents"].shape)))
        return tensors

    text_pipe(PROMPT, seed=0, num_videos_per_prompt=2, callback_on_step_end=callback, **QUICK)
    assert [entry[0] for entry in seen] == [0, 1, 2, 3]
    assert all(entry[2] == 4 and entry[3] == (1, 8, 5, 2, 2) for entry in seen)
    assert seen[1][1] == 0 and seen[0][1] > 0


def test_cancel_within_one_step(text_pipe):
    calls = []

    def set_interrupt(pipe, step, timestep, tensors):
        calls.append(step)
        pipe.interrupt = True

    with pytest.raises(GenerationCancelled, match="after step 1 of 4"):
        text_pipe(PROMPT, seed=0, num_inference_steps=4, callback_on_step_end=set_interrupt)
    assert calls == [0]

    def raise_interrupt(pipe, step, timestep, tensors):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        text_pipe(PROMPT, seed=0, callback_on_step_end=raise_interrupt, **QUICK)
    assert text_pipe(PROMPT, seed=0, **QUICK).num_frames == 17  # usable again


def test_callback_must_not_replace_latents(text_pipe):
    with pytest.raises(ValueError, match="must not replace tensors"):
        text_pipe(PROMPT, seed=0, callback_on_step_end=lambda *given: {"latents": given[3]["latents"] * 0}, **QUICK)


def test_unknown_words_are_pointed_out(text_pipe):
    output = text_pipe("a foxx dances in the snow", seed=0, **QUICK)
    assert output.warnings[0] == "the model does not know 'foxx'; the nearest it knows: fox."
    assert "'dances'" in output.warnings[1] and output.frames.shape[1] == 17


def test_unknown_words_are_read_as_known_ones_unless_taken_literally(text_pipe):
    told = "a fox jumps in the snow at night"
    words = {"en": [told], "zh": []}
    pipe = sibling(TextToVideoPipeline, text_pipe)
    pipe.vocabulary = {**text_pipe.vocabulary, "actors": ["fox"], "lights": ["night"], "words": words}
    prompt = "a fox jumps in the snow at midnight"
    read = pipe(prompt, seed=0, **QUICK)
    assert "'at midnight' was read as 'at night'." in read.adjusted and not read.warnings
    assert read.settings["prompts"] == [told]
    assert np.array_equal(read.frames, pipe(told, seed=0, **QUICK).frames)
    literal = pipe(prompt, seed=0, literal_prompt=True, **QUICK)
    assert literal.settings["prompts"] == [prompt] and "'midnight'" in literal.warnings[0]
    assert not np.array_equal(read.frames, literal.frames)


def test_what_is_left_unsaid_is_said(text_pipe):
    kinds = (TextToVideoPipeline, ImageToVideoPipeline, SubjectToVideoPipeline, VideoExtensionPipeline)
    text, image, subject, extend = (sibling(kind, text_pipe) for kind in kinds)
    for pipe in (text, image, subject, extend):
        pipe.vocabulary = {**text_pipe.vocabulary, **rungs()["rung1"].to_dict(), "sizes": [[32, 32]]}
    read = text("a fox, [Pan left]", seed=0, **QUICK)
    assert read.settings["prompts"] == ["a fox, staying in the forest, [Pan left]"]
    assert any("'staying in the forest' was added" in note for note in read.adjusted)
    for output, prompt in (
        (text("a fox", seed=0, camera="Pan left", **QUICK), "a fox, staying in the forest"),
        (text("a fox jumps in the snow", seed=0, **QUICK), "a fox jumps in the snow [Static shot]"),
        (subject("the subject", picture(1), seed=0, **QUICK), "the subject, staying in the forest [Static shot]"),
        (image("a fox", picture(1), seed=0, **QUICK), "a fox [Static shot]"),  # the picture shows the rest
        (
            extend("a fox", np.zeros((9, 32, 32, 3), np.uint8), seed=0, **QUICK),
            "a fox",
        ),  # so does the source, and how it moves
        (text("a fox", seed=0, literal_prompt=True, **QUICK), "a fox"),
    ):
        assert output.settings["prompts"] == [prompt]


def test_texts_longer_than_those_of_the_training_are_pointed_out(text_pipe):
    pipe = sibling(TextToVideoPipeline, text_pipe)
    common = {"seed": 0, "num_inference_steps": 1, "guidance_scale": 1.0}
    num_tokens = len(pipe.tokenizer.encode(PROMPT))
    for trained, said in (
        (num_tokens, []),
        (num_tokens - 1, [f"has {num_tokens} tokens; the model was trained on texts of at most {num_tokens - 1}."]),
    ):
        pipe.vocabulary = {**text_pipe.vocabulary, "max_length": trained}
        warnings = pipe(PROMPT, **common).warnings
        assert [warning.partition("…' ")[2] for warning in warnings] == said
    pipe.vocabulary = text_pipe.vocabulary
    assert pipe(PROMPT, **common).warnings == []
    (long,) = [note for note in pipe("fox " * 200, **common).warnings if "tokens" in note]
    assert long.endswith("the model reads the first 128.")


def test_beyond_the_trained_length_is_continued_and_said(text_pipe):
    long = text_pipe(PROMPT, seed=2, num_frames=33, **QUICK)
    short = text_pipe(PROMPT, seed=2, **QUICK)
    assert long.frames.shape[1] == 33
    assert long.adjusted == [
        "33 frames are beyond the trained length of 17; the clip is continued in 3 windows, "
        "each from the last frames of the one before."
    ]
    assert np.array_equal(long.frames[:, :17], short.frames)
    assert np.array_equal(text_pipe(PROMPT, seed=2, num_frames=33, **QUICK).frames, long.frames)


def test_windows_take_over_the_reencoded_tail(text_pipe):
    """The second window starts from latents that the tokenizer makes of the frames decoded so far."""
    seen = []
    real = base.denoise

    def spy(transformer, scheduler, frames, *arguments, **named):
        seen.append(frames)
        return real(transformer, scheduler, frames, *arguments, **named)

    base.denoise = spy
    try:
        output = text_pipe(f"{PROMPT} [Pan left] [Static shot]", seed=2, num_frames=25, **QUICK)
    finally:
        base.denoise = real
    assert [frames.known.tolist() for frames in seen] == [[False] * 5, [True] * 3 + [False] * 2]
    tail = torch.from_numpy(output.frames[:, 8:17]).permute(0, 4, 1, 2, 3) * 2 - 1
    torch.testing.assert_close(seen[1].latents[:, :, :3], text_pipe.encode_video(tail), atol=1e-5, rtol=1e-4)
    whole = camera_vectors((("Pan left",), ("Static shot",)), 25)
    assert torch.equal(seen[0].camera[0], whole[:5]) and torch.equal(seen[1].camera[0], whole[2:])


@pytest.mark.parametrize(
    ("num_frames", "starts"),
    [(13, [0]), (17, [0]), (21, [0, 4]), (25, [0, 8]), (29, [0, 8, 12]), (33, [0, 8, 16])],
)
def test_windows_lie_on_the_grid_and_the_last_ends_with_the_clip(num_frames, starts):
    length = min(num_frames, 17)
    assert requests.plan_windows(num_frames, 17, 4) == [(start, length) for start in starts]
    assert starts[-1] + length == num_frames
    assert requests.plan_windows(num_frames, None, 4) == [(0, num_frames)]


def test_a_last_window_may_overlap_by_more_than_half(text_pipe, monkeypatch):
    seen = []
    real = base.denoise

    def spy(transformer, scheduler, frames, *arguments, **named):
        seen.append(frames)
        return real(transformer, scheduler, frames, *arguments, **named)

    monkeypatch.setattr(base, "denoise", spy)
    output = text_pipe(PROMPT, seed=2, num_frames=21, **QUICK)
    assert output.frames.shape[1] == 21 and "continued in 2 windows" in output.adjusted[0]
    assert seen[1].known.tolist() == [True] * 4 + [False]
    tail = torch.from_numpy(output.frames[:, 4:17]).permute(0, 4, 1, 2, 3) * 2 - 1
    torch.testing.assert_close(seen[1].latents[:, :, :4], text_pipe.encode_video(tail), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "`prompt` must not be empty"),
        ({"prompt": "x" * 2001}, "at most 2000 characters"),
        ({"prompt": "[Pan left]"}, "`prompt` must not be empty beside its camera commands"),
        ({"prompt": "a fox [Pan lift]"}, r"nearest is \[Pan left\]"),
        ({"prompt": "a fox [Pan left]", "camera": "Zoom in"}, "must not both name camera commands"),
        ({"camera": "Pan left, [Zoom in]"}, "`camera` must hold commands only"),
        ({"camera": torch.zeros(2, 9)}, r"`camera` as vectors must be \[5, 9\], got \[2, 9\]"),
        ({"camera": torch.full((5, 9), torch.nan)}, "must be finite"),
        ({"height": 480, "width": 640}, "got 640x480; use 32x32"),
        ({"width": 64}, "got 64x32; use 32x32"),
        ({"fps": 25}, "got 25; use 12"),
        ({"num_frames": 16}, "`num_frames` must be 1 plus a multiple of 4, got 16; use 13 or 17"),
        ({"num_frames": -8}, r"got -8; use 1\."),
        ({"num_frames": 9}, r"length the model was trained on \(17\) or longer, got 9; use 17"),
        ({"num_frames": 17, "duration": 1.5}, "must not both be given"),
        ({"num_frames": 80001}, "at most 600 seconds"),
        ({"duration": float("nan")}, "`duration` must be at most 600 seconds, got nan"),
        ({"duration": -1.0}, "at least one frame"),
        ({"num_inference_steps": 0}, "`num_inference_steps` must be a whole number from 1 to 1000, got 0"),
        ({"num_inference_steps": -3}, "got -3"),
        ({"guidance_scale": float("nan")}, "`guidance_scale` must be from 0 to 100, got nan"),
        ({"guidance_scale": -1.0}, "1.0 switches guidance off"),
        ({"guidance_method": "cfg"}, "`guidance_method` must be 'standard' or 'cfg_zero', got 'cfg'"),
        ({"guidance_interval": (0.6, 0.5)}, "`guidance_interval` must be two noise levels .* got \\(0.6, 0.5\\)"),
        ({"guidance_rescale": float("nan")}, "`guidance_rescale` must be from 0 to 1, got nan"),
        ({"num_videos_per_prompt": 0}, "`num_videos_per_prompt`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"seed": -1}, "`seed` must be a whole number from 0"),
        ({"seed": 1.5}, "`seed`"),
        ({"seed": 1, "generator": torch.Generator()}, "`seed` and `generator` must not both be given"),
        ({"generator": torch.Generator(), "num_videos_per_prompt": 2, "seed": None}, "for each of 2 videos, got 1"),
        ({"output_type": "gif"}, "`output_type` must be"),
        ({"num_frames": 25, "output_type": "latent"}, "cannot be used beyond the trained length"),
        ({"latents": torch.zeros(1, 8, 2, 2, 2)}, r"`latents` must have the shape \[1, 8, 5, 2, 2\]"),
        ({"negative_prompt": ["a", "b"]}, "`negative_prompt` must be one text or one for each of 1 prompts"),
        ({"negative_prompt": "[Pan left]"}, r"`negative_prompt` must not hold camera commands, got \[Pan left\]"),
        (
            {"prompt": ["a", "b"], "negative_prompt_embeds": torch.zeros(3, 5, 32)},
            "`negative_prompt_embeds` must hold one text or one for each of 2 prompts, got 3",
        ),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, r"may hold 'latents', got \['noise'\]"),
        ({"prompt": None}, "`prompt` or `prompt_embeds` must be given"),
        ({"prompt_attention_mask": torch.ones(1, 5)}, "`prompt_attention_mask` must come with `prompt_embeds`"),
        (
            {"negative_prompt": "a dog", "negative_prompt_attention_mask": torch.ones(1, 5), "guidance_scale": 1.0},
            "`negative_prompt_attention_mask` must come with `negative_prompt_embeds`",
        ),
        (
            {"prompt": None, "prompt_embeds": torch.zeros(1, 5, 32), "literal_prompt": True},
            "`literal_prompt` must be left out beside `prompt_embeds`",
        ),
    ],
)
def test_messages(text_pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        text_pipe(**{"prompt": PROMPT, "seed": 0, **QUICK, **arguments})


def test_a_checkpoint_is_taken_away_by_a_refused_call_and_only_used_for_its_own_request(text_pipe):
    kept = []

    def keep(pipe, *rest):
        kept.append(pipe.checkpoint)
        return {}

    whole = text_pipe(PROMPT, seed=3, callback_on_step_end=keep, **QUICK)
    for refused in ({"seed": -1}, {"width": 64}, {"prompt": ""}):
        text_pipe.resume_from = kept[0]
        with pytest.raises(ValueError):
            text_pipe(**{"prompt": PROMPT, **QUICK, **refused})
        assert text_pipe.resume_from is None
    text_pipe.resume_from = kept[0]
    assert np.array_equal(text_pipe(PROMPT, seed=3, **QUICK).frames, whole.frames)
    for other in (
        replace(kept[0], step=99),
        replace(kept[0], window=1),
        replace(kept[0], latents=torch.zeros(1, 8, 2, 2, 2)),
    ):
        text_pipe.resume_from = other
        with pytest.raises(ValueError, match="`resume_from` must be a checkpoint of the same request"):
            text_pipe(PROMPT, seed=3, **QUICK)


def test_a_model_of_single_pictures_refuses_clips(text_pipe):
    pipes = [sibling(kind, text_pipe) for kind in (TextToVideoPipeline, ImageToVideoPipeline, VideoExtensionPipeline)]
    for pipe in pipes:
        pipe.vocabulary = {**text_pipe.vocabulary, "num_frames": [1]}
    text, image, extend = pipes
    assert text(PROMPT, seed=0, num_inference_steps=1).frames.shape[1] == 1
    for name, value in (("num_frames", 17), ("duration", 1.0)):
        with pytest.raises(ValueError, match=f"`{name}` must be left out for a model of single pictures"):
            text(PROMPT, seed=0, **{name: value})
    with pytest.raises(ValueError, match="`image` must be left out for a clip of one frame"):
        image(PROMPT, picture(1), seed=0)
    with pytest.raises(ValueError, match="`video` cannot be continued by a model of single pictures"):
        extend(PROMPT, np.zeros((9, 32, 32, 3), np.uint8), seed=0)


def test_a_negative_prompt_is_read_as_a_prompt_is(text_pipe, monkeypatch):
    monkeypatch.setattr(
        requests, "read_words", lambda text, vocabulary: Read(text.replace("orca", "whale"), ("read so",))
    )
    output = text_pipe(PROMPT, negative_prompt="an orca", seed=0, **QUICK)
    assert output.settings["negative_prompts"] == ["an whale"] and "read so" in output.adjusted
    literal = text_pipe(PROMPT, negative_prompt="an orca", seed=0, literal_prompt=True, **QUICK)
    assert literal.settings["negative_prompts"] == ["an orca"]
    unguided = text_pipe(PROMPT, seed=0, **{**QUICK, "guidance_scale": 1.0})
    assert unguided.settings["negative_prompts"] is None


def test_brackets_that_are_no_command_are_text_to_keep_away_from(text_pipe):
    for text in ("a [", "x [text]"):
        assert text_pipe(PROMPT, negative_prompt=text, seed=0, **QUICK).settings["negative_prompts"] == [text]
    kept = text_pipe(PROMPT, negative_prompt="[Pan left]", literal_prompt=True, seed=0, **QUICK)
    assert kept.settings["negative_prompts"] == ["[Pan left]"]


def test_offloading_reaches_every_component_before_it_works(text_pipe):
    """Accelerate's hooks must be called for the tokenizer, too, which works through `encode` and `decode`."""
    used = []

    class Hook:
        def pre_forward(self, module, *args, **kwargs):
            used.append(type(module).__name__)
            return args, kwargs

    text_pipe.vae._hf_hook = Hook()
    try:
        text_pipe.encode_video(torch.zeros(1, 3, 1, 32, 32))
        text_pipe.decode_latents(torch.zeros(1, 8, 1, 2, 2))
    finally:
        del text_pipe.vae._hf_hook
    assert used == ["CausalVideoAutoencoder"] * 2


def test_duration_takes_the_longest_length_that_fits(text_pipe):
    output = text_pipe(PROMPT, seed=0, duration=1.7, num_inference_steps=1)
    assert output.num_frames == 17 and output.adjusted[0].startswith("`duration` 1.7 s became 1.42 s (17 frames")
    assert text_pipe(PROMPT, seed=0, duration=17 / 12, num_inference_steps=1).adjusted == []


@pytest.mark.parametrize(
    ("lengths", "fps", "duration", "num_frames", "said"),
    [
        ([33], 16, 2.0, 33, "2 s became 2.06 s (33 frames at 16 per second), the shortest trained length."),
        ([33], 16, 33 / 16, 33, None),
        ([17], 12, 1.0, 17, "1 s became 1.42 s (17 frames at 12 per second), the shortest trained length."),
        ([17, 33], 12, 2.0, 17, "2 s became 1.42 s (17 frames at 12 per second), the longest length that fits."),
        ([33], 16, 2.5, 37, "2.5 s became 2.31 s (37 frames at 16 per second), the longest length that fits."),
    ],
)
def test_a_duration_below_every_trained_length_becomes_the_shortest(lengths, fps, duration, num_frames, said):
    adjusted: list[str] = []
    assert requests.check_length(None, duration, fps, {"num_frames": lengths}, 4, adjusted) == num_frames
    assert adjusted == ([] if said is None else [f"`duration` {said}"])


def test_nan_is_never_a_success(text_pipe):
    norm = next(text_pipe.vae.decoder.parameters())
    kept = norm.detach().clone()
    with torch.no_grad():
        norm.fill_(torch.nan)
    try:
        with pytest.raises(FloatingPointError, match="not finite"):
            text_pipe(PROMPT, seed=0, **QUICK)
    finally:
        with torch.no_grad():
            norm.copy_(kept)


def test_what_has_no_effect_without_guidance_is_said(text_pipe):
    asked = {"guidance_interval": (0.5, 1.0), "guidance_method": "cfg_zero", "guidance_rescale": 0.5}
    common = {"seed": 0, "num_inference_steps": 1}
    output = text_pipe(PROMPT, "a fox", **asked, **common, guidance_scale=1.0)
    names = ["negative_prompt", *asked]
    assert output.warnings == [f"`{name}` has no effect while `guidance_scale` is 1.0." for name in names]
    replayed = {"guidance_interval": (0.0, 1.0), "guidance_method": "standard", "guidance_rescale": 0.0}
    assert text_pipe(PROMPT, [""], **replayed, **common, guidance_scale=1.0).warnings == []
    assert text_pipe(PROMPT, "a fox", **asked, **common, guidance_scale=2.0).warnings == []


def test_black_and_frozen_clips_are_pointed_out(text_pipe):
    plan = [base.CameraPlan("a fox", (("Pan left",),))]
    still = torch.rand(1, 3, 1, 8, 8).expand(1, 3, 17, 8, 8)
    assert "hardly moves" in base._judge(still, plan)[0]
    assert base._judge(still, [base.CameraPlan("a fox", (("Static shot",),))]) == []
    assert "almost black" in base._judge(torch.full((1, 3, 17, 8, 8), -1.0), plan)[0]


# Loading and saving


def test_round_trip_gives_the_same_video(text_pipe, tmp_path):
    text_pipe.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model_index.json",
        "scheduler",
        "text_encoder",
        "tokenizer",
        "transformer",
        "vae",
        "vocabulary.json",
    ]
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    loaded = TextToVideoPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.vocabulary == text_pipe.vocabulary and loaded.tokenizer.merges == text_pipe.tokenizer.merges
    assert loaded.scheduler.config.shift == 2.0
    expected, got = text_pipe(PROMPT, seed=3, **QUICK), loaded(PROMPT, seed=3, **QUICK)
    assert np.array_equal(got.frames, expected.frames)
    other = ImageToVideoPipeline.from_pretrained(tmp_path)  # one folder serves all four
    assert other.vocabulary == text_pipe.vocabulary and not other.transformer.training


def test_weights_in_bfloat16_load_as_float32(text_pipe, tmp_path):
    text_pipe.save_pretrained(tmp_path)
    torch.nn.Module.to(TextToVideoPipeline.from_pretrained(tmp_path).vae, torch.bfloat16).save_pretrained(
        tmp_path / "vae"
    )
    loaded = TextToVideoPipeline.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in loaded.vae.parameters()} == {torch.float32}


def test_missing_weights_are_a_clear_error(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"must be a folder with model_index\.json"):
        TextToVideoPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must be a folder with model_index\.json"):
        TextToVideoPipeline.from_pretrained("somebody/some-model")
    monkeypatch.setattr(base, "SHIPPED_WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match="no shipped weights"):
        TextToVideoPipeline.from_pretrained()


def test_default_is_the_shipped_folder(text_pipe, tmp_path, monkeypatch):
    text_pipe.save_pretrained(tmp_path)
    monkeypatch.setattr(base, "SHIPPED_WEIGHTS", tmp_path)
    assert VideoExtensionPipeline.from_pretrained().vocabulary == text_pipe.vocabulary


def test_lazy_names_import_no_torch():
    code = (
        "import sys, videogen; assert 'torch' not in sys.modules; "
        "assert 'TextToVideoPipeline' in dir(videogen); "
        "from videogen import TextToVideoPipeline; import videogen_pipelines; "
        "assert TextToVideoPipeline is videogen_pipelines.TextToVideoPipeline; "
        "assert not hasattr(videogen, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_model_without_vocabulary_asks_for_what_it_needs(text_pipe):
    pipe = sibling(TextToVideoPipeline, text_pipe)
    pipe.vocabulary = None
    with pytest.raises(ValueError, match="`height` and `width` must be given"):
        pipe(PROMPT, **QUICK)
    with pytest.raises(ValueError, match="`height` must be a positive multiple of 16, got 40; use 32"):
        pipe(PROMPT, height=40, width=32, fps=8, num_frames=9, **QUICK)
    assert pipe(PROMPT, height=32, width=48, fps=8, num_frames=9, seed=0, **QUICK).frames.shape == (1, 9, 32, 48, 3)


# Images


def test_first_frame_is_the_reconstruction_of_the_image(image_pipe):
    image = picture(1)
    output = image_pipe(PROMPT, image, seed=0, **QUICK)
    assert np.abs(output.frames[0, 0] - reconstruction(image_pipe, image)).max() < 1e-5
    assert not np.array_equal(output.frames[0, 0], output.frames[0, -1])
    assert output.conditioning["image"] == image and output.adjusted == []
    two = image_pipe(PROMPT, image, seed=0, num_videos_per_prompt=2, batch_size=2, **QUICK)
    assert np.abs(two.frames[:, 0] - reconstruction(image_pipe, image)).max() < 1e-5


def test_no_step_in_colour_after_what_is_given():
    generator = torch.Generator().manual_seed(0)
    before = 0.1 * torch.rand(2, 3, 4, 4, generator=generator)
    made = 0.1 * torch.rand(2, 3, 40, 4, 4, generator=generator)
    joined = without_colour_step(made, before, fps=16)
    torch.testing.assert_close(joined[:, :, 0].mean((2, 3)), before.mean((2, 3)))
    changed = joined - made
    torch.testing.assert_close(changed, changed.mean((3, 4), keepdim=True).expand_as(made))  # of colour alone
    sizes = changed.abs().amax((0, 1, 3, 4))
    assert (sizes.diff() < 0).all()
    assert sizes[12] / sizes[0] == pytest.approx(1 / 2.71828, abs=1e-3)  # after 0.75 s
    assert without_colour_step(made + 0.8, before + 0.9, 16).max() <= 1
    far = without_colour_step(made - 0.8, before + 0.8, 16) - made + 0.8
    assert far.max() == pytest.approx(16 / 127.5)  # another picture: not washed over
    torch.testing.assert_close(without_colour_step(made, made[:, :, 0], 16), made)


def test_made_frames_are_joined_to_what_is_shown(image_pipe, extension_pipe, monkeypatch):
    monkeypatch.setattr(joins, "LARGEST_STEP", 2.0)  # random weights step far
    image = picture(1)
    frames = image_pipe(PROMPT, image, seed=0, **QUICK).frames[0]
    video = moving(20)
    longer = extension_pipe(PROMPT, video, seed=0, **QUICK).frames[0]
    for clip, first in ((frames, 1), (longer, 20)):
        before, made = (clip[i].mean((0, 1)) for i in (first - 1, first))
        assert np.abs(made - before).max() < 0.05  # but for what was cut off at black and white; 0.18 without


def test_guides_carry_the_time_of_their_frame(image_pipe, monkeypatch):
    seen = []
    real = base.denoise

    def spy(transformer, scheduler, frames, *arguments, **named):
        seen.append(frames)
        return real(transformer, scheduler, frames, *arguments, **named)

    monkeypatch.setattr(base, "denoise", spy)
    output = image_pipe(
        PROMPT, picture(1), last_image=picture(2), keyframes={0.5: picture(3), 1.0: picture(4, 64)}, seed=0, **QUICK
    )
    frames = seen[0]
    assert frames.known.tolist() == [True] + [False] * 4 + [True] * 3
    assert frames.kinds.tolist() == [0, 1, 1, 1, 1, 2, 2, 2]
    torch.testing.assert_close(frames.times[5:], torch.tensor([6 / 12, 12 / 12, 16 / 12]))
    pixels = torch.from_numpy(np.array(picture(2))).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    torch.testing.assert_close(frames.latents[:, :, 7:], image_pipe.encode_video(pixels))
    assert set(output.conditioning) == {"image", "last_image", "keyframe 0.5", "keyframe 1"}
    assert output.adjusted == ["`keyframe 1` was reduced to 32x32."]


def test_guides_change_the_video_and_windows_use_their_own(image_pipe, monkeypatch):
    plain = image_pipe(PROMPT, picture(1), seed=0, **QUICK)
    with_last = image_pipe(PROMPT, picture(1), last_image=picture(2), seed=0, **QUICK)
    assert not np.array_equal(plain.frames[0, -1], with_last.frames[0, -1])
    seen = []
    real = base.denoise

    def spy(transformer, scheduler, frames, *arguments, **named):
        seen.append(frames)
        return real(transformer, scheduler, frames, *arguments, **named)

    monkeypatch.setattr(base, "denoise", spy)
    output = image_pipe(PROMPT, last_image=picture(2), keyframes={1.0: picture(3)}, num_frames=25, seed=0, **QUICK)
    assert output.num_frames == 25
    torch.testing.assert_close(seen[0].times[5:], torch.tensor([12 / 12]))
    torch.testing.assert_close(seen[1].times[5:], torch.tensor([(24 - 8) / 12]))


def test_keyframe_moved_to_the_nearest_frame_is_said(image_pipe):
    output = image_pipe(PROMPT, keyframes={0.53: picture(3)}, seed=0, **QUICK)
    assert output.adjusted == ["keyframe at 0.53 s was put on the nearest frame, 6 (0.50 s)."]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`image`, `last_image` or `keyframes` must be given"),
        ({"keyframes": {2.0: picture(1)}}, r"`keyframes` must lie within the clip, 0 to 1.33 seconds, got 2"),
        ({"keyframes": {-0.1: picture(1)}}, "must lie within the clip"),
        ({"keyframes": {0.5: picture(1), 0.51: picture(2)}}, "two on frame 6"),
        ({"image": picture(1), "keyframes": {0.0: picture(2)}}, "must not both name the first frame"),
        ({"last_image": picture(1), "keyframes": {16 / 12: picture(2)}}, "must not both name the last frame"),
        ({"image": "missing.png"}, "existing picture file"),
        ({"last_image": np.zeros((1, 1, 3), np.uint8)}, "`last_image` must be at least 8 pixels"),
    ],
)
def test_image_messages(image_pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        image_pipe(PROMPT, seed=0, **QUICK, **arguments)


def test_one_picture_per_call(image_pipe):
    with pytest.raises(TypeError, match="`image` must be one picture for the whole call, got 2"):
        image_pipe([PROMPT, PROMPT], [picture(1), picture(2)], seed=0, **QUICK)


# Subjects


def test_subjects_are_references(subject_pipe, text_pipe, monkeypatch):
    seen = []
    real = base.denoise

    def spy(transformer, scheduler, frames, *arguments, **named):
        seen.append(frames)
        return real(transformer, scheduler, frames, *arguments, **named)

    monkeypatch.setattr(base, "denoise", spy)
    prompt = "subject 1 and subject 2"
    both = subject_pipe(prompt, [picture(1), picture(2)], seed=0, **QUICK)
    swapped = subject_pipe(prompt, [picture(2), picture(1)], seed=0, **QUICK)
    nobody = text_pipe(prompt, seed=0, **QUICK)
    assert seen[0].kinds.tolist() == [0, 1, 1, 1, 1, 3, 4]
    assert seen[0].known.tolist() == [False] * 5 + [True] * 2
    assert not np.array_equal(both.frames, swapped.frames) and not np.array_equal(both.frames, nobody.frames)
    assert list(both.conditioning) == ["subject 1", "subject 2"]
    seen.clear()
    one = subject_pipe("the subject in the snow", picture(1), num_frames=25, seed=0, **QUICK)
    assert all(frames.kinds.tolist() == [0, 1, 1, 1, 1, 3] for frames in seen) and len(seen) == 2
    assert not any("name the subject" in note for note in one.adjusted)


def test_prompt_that_does_not_name_the_subject_is_said(subject_pipe):
    assert "does not name the subject" in subject_pipe(PROMPT, picture(1), seed=0, **QUICK).adjusted[0]
    assert subject_pipe("主角 fox", picture(1), seed=0, **QUICK).adjusted == []


def test_two_subjects_are_beyond_a_model_of_one(subject_pipe, monkeypatch):
    monkeypatch.setattr(subject_pipe, "vocabulary", {**subject_pipe.vocabulary, "max_actors": 1})
    pictures = [picture(1), picture(2)]
    assert subject_pipe("subject 1 and subject 2", pictures, seed=0, **QUICK).adjusted == [
        "the model was trained with one subject at a time; two may mix."
    ]
    assert subject_pipe("the subject", pictures[:1], seed=0, **QUICK).adjusted == []


@pytest.mark.parametrize(("images", "count"), [(None, 0), ([], 0), ([picture(1)] * 3, 3)])
def test_number_of_subjects(subject_pipe, images, count):
    with pytest.raises(ValueError, match=f"`subject_images` must hold 1 to 2 pictures, got {count}"):
        subject_pipe("the subject", images, seed=0, **QUICK)


# Extension


def moving(num_frames, size=32):
    wide = np.asarray(picture(5, 2 * size))
    return np.stack([wide[:size, i : i + size] for i in range(num_frames)])


def test_extension_keeps_what_was_there_and_goes_on_from_its_tail(extension_pipe, monkeypatch):
    seen = []
    real = base.denoise

    def spy(transformer, scheduler, frames, *arguments, **named):
        seen.append(frames)
        return real(transformer, scheduler, frames, *arguments, **named)

    monkeypatch.setattr(base, "denoise", spy)
    video = moving(20)
    output = extension_pipe(PROMPT, video, seed=0, **QUICK)
    assert output.num_frames == output.settings["num_frames"] == 28
    assert output.settings["num_source_frames"] == 20 and output.settings["num_new_frames"] == 8
    assert np.array_equal(output.uint8()[0, :20], video)
    tail = torch.from_numpy(video[-9:]).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    torch.testing.assert_close(seen[0].latents[:, :, :3], extension_pipe.encode_video(tail))
    assert seen[0].known.tolist() == [True] * 3 + [False] * 2
    # The new frames are those that the decoder adds behind the tail.
    again = extension_pipe(PROMPT, video, seed=0, **QUICK)
    assert np.array_equal(again.frames, output.frames)
    other = extension_pipe(PROMPT, video[::-1].copy(), seed=0, **QUICK)
    assert not np.array_equal(other.frames[:, 20:], output.frames[:, 20:])


def test_extension_by_duration_over_several_windows(extension_pipe):
    output = extension_pipe(f"{PROMPT} [Pan left]", moving(9), duration=2.0, seed=0, num_videos_per_prompt=2, **QUICK)
    assert output.frames.shape == (2, 9 + 24, 32, 32, 3) and output.seeds == [0, 1]
    assert "continued in 3 windows" in output.adjusted[0]
    assert np.array_equal(output.uint8()[0, :9], output.uint8()[1, :9])
    shorter = extension_pipe(PROMPT, moving(9), duration=0.9, seed=0, **QUICK)
    assert shorter.settings["num_new_frames"] == 8
    assert shorter.adjusted == [
        "`duration` 0.9 s became 0.67 s (8 new frames at 12 per second), the longest length that fits."
    ]
    exact = extension_pipe(PROMPT, moving(9), duration=1.0, seed=0, **QUICK)  # a second window of 4 new frames
    assert exact.frames.shape[1] == 9 + 12 and exact.settings["num_new_frames"] == 12
    assert len(exact.adjusted) == 1 and "continued in 2 windows" in exact.adjusted[0]


def test_the_longest_extension(extension_pipe):
    adjusted: list[str] = []
    assert extension_pipe._num_new_frames(None, 600.0, 12.0, 8, adjusted) == 7200
    assert extension_pipe._num_new_frames(7200, None, 12.0, 8, adjusted) == 7200
    assert adjusted == []


def test_extension_of_every_kind_of_video(extension_pipe, tmp_path):
    from videogen.data.video import write_video

    video = moving(9)
    expected = extension_pipe(PROMPT, video, seed=0, **QUICK)
    for same in (
        torch.from_numpy(video).permute(0, 3, 1, 2),
        torch.from_numpy(video).permute(0, 3, 1, 2).float() / 255,
        [Image.fromarray(frame) for frame in video],
    ):
        assert np.array_equal(extension_pipe(PROMPT, same, seed=0, **QUICK).frames, expected.frames)
    write_video(tmp_path / "a.mp4", video[:7], 24)
    output = extension_pipe(PROMPT, tmp_path / "a.mp4", seed=0, **QUICK)
    assert output.adjusted[0] == "`video` was resampled from 24 to 12 frames per second (7 became 4 frames)."
    assert "too short to show its motion" in output.adjusted[1]
    assert output.frames.shape[1] == 4 + 16


@pytest.mark.parametrize(("available", "overlap"), [(1, 1), (4, 1), (5, 5), (8, 5), (9, 9), (100, 9)])
def test_extension_goes_on_from_what_there_is(available, overlap):
    assert requests.extension_overlap(17, 4, available) == overlap


def test_extension_of_a_model_without_vocabulary(extension_pipe, monkeypatch):
    monkeypatch.setattr(extension_pipe, "vocabulary", None)
    output = extension_pipe(PROMPT, moving(12), fps=12, seed=0, **QUICK)
    assert output.settings["num_new_frames"] == 8 and output.frames.shape == (1, 20, 32, 32, 3)


def test_extension_fits_size_and_says_so(extension_pipe):
    output = extension_pipe(PROMPT, moving(9, 40), seed=0, **QUICK)
    assert output.frames.shape == (1, 17, 32, 32, 3) and output.adjusted == ["`video` was reduced to 32x32."]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"video": None}, "`video` must be given"),
        ({"num_frames": 14}, "`num_frames` must be a positive multiple of 4 new frames, got 14; use 16"),
        ({"num_frames": 7204}, "`num_frames` must make at most 600 seconds, got 7204 new frames .*; use 7200"),
        ({"num_frames": 8, "duration": 1.0}, "must not both be given"),
        ({"duration": 0.2}, "`duration` must be at least 0.33 seconds"),
        ({"duration": 600.5}, "`duration` must be at most 600 seconds, got 600.5"),
        ({"duration": float("nan")}, "`duration`"),
        ({"video": np.zeros((4, 32, 32), np.uint8)}, r"must be \[F, H, W, 3\], got \[4, 32, 32\]"),
        ({"video": []}, "at least one frame"),
        ({"video_fps": 0.0}, "`video_fps` must be above 0"),
        ({"output_type": "latent"}, "for an extension, got 'latent'"),
        ({"fps": 30}, "got 30; use 12"),
    ],
)
def test_extension_messages(extension_pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        extension_pipe(**{"prompt": PROMPT, "video": moving(9), "seed": 0, **QUICK, **arguments})


# Quality


def test_which_quality_a_request_gets():
    fast = {"num_inference_steps": 4, "guidance_scale": 1.0}
    settle = requests.settle_quality
    assert settle(None, None) == settle("high", None) == settle("high", fast) == "high"
    assert settle(None, fast, guidance_method="cfg_zero") == settle(None, fast, guidance_rescale=0.5) == "high"
    assert (
        settle(None, fast, negative_prompt=["", ""])
        == settle(None, fast)
        == settle("fast", fast)
        == settle(None, fast, 4, 1.0)
        == "fast"
    )
    assert (
        settle(None, fast, 20)
        == settle(None, fast, None, 3.0)
        == settle(None, fast, negative_prompt=["", "snow"])
        == "high"
    )
    for arguments, message in (
        (("best", fast), "`quality` must be 'fast' or 'high', got 'best'"),
        (("fast", None), "this model has no weights for few steps"),
        (("fast", fast, 20), "takes 4 steps, no guidance and no negative prompt"),
        (("fast", fast, None, None, (0.5, 1.0)), "leave these out or ask for 'high'"),
    ):
        with pytest.raises(ValueError, match=message):
            settle(*arguments)


def test_few_steps_run_with_the_adapter_and_leave_the_other_weights_alone(text_pipe, tmp_path):
    pipe = sibling(TextToVideoPipeline, text_pipe)
    model = copy.deepcopy(pipe.transformer)
    add_low_rank(model, 1, 1)
    tensors = {name: torch.randn_like(tensor) for name, tensor in low_rank_tensors(model).items()}
    pipe.fast = tensors, {"num_inference_steps": 2, "guidance_scale": 1.0}
    pipe.save_pretrained(tmp_path)
    pipe = TextToVideoPipeline.from_pretrained(tmp_path)
    before = {name: tensor.clone() for name, tensor in pipe.transformer.state_dict().items()}
    pipe.set_progress_bar_config(disable=True)
    fast = pipe("a fox jumps", seed=0)
    assert (fast.settings["quality"], fast.settings["num_inference_steps"]) == ("fast", 2)
    assert fast.settings["guidance_scale"] == 1.0 and pipe.num_timesteps == 2
    same_steps = pipe("a fox jumps", seed=0, num_inference_steps=2, guidance_scale=1.0, quality="high")
    assert not np.array_equal(fast.frames, same_steps.frames)
    assert all(torch.equal(before[name], tensor) for name, tensor in pipe.transformer.state_dict().items())
    other = VideoExtensionPipeline.from_pipe(pipe)
    assert other.fast is pipe.fast
    with pytest.raises(ValueError, match="`quality` 'fast' takes 2 steps"):
        pipe("a fox jumps", negative_prompt="snow", quality="fast")
    assert pipe("a fox jumps", negative_prompt="snow", seed=0).settings["quality"] == "high"
