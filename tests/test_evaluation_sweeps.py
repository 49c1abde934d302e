"""Sweeps of the recipe: variants are built, trained, judged and put into tables; what is done is not done again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_models import tiny_transformer, write_training_files

from videogen.conditioning.frames import build_frames
from videogen.data.stage.render import render, to_frames
from videogen.evaluation import sweeps
from videogen.evaluation.stage_suite import clip_seed, load_prompts
from videogen.training.config import load_config
from videogen.training.schedule import TimeBox

SAMPLES = Path(__file__).parents[1] / "samples" / "sweeps"


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """A folder with `run.yaml`, a run of two steps that a sweep can change."""
    folder = tmp_path_factory.mktemp("sweeps")
    write_training_files(folder)
    run = {
        "tokenizer": str(folder / "vae"),
        "model": str(folder / "model.yaml"),
        "data": {
            "num_clips": 24, "num_validation": 6, "shard_size": 12, "cache": str(folder / "cache"), "seed": 5,
            "num_frames": 9, "fps": 16, "height": 32, "width": 32, "mid_clip_share": 0.0,
        },
        "text": {"vocab_size": 300, "corpus_size": 20},
        "tasks": {"text": 1.0},
        "batch_size": 4,
        "image_batch_size": 4,
        "mixed_precision": "no",
        "schedule": {"num_steps": 2, "warmup_steps": 1},
        "log": {"metrics_every": 1, "validate_every": 0, "sample_every": 0, "checkpoint_every": 0},
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder


def test_variants_are_trained_and_judged_once(ground, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "STILL_BATCH", 1)
    monkeypatch.setattr(sweeps.TrialTrainer, "_plot", lambda self, metrics: None)
    quick = {"num_inference_steps": 2}
    images = {
        "base": {"seeds": [0, 1]},
        "velocity": {"predicts": "velocity"},
        "no-convolutions": {"convolutions": False},
    }
    clips = {"base": {"image_share": 1.0}, "softmax": {"set": ["transformer.mixers=[softmax, softmax]"]}}
    settings = {
        "config": str(ground / "run.yaml"),
        "groups": {
            "images": {"kind": "images", "num_prompts": 2, "sampling": quick, "variants": images},
            "clips": {"kind": "clips", "num_prompts": 2, "sampling": quick, "variants": clips},
        },
    }
    path = tmp_path / "variants.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    sweep, runs = sweeps.load_sweep(path), tmp_path / "runs"
    said: list[str] = []
    sweeps.run_sweep(sweep, runs, ["images/velocity"], say=said.append)
    assert [line.split(":")[0] for line in said] == ["images/velocity-0"]
    sweeps.run_sweep(sweep, runs, say=said.append)
    sweeps.run_sweep(sweep, runs, say=said.append)
    assert sorted(line.split(":")[0] for line in said) == [
        "clips/base-0", "clips/softmax-0", "images/base-0", "images/base-1", "images/no-convolutions-0", "images/velocity-0",
    ]  # fmt: skip

    # The model judged is another one after two steps, but begins as the base does.
    found = sweeps.summarise(sweep, runs)
    base, velocity, plain = found["images"]
    assert (base["name"], base["steps"], base["seeds"], len(base["loss"])) == ("base", [2, 2], [0, 1], 2)
    assert velocity["loss"] != base["loss"][:1] and plain["steps"] == [2]
    weights = load_file(runs / "images/no-convolutions-0/weights/transformer/diffusion_pytorch_model.safetensors")
    assert not any(tensor.any() for name, tensor in weights.items() if name.endswith("mixer.conv.weight"))
    assert set(base["right"]) == {"actor", "nearest", "scene", "light", "all"} and base["right"]["actor"]["clips"] == 4
    low, high = velocity["loss_more_than_base"][1:]
    assert low < velocity["loss"][0] - base["loss"][0] < high and base["loss_more_than_base"] is None
    assert {"motion", "camera", "nearest"} <= set(found["clips"][1]["right"])
    written = json.loads((runs / "clips" / "base-0" / "trial.json").read_text())
    assert written["examples"] == 8 and len(written["losses"][0]) == sweeps.LEVELS // 2
    assert (
        json.loads((runs / "clips/softmax-0/weights/transformer/config.json").read_text())["mixers"] == ["softmax"] * 2
    )
    table = sweeps.markdown(found["images"])
    assert table.splitlines()[2].startswith("| `base` | 2, 2 | 8, 8 | ") and "`velocity`" in table


def test_a_tokenizer_of_each_variant(ground, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "STILL_BATCH", 1)
    monkeypatch.setattr(sweeps.TrialTrainer, "_plot", lambda self, metrics: None)
    widths = {"encoder_widths": [16, 32, 64], "encoder_blocks": [1, 1], "decoder_widths": [16, 32, 64]}
    run = {
        "model": {"latent_channels": 8, **widths, "decoder_blocks": [1, 1, 1]},
        "sources": [{"kind": "stage"}],
        "batches": [{"size": 32, "batch_size": 2, "num_frames": 9}],
        **dict.fromkeys(("height", "width"), 32), "num_frames": 9, "steps": 1, "warmup_steps": 1, "decay_steps": 0,
        "validation_clips": 2, "statistics_clips": 8, "group_size": 2, "pool_groups": 2, "mixed_precision": "no", "device": "cpu",
    }  # fmt: skip
    config = tmp_path / "tokenizer.yaml"
    config.write_text(yaml.safe_dump(run))
    variants = {"base": {}, "noisy": {"tokenizer_set": ["loss.noise=0.5"]}}
    group = {"kind": "images", "num_prompts": 2, "sampling": {"num_inference_steps": 2}, "variants": variants}
    group["tokenizer"] = {"config": str(config), "num_clips": 12}
    sweep = sweeps.Sweep(config=str(ground / "run.yaml"), groups={"tokenizer": group})
    cut_off = tmp_path / "runs/tokenizer/base-0/tokenizer/checkpoint-00000001"
    cut_off.mkdir(parents=True)  # of a trial that was stopped: would be a run in the way
    sweeps.run_sweep(sweep, tmp_path / "runs")
    base, noisy = sweeps.summarise(sweep, tmp_path / "runs")["tokenizer"]
    assert base["steps"] == noisy["steps"] == [2] and "loss" not in base  # of other latents
    assert base["reconstruction"] != noisy["reconstruction"] and base["reconstruction"][0]["psnr_stage"] > 0
    written = yaml.safe_load((tmp_path / "runs/tokenizer/noisy-0/tokenizer/config.yaml").read_text())
    assert written["loss"]["noise"] == 0.5
    assert sweeps.markdown([base, noisy]).startswith("|  | steps | examples | PSNR, dB | actor |")


def test_single_images_come_first_for_a_share_of_the_time(ground, tmp_path):
    shared = sweeps.Ground(load_config(ground / "run.yaml"))
    config = shared.config.model_copy(update={"output": str(tmp_path)})
    trainer = sweeps.TrialTrainer(config, sweeps.Variant(image_share=0.5), shared.cache)
    box = TimeBox(60.0)
    trainer.run_for(box)
    assert trainer.batches.task(0, 0) == "image"
    box._start -= 31 * 60
    assert trainer.batches.task(0, 0) == "text"


def test_a_velocity_network_says_what_the_raw_output_is():
    torch.manual_seed(0)
    network = sweeps.VelocityTransformer(**dict(tiny_transformer().config.items())).eval()
    torch.nn.init.normal_(network.proj_out.bias)  # all that a fresh network's output depends on
    frames = build_frames(1, (8, 2, 2), batch_size=3, fps=16)
    sigmas = torch.tensor([[0.01], [0.5], [1.0]])
    embeds, mask = torch.zeros(3, 1, 32), torch.ones(3, 1, dtype=torch.bool)
    latents = torch.randn(3, 8, 1, 2, 2)
    output = network(latents, sigmas, embeds, mask, frames.times, frames.kinds, frames.camera)
    raw = network.proj_out.bias.detach()[None, :, None, None, None].expand_as(latents)
    torch.testing.assert_close(output.sample.detach(), raw, atol=1e-5, rtol=1e-5)


def test_pictures_are_judged_by_what_they_show():
    first, second = load_prompts("dev", "rung1", 2)
    spec = sweeps.ClipSpec.from_json(first.spec)
    picture = to_frames(render([spec], num_frames=1)[0])[0]
    assert sweeps.judge_still(picture, first, 16.0) == dict.fromkeys(("actor", "scene", "light", "nearest"), True)
    assert not any(sweeps.judge_still(picture, second, 16.0).values())
    assert "zoom" not in sweeps.still_prompt(first).lower() and clip_seed(first, 0) == clip_seed(first, 0)


def test_shares_are_paired_by_prompt():
    def trial(*right: bool) -> dict:
        names = [f"dev-rung1-{i:03d}" for i in range(len(right))]
        return {
            "right": {
                name: {"actor": value, "scene": True, "nearest": False}
                for name, value in zip(names, right, strict=True)
            }
        }

    base, other = trial(*[False] * 20), trial(*[True] * 10, *[False] * 10)
    assert (
        sweeps.right_shares([base, other])["actor"].mean == 0.25
        and sweeps.right_shares([base])["actor"].num_groups == 20
    )
    mean, low, high = sweeps.share_differences([other], [base])["actor"]
    assert mean == 0.5 and 0.2 < low < high < 0.8
    assert sweeps.share_differences([other], [base])["all"][0] == 0.5  # `nearest` has no say
    assert np.allclose(sweeps.share_differences([base], [base])["scene"], 0)


def test_the_committed_sweep_is_one():
    sweep = sweeps.load_sweep(SAMPLES / "variants.yaml")
    config = load_config(sweep.config)
    for group in sweep.groups.values():
        for variant in group.variants.values():
            load_config(sweep.config, [*group.set, *variant.set])
    assert config.data.seed is not None, "all seeds are to see the same clips"
    tables = sweeps.all_tables(json.loads((SAMPLES / "sweeps.json").read_text()))
    assert tables + "\n" == (SAMPLES / "sweeps.md").read_text()


def test_unknown_settings_are_refused(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("config: a\ngroups: {images: {kind: images, variants: {base: {lr: 1}}}}\n")
    with pytest.raises(ValueError, match=r"`groups.images.variants.base.lr`"):
        sweeps.load_sweep(path)


def test_what_trains_nothing_takes_no_setting_of_training():
    with pytest.raises(ValueError, match=r"`variants\.none\.seeds` must be left out of a group that trains nothing"):
        sweeps.Group(kind="sampling", variants={"none": {"seeds": [1]}})
    sweeps.Group(kind="images", variants={"none": {"seeds": [1]}})
    run = {"config": "tokenizer.yaml"}
    with pytest.raises(ValueError, match="`tokenizer` must be left out of a group that trains nothing"):
        sweeps.Group(kind="sampling", tokenizer=run, variants={"none": {}})
    with pytest.raises(
        ValueError, match=r"`variants\.none\.tokenizer_set` must be left out of a group that trains no `tokenizer`"
    ):
        sweeps.Group(kind="images", variants={"none": {"tokenizer_set": ["loss.noise=0"]}})
