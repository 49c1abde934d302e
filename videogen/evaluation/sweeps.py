"""Sweeps of the training recipe: variants trained from nothing for the same minutes of one core on the same clips, then judged.

    python -m videogen.evaluation.sweeps samples/sweeps/variants.yaml --runs runs/sweeps --json sweeps.json --markdown sweeps.md

The settings name groups of variants; the first of a group is what the others are compared with. A trial's folder is called
`RUNS/GROUP/NAME-SEED` and holds `trial.json` when it is done: started again, a sweep goes on with what is missing.

Verdicts come from the pixel checkers on prompts of the dev list, the same ones with the same noise for all. Those of a single picture are taken of a
clip that shows nothing else. `nearest` says whether the actor that was asked for is the one that is resembled most, however little: it tells
networks apart that draw no actor clearly yet. Losses are the velocity's squared error on held-out clips at evenly spaced noise levels.

Shapes: `N` validation clips, `Q` noise levels, `F H W` frames and their size.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from pydantic import Field, model_validator

from videogen.conditioning.frames import build_frames
from videogen.data.allocator import keep_freed_memory
from videogen.data.stage import ClipSpec, caption, rungs
from videogen.data.stage.render import to_frames
from videogen.data.video import read_video
from videogen.diffusion.flow_matching import velocity_target
from videogen.diffusion.sampling import denoise
from videogen.evaluation.clip_jobs import load_results
from videogen.evaluation.stage import check, nearest_actor
from videogen.evaluation.stage_suite import Prompt, SuiteSettings, clip_seed, load_prompts, run_suite
from videogen.evaluation.statistics import Interval, clustered_interval
from videogen.evaluation.twins import LEVELS, paired_difference, squared_errors
from videogen.models.transformer import MIN_SIGMA, VideoTransformer, VideoTransformerOutput
from videogen.planning.counts import transformer_active
from videogen.training.batches import BatchMaker
from videogen.training.config import (
    Section,
    TrainConfig,
    apply_overrides,
    check_settings,
    load_config,
    read_yaml,
)
from videogen.training.latent_cache import LatentCache, build_cache
from videogen.training.networks import arguments_of
from videogen.training.publish import publish
from videogen.training.schedule import TimeBox
from videogen.training.tokenizer import load_tokenizer_config, train_tokenizer
from videogen.training.trainer import Trainer, VideoModel, load_vae

STILL_FRAMES = 6
"""How often a picture is repeated for the checkers: as few frames as they take."""

STILL_BATCH = 20

SHOWN = ("actor", "scene", "light")
"""What a single picture can be asked for."""

MEASURES = ("actor", "nearest", "scene", "light", "motion", "camera", "all")
"""Columns of the tables, where a group has them."""


class Sampling(Section):
    """How clips are made; `None` = the model's own."""

    num_inference_steps: int | None = Field(default=20, ge=1)
    guidance_scale: float | None = 3.0
    guidance_interval: tuple[float, float] | None = (0.5, 1.0)


class Variant(Section):
    """What differs in a trial.

    Attributes:
        seeds: of its runs; null = the group's.
        set: settings of the run, `section.key=value`.
        predicts: "sample": the network's raw output is the clean latent, as in the library; "velocity": it is the velocity.
        convolutions: False keeps the depth-wise convolutions beside linear attention at the zeros they start from.
        image_share: of the minutes, how many at the start see single images only.
        sampling: how clips are made; null = the group's.
        tokenizer_set: settings of the video tokenizer's run, in a group that trains one.
    """

    seeds: tuple[int, ...] | None = None
    set: tuple[str, ...] = ()
    tokenizer_set: tuple[str, ...] = ()
    predicts: Literal["sample", "velocity"] = "sample"
    convolutions: bool = True
    image_share: float = Field(default=0.0, ge=0, le=1)
    sampling: Sampling | None = None


