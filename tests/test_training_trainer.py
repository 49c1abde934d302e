import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_models import write_training_files

from videogen.conditioning.camera import CAMERA_AXES, camera_frame_vectors, pool_camera
from videogen.data.folder import read_captions, read_clip
from videogen.data.stage import camera_amounts, held_out_pairs, rungs
from videogen.data.video import read_video, write_video
from videogen.models.text_encoder import TextEncoder
from videogen.models.text_tokenizer import BytePairTokenizer
from videogen.models.transformer import VideoTransformer
from videogen.training.batches import (
    FUNCTION_WORDS,
    BatchMaker,
    _most_emphasis,
    loosen,
    name_the_subject,
    story_words,
)
from videogen.training.checkpoint import list_checkpoints
from videogen.training.config import DataConfig, TrainConfig, load_config
from videogen.training.latent_cache import LatentCache, build_cache, clip_story, fingerprint, guide_frames
from videogen.training.schedule import TimeBox
from videogen.training.trainer import Trainer, load_networks, load_vae, train


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """A folder with a tiny video tokenizer, a tiny model file and, after the first use, a latent cache."""
    folder = tmp_path_factory.mktemp("training")
    write_training_files(folder)
    return folder


def _raw(ground: Path, output: Path, **overrides) -> dict:
    raw = {
        "seed": 3,
        "output": str(output),
        "tokenizer": str(ground / "vae"),
        "model": str(ground / "model.yaml"),
        "data": {
            "num_clips": 24, "num_validation": 4, "shard_size": 10, "cache": str(ground / "cache"),
            "num_frames": 17, "height": 32, "width": 32, "mid_clip_share": 0.3,
        },
        "text": {"vocab_size": 300, "corpus_size": 20},
        "batch_size": 4,
        "image_batch_size": 6,
        "accumulation": 2,
        "mixed_precision": "no",
        "schedule": {"num_steps": 6, "warmup_steps": 2, "decay_steps": 3},
        "log": {"metrics_every": 1, "validate_every": 0, "sample_every": 0, "checkpoint_every": 0},
    }  # fmt: skip
    for key, value in overrides.items():
        raw[key] = {**raw[key], **value} if isinstance(raw.get(key), dict) and key != "tasks" else value
    return raw


def _config(ground: Path, output: Path, **overrides) -> TrainConfig:
    return TrainConfig(**_raw(ground, output, **overrides))


def _losses(folder: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records if "loss" in record}


@pytest.fixture(scope="module")
def whole_run(ground) -> tuple[Path, str]:
    """An uninterrupted run of 6 steps."""
    folder = ground / "whole"
    _, reason = train(_config(ground, folder, log={"validate_every": 3, "sample_every": 6, "sample_steps": 2}))
    return folder, reason


def test_a_run_writes_metrics_weights_plot_and_sample_sheet(whole_run):
    folder, reason = whole_run
    assert reason == "finished"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "grad_norm", "lr", "clips_per_second", "clips_seen"} <= set(records[0])
    load = torch.tensor(records[2]["expert_load"])  # [quarter, MoE layer, E]
    assert load.shape == (4, 1, 4)
    torch.testing.assert_close(load.mean(-1), torch.ones(4, 1), rtol=1e-3, atol=1e-3)
    assert records[0]["lr"] == pytest.approx(records[1]["lr"] / 2)
    assert (folder / "samples" / "step-00000006.png").stat().st_size > 1000
    assert (folder / "metrics.png").stat().st_size > 1000
    summary = json.loads((folder / "weights" / "training.json").read_text())
    assert summary["steps"] == 6
    assert summary["clips_seen"] == sum(6 * 2 * [4]) + 2 * 2 * _num_image_batches(records)
    vocabulary = json.loads((folder / "weights" / "vocabulary.json").read_text())
    assert "fox" in vocabulary["actors"]
    assert (vocabulary["sizes"], vocabulary["num_frames"], vocabulary["fps"]) == (
        [[32, 32]],
        [17],
        [12.0],
    )  # as trained


def _num_image_batches(records) -> int:
    return (records[-1]["clips_seen"] - 48) // 4


