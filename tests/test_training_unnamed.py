"""Clips played by unnamed actors: they are drawn only where a picture shows who plays."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import write_training_files

from videogen.data.stage import ClipSpec, action_caption, caption, sample_spec
from videogen.data.stage.actors import UNNAMED_FILE, load_sprite
from videogen.data.stage.vocabulary import rungs
from videogen.models.text_tokenizer import BytePairTokenizer
from videogen.training.batches import BatchMaker, is_unnamed, name_the_subject
from videogen.training.config import TrainConfig, load_config
from videogen.training.latent_cache import LatentCache, build_cache, clip_story
from videogen.training.latent_stream import StreamBatches
from videogen.training.trainer import load_vae


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """A folder with a tiny video tokenizer, a tiny model file and two unnamed actors."""
    folder = tmp_path_factory.mktemp("unnamed")
    write_training_files(folder)
    np.save(folder / UNNAMED_FILE, np.stack([load_sprite("car")[0], load_sprite("fox")[0]]))
    return folder


def _config(ground: Path, share: float = 0.5, **overrides) -> TrainConfig:
    data = {
        "cache": str(ground / f"cache-{share}"), "num_clips": 40, "num_validation": 8, "num_frames": 9, "height": 32, "width": 32,
        "unnamed_share": share, "unnamed": str(ground), "caption_dropout": 0.0, "chinese_share": 0.5, "mid_clip_share": 0.5,
    }  # fmt: skip
    raw = {
        "seed": 3,
        "output": str(ground / "run"),
        "tokenizer": str(ground / "vae"),
        "model": str(ground / "model.yaml"),
    }
    raw |= {"data": data | overrides.pop("data", {}), "batch_size": 6, "image_batch_size": 6, "mixed_precision": "no"}
    return TrainConfig(**(raw | overrides))


@pytest.fixture(scope="module")
def maker(ground) -> BatchMaker:
    config = _config(ground)
    build_cache(config.data, config.seed, load_vae(config.tokenizer))
    return BatchMaker(config, LatentCache(config.data))


def test_the_first_actor_of_a_share_of_the_clips_is_unnamed_and_all_else_is_as_without(ground):
    data, plain = _config(ground, 0.3, data={"rung": "rung3"}).data, _config(ground, 0.0, data={"rung": "rung3"}).data
    names = set()
    for number in range(300):
        spec, poses, long = clip_story(data, 1, number)
        expected, expected_poses, expected_long = clip_story(plain, 1, number)
        assert long == expected_long and (spec.scene, spec.seed) == (expected.scene, expected.seed)
        assert [pose.seed for pose in poses] == [pose.seed for pose in expected_poses]
        assert spec.actors[1:] == expected.actors[1:]
        if is_unnamed(spec):
            names.add(spec.actors[0].name)
            assert poses[0].actors[0].name == spec.actors[0].name != expected.actors[0].name
        else:
            assert spec == expected and poses == expected_poses
    assert names == {"unnamed 0", "unnamed 1"}
    count = sum(is_unnamed(clip_story(data, 1, number)[0]) for number in range(300))
    assert 60 < count < 120


def test_unnamed_actors_are_rendered(ground, maker):
    index = next(i for i in range(40) if is_unnamed(maker.clips.story(i)))
    spec = maker.clips.story(index)
    known = ClipSpec.from_json(
        spec.to_json().replace(spec.actors[0].name, "car" if spec.actors[0].name[-1] == "0" else "fox")
    )
    from videogen.data.stage import render

    vae = load_vae(maker.config.tokenizer)
    video = render([known], 9, 32, 32)
    latents = vae.normalize(vae.encode(video).latents)[0]
    torch.testing.assert_close(maker.cache.clips[index].float(), latents, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "task", ["text", "image", "first_image", "last_image", "keyframes", "subject", "subject_image"]
)
def test_they_are_drawn_only_with_a_picture(ground, maker, task):
    maker = BatchMaker(maker.config.model_copy(update={"tasks": {task: 1.0}}), maker.cache)
    unnamed = total = 0
    for step in range(30):
        draw = maker.training_draw(step)
        for index, text in zip(draw.indices, draw.captions, strict=True):
            hidden = is_unnamed(maker.clips.story(index))
            unnamed, total = unnamed + hidden, total + 1
            assert "unnamed" not in text
            assert not hidden or "the subject" in text or "主角" in text
    share = unnamed / total
    most = 0.65 < share < 0.95
    expected = {"text": share == 0, "image": share == 0, "subject": most, "subject_image": most}
    assert expected.get(task, 0.3 < share < 0.7)
    validation = maker.validation_draw(task).indices
    assert any(is_unnamed(maker.clips.story(i)) for i in validation) == (task not in ("text", "image"))


def test_where_no_clip_suits_another_is_taken(ground, maker):
    stories = [spec for spec in maker.clips.stories if is_unnamed(spec)]
    alone = BatchMaker(maker.config.model_copy(update={"tasks": {"text": 1.0}}), maker.cache)
    alone.clips.stories = [random.Random(0).choice(stories) for _ in maker.clips.stories]
    assert len(alone.training_draw(0).indices) == 6
    assert len(alone.validation_draw().indices) == 8


def test_a_stream_has_them_too(ground):
    config = _config(ground, data={"cache": "", "pool": 12, "reuse": 2}, tasks={"subject": 1.0})
    stream = StreamBatches(config, load_vae(config.tokenizer), BytePairTokenizer())
    batch = stream.training_batch(3)
    assert batch.sample.shape[2] == 4  # three of the video, and the reference
    assert any(is_unnamed(stream.clips.story(index)) for index in batch.indices)
    assert all("unnamed" not in text for text in batch.captions)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_captions_name_no_unnamed_actor(language):
    generator = random.Random(0)
    for number in (1, 12):
        for _ in range(50):
            spec = sample_spec(generator, rungs()["rung4"])
            told = spec.to_json().replace(f'"{spec.actors[0].name}"', f'"unnamed {number}"', 1)
            hidden = ClipSpec.from_json(told)
            for text in (caption(hidden, generator, language), action_caption(hidden, generator, language)):
                renamed = name_the_subject(text, f"unnamed {number}", language)
                assert f"unnamed {number}" in text and "unnamed" not in renamed
                assert ("the subject" if language == "en" else "主角") in renamed


def test_bad_settings_are_named(ground, tmp_path):
    config = _config(ground, data={"unnamed": str(tmp_path)})
    with pytest.raises(ValueError, match="run `videogen stage fetch` first"):
        clip_story(config.data, 0, 0)
    with pytest.raises(ValueError, match=r"cache-0\.5 has unnamed_share = 0\.5 instead of 0\.0"):
        other = _config(ground, 0.0, data={"cache": str(ground / "cache-0.5")})
        build_cache(other.data, other.seed, load_vae(other.tokenizer))
    with pytest.raises(ValueError, match=r"`data\.unnamed_share` must be 0 when `data.source` is 'folder'"):
        load_config("configs/train/folder_tiny_cpu.yaml", ["data.unnamed_share=0.2", "data.path=x"])
