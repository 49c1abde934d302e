"""The tokenizer's training loop: it learns, resumes exactly, and draws its clips by (seed, step)."""

import itertools
import json
import os
import signal
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import yaml
from tiny_models import fill_zeros, tiny_text, tiny_transformer

from tokenizer3d.losses import actor_weight, latent_penalty, reconstruction_loss, smoothness_penalty
from videogen.data.video import write_video
from videogen.training import schedule, tokenizer_clips
from videogen.training import tokenizer as training
from videogen.training.generator_errors import GeneratorConfig, GeneratorErrors
from videogen.training.schedule import TimeBox

SMALL = {
    "model": {
        "latent_channels": 8,
        "encoder_widths": [16, 32, 64],
        "encoder_blocks": [1, 1],
        "decoder_widths": [16, 32, 64],
        "decoder_blocks": [1, 1, 1],
    },
    "sources": [{"kind": "textures"}],
    "batches": [{"size": 32, "batch_size": 4, "num_frames": 9}],
    "height": 48,
    "width": 48,
    "num_frames": 9,
    "warmup_steps": 2,
    "decay_steps": 0,
    "log_every": 1,
    "validate_every": 100,
    "checkpoint_every": 100,
    "validation_clips": 2,
    "statistics_clips": 8,
    "mixed_precision": "no",
    "device": "cpu",
}


def small_config(**options) -> training.TokenizerTrainConfig:
    return training.TokenizerTrainConfig(**{**SMALL, **options})


def losses(folder) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_loss_falls_and_the_result_loads(tmp_path):
    scores = training.train_tokenizer(small_config(output=str(tmp_path), steps=30, validate_every=30))
    history = losses(tmp_path)
    assert len(history) == 30
    assert np.mean(history[-5:]) < 0.8 * np.mean(history[:5])
    assert scores["psnr_textures"] > 8
    model = training.load_tokenizer(tmp_path)
    assert (model.latents_std > 0).all() and (model.latents_std != 1).all()
    assert cv2.imread(str(tmp_path / "samples" / "00000030.png")) is not None
    assert cv2.imread(str(tmp_path / "metrics.png")) is not None
    again = training.load_tokenizer_config(tmp_path / "config.yaml")
    assert again.steps == 30