def test_exported_weights_load_and_keep_the_router_exact(whole_run):
    weights = whole_run[0] / "weights"
    stored = load_file(weights / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, tensor in stored.items():
        exact = "router" in name or name.endswith("bias")
        assert tensor.dtype == (torch.float32 if exact else torch.bfloat16), name
    transformer = VideoTransformer.from_pretrained(weights / "transformer")
    encoder = TextEncoder.from_pretrained(weights / "text_encoder")
    assert transformer.config.text_width == encoder.config.width == 32
    ema = load_file(list_checkpoints(whole_run[0])[-1] / "ema.safetensors")
    name = "blocks.1.feed_forward.router.weight"
    assert torch.equal(transformer.get_parameter(name), ema[f"transformer.{name}"])


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(ground, whole_run):
    folder = ground / "resumed"
    train(_config(ground, folder, schedule={"num_steps": 3}))
    train(_config(ground, folder), resume=True)
    assert _losses(folder) == _losses(whole_run[0])
    mine, theirs = (load_file(list_checkpoints(path)[-1] / "model.safetensors") for path in (folder, whole_run[0]))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(ground):
    script = (
        "import sys; from videogen.training.config import load_config; from videogen.training.trainer import train; "
        "train(load_config(sys.argv[1]), resume=len(sys.argv) > 2)"
    )
    schedule = {"num_steps": 40}
    config = ground / "killed.yaml"
    config.write_text(yaml.safe_dump(_raw(ground, ground / "killed", schedule=schedule, log={"checkpoint_every": 3})))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", script, str(config)], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list_checkpoints(ground / "killed") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list_checkpoints(ground / "killed")
    subprocess.run([sys.executable, "-c", script, str(config), "resume"], check=True, env=environment, timeout=300)
    train(_config(ground, ground / "not_killed", schedule=schedule))
    assert _losses(ground / "killed") == _losses(ground / "not_killed")


def test_decay_now_ends_the_run_a_few_steps_later(ground):
    folder = ground / "decayed"
    train(_config(ground, folder, schedule={"num_steps": 2}))
    trainer, reason = train(_config(ground, folder, schedule={"decay_start": "now"}), resume=True)
    assert (trainer.step, reason) == (5, "finished")
    rates = [json.loads(line)["lr"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rates[1] > rates[2] > rates[3] > rates[4] > 0
    # The decay is remembered by the run.
    assert Trainer(_config(ground, folder), resume=True).last_step == 5
    cancelled = _config(ground, folder, schedule={"decay_start": None, "num_steps": 9})
    assert Trainer(cancelled, resume=True).last_step == 9


def test_init_from_starts_anew_with_given_weights(ground, whole_run):
    config = _config(ground, ground / "continued", schedule={"num_steps": 1})
    trainer = Trainer(config, init_from=str(whole_run[0] / "weights"))
    ema = load_file(list_checkpoints(whole_run[0])[-1] / "ema.safetensors")
    name = "blocks.0.mixer.to_out.weight"
    torch.testing.assert_close(
        trainer.model.transformer.get_parameter(name), ema[f"transformer.{name}"], rtol=2**-8, atol=0
    )
    assert trainer.step == 0
    assert not trainer.optimizers["adamw"].state
    trainer.run()
    assert (ground / "continued" / "weights" / "transformer" / "config.json").is_file()


def test_a_resumed_run_reads_text_as_the_weights_it_began_with(ground, whole_run):
    given = ground / "given"
    shutil.copytree(whole_run[0] / "weights", given)
    file = given / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["merges"][-3:] = [[3, 4], [5, 6], [7, 8]]  # pairs of bytes that no caption has
    file.write_text(json.dumps(content))
    Trainer(_config(ground, ground / "from_given", schedule={"num_steps": 1}), init_from=str(given)).run()
    resumed = Trainer(_config(ground, ground / "from_given", schedule={"num_steps": 2}), resume=True)
    assert [list(merge) for merge in resumed.text_tokenizer.merges] == content["merges"]


def test_a_text_tokenizer_left_by_an_attempt_that_broke_off_is_not_used(ground, whole_run):
    config = _config(ground, ground / "second_attempt", schedule={"num_steps": 1})
    BytePairTokenizer.train(["he he he"], 262).save_pretrained(str(ground / "second_attempt" / "tokenizer"))
    trainer = Trainer(config, init_from=str(whole_run[0] / "weights"))
    given = BytePairTokenizer.from_pretrained(str(whole_run[0] / "weights" / "tokenizer"))
    assert trainer.text_tokenizer.merges == given.merges


def test_weights_read_on_what_they_could_read_though_new_captions_lack_it(ground, whole_run, folder_of_videos):
    data = {"source": "folder", "path": str(folder_of_videos), "cache": str(ground / "words"), "num_validation": 2}
    config = _config(ground, ground / "other_words", data=data)
    trainer = Trainer(config, init_from=str(whole_run[0] / "weights"))
    given = BytePairTokenizer.from_pretrained(str(whole_run[0] / "weights" / "tokenizer"))
    assert set(trainer.text_tokenizer.unused) <= set(given.unused)
    assert trainer.text_tokenizer.encode("a fox jumps in the snow") == given.encode("a fox jumps in the snow")


def test_a_resumed_run_has_the_network_it_began_with_and_another_is_refused(ground, whole_run):
    given = ground / "windowed"
    shutil.copytree(whole_run[0] / "weights", given)
    file = given / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"window": 1}))
    output = ground / "from_windowed"
    for asked in ({}, {"window": 2}):  # the model file has null
        with pytest.raises(ValueError, match=r"`transformer.window` must be 1 as in the weights of `--init-from`"):
            Trainer(_config(ground, output, transformer=asked), init_from=str(given))
    asked = {"transformer": {"window": 1}, "schedule": {"num_steps": 1}}
    Trainer(_config(ground, output, **asked), init_from=str(given)).run()
    resumed = Trainer(_config(ground, output, schedule={"num_steps": 2}), resume=True)
    assert resumed.model.transformer.config.window == 1


def test_time_limit_stops_with_a_checkpoint(ground):
    trainer, reason = train(_config(ground, ground / "limited"), box=TimeBox(1e-9))
    assert reason == "time limit"
    assert [path.name for path in list_checkpoints(ground / "limited")] == ["checkpoint-00000000"]
    assert trainer.step == 0