class TokenizerRun(Section):
    """A video tokenizer of each variant's own, from nothing; latents of different tokenizers have no losses to compare.

    Attributes:
        config: YAML file of its run.
        minutes: of training, of which the learning rate falls over the last `decay_minutes`.
        num_clips: so many clips are then encoded anew, for the trial's cache.
    """

    config: str
    minutes: float = Field(default=5.0, ge=0)
    decay_minutes: float = Field(default=2.0, ge=0)
    num_clips: int = Field(default=2000, ge=2)


class Group(Section):
    """Variants that are compared with the first of them.

    Attributes:
        kind: "images": the task `image` alone, judged by single pictures; "clips": judged by clips; "sampling": nothing is trained,
            `model` samples in different ways.
        minutes: of training, of which the learning rate falls over the last `decay_minutes`.
        num_prompts: the first so many of the dev list, of which those of `kinds` are used.
        kinds: of prompts.
        seeds: of the runs; for "sampling", of the clips of a prompt.
        set: settings of all runs.
        model: for "sampling"; "" = the shipped one.
        tokenizer: null: that of the run.
        sampling: how clips are made.
        variants: by name.
    """

    kind: Literal["images", "clips", "sampling"]
    minutes: float = Field(default=5.0, ge=0)
    decay_minutes: float = Field(default=2.0, ge=0)
    num_prompts: int = Field(default=350, ge=1)
    kinds: tuple[str, ...] = ("seen",)
    seeds: tuple[int, ...] = (0,)
    set: tuple[str, ...] = ()
    model: str = ""
    tokenizer: TokenizerRun | None = None
    sampling: Sampling = Sampling()
    variants: dict[str, Variant] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self):
        fields = Variant.model_fields
        for name, variant in self.variants.items() if self.kind == "sampling" else ():
            given = [key for key in fields if key != "sampling" and getattr(variant, key) != fields[key].default]
            if given:
                raise ValueError(f"`variants.{name}.{given[0]}` must be left out of a group that trains nothing.")
        if self.kind == "sampling" and self.tokenizer is not None:
            raise ValueError("`tokenizer` must be left out of a group that trains nothing.")
        for name, variant in self.variants.items():
            if variant.tokenizer_set and self.tokenizer is None:
                raise ValueError(
                    f"`variants.{name}.tokenizer_set` must be left out of a group that trains no `tokenizer`."
                )
        return self


class Sweep(Section):
    """All of it.

    Attributes:
        config: YAML file of the run that the variants change.
        groups: by name, in the order in which they are run.
    """

    config: str
    groups: dict[str, Group] = Field(min_length=1)


class VelocityTransformer(VideoTransformer):
    """The same network whose raw output is the velocity instead of the clean latent."""

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return_dict = kwargs.pop("return_dict", True)
        output: Any = super().forward(hidden_states, timestep, *args, **kwargs)
        sigma = timestep[:, None, :, None, None].float().clamp_min(MIN_SIGMA)
        raw = (hidden_states.float() - sigma * output.sample.float()).to(hidden_states.dtype)
        changed = VideoTransformerOutput(raw, output.load_balancing_loss, output.router_z_loss)
        return changed if return_dict else changed.to_tuple()


class TrialBatches(BatchMaker):
    """Batches whose first task is single images for as long as the clock says.

    Attributes:
        box: the trial's clock, once it is known.
        image_minutes: so many of single images.
    """

    box: TimeBox | None = None
    image_minutes = 0.0

    def task(self, step: int, micro: int) -> str:
        if self.box is not None and self.box.minutes < self.image_minutes:
            return "image"
        return super().task(step, micro)