def test_resume_continues_as_if_never_stopped(tmp_path):
    whole = small_config(output=str(tmp_path / "whole"), steps=6)
    training.train_tokenizer(whole)
    parts = small_config(output=str(tmp_path / "parts"), steps=3)
    training.train_tokenizer(parts)
    training.train_tokenizer(parts.model_copy(update={"steps": 6}), resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_init_from_starts_with_the_weights(tmp_path):
    training.train_tokenizer(small_config(output=str(tmp_path / "first"), steps=12))
    training.train_tokenizer(small_config(output=str(tmp_path / "second"), steps=1), init_from=tmp_path / "first")
    assert losses(tmp_path / "second")[0] < losses(tmp_path / "first")[0]
    with pytest.raises(ValueError, match="`resume` and `init_from` exclude each other"):
        training.train_tokenizer(small_config(output=str(tmp_path)), resume=True, init_from=tmp_path / "first")
    with pytest.raises(ValueError, match="`resume` needs a checkpoint"):
        training.train_tokenizer(small_config(output=str(tmp_path / "third")), resume=True)


def test_a_resumed_run_has_the_network_it_began_with_and_another_is_refused(tmp_path):
    training.train_tokenizer(small_config(output=str(tmp_path / "first"), steps=1))
    given = training.load_tokenizer(tmp_path / "first").config
    name = next(iter(SMALL["model"]))
    with pytest.raises(
        ValueError, match=f"`model.{name}` must be .* as in the weights of `--init-from`, got 'another'"
    ):
        training.train_tokenizer(
            small_config(output=str(tmp_path / "second"), model={name: "another"}), init_from=tmp_path / "first"
        )
    silent = small_config(output=str(tmp_path / "second"), steps=1, model={})
    training.train_tokenizer(silent, init_from=tmp_path / "first")
    training.train_tokenizer(silent.model_copy(update={"steps": 2}), resume=True)
    assert training.load_tokenizer(tmp_path / "second").config[name] == given[name]


def test_a_frozen_encoder_keeps_latents_and_statistics(tmp_path):
    training.train_tokenizer(small_config(output=str(tmp_path / "first"), steps=6))
    config = small_config(output=str(tmp_path / "second"), steps=3, freeze_encoder=True)
    training.train_tokenizer(config, init_from=tmp_path / "first")
    first, second = training.load_tokenizer(tmp_path / "first"), training.load_tokenizer(tmp_path / "second")
    video = torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = first.encode(video).latents
    assert torch.equal(second.encode(video).latents, latents)
    assert torch.equal(first.latents_std, second.latents_std)
    assert not torch.equal(second.decode(latents).sample, first.decode(latents).sample)
    with pytest.raises(ValueError, match="`freeze_encoder` needs trained weights"):
        training.train_tokenizer(config)


@pytest.fixture
def generator_folder(tmp_path):
    torch.manual_seed(0)
    transformer = tiny_transformer()
    fill_zeros(transformer)
    text_encoder, tokenizer = tiny_text()
    for name, part in (("transformer", transformer), ("text_encoder", text_encoder), ("tokenizer", tokenizer)):
        part.save_pretrained(tmp_path / "generator" / name)
    return tmp_path / "generator"


def test_a_decoder_learns_from_what_a_generator_makes_of_latents(tmp_path, generator_folder, monkeypatch):
    training.train_tokenizer(small_config(output=str(tmp_path / "first"), steps=4))
    model = training.load_tokenizer(tmp_path / "first")
    latents = model.encode(torch.rand(2, 3, 9, 32, 32) * 2 - 1).latents

    def errors(share: float = 1.0, max_sigma: float = 0.4, seed: int = 0) -> torch.Tensor:
        config = GeneratorConfig(weights=str(generator_folder), share=share, max_sigma=max_sigma, steps=2)
        made = GeneratorErrors(config, model, torch.device("cpu"))(latents, torch.Generator().manual_seed(seed))
        return model.normalize(made) - model.normalize(latents)

    assert not errors(share=0.0).any()
    assert torch.equal(errors(), errors()) and not torch.equal(errors(), errors(seed=1))
    assert 0 < errors(max_sigma=0.05).square().mean() < errors(max_sigma=0.9).square().mean()

    seen = []
    make = GeneratorErrors.__call__
    monkeypatch.setattr(GeneratorErrors, "__call__", lambda *args: seen.append(args[1].shape) or make(*args))
    batches = [{"size": 48, "batch_size": 2, "num_frames": 9}, {"size": 32, "batch_size": 2, "num_frames": 9}]
    config = small_config(output=str(tmp_path / "second"), steps=8, batches=batches, freeze_encoder=True)
    config = config.model_copy(update={"generator": GeneratorConfig(weights=str(generator_folder), share=0.5)})
    training.train_tokenizer(config, init_from=tmp_path / "first")
    assert 0 < len(seen) < 8 and set(seen) == {(2, 8, 3, 3, 3)}  # whole clips only
    second = training.load_tokenizer(tmp_path / "second")
    assert all(torch.equal(a, b) for a, b in zip(model.encoder.parameters(), second.encoder.parameters(), strict=True))
    assert not torch.equal(second.decode(latents).sample, model.decode(latents).sample)


def test_a_generator_keeps_the_time_that_it_was_trained_with(generator_folder):
    vae = training.CausalVideoAutoencoder(**SMALL["model"])
    latents = torch.randn(1, 8, 3, 3, 3, generator=torch.Generator().manual_seed(0))

    def made(**options) -> torch.Tensor:
        config = GeneratorConfig(weights=str(generator_folder), share=1.0, **options)
        return GeneratorErrors(config, vae, torch.device("cpu"))(latents, torch.Generator().manual_seed(0))

    slow, fast = made(fps=12.0), made(fps=16.0)
    assert not torch.equal(slow, fast) and torch.equal(made(), slow)
    (generator_folder / "vocabulary.json").write_text('{"fps": [16.0]}')
    assert torch.equal(made(), fast) and torch.equal(made(fps=12.0), slow)


def test_a_generator_must_fit(tmp_path, generator_folder):
    with pytest.raises(ValueError, match="`generator` needs `freeze_encoder`"):
        small_config(generator={"weights": str(generator_folder)})
    with pytest.raises(ValueError, match="`weights` must be a folder of exported weights"):
        small_config(generator={"weights": str(tmp_path)}, freeze_encoder=True)
    other = training.CausalVideoAutoencoder(**{**SMALL["model"], "latent_channels": 4})
    with pytest.raises(ValueError, match="trained on latents of 4 channels"):
        GeneratorErrors(GeneratorConfig(weights=str(generator_folder)), other, torch.device("cpu"))


def test_a_time_box_stops_and_decays(tmp_path, monkeypatch):
    training.train_tokenizer(small_config(output=str(tmp_path / "none"), steps=1000), TimeBox(0.0))
    assert losses(tmp_path / "none") == []
    assert (tmp_path / "none" / "vae" / "config.json").is_file()
    ticks = itertools.count()
    monkeypatch.setattr(schedule.time, "monotonic", lambda: 0.5 * next(ticks))  # half a second passes with every look
    box = TimeBox(1.0, decay_minutes=1.0)
    training.train_tokenizer(small_config(output=str(tmp_path / "some"), steps=10_000, warmup_steps=0), box)
    rows = [json.loads(line) for line in (tmp_path / "some" / "metrics.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows]
    assert 5 < len(rows) < 120
    assert rates == sorted(rates, reverse=True) and 0 < rates[-1] < 0.2 * rates[0]
    assert [name for name in rows[-1] if name.startswith("psnr")]  # however it ends, it is validated


def test_interrupt_stops_with_a_checkpoint_and_weights(tmp_path, monkeypatch):
    draw = training.ClipPool.batch

    def interrupted(pool, step):
        os.kill(os.getpid(), signal.SIGINT)
        return draw(pool, step)

    monkeypatch.setattr(training.ClipPool, "batch", interrupted)
    training.train_tokenizer(small_config(output=str(tmp_path), steps=1000))
    assert len(losses(tmp_path)) == 1  # the signal came during the first step
    assert (tmp_path / "checkpoint-00000001").is_dir() and (tmp_path / "vae" / "config.json").is_file()


def test_a_run_is_never_written_over(tmp_path):
    config = small_config(output=str(tmp_path), steps=1)
    training.train_tokenizer(config)
    with pytest.raises(ValueError, match=r"`output` must be a new folder, .* holds a run"):
        training.train_tokenizer(config)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "latent_penalty", lambda latents: latents.mean() * float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1; lower `learning_rate`"):
        training.train_tokenizer(small_config(output=str(tmp_path), steps=3))


def test_videos_of_a_folder_are_played_and_short_ones_back_and_forth(tmp_path):
    with pytest.raises(ValueError, match="`path` must be a folder of videos"):
        training.SourceConfig(kind="videos", path=str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"`path` must hold videos .*with none"):
        tokenizer_clips.video_source(str(tmp_path), 9, 32, 32, 12.0)
    grey = np.arange(0, 240, 40, dtype=np.uint8)  # 6 frames, each brighter than the one before
    write_video(tmp_path / "short.mp4", np.broadcast_to(grey[:, None, None, None], (6, 48, 64, 3)).copy(), 12.0)
    source = training.SourceConfig(kind="videos", path=str(tmp_path))
    video = tokenizer_clips.draw_clips_of(tokenizer_clips.make_source(source, 13, 32, 32), 0, 0, 2)
    assert video.shape == (2, 3, 13, 32, 32)
    levels = (video.mean((1, 3, 4)) + 1) * 127.5 / 40
    expected = torch.tensor([0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0, 1, 2.0])
    torch.testing.assert_close(levels, expected.expand(2, 13), atol=0.1, rtol=0)
    config = small_config(output=str(tmp_path / "run"), sources=(source,), steps=2)
    assert training.train_tokenizer(config)["psnr_videos"] > 0


def test_stage_is_played_at_the_rate_of_its_source():
    def tracks(num_frames: int, fps: float) -> np.ndarray:
        source = training.SourceConfig(kind="stage", unnamed_share=0.0, fps=fps)
        return tokenizer_clips.make_source(source, num_frames, 48, 48).draw(0, 0, 4).tracks

    twice = tracks(17, 24.0)[:, :, ::2]
    np.testing.assert_allclose(twice, tracks(9, 12.0), atol=1e-4)
    assert not np.allclose(twice, tracks(17, 12.0)[:, :, ::2], atol=1e-2)


def test_batches_depend_on_seed_and_step_alone():
    config = small_config(reuse=2, pool_groups=3)
    straight, jumped = training.ClipPool(config), training.ClipPool(config)
    for step in range(8):
        video, boxes = straight.batch(step)
    assert torch.equal(video, jumped.batch(7)[0])
    assert torch.equal(straight.batch(8)[0], jumped.batch(8)[0])
    assert video.shape == (4, 3, 9, 32, 32) and video.abs().max() <= 1
    assert boxes is None  # textures have none
    assert len(straight.video) == 3 * config.group_size
    assert not torch.equal(video, training.ClipPool(small_config(reuse=2, pool_groups=3, seed=1)).batch(7)[0])


@pytest.mark.slow
def test_worker_processes_draw_the_same_batches():
    sources = [{"kind": "textures"}, {"kind": "stage", "rung": "rung1", "unnamed_share": 0}]
    config = small_config(sources=sources, reuse=2, pool_groups=3)
    alone, helped = training.ClipPool(config), training.ClipPool(config.model_copy(update={"workers": 2}))
    try:
        for step in (3, 4, 5, 6, 9):  # from the middle, onwards, and with a jump
            (video, boxes), (same, same_boxes) = alone.batch(step), helped.batch(step)
            assert torch.equal(video, same) and (boxes is None) == (same_boxes is None)
    finally:
        helped.close()


def test_boxes_follow_the_crop_and_the_mirror():
    video = torch.zeros(2, 3, 9, 48, 48, dtype=torch.uint8)
    video[1, :, :, 18:26, 20:30] = 255  # within every crop of 32 out of 48
    boxes = torch.full((2, 1, 9, 4), float("nan"))
    boxes[1] = torch.tensor([20.0, 18.0, 30.0, 26.0])
    work = tokenizer_clips.PoolWork(
        small_config(batches=[{"size": 32, "num_frames": 9, "batch_size": 8}], group_size=1)
    )
    mirrored = set()
    for step in range(4):
        cut = replace(work.cut(step), clips=np.full(8, 3))  # clip 3 lies at place 1 of 2
        clips, moved = tokenizer_clips.cut_batch(video, boxes, cut)
        assert clips.shape == (8, 3, 9, 32, 32) and moved.shape == (8, 1, 9, 4)
        for clip, box, flip in zip(clips, moved, cut.mirrored, strict=True):
            left, top, right, bottom = box[0, 0].int().tolist()
            bright = clip[0, 0] > clip[0, 0].mean() + 0.1
            assert bright[top:bottom, left:right].all() and bright.sum() == 80
            mirrored.add(bool(flip))
    assert mirrored == {True, False}


def test_a_cut_takes_frames_and_colours_in_the_order_it_names():
    video = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 4, 1, 1).expand(-1, -1, -1, 32, 32).contiguous()
    cut = tokenizer_clips.BatchCut(
        clips=np.array([1, 0]), frames=np.array([[3, 0, 1], [2, 2, 1]]), colors=np.array([[0, 1, 2], [2, 0, 1]]),
        top=np.zeros(2, np.int64), left=np.zeros(2, np.int64), mirrored=np.array([False, True]),
        gain=np.array([1.0, 0.5], np.float32), shift=np.array([0.0, 0.1], np.float32), size=32, has_boxes=False,
    )  # fmt: skip
    clips, _ = tokenizer_clips.cut_batch(video, torch.zeros(2, 2, 4, 4), cut)
    values = clips[:, :, :, 5, 7]
    expected = torch.tensor([[[15, 12, 13], [19, 16, 17], [23, 20, 21]], [[10, 10, 9], [2, 2, 1], [6, 6, 5]]])
    expected = expected / 127.5 - 1
    expected[1] = expected[1] * 0.5 + 0.1
    torch.testing.assert_close(values, expected)


def test_stage_clips_train_with_their_boxes(tmp_path):
    config = small_config(
        output=str(tmp_path), steps=1, sources=[{"kind": "stage", "rung": "rung1", "unnamed_share": 0}], group_size=2
    )
    pool = training.ClipPool(config)
    _, boxes = pool.batch(0)
    assert boxes is not None and not boxes.isnan().all()
    training.train_tokenizer(config)
    assert np.isfinite(losses(tmp_path)).all()


def test_pictures_of_a_folder_become_moving_clips(tmp_path):
    picture = cv2.resize(np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8), (120, 90))
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    source = tokenizer_clips.image_source(str(tmp_path), 9, 48, 48)
    video = source(0, 0, 3)
    assert video.shape == (3, 3, 9, 48, 48)
    assert (video.diff(dim=2).abs().mean(dim=(1, 2, 3, 4)) > 1e-3).all()
    assert torch.equal(video, source(0, 0, 3))
    with pytest.raises(ValueError, match="`path` must hold images"):
        tokenizer_clips.image_source(str(tmp_path / "none"), 9, 48, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 16}, "must be 1 plus a multiple of 4, got 16; use 13 or 17"),
        ({"batches": [{"size": 64}]}, "`batches` must not be larger than the clips"),
        ({"colour": 1}, "colour"),
        ({"steps": 10, "decay_steps": 20}, "`decay_steps` must be at most `steps`"),
    ],
)
def test_bad_settings_are_refused(tmp_path, options, message):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **options}))
    with pytest.raises(ValueError, match=message):
        training.load_tokenizer_config(path)