def test_interrupt_stops_with_a_checkpoint(ground, monkeypatch):
    monkeypatch.setattr(Trainer, "draw_sheet", lambda trainer: os.kill(os.getpid(), signal.SIGINT))
    trainer, reason = train(_config(ground, ground / "interrupted", log={"sample_every": 1}))
    assert (trainer.step, reason) == (1, "signal")
    assert [path.name for path in list_checkpoints(ground / "interrupted")] == ["checkpoint-00000001"]


def test_the_command_explains_what_is_wrong_in_one_line(ground, whole_run, tmp_path, capsys):
    from videogen.cli import main

    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(_raw(ground, whole_run[0])))
    for arguments, message in (
        (["none.yaml"], "does not exist"),
        ([str(path)], "`output` must be a new folder"),
        ([str(path), "--set", "bach_size=4"], "`bach_size`: Extra inputs are not permitted"),
        ([str(path), "--max-minutes", "0"], "`--max-minutes` must be above 0, got 0"),
        ([str(path), "--max-minutes", "nan"], "`--max-minutes` must be above 0, got nan"),
    ):
        assert main(["train", *arguments]) == 2
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == 1 and errors[0].startswith("Error: ") and message in errors[0]


def test_misuse_is_refused(ground, whole_run):
    with pytest.raises(ValueError, match="`output` must be a new folder"):
        Trainer(_config(ground, whole_run[0]))
    with pytest.raises(ValueError, match="`--resume` needs a checkpoint"):
        Trainer(_config(ground, ground / "nothing"), resume=True)
    with pytest.raises(ValueError, match="'now' goes with --resume"):
        Trainer(_config(ground, ground / "nothing", schedule={"decay_start": "now"}))
    with pytest.raises(ValueError, match=r"`--init-from` must be a folder of exported weights"):
        Trainer(_config(ground, ground / "nothing"), init_from=str(ground))
    with pytest.raises(ValueError, match="`tokenizer` must be the folder of a trained video tokenizer"):
        Trainer(_config(ground, ground / "nothing", tokenizer=str(ground / "no")))


# The latent cache and the batches


def test_cache_is_deterministic_and_goes_on_where_it_stopped(ground, whole_run, tmp_path):
    config = _config(ground, tmp_path / "run", data={"cache": str(tmp_path / "cache")})
    vae = load_vae(config.tokenizer)
    build_cache(config.data, config.seed, vae)
    (tmp_path / "cache" / "shard-00001.jsonl").unlink()  # as if killed before the shard was complete
    built = []
    build_cache(config.data, config.seed, vae, lambda done, total: built.append((done, total)))
    assert built == [(0, 1), (1, 1)]
    mine, first = LatentCache(config.data), LatentCache(_config(ground, tmp_path).data)
    assert len(mine) == 24
    for name in ("clips", "guides", "references", "windows", "window_index"):
        assert torch.equal(getattr(mine, name), getattr(first, name)), name
    assert mine.records == first.records
    assert mine.clips.shape == (24, 8, 5, 2, 2)
    assert mine.guides.shape[2] == len(guide_frames(17)) == 4
    with pytest.raises(ValueError, match=r"`data.cache` must be made with the run's settings.*seed = 3"):
        build_cache(config.data, 4, vae)


def test_a_cache_grows_within_a_shard(ground, whole_run, tmp_path):
    data = {"cache": str(tmp_path / "cache"), "num_clips": 13}
    config = _config(ground, tmp_path / "run", data=data)
    build_cache(config.data, config.seed, load_vae(config.tokenizer))
    more = _config(ground, tmp_path / "run", data=data | {"num_clips": 24})
    built = []
    build_cache(more.data, more.seed, load_vae(config.tokenizer), lambda done, total: built.append(total))
    assert len(LatentCache(more.data)) == 24 and built == [2, 2, 2]  # the second shard is full now, the third is new
    first = LatentCache(_config(ground, tmp_path).data)
    assert torch.equal(LatentCache(more.data).clips, first.clips)


def test_pictures_of_subjects_show_no_held_out_pair():
    data = DataConfig(rung="rung1")
    assert not any(held_out_pairs(pose) for number in range(300) for pose in clip_story(data, 0, number)[1])


def test_clips_have_a_seed_of_their_own_and_decoders_do_not_matter(ground, whole_run, tmp_path):
    config = _config(ground, tmp_path / "run", data={"seed": 3})
    assert config.clip_seed == 3 and config.model_copy(update={"seed": 4}).clip_seed == 3
    assert _config(ground, tmp_path / "run").clip_seed == config.seed
    vae = load_vae(config.tokenizer)
    before = fingerprint(config.data, 3, vae)
    with torch.no_grad():
        next(vae.decoder.parameters()).add_(1)
    assert fingerprint(config.data, 3, vae) == before
    with torch.no_grad():
        next(vae.encoder.parameters()).add_(1)
    assert fingerprint(config.data, 3, vae) != before
    with pytest.raises(ValueError, match=r"`data.seed` must be null when `data.source` is 'folder'"):
        DataConfig(source="folder", path="videos", seed=3)


