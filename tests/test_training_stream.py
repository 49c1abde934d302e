"""Latents rendered and encoded while training: the same clips as a cache would hold, renewed step by step."""

import json
import pickle
import random
from pathlib import Path

import pytest
import torch
from tiny_models import write_training_files

from videogen.data.stage import ClipSpec, render
from videogen.models.text_tokenizer import BytePairTokenizer
from videogen.training.config import TASKS, TrainConfig, load_config
from videogen.training.latent_cache import LatentCache, build_cache, clip_story, guide_frames
from videogen.training.latent_stream import StreamBatches, StreamClips, StreamWork
from videogen.training.trainer import load_vae, train


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """A folder with a tiny video tokenizer and a tiny model file."""
    folder = tmp_path_factory.mktemp("stream")
    write_training_files(folder)
    return folder


def _config(ground: Path, output: Path, **overrides) -> TrainConfig:
    raw = {
        "seed": 3,
        "output": str(output),
        "tokenizer": str(ground / "vae"),
        "model": str(ground / "model.yaml"),
        "data": {
            "cache": "", "pool": 12, "reuse": 2, "num_validation": 3, "rung": "rung3", "num_frames": 9, "height": 32,
            "width": 32, "mid_clip_share": 0.5, "encode_batch_size": 3,
        },
        "text": {"vocab_size": 300, "corpus_size": 20},
        "batch_size": 8,
        "image_batch_size": 6,
        "mixed_precision": "no",
        "schedule": {"num_steps": 6, "warmup_steps": 2},
        "log": {"metrics_every": 1, "validate_every": 0, "sample_every": 0, "checkpoint_every": 0},
    }  # fmt: skip
    for key, value in overrides.items():
        raw[key] = {**raw[key], **value} if isinstance(raw.get(key), dict) else value
    return TrainConfig(**raw)


@pytest.fixture(scope="module")
def batches(ground) -> StreamBatches:
    config = _config(ground, ground / "x")
    return StreamBatches(config, load_vae(config.tokenizer), BytePairTokenizer())


def test_the_pool_holds_what_a_cache_would(ground, batches, tmp_path):
    data = {"cache": str(tmp_path / "cache"), "num_clips": 6, "num_validation": 1}
    config = _config(ground, ground / "x", data=data)
    build_cache(config.data, config.seed, load_vae(config.tokenizer))
    cache = LatentCache(config.data)
    batches.training_batch(0)
    batches.training_batch(1)
    for name in ("clips", "guides", "references"):
        # Groups of 4: the first six clips are there; whole clips are encoded in one piece here, and streaming there.
        torch.testing.assert_close(batches.pool.take(name, range(6)), cache.take(name, range(6)), rtol=0.05, atol=0.05)
    assert ClipSpec.from_json(cache.records[5]["spec"]) == batches.clips.story(5) == clip_story(config.data, 3, 5)[0]


def test_windows_are_cut_from_the_middle_of_their_clips(batches):
    assert (batches.clips.group_size, batches.clips.num_groups, batches.clips.group_windows) == (4, 3, 2)
    batches.training_batch(0)
    windows, indices = batches.clips.choose_windows(random.Random(1), 0, 5)
    assert set(indices) <= {0, 1} and set(windows) <= {0, 1}
    video = render([batches.clips.story(indices[0])], 13, 32, 32)[:, :, 4:]
    expected = batches.pool.vae.normalize(batches.pool.vae.encode(video).latents)[0]
    torch.testing.assert_close(batches.pool.take("windows", windows[:1])[0], expected, rtol=0.05, atol=0.05)


def test_a_pool_forgets_the_oldest_group_and_draws_from_the_rest(batches):
    clips = batches.clips
    assert list(clips.groups(0)) == [0] and list(clips.groups(5)) == [3, 4, 5]
    drawn = set(clips.choose(random.Random(0), 5, 500))
    assert drawn == set(range(12, 24))
    windows, indices = clips.choose_windows(random.Random(0), 5, 200)
    assert set(indices) == {12, 13, 16, 17, 20, 21} and set(windows) == set(range(6, 12))
    pairs = clips.choose_pairs(random.Random(0), 5, 20)
    assert len(pairs) == 20 and set(pairs) <= drawn and all(len(clips.story(i).actors) == 2 for i in pairs)
    rows = batches.pool._rows("clips", torch.tensor([12, 23, -1, -3]).numpy())
    assert rows.tolist() == [0, 11, 12, 14]