def test_learning_rate_warms_up_and_decays_by_step():
    config = small_config(steps=100, warmup_steps=9, decay_steps=50, learning_rate=1.0)
    rates = [training.learning_rate(config, step) for step in (0, 4, 9, 49, 75, 99)]
    assert rates == pytest.approx([1 / 9, 5 / 9, 1.0, 1.0, 0.48, 0.0])


def test_losses_of_known_errors():
    video = torch.zeros(1, 3, 9, 16, 16)
    parts = reconstruction_loss(video + 0.5, video)
    assert parts["l1"] == 0.5 and parts["mse"] == 0.25
    assert parts["bands"] < 1e-6  # a constant offset has no edges
    weighted = reconstruction_loss(video + 0.5, video, weight=torch.full((1, 1, 9, 16, 16), 2.0))
    assert weighted["l1"] == 1.0
    stripes = torch.zeros(1, 3, 9, 16, 16)
    stripes[..., ::2] = 0.5
    # Two of a block's 63 bands see them, with 0.5 * sqrt(1/2) * 2 * 2 each.
    assert reconstruction_loss(stripes, video)["bands"].item() == pytest.approx(2 * 2**0.5 / 63, rel=1e-5)


def test_latent_penalties():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(64, 4, 3, 6, 6, generator=generator)
    assert latent_penalty(normal) < 1e-3
    assert latent_penalty(normal * 3) > latent_penalty(normal * 1.5) > 0.05
    assert latent_penalty(normal * 0.1) > 0.5
    smooth = torch.nn.functional.avg_pool3d(normal, (1, 3, 3), stride=1)
    assert smoothness_penalty(smooth) < 0.6 * smoothness_penalty(normal)
    assert smoothness_penalty(normal).item() == pytest.approx(2, abs=0.1)


def test_actor_weights_have_mean_one():
    boxes = torch.full((2, 1, 3, 4), float("nan"))
    boxes[0, 0, :] = torch.tensor([2.0, 4.0, 6.0, 8.0])
    weight = actor_weight(boxes, torch.Size([2, 3, 3, 16, 16]), 1.0)
    torch.testing.assert_close(weight.mean(dim=(1, 2, 3, 4)), torch.ones(2))
    assert (weight[0, 0, 0, 4:8, 2:6] == weight.max()).all()
    assert weight[0, 0, 0, 0, 0] == pytest.approx(weight.max().item() / 2)
    assert (weight[1] == 1).all()