def test_images_in_the_cache_are_encoded_alone(ground, whole_run):
    from videogen.data.stage import ClipSpec, render

    config = _config(ground, ground / "x")
    cache = LatentCache(config.data)
    vae = load_vae(config.tokenizer)
    spec = ClipSpec.from_json(cache.records[0]["spec"])
    last = render([spec], num_frames=17, height=32, width=32)[:, :, 16:]
    latents = vae.normalize(vae.encode(last).latents)
    torch.testing.assert_close(cache.guides[:1, :, 3:].float(), latents, rtol=0.05, atol=0.05)  # bfloat16


@pytest.fixture(scope="module")
def batches(ground, whole_run):
    config = _config(ground, ground / "x", data={"caption_dropout": 0.3}, batch_size=12)
    return BatchMaker(config, LatentCache(config.data))


def test_batches_depend_on_seed_step_and_rank_only(batches):
    first, again, other_rank = (batches.training_batch(7, 1, rank) for rank in (0, 0, 1))
    assert first.captions == again.captions
    assert torch.equal(first.sample, again.sample)
    assert other_rank.task == first.task
    assert other_rank.sample.shape == first.sample.shape
    assert not torch.equal(first.sample, other_rank.sample)
    assert max(first.indices) < 20  # the last 4 clips are for validation
    assert batches.validation_batch().indices == [20, 21, 22, 23]


def test_every_task_has_its_known_frames(batches):
    seen = {}
    for step in range(300):
        if batches.task(step, 0) not in seen:
            batch = batches.training_batch(step)
            seen[batch.task] = batch
    assert set(seen) == {"text", "first_image", "last_image", "keyframes", "extend", "subject", "image"}
    assert not seen["text"].frames.known.any()
    assert seen["image"].sample.shape[2] == 1
    assert seen["first_image"].frames.known.tolist() == [True, False, False, False, False]
    assert seen["last_image"].frames.kinds.tolist() == [0, 1, 1, 1, 1, 2]
    assert seen["last_image"].frames.times[-1].item() == pytest.approx(16 / 12)
    assert seen["subject"].frames.kinds.tolist() == [0, 1, 1, 1, 1, 3]
    assert seen["extend"].frames.known[0] and not seen["extend"].frames.known[-1]
    windows = batches.cache.windows.float()
    assert all(any(torch.equal(item, window) for window in windows) for item in seen["extend"].sample)
    for batch in seen.values():
        known = batch.frames.known
        assert torch.equal(batch.sample[:, :, known], batch.frames.latents[:, :, known])
    assert all("the subject" in text or "主角" in text or text == "" for text in seen["subject"].captions)


def test_a_single_image_of_a_subject_comes_with_its_picture(ground, batches):
    config = _config(ground, ground / "x", tasks={"subject_image": 1.0}, image_batch_size=7)
    batch = BatchMaker(config, batches.cache).training_batch(0)
    assert batch.frames.kinds.tolist() == [0, 3] and batch.frames.known.tolist() == [False, True]
    assert len(batch.indices) == 7 and not batch.frames.camera.any()
    assert torch.equal(batch.sample[:, :, 1], batches.cache.take("references", batch.indices)[:, :, 0])
    assert all("the subject" in text or "主角" in text or text == "" for text in batch.captions)
    assert not any("camera" in text or "镜头" in text for text in batch.captions)


def test_a_window_from_mid_clip_may_start_between_two_latents(ground, tmp_path):
    data = {"cache": str(tmp_path / "cache"), "num_clips": 6, "num_validation": 2, "num_frames": 13}
    data |= {"mid_clip_share": 1.0, "camera_vector_share": 1.0, "caption_dropout": 0.0}
    config = _config(ground, tmp_path / "run", data=data, tasks={"extend": 1.0})
    build_cache(config.data, config.seed, load_vae(config.tokenizer))
    maker = BatchMaker(config, LatentCache(config.data))
    assert maker.cache.windows.shape == (6, 8, 4, 2, 2)
    for step in range(3):
        batch = maker.training_batch(step)
        assert batch.frames.known[0] and not batch.frames.known[-1]
        for camera, index in zip(batch.frames.camera, batch.indices, strict=True):
            spec = maker.clips.story(index)
            segments = spec.camera if spec.camera_told else ()
            told = camera_frame_vectors(segments, 13, camera_amounts(spec))  # one move a clip
            assert torch.equal(camera, pool_camera(told, 4))
    # Frames 6 to 18 of 19, which pan right from frame 9 on: latents of frames 6; 7 to 10; 11 to 14; 15 to 18.
    turning = maker._camera((("Pan left",), ("Pan right",)), ((0.5,), (1.5,)), True)
    assert turning[:, CAMERA_AXES.index("pan")].tolist() == [-0.5, 0.5, 1.5, 1.5]


def test_emphasised_words_are_drawn_more_often_and_must_exist(ground, tmp_path):
    data = {"cache": str(tmp_path / "cache"), "num_clips": 34, "num_validation": 2}
    config = _config(ground, tmp_path / "run", data=data | {"emphasis": {"jumps": 3.0, "Static shot": 0.25}})
    build_cache(config.data, config.seed, load_vae(config.tokenizer))
    cache = LatentCache(config.data)
    plain = BatchMaker(_config(ground, tmp_path / "run", data=data), cache)

    def shares(maker: BatchMaker) -> tuple[float, float]:
        drawn = [maker.clips.story(i) for step in range(400) for i in maker.training_draw(step).indices]
        still = sum(spec.camera == (("Static shot",),) for spec in drawn)
        return sum(spec.actors[0].motion == "jumps" for spec in drawn) / len(drawn), still / len(drawn)

    (jumps, still), (more_jumps, less_still) = shares(plain), shares(BatchMaker(config, cache))
    odds = [share / (1 - share) for share in (jumps, more_jumps, still, less_still)]
    assert odds[1] / odds[0] == pytest.approx(3.0, rel=0.3)
    assert odds[3] / odds[2] == pytest.approx(0.25, rel=0.3)
    with pytest.raises(ValueError, match=r"`data.emphasis` must name words of rung1, got .flies."):
        _config(ground, tmp_path / "run", data=data | {"emphasis": {"flies": 2.0}})