def test_ranks_have_clips_of_their_own(ground):
    config = _config(ground, ground / "x")
    parts = [StreamClips(config, rank, 2) for rank in (0, 1)]
    assert parts[0].numbers(1) == [8, 10, 12, 14] and parts[1].numbers(1) == [9, 11, 13, 15]
    assert set(parts[1].choose(random.Random(0), 1, 200)) == {1, 3, 5, 7, 9, 11, 13, 15}


def test_a_step_depends_on_its_number_alone(ground, batches):
    config = _config(ground, ground / "x")
    other = StreamBatches(config, batches.pool.vae, BytePairTokenizer())
    for step in range(5):
        batch = batches.training_batch(step)
    jumped = other.training_batch(4)
    assert jumped.task == batch.task and jumped.captions == batch.captions and jumped.indices == batch.indices
    assert torch.equal(jumped.sample, batch.sample)
    assert torch.equal(jumped.text[0], batch.text[0])
    assert torch.equal(batches.validation_batch().sample, other.validation_batch().sample)
    assert batches.validation_batch().indices == [-1, -2, -3]


def test_every_task_can_be_drawn(ground):
    for task in TASKS:
        config = _config(ground, ground / "x", tasks={task: 1.0}, batch_size=4, image_batch_size=4)
        config = config.model_copy(update={"tasks": {task: 1.0}})
        stream = StreamBatches(config, load_vae(config.tokenizer), BytePairTokenizer())
        batch = stream.training_batch(1)
        assert batch.task == task and len(batch.indices) == 4
        known = batch.frames.known
        assert torch.equal(batch.sample[:, :, known], batch.frames.latents[:, :, known])
        assert batch.sample.abs().sum(dim=(1, 3, 4)).gt(0).all()  # no frame is empty
        assert bool(known.any()) == (task not in ("text", "image"))


def test_the_hosts_work_is_small_and_travels(ground):
    config = _config(ground, ground / "x")
    work = pickle.loads(pickle.dumps(StreamWork(config, StreamClips(config), 4, BytePairTokenizer())))
    step = work(3)
    assert len(pickle.dumps(step)) < 200_000
    assert len(step.group.clips) == 4 and len(step.group.windows) == 2 and step.draws[0][0].camera.dtype == "float32"
    rows = step.group.reference_rows
    assert len(step.group.references) == len(rows) >= 4 and set(rows // 2) == set(range(4))


def _losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())}


def test_a_streaming_run_resumes_with_the_same_losses(ground, tmp_path):
    _, reason = train(_config(ground, tmp_path / "whole"))
    train(_config(ground, tmp_path / "parts", schedule={"num_steps": 4}))
    train(_config(ground, tmp_path / "parts"), resume=True)
    assert reason == "finished"
    assert _losses(tmp_path / "parts") == _losses(tmp_path / "whole")
    summary = json.loads((tmp_path / "parts" / "weights" / "training.json").read_text())
    assert summary["clips"] == 6 * 4


@pytest.mark.slow
def test_worker_processes_change_nothing(ground, tmp_path):
    train(_config(ground, tmp_path / "alone"))
    train(_config(ground, tmp_path / "helped", data={"workers": 2}))
    assert _losses(tmp_path / "alone") == _losses(tmp_path / "helped")


def test_only_stage_does_without_a_cache():
    stage = ("loose_caption_share", "action_caption_share", "unnamed_share")
    folder = ["data.source=folder", "data.path=x", *(f"data.{name}=0" for name in stage)]
    folder += ["data.chinese_share=0.25", "data.camera_vector_share=0.5"]  # as where nothing is said
    with pytest.raises(ValueError, match="must name a folder when"):
        load_config("configs/train/t2v_tiny_gpu.yaml", folder)
    with pytest.raises(ValueError, match=r"`data.pool` must hold the new clips of a step, .*, got 70 for 80"):
        load_config("configs/train/t2v_tiny_gpu.yaml", ["data.pool=70"])
    config = load_config("configs/train/t2v_tiny_gpu.yaml")
    assert config.data.cache == "" and sum(config.tasks.values()) == pytest.approx(1.0)
    assert len(guide_frames(config.data.num_frames)) == 4
