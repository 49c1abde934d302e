"""Distillation: what the student is asked for, and what a run leaves behind."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import write_training_files

from videogen.cli.plan import resolve_request
from videogen.models.low_rank import load_adapter, merge_low_rank
from videogen.models.transformer import VideoTransformer
from videogen.planning.specs import load_spec
from videogen.training.config import TrainConfig
from videogen.training.distill import DistillConfig, Distiller, distill, load_distill_config
from videogen.training.publish import publish
from videogen.training.trainer import train
from videogen_pipelines import TextToVideoPipeline

SETTINGS = ("fps", "duration", "num_inference_steps", "guidance_scale", "guidance_interval")


def _raw(folder: Path, **overrides) -> dict:
    raw = {
        "seed": 1,
        "output": str(folder / "teacher"),
        "tokenizer": str(folder / "vae"),
        "data": {
            "num_clips": 24, "num_validation": 6, "shard_size": 12, "cache": str(folder / "cache"), "seed": 5,
            "num_frames": 9, "height": 32, "width": 32, "mid_clip_share": 0.0,
        },
        "tasks": {"text": 0.6, "first_image": 0.4},
        "batch_size": 4,
        "mixed_precision": "no",
        "schedule": {"num_steps": 4, "warmup_steps": 1},
        "log": {"metrics_every": 2, "validate_every": 2, "sample_every": 0, "checkpoint_every": 0},
    }  # fmt: skip
    return {**raw, **overrides}


def _distill_raw(folder: Path, output: str, **overrides) -> dict:
    settings = {"task": "distill", "output": str(folder / output), "teacher": str(folder / "teacher" / "weights")}
    return _raw(folder, **settings, rank=1, expert_rank=1, **overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    write_training_files(folder)
    teacher = _raw(folder, model=str(folder / "model.yaml"), text={"vocab_size": 300, "corpus_size": 20})
    train(TrainConfig.model_validate(teacher))
    return folder


def test_levels_are_those_of_the_sampler(folder):
    distiller = Distiller(DistillConfig.model_validate(_distill_raw(folder, "levels")))
    assert distiller.levels.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    drawn = distiller.noise_levels(torch.tensor([0.999, 0.76, 0.74, 0.3, 0.01, 0.0]))
    assert drawn.tolist() == [1.0, 1.0, 0.75, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(("task", "guidance_scale"), [("first_image", 1.0), ("first_image", 3.0), ("subject", 3.0)])
def test_the_target_is_the_teachers_way(folder, task, guidance_scale):
    raw = _distill_raw(folder, "target", guidance_scale=guidance_scale, teacher_steps=3)
    distiller = Distiller(DistillConfig.model_validate(raw))
    batch = distiller.batches.validation_batch(task)
    frames, sample = batch.frames, batch.sample
    ids, mask = distiller.text_tokenizer(batch.captions, max_length=32)
    mask = mask.bool()
    torch.manual_seed(0)
    noise = torch.randn_like(sample)
    for level, following in ((1.0, 0.75), (0.25, 0.0)):
        sigmas = torch.full((len(sample),), level)
        noisy = frames.keep_known(torch.lerp(sample, noise, level))
        target = distiller.target(sample, noise, noisy, sigmas, frames, ids, mask)
        x, h = noisy, (level - following) / 3
        for step in range(3):  # the same by hand, one item after the other
            rows = []
            for item in range(len(x)):
                here = torch.tensor([level - step * h])
                one = frames.select(item)
                length = int(mask[item].sum())
                embeds = distiller.model.text_encoder(ids[item : item + 1, :length], mask[item : item + 1, :length])

                def velocity(frames, embeds, mask, item=item, here=here, x=x):
                    shown = x[item : item + 1, :, : len(frames.times)]
                    found = distiller.teacher(
                        shown, frames.frame_timesteps(here), embeds, mask,
                        frames.times, frames.kinds, frames.camera, return_dict=False,
                    )[0]  # fmt: skip
                    return torch.cat([found, torch.zeros_like(x[item : item + 1, :, len(frames.times) :])], dim=2)

                v = velocity(one, embeds, mask[item : item + 1, :length])
                if guidance_scale != 1.0 and level > 0.5:
                    without = velocity(one.unconditional(), *distiller.no_text)
                    v = without + guidance_scale * (v - without)
                rows.append(v)
            x = frames.keep_known(x - h * torch.cat(rows))
        expected = (noisy - x) / (level - following)
        unknown = ~frames.known
        torch.testing.assert_close(target[:, :, unknown], expected[:, :, unknown], atol=2e-3, rtol=2e-3)


def test_a_run_leaves_teacher_and_adapter(folder, tmp_path):
    config = DistillConfig.model_validate(_distill_raw(folder, "run"))
    _, reason = distill(config)
    assert reason == "finished"
    assert load_distill_config(folder / "run" / "config.yaml") == config  # as a run keeps it
    weights = folder / "run" / "weights"
    before = load_file(folder / "teacher" / "weights" / "transformer" / "diffusion_pytorch_model.safetensors")
    after = load_file(weights / "transformer" / "diffusion_pytorch_model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    tensors, settings = load_adapter(weights / "fast")
    assert settings == {"num_inference_steps": 4, "guidance_scale": 1.0}
    assert max(float(tensor.float().abs().max()) for name, tensor in tensors.items() if name.endswith(".up")) > 0
    merge_low_rank(VideoTransformer.from_pretrained(str(weights / "transformer")), tensors)
    assert json.loads((weights / "fast" / "training.json").read_text())["steps"] == 4
    model = publish(weights, folder / "vae", tmp_path / "model")
    assert str(folder) not in (model / "fast" / "training.json").read_text()  # where things lay is no one else's
    pipe = TextToVideoPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 32, "width": 32, "num_frames": 9}
    assert pipe("a fox jumps", **size, seed=0).settings["num_inference_steps"] == 4
    assert pipe("a fox jumps", **size, seed=0, quality="high").settings["num_inference_steps"] == 20
    assert resolve_request(load_spec(model), {**dict.fromkeys(SETTINGS), **size}).num_inference_steps == 4


def test_a_resumed_run_is_the_uninterrupted_one(folder):
    def run(output: str, *limits: int) -> dict:
        for number, steps in enumerate(limits):
            schedule = {"num_steps": steps, "warmup_steps": 1}
            log = {"metrics_every": 1, "validate_every": 0, "sample_every": 0, "checkpoint_every": 1}
            raw = _distill_raw(folder, output) | {"schedule": schedule, "log": log}
            distill(DistillConfig.model_validate(raw), resume=number > 0)
        return load_adapter(folder / output / "weights" / "fast")[0]

    whole, parts = run("whole", 3), run("parts", 2, 3)
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_what_has_no_effect_is_refused(folder):
    data = _raw(folder)["data"]
    for overrides, message in (
        ({"transformer": {"width": 8}}, "`transformer` must be left out of a distillation"),
        ({"flow": {"mean": 1.0}}, "`flow.mean` must be left out"),
        ({"flow": {"shift": 2.0}}, "`flow.shift` must be the teacher's, 1, got 2"),
        ({"data": {**data, "fps": 16}}, r"`data.fps` must be the teacher's, one of \[12.0\], got 16"),
        ({"data": {**data, "num_frames": 17}}, r"`data.num_frames` must be the teacher's, one of \[9\], got 17"),
        ({"data": {**data, "width": 48}}, "`data.width` and `data.height` must be the teacher's"),
        ({"teacher": str(folder)}, "`teacher` must be a folder of trained weights"),
    ):
        with pytest.raises(ValueError, match=message):
            DistillConfig.model_validate({**_distill_raw(folder, "x"), **overrides})
    with pytest.raises(ValueError, match="`--init-from` must be left out"):
        distill(DistillConfig.model_validate(_distill_raw(folder, "x")), init_from=str(folder))


def test_the_committed_configuration_is_valid():
    config = load_distill_config("configs/train/distill_tiny_cpu.yaml")
    assert (config.num_inference_steps, config.log.sample_steps, config.log.sample_guidance_scale) == (8, 8, 1.0)