def test_clips_of_another_rung_are_stories_of_that_rung_and_leave_the_others_as_they_are():
    alone, mixed = DataConfig(rung="cameras"), DataConfig(rung="cameras", other_rungs={"rung1": 0.6})
    known = rungs()["rung1"].words()
    of_rung1 = [story_words(clip_story(mixed, 3, i)[0]) <= known for i in range(600)]
    same = [clip_story(mixed, 3, i)[0] == clip_story(alone, 3, i)[0] for i in range(600)]
    assert (
        0.6 < sum(of_rung1) / 600 < 0.78
    )  # 60 % and those of the other 40 % that could be of either (3 commands of 15)
    assert 0.3 < sum(same) / 600 < 0.5 and all(i or j for i, j in zip(same, of_rung1, strict=True))
    assert not all(story_words(clip_story(alone, 3, i)[0]) <= known for i in range(20))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"rung": "rung1", "other_rungs": {"rung9": 0.5}}, "must name other rungs, got 'rung9'"),
        ({"rung": "rung1", "other_rungs": {"rung1": 0.5}}, "must name other rungs, got 'rung1'"),
        ({"rung": "rung1", "other_rungs": {"cameras": 0.5}}, "whose words rung1 has, too; cameras has 'Pan right'"),
        ({"rung": "rung3", "other_rungs": {"rung1": 0.6, "rung2": 0.6}}, r"sum to 1 at most, got 1\.2"),
        (
            {"source": "folder", "path": "x", "other_rungs": {"rung1": 0.5}},
            "must be empty when `data.source` is 'folder'",
        ),
    ],
)
def test_other_rungs_must_be_smaller_ones(data, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**data)


def test_no_clip_is_thought_to_show_all_emphasised_actors_at_once():
    factors = {"fox": 2.0, "frog": 1.5, "snow": 1.25, "Static shot": 0.5, "jumps": 1.8, "day": 0.5}
    assert _most_emphasis(DataConfig(rung="rung1", emphasis=factors)) == pytest.approx(2.0 * 1.25 * 1.8)
    assert _most_emphasis(DataConfig(rung="rung3", emphasis=factors)) == pytest.approx(2.0 * 1.5 * 2.25)  # two actors
    assert _most_emphasis(DataConfig(rung="rung1", emphasis={"Static shot": 0.5})) == 1.0


def test_the_camera_is_told_in_words_or_by_vector_and_dropped_with_the_caption(batches):
    words = vectors = dropped = 0
    for step in range(200):
        if batches.task(step, 0) != "text":
            continue
        batch = batches.training_batch(step)
        for caption, camera, index in zip(batch.captions, batch.frames.camera, batch.indices, strict=True):
            told_by_vector = bool(camera[:, -1].any())
            told_in_words = any(word in caption for word in ("camera", "镜头", "shot", "panning", "zooming"))
            assert not (told_by_vector and told_in_words)
            assert batches.clips.story(index).camera_told or not (told_by_vector or told_in_words)
            if caption == "":
                assert not camera.any()
                dropped += 1
            words, vectors = words + told_in_words, vectors + told_by_vector
    assert words > 50
    assert vectors > 50
    assert dropped > 50


def test_the_subject_replaces_the_actor_and_its_synonyms():
    assert name_the_subject("a fox jumps in the snow", "fox", "en") == "the subject jumps in the snow"
    assert name_the_subject("in the snow, a fox jumps", "fox", "en") == "in the snow, the subject jumps"
    assert name_the_subject("a red fox jumps", "fox", "en") == "the subject jumps"
    assert name_the_subject("a carrot left of a car", "car", "en", 2) == "a carrot left of subject 2"
    assert name_the_subject("一个青蛙左边的一个狐狸", "fox", "zh", 1) == "一个青蛙左边的主角1"


def test_loose_captions_keep_every_word_that_matters():
    text = "downtown, a car moves left in the dark, the camera zooms in"
    loose = [loosen(text, random.Random(seed), "en", 0.0) for seed in range(40)]
    words = sorted(word for word in text.replace(",", "").split() if word not in FUNCTION_WORDS)
    for caption in loose:
        found = caption.replace(",", " ").replace(":", " ").split()
        assert sorted(word for word in found if word not in FUNCTION_WORDS) == words
        assert "car moves left" in caption and "zooms in" in caption  # order within a clause stays
        # The order stays as well: another would bring back those that are held out.
        assert caption.index("downtown") < caption.index("car") < caption.index("dark") < caption.index("zooms")
    assert any("the dark" not in caption for caption in loose)
    text = "白天,一个企鹅在沙滩上向左移动, 镜头左摇"
    chinese = {loosen(text, random.Random(seed), "zh", 0.0) for seed in range(20)}
    assert len(chinese) > 5
    assert all(caption.index("白天") < caption.index("企鹅") < caption.index("左摇") for caption in chinese)
    assert all(
        all(word in caption for word in ("白天", "企鹅", "沙滩上", "向左移动", "镜头左摇")) for caption in chinese
    )