class TrialTrainer(Trainer):
    """A trainer of one variant, on a cache that is in memory already."""

    def __init__(self, config: TrainConfig, variant: Variant, cache: LatentCache):
        self.variant, self.cache = variant, cache
        super().__init__(config)

    def _make_batches(self, config: TrainConfig) -> BatchMaker:
        return TrialBatches(config, self.cache, self.vae.config.scale_factor_temporal)

    def _build_model(self, config: TrainConfig, resume: bool, init_from: str) -> VideoModel:
        model = super()._build_model(config, resume, init_from)
        if self.variant.predicts == "velocity":
            changed = VelocityTransformer(**arguments_of(model.transformer))
            changed.load_state_dict(model.transformer.state_dict())
            model.transformer = changed
        if not self.variant.convolutions:
            for name, parameter in model.transformer.named_parameters():
                if name.endswith("mixer.conv.weight"):
                    parameter.requires_grad_(False)  # zeros add nothing
        return model

    def target(self, sample: torch.Tensor, noise: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.variant.predicts == "velocity":
            return velocity_target(sample, noise)  # nothing is divided by the noise level
        return super().target(sample, noise, *args, **kwargs)

    def run_for(self, box: TimeBox) -> str:
        """`run` with the variant's share of single images first."""
        assert isinstance(self.batches, TrialBatches)
        self.batches.box, self.batches.image_minutes = box, self.variant.image_share * box.max_minutes
        return self.run(box)


def load_sweep(path: str | Path) -> Sweep:
    """Reads and checks the settings.

    Raises:
        ValueError: With the setting's name and what is wrong, in one line.
    """
    return check_settings(Sweep, read_yaml(path))


class Ground:
    """What the trials of all groups share: the cache, and what they are measured on.

    Args:
        config: of the run that the variants change; its cache is built where it is missing.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        vae = load_vae(config.tokenizer)
        self.scale = vae.config.scale_factor_temporal
        build_cache(config.data, config.clip_seed, vae)
        self.cache = LatentCache(config.data)
        self.maker = BatchMaker(config.model_copy(update={"seed": 0}), self.cache, self.scale)

    @torch.no_grad()
    def losses(self, trainer: Trainer, task: str) -> np.ndarray:
        """Squared error `[N, Q]` of the weights that a trainer's networks carry now."""
        batch = self.maker.validation_batch(task)
        generator = torch.Generator().manual_seed(0)
        levels = LEVELS if task == "image" else LEVELS // 2  # clips are nine times as long
        noise = torch.randn(levels, *batch.sample.shape[1:], generator=generator)
        networks = trainer.model.transformer, trainer.model.text_encoder, trainer.text_tokenizer
        with trainer.accelerator.autocast():
            return squared_errors(*networks, batch, noise, self.config)


def own_ground(
    config: TrainConfig, run: TokenizerRun, variant: Variant, folder: Path
) -> tuple[Ground, dict[str, float]]:
    """Trains a variant's tokenizer in `folder` and encodes clips with it: the ground of its trial, and how well it reconstructs."""
    settings = load_tokenizer_config(run.config, [*variant.tokenizer_set, f"output={folder / 'tokenizer'}"])
    scores = train_tokenizer(settings, TimeBox(run.minutes, run.decay_minutes))
    data = config.data.model_copy(update={"num_clips": run.num_clips, "cache": str(folder / "cache")})
    return Ground(config.model_copy(update={"tokenizer": str(folder / "tokenizer" / "vae"), "data": data})), scores


def still_prompt(prompt: Prompt) -> str:
    """What a prompt asks for, in the words of single images: nothing about the camera."""
    return caption(ClipSpec.from_json(prompt.spec), random.Random(prompt.id), prompt.language, style="none")  # type: ignore[arg-type]


@torch.no_grad()
def draw_stills(trainer: Trainer, prompts: Sequence[Prompt], sampling: Sampling) -> np.ndarray:
    """A picture for each prompt, uint8 [P, H, W, 3], from the weights that a trainer's networks carry now."""
    config, vae = trainer.config, trainer.vae
    channels, _, height, width = trainer.latent_size
    made = []
    for start in range(0, len(prompts), STILL_BATCH):
        some = prompts[start : start + STILL_BATCH]
        frames = build_frames(
            1,
            (channels, height, width),
            batch_size=len(some),
            fps=config.data.fps,
            scale_factor_temporal=vae.config.scale_factor_temporal,
        )
        texts = [still_prompt(prompt) for prompt in some] + [""] * len(some)
        with trainer.accelerator.autocast():
            ids, mask = trainer.text_tokenizer(texts, max_length=config.text.max_length)
            embeds = trainer.model.text_encoder(ids, mask)
            latents = denoise(
                trainer.model.transformer,
                FlowMatchEulerDiscreteScheduler(shift=config.flow.shift),
                frames,
                embeds[: len(some)],
                mask[: len(some)],
                generators=[torch.Generator().manual_seed(clip_seed(prompt, 0)) for prompt in some],
                num_inference_steps=sampling.num_inference_steps or 20,
                guidance_scale=3.0 if sampling.guidance_scale is None else sampling.guidance_scale,
                guidance_interval=sampling.guidance_interval or (0.0, 1.0),
                negative_prompt_embeds=embeds[len(some) :],
                negative_prompt_attention_mask=mask[len(some) :],
            )
        video = vae.decode(vae.denormalize(latents.float())).sample  # [P, 3, 1, H, W]
        made += [to_frames(clip)[0] for clip in video.float()]
    return np.stack(made)


def judge_still(picture: np.ndarray, prompt: Prompt, fps: float) -> dict[str, bool]:
    """What is right in a picture, uint8 [H, W, 3]. Light that is not mentioned is day."""
    vocabulary = rungs()[prompt.rung]
    spec = ClipSpec.from_json(prompt.spec)
    asked = {"actor": spec.actors[0].name, "scene": spec.scene, "light": spec.light}
    frames = np.repeat(picture[None], STILL_FRAMES, 0)
    right = {name: verdict.right for name, verdict in check(frames, fps, asked, vocabulary).items()}
    return {**right, "nearest": nearest_actor(frames, fps, vocabulary.actors, vocabulary) == asked["actor"]}


def judge_clips(group: Group, sampling: Sampling, model: str, folder: Path) -> dict[str, dict[str, bool]]:
    """Makes and judges the clips of a model: clip -> what is right."""
    settings = SuiteSettings(
        num_prompts=group.num_prompts,
        seeds=len(group.seeds) if group.kind == "sampling" else 1,
        model=model,
        kinds=group.kinds,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        guidance_interval=sampling.guidance_interval,
        quality="high",  # without guidance it would be the model's student, if it has one
    )
    run_suite(settings, folder)
    prompts = {prompt.id: prompt for prompt in load_prompts(settings.split, settings.rung, settings.num_prompts)}
    found = {}
    for name, result in load_results(folder).items():
        asked = prompts[result["prompt"]].asked
        right = dict(result["right"])
        if group.kind == "clips":
            video = read_video(folder / "clips" / f"{name}.mp4")
            vocabulary = rungs()[settings.rung]
            nearest = nearest_actor(video.frames, video.fps, vocabulary.actors, vocabulary)
            right["nearest"] = nearest == asked["actor"]
        found[name] = {"kind": result["kind"], **right}
    return found


def run_trial(ground: Ground, group: Group, variant: Variant, seed: int, folder: Path) -> dict[str, Any]:
    """Trains and judges one variant; returns what `trial.json` holds, but for the reconstruction of a tokenizer of its own."""
    sampling = variant.sampling or group.sampling
    raw = ground.config.model_dump(mode="json")
    raw |= {"seed": seed, "output": str(folder)}
    if group.kind == "images":
        raw["tasks"] = {"image": 1.0}
    config = check_settings(TrainConfig, apply_overrides(raw, [*group.set, *variant.set]))
    trainer = TrialTrainer(config, variant, ground.cache)
    trainer.run_for(TimeBox(group.minutes, group.decay_minutes))
    transformer = trainer.model.transformer
    trainer.model.eval()
    with trainer.ema.applied():
        losses = ground.losses(trainer, "image" if group.kind == "images" else "text")
        if group.kind == "images":
            prompts = [p for p in load_prompts("dev", config.data.rung, group.num_prompts) if p.kind in group.kinds]
            pictures = draw_stills(trainer, prompts, sampling)
            np.save(folder / "stills.npy", pictures)
            judged = zip(prompts, pictures, strict=True)
            right = {prompt.id: judge_still(picture, prompt, config.data.fps) for prompt, picture in judged}
    if group.kind == "clips":
        model = publish(folder / "weights", config.tokenizer, folder / "model")
        right = judge_clips(group, sampling, str(model), folder / "judged")
    return {
        "seed": seed,
        "steps": trainer.step,
        "examples": trainer.clips_seen,
        "parameters": sum(parameter.numel() for parameter in transformer.parameters()),
        "active": transformer_active(transformer.config),
        "losses": losses.tolist(),
        "right": right,
    }


def run_sweep(
    sweep: Sweep,
    runs: Path,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Runs all trials that are not done yet.

    Args:
        sweep: what to run.
        runs: folder of the trials.
        only: groups, or variants as `GROUP/NAME`; empty = all.
        overrides: settings of the run that all variants change, `section.key=value`.
        say: gets a line for each trial.
    """
    ground: Ground | None = None
    for group_name, group in sweep.groups.items():
        for name, variant in group.variants.items():
            if only and not {group_name, f"{group_name}/{name}"} & set(only):
                continue
            seeds = variant.seeds or group.seeds
            for seed in seeds if group.kind != "sampling" else seeds[:1]:
                folder = runs / group_name / f"{name}-{seed}"
                if (folder / "trial.json").is_file():
                    continue
                if group.kind != "sampling":  # what was cut off is trained anew, what was sampled is kept
                    shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True, exist_ok=True)
                if group.kind == "sampling":
                    right = judge_clips(group, variant.sampling or group.sampling, group.model, folder)
                    trial: dict[str, Any] = {"seed": seed, "right": right}
                else:
                    config = load_config(sweep.config, overrides)
                    if group.tokenizer is None:
                        ground = ground or Ground(config)
                        trial = run_trial(ground, group, variant, seed, folder)
                    else:
                        own, scores = own_ground(config, group.tokenizer, variant, folder)
                        trial = run_trial(own, group, variant, seed, folder) | {"reconstruction": scores}
                (folder / "trial.json").write_text(json.dumps(trial) + "\n", encoding="utf-8")
                shares = {key: f"{interval.mean:.3f}" for key, interval in right_shares([trial]).items()}
                say(f"{group_name}/{name}-{seed}: {trial.get('steps')} steps, {shares}")


def verdicts(trials: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Measure -> prompt -> 1 for each clip that is right in it, 0 for each that is not; `all` = everything but `nearest`."""
    found: dict[str, dict[str, list[float]]] = {}
    for trial in trials:
        for clip, right in trial["right"].items():
            judged = {key: value for key, value in right.items() if key != "kind"}
            judged["all"] = all(value for key, value in judged.items() if key != "nearest")
            for key, value in judged.items():
                found.setdefault(key, {}).setdefault("-".join(clip.split("-")[:3]), []).append(float(value))
    return {key: found[key] for key in MEASURES if key in found}


def right_shares(trials: Sequence[Mapping[str, Any]]) -> dict[str, Interval]:
    """Shares that are right: one clip a prompt has Wilson's interval, several have a bootstrap's over prompts."""
    return {
        key: clustered_interval(list(by_prompt.values()), proportion=True)
        for key, by_prompt in verdicts(trials).items()
    }


def share_differences(
    trials: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[float, float | None, float | None]]:
    """How much more is right than of the base, paired by prompt, with the 95 % interval over prompts; one alone has none."""
    mine, theirs = verdicts(trials), verdicts(base)
    found: dict[str, tuple[float, float | None, float | None]] = {}
    for key in mine:
        shared = [prompt for prompt in mine[key] if prompt in theirs.get(key, {})]
        by_prompt = [[float(np.mean(mine[key][prompt]) - np.mean(theirs[key][prompt]))] for prompt in shared]
        interval = clustered_interval(by_prompt)
        found[key] = (interval.mean, interval.low, interval.high)
    return found


def summarise(sweep: Sweep, runs: Path) -> dict[str, list[dict[str, Any]]]:
    """Group -> a row for each variant that has a trial, the base first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for group_name, group in sweep.groups.items():
        by_name: dict[str, list[dict[str, Any]]] = {}
        for name in group.variants:
            paths = sorted((runs / group_name).glob(f"{name}-*/trial.json"))
            trials = [
                json.loads(path.read_text("utf-8")) for path in paths if path.parent.name.rpartition("-")[0] == name
            ]
            if trials:
                by_name[name] = trials
        base = by_name.get(next(iter(group.variants)), [])
        for name, trials in by_name.items():
            row: dict[str, Any] = {
                "name": name,
                "kind": group.kind,
                "minutes": group.minutes if group.kind != "sampling" else 0,
                "seeds": [trial["seed"] for trial in trials],
                "right": {
                    key: {"share": i.mean, "low": i.low, "high": i.high, "clips": i.num_values, "prompts": i.num_groups}
                    for key, i in right_shares(trials).items()
                },
                "each": [{key: i.mean for key, i in right_shares([trial]).items()} for trial in trials],
                "more_than_base": share_differences(trials, base) if base and trials is not base else {},
            }
            if group.kind != "sampling":
                row |= {key: [trial[key] for trial in trials] for key in ("steps", "examples")}
                row |= {key: trials[0][key] for key in ("parameters", "active")}
            if group.tokenizer is not None:
                row["reconstruction"] = [trial["reconstruction"] for trial in trials]
            elif group.kind != "sampling":
                losses = {trial["seed"]: np.array(trial["losses"]) for trial in trials}
                theirs = {trial["seed"]: np.array(trial["losses"]) for trial in base}
                shared = base and trials is not base and set(losses) & set(theirs)
                row["loss"] = [float(loss.mean()) for loss in losses.values()]
                row["loss_of_levels"] = np.mean([loss.mean(0) for loss in losses.values()], 0).tolist()
                row["loss_more_than_base"] = paired_difference(losses, theirs) if shared else None
            found.setdefault(group_name, []).append(row)
    return found


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of a group; shares in per cent with 95 % intervals."""
    trained, with_tokenizer = "loss" in rows[0], "reconstruction" in rows[0]
    measured = [key for key in MEASURES if key in rows[0]["right"]]
    head = ["", *(("steps", "examples") if "steps" in rows[0] else ())]
    head += [
        *(("loss", "loss against the first") if trained else ()),
        *(("PSNR, dB",) if with_tokenizer else ()),
        *measured,
    ]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for row in rows:
        cells = [f"`{row['name']}`"]
        if "steps" in row:
            cells += [", ".join(map(str, row["steps"])), ", ".join(map(str, row["examples"]))]
        if with_tokenizer:
            cells.append(", ".join(f"{scores['psnr_stage']:.1f}" for scores in row["reconstruction"]))
        if trained:
            cells.append(", ".join(f"{loss:.4f}" for loss in row["loss"]))
            difference = row["loss_more_than_base"]
            cells.append("{:+.4f} ({:+.4f} .. {:+.4f})".format(*difference) if difference else "")
        for key in measured:
            share = row["right"][key]
            cells.append(f"{100 * share['share']:.0f} ({100 * share['low']:.0f} .. {100 * share['high']:.0f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def all_tables(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The tables of all groups."""
    return "\n\n".join(f"### {name}\n\n{markdown(rows)}" for name, rows in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", type=Path, help="YAML file of the groups and variants")
    parser.add_argument("--runs", type=Path, default=Path("runs/sweeps"), help="folder of the trials")
    parser.add_argument(
        "--only", action="append", default=[], help="a group, or a variant as GROUP/NAME; repeat for more"
    )
    parser.add_argument("--set", action="append", default=[], help="a setting of all runs, section.key=value")
    parser.add_argument("--tabulate", action="store_true", help="run nothing, put the tables together")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--markdown", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    keep_freed_memory()
    sweep = load_sweep(arguments.settings)
    if not arguments.tabulate:
        run_sweep(sweep, arguments.runs, arguments.only, arguments.set, lambda text: print(text, flush=True))
    found = summarise(sweep, arguments.runs)
    tables = all_tables(found)
    print(tables)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.markdown is not None:
        arguments.markdown.write_text(tables + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