@pytest.mark.parametrize(
    ("language", "text"), [("en", "downtown a car moves left"), ("zh", "白天企鹅向左移动镜头左摇")]
)
def test_loose_captions_hold_unknown_words(language, text):
    words = text.split() if language == "en" else list(text)
    more = fewer = total = 0
    for seed in range(400):
        found = loosen(text, random.Random(seed), language, 0.1)
        found = found.split() if language == "en" else list(found)
        more += sum(word not in words for word in found)
        fewer += sum(word not in found for word in words if word not in FUNCTION_WORDS)
        total += len(words)
    assert more / total == pytest.approx(0.2, abs=0.04)  # put in, and put in another's place
    assert fewer / total == pytest.approx(0.1, abs=0.04)


def test_action_captions_leave_out_what_given_frames_show(ground, tmp_path):
    scenes = (
        "forest",
        "woods",
        "trees",
        "beach",
        "sea",
        "city",
        "street",
        "town",
        "snow",
        "林",
        "滩",
        "海边",
        "城市",
        "街",
        "雪",
    )
    config = _config(ground, tmp_path, data={"action_caption_share": 0.5, "caption_dropout": 0.0})
    build_cache(config.data, config.seed, load_vae(config.tokenizer))
    batches = BatchMaker(config, LatentCache(config.data))
    for task, low, high in (("first_image", 0.35, 0.65), ("extend", 0.35, 0.65), ("text", 0.0, 0.05)):
        captions = [
            caption
            for step in range(30)
            for caption in batches._draw(
                task, batches.clips.choose(random.Random(step), 0, 4), random.Random(step), random.Random(step), step
            ).captions
        ]
        cut = sum(not any(scene in caption for scene in scenes) for caption in captions)
        assert low <= cut / len(captions) <= high, task


def test_weights_with_places_on_the_screen_go_on_with_places_in_the_scenery(ground, whole_run):
    speeds = [0.2, 0.28, 0.16, 0.18, 0.22, 0.24]
    output = ground / "scenery"
    config = _config(ground, output, transformer={"camera_speeds": speeds}, schedule={"num_steps": 1})
    given = str(whole_run[0] / "weights")
    trainer = Trainer(config, init_from=given)
    before, after = load_networks(Path(given)).transformer, trainer.model.transformer
    assert before.config.camera_speeds is None and list(after.config.camera_speeds) == speeds
    assert not after.token_position.scenery_row.weight.any()
    for name, tensor in before.state_dict().items():
        if name != "token_position.speed":
            assert torch.equal(tensor, after.state_dict()[name]), name
    trainer.run()
    assert list(load_networks(output / "weights").transformer.config.camera_speeds) == speeds
    on = Trainer(_config(ground, ground / "on", schedule={"num_steps": 1}), init_from=str(output / "weights"))
    assert list(on.model.transformer.config.camera_speeds) == speeds  # unless told otherwise, as the weights have it
    with pytest.raises(ValueError, match=r"`transformer\.camera_speeds` must be \[0.2, .* got None"):
        Trainer(
            _config(ground, ground / "back", transformer={"camera_speeds": None}), init_from=str(output / "weights")
        )


def test_a_deeper_network_begins_as_the_shallower_one_and_uses_its_new_layers(ground, whole_run):
    given = str(whole_run[0] / "weights")
    deeper = {
        "mixers": ["linear", "softmax", "linear", "softmax"],
        "feed_forwards": ["dense", "moe", "dense", "moe"],
        "cross_attention_layers": [0, 2],
    }
    settings = {"transformer": deeper, "init_layers": [0, 1, 0, 1], "schedule": {"num_steps": 2}}
    output = ground / "deeper"
    trainer = Trainer(_config(ground, output, **settings), init_from=given)
    before, after = load_networks(Path(given)).transformer, trainer.model.transformer
    torch.manual_seed(0)
    inputs = (
        torch.randn(2, 8, 3, 4, 4), torch.rand(2, 3), torch.randn(2, 5, before.config.text_width), torch.ones(2, 5).bool(),
        torch.arange(3.0), torch.tensor([0, 1, 1]), torch.zeros(2, 3, before.config.camera_dim),
    )  # fmt: skip
    with torch.no_grad():
        assert torch.equal(before(*inputs).sample, after(*inputs).sample)
    trainer.run()
    trained = load_networks(output / "weights").transformer
    assert list(trained.config.mixers) == deeper["mixers"]
    assert all(layer.mixer.to_out.weight.any() for layer in trained.blocks)  # the new ones learn
    assert len(Trainer(_config(ground, output, **settings), resume=True).model.transformer.blocks) == 4

    for layers, message in (
        ([1, 0, 0, 1], r"must name all 2 layers of the weights of `--init-from`, each for the first time in order"),
        ([0, 1], r"must have an entry for each of the 4 layers, got 2"),
        ([0, 1, 1, 0], r"layer 2 has another mixer, feed-forward or cross-attention than layer 1 of the weights"),
    ):
        with pytest.raises(ValueError, match=message):
            Trainer(_config(ground, ground / "wrong", **{**settings, "init_layers": layers}), init_from=given)
    wider = {**settings, "transformer": {**deeper, "width": 64}}
    with pytest.raises(ValueError, match=r"`transformer\.width` must be 32 as in the weights of `--init-from`, got 64"):
        Trainer(_config(ground, ground / "wrong", **wider), init_from=given)
    with pytest.raises(ValueError, match=r"`init_layers` must be empty without `--init-from`"):
        Trainer(_config(ground, ground / "wrong", **settings))


def test_two_subjects_have_a_reference_each(ground, tmp_path):
    data = {"rung": "rung3", "cache": str(tmp_path / "cache"), "num_clips": 30, "mid_clip_share": 0.0, "num_frames": 5}
    config = _config(ground, tmp_path / "run", data=data, tasks={"subject": 1.0})
    vae = load_vae(config.tokenizer)
    build_cache(config.data, config.seed, vae)
    cache = LatentCache(config.data)
    assert cache.references.shape == (30, 8, 2, 2, 2)
    maker = BatchMaker(config, cache)
    two = [i for i, spec in enumerate(maker.clips.stories) if len(spec.actors) == 2]
    assert all(bool(cache.references[i, :, 1].any()) == (i in two) for i in range(30))
    seen = set()
    for step in range(30):
        batch = maker.training_batch(step)
        kinds = tuple(batch.frames.kinds.tolist())
        seen.add(kinds)
        assert torch.equal(batch.sample[:, :, 2:], cache.references[batch.indices][:, :, : len(kinds) - 2].float())
        if len(kinds) == 4:
            assert set(batch.indices) <= set(two)
            told = [text for text in batch.captions if text]
            assert all(("subject 1" in text and "subject 2" in text) or "主角1" in text for text in told)
    assert seen == {(0, 1, 3), (0, 1, 3, 4)}


# Configuration


def test_settings_are_checked_and_overridden(ground, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(_raw(ground, tmp_path)))
    assert load_config(path, ["mixed_precision=no"]).mixed_precision == "no"
    config = load_config(path, ["schedule.num_steps=9", "optimizer.use_muon=false", "tasks={text: 1}"])
    assert (config.schedule.num_steps, config.optimizer.use_muon, config.tasks) == (9, False, {"text": 1.0})
    for override, message in (
        ("batch_size=0", "`batch_size`: .*greater than or equal to 1"),
        ("bach_size=4", "`bach_size`: Extra inputs are not permitted"),
        ("tasks={dance: 1}", "must name tasks of text, .*got 'dance'"),
        ("data.source=folder", "`data.path` must name the folder"),
        ("data={source: folder, path: x, loose_caption_share: 0.2}", "`data.loose_caption_share` must be 0"),
        ("data={source: folder, path: x, action_caption_share: 0.2}", "`data.action_caption_share` must be 0"),
        ("nonsense", "must look like section.key=value, got 'nonsense'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_config(path, [override])
    with pytest.raises(ValueError, match="does not exist"):
        load_config(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    "name", ["t2v_tiny_cpu", "t2v_tiny_scenery_cpu", "t2v_tiny_rung2_cpu", "t2v_tiny_gpu", "folder_tiny_cpu"]
)
def test_the_committed_configurations_are_valid(name):
    config = load_config(f"configs/train/{name}.yaml")
    shape = (33, 16.0) if name.startswith("t2v") else (17, 12.0)
    assert (config.data.num_frames, config.data.fps) == shape
    assert sum(config.tasks.values()) == pytest.approx(1.0)
    assert (config.data.source == "folder") == name.startswith("folder")


# A folder of videos


@pytest.fixture(scope="module")
def folder_of_videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    lines = []
    for i in range(20):
        frames = torch.zeros(27, 40, 48, 3, dtype=torch.uint8)
        frames[..., i % 3] = 100 + 5 * i
        for t in range(27):
            frames[t, 10:20, t : t + 10] = 255
        write_video(folder / f"clip{i}.mp4", frames.numpy(), 12.0)
        camera = ", [Static shot]" if i % 2 else ""
        lines.append(json.dumps({"file": f"clip{i}.mp4", "caption": f"a white square moves right, number {i}{camera}"}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_videos_are_cropped_resampled_and_scaled(folder_of_videos):
    clip = read_clip(folder_of_videos / "clip3.mp4", 17, 32, 32, 12.0)
    assert clip.shape == (3, 17, 32, 32)
    assert -1 <= clip.min() < clip.max() <= 1
    assert read_clip(folder_of_videos / "clip3.mp4", 100, 32, 32, 12.0).shape[1] == 27
    assert read_clip(folder_of_videos / "clip3.mp4", 100, 32, 32, 6.0).shape[1] == 14
    assert read_clip(folder_of_videos / "clip3.mp4", 100, 32, 32, 24.0).shape[1] == 54
    # At half the rate every second frame is shown.
    torch.testing.assert_close(read_clip(folder_of_videos / "clip3.mp4", 9, 32, 32, 6.0), clip[:, ::2])


def test_a_video_recorded_upright_is_read_upright(tmp_path):
    frames = torch.zeros(9, 48, 96, 3, dtype=torch.uint8)
    frames[:, :, :48, 0] = 255  # red on the left
    write_video(tmp_path / "a.mp4", frames.numpy(), 12.0)
    # The track's matrix turns by 90 degrees, as phones write it.
    one, turn = (1 << 16).to_bytes(4, "big"), (0xFFFF0000).to_bytes(4, "big")
    zero = bytes(4)
    plain = one + zero * 3 + one
    content = (tmp_path / "a.mp4").read_bytes()
    place = content.index(plain, content.index(b"tkhd"))
    turned = zero + one + zero + turn + zero
    (tmp_path / "b.mp4").write_bytes(content[:place] + turned + content[place + len(plain) :])
    clip = read_clip(tmp_path / "b.mp4", 9, 96, 48, 12.0)
    assert clip[0, 4, :40].mean() > 0.8 and clip[0, 4, 56:].mean() < -0.8  # red above
    shown = torch.from_numpy(read_video(tmp_path / "b.mp4").frames).permute(3, 0, 1, 2) / 127.5 - 1
    assert (clip - shown).abs().mean() < 0.03


def test_changed_captions_and_added_videos_are_encoded_anew(ground, folder_of_videos, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(folder_of_videos, folder)
    lines = (folder / "captions.jsonl").read_text().splitlines()
    (folder / "captions.jsonl").write_text("\n".join(lines[:12]))
    data = {"source": "folder", "path": str(folder), "cache": str(tmp_path / "cache"), "mid_clip_share": 1.0}
    config = _config(ground, tmp_path / "run", data=data)

    def built() -> int:
        shards = []
        build_cache(config.data, config.seed, load_vae(config.tokenizer), lambda done, total: shards.append(total))
        return shards[0] if shards else 0

    assert built() == 2 and built() == 0
    lines[11] = lines[11].replace("white", "grey")
    (folder / "captions.jsonl").write_text("\n".join(lines[:15]))
    assert built() == 1 and built() == 0
    cache = LatentCache(config.data)
    assert len(cache) == 15 and "grey square" in cache.records[11]["caption"]
    assert len(cache.windows) == 15
    shutil.copy(folder / "clip3.mp4", folder / "clip4.mp4")  # another video under the same name
    assert built() == 1 and built() == 0
    config = _config(ground, tmp_path / "run", data=data | {"mid_clip_share": 0.0, "cache": str(tmp_path / "none")})
    assert built() == 2 and len(LatentCache(config.data).windows) == 0
    with pytest.raises(ValueError, match=r"`data.chinese_share` must be left out when `data.source` is 'folder'"):
        DataConfig(source="folder", path="videos", chinese_share=0.5)


def test_the_trainer_learns_from_a_folder_of_videos(ground, folder_of_videos, tmp_path, capsys):
    config = _config(
        ground,
        tmp_path / "run",
        data={
            "source": "folder",
            "path": str(folder_of_videos),
            "cache": str(tmp_path / "cache"),
            "num_validation": 2,
            "mid_clip_share": 1.0,
        },
        schedule={"num_steps": 8},
        log={"sample_prompts": ["a white square moves right"], "sample_every": 8, "sample_steps": 2},
    )
    trainer, reason = train(config)
    assert reason == "finished"
    assert len(trainer.batches.cache) == 20
    assert len(trainer.batches.cache.windows) == 20  # 27 frames hold a clip and a window from its middle
    assert "subject" not in trainer.batches.tasks
    losses = list(_losses(tmp_path / "run").values())
    assert len(losses) == 8
    assert all(loss < 100 for loss in losses)
    told = untold = 0
    for step in range(20):
        batch = trainer.batches.training_batch(step)
        for caption, camera, index in zip(batch.captions, batch.frames.camera, batch.indices, strict=True):
            assert caption in ("", f"a white square moves right, number {index}")  # without brackets, as at inference
            if bool(camera.any()):
                assert index % 2 and camera[0].tolist() == [0] * 8 + [1]
            told, untold = told + bool(camera.any()), untold + (not camera.any())
    assert told > 10 and untold > 10
    assert json.loads((tmp_path / "run" / "weights" / "vocabulary.json").read_text()) == {
        "sizes": [[32, 32]], "num_frames": [17], "fps": [12.0], "max_length": 72
    }  # fmt: skip


def test_bad_folders_are_refused(folder_of_videos, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_captions(str(tmp_path))
    for text, message in (
        ("{", "line 1 is not"),
        ('{"file": "a.mp4"}', "objects with `file` and `caption`, line 1 does not"),
        ('{"file": "a.mp4", "caption": "x"}', "must name existing files, line 1 names 'a.mp4'"),
        ('{"file": "clip.mp4", "caption": "x [Pan lft]"}', r"line 1: camera command \[Pan lft\] is unknown"),
    ):
        shutil.copy(folder_of_videos / "clip0.mp4", tmp_path / "clip.mp4")
        (tmp_path / f"{len(text)}.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_captions(str(tmp_path), f"{len(text)}.jsonl")
    (tmp_path / "broken.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"must hold readable videos, .*broken.mp4 is not"):
        read_clip(tmp_path / "broken.mp4", 9, 32, 32, 12.0)
