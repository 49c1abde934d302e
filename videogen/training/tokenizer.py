"""Training of the causal video tokenizer: clips drawn by (seed, step), reconstruction, no labels.

A step draws its batch from the last clips rendered, every time flipped, reversed, recoloured and cropped anew (see
`videogen.training.tokenizer_clips`), so that the renderer is not the bottleneck; a resumed run renders the clips it needs again
and therefore sees the same batches.

Shapes: B batch; F, H, W pixel frames, height, width; C latent channels; f, h, w latent frames, height, width.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import torch
import torch.distributed as dist
import yaml
from accelerate import PartialState
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor

from tokenizer3d.autoencoder import CausalVideoAutoencoder
from tokenizer3d.losses import actor_weight, latent_penalty, psnr, reconstruction_loss, smoothness_penalty
from tokenizer3d.shapes import check_num_frames
from videogen.data.allocator import keep_freed_memory
from videogen.data.device import indexed, prepare_compiler, settle_precision, training_precision
from videogen.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_model_tensors,
    load_optimizer_tensors,
    model_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from videogen.training.config import Section, apply_overrides, check_settings, read_yaml
from videogen.training.ema import ExponentialMovingAverage
from videogen.training.export import SHARD_SIZE
from videogen.training.generator_errors import GeneratorConfig, GeneratorErrors
from videogen.training.metrics import TOKENIZER_PLOTS, MetricsFile, plot_metrics
from videogen.training.muon import Muon
from videogen.training.networks import arguments_of, check_same_network
from videogen.training.schedule import TimeBox, lr_scale
from videogen.training.signals import stop_requests
from videogen.training.tokenizer_clips import ClipPool, PoolWork, draw_clips_of, make_source, to_floats

VALIDATION_SEED = 987_654_321


# Configuration


class SourceConfig(Section):
    """One kind of clips.

    Attributes:
        kind: "stage" renders Stage, "textures" moves random patterns, "images" moves pictures of a folder, "videos" plays
            videos of a folder.
        share: relative number of groups.
        rung: of Stage.
        unnamed: folder of unnamed actors; empty for the default place; used only if it exists.
        unnamed_share: share of Stage clips played by unnamed actors.
        path: folder of images or videos (searched recursively).
        fps: frames per second that videos are played at.
    """

    kind: Literal["stage", "textures", "images", "videos"]
    share: float = Field(1.0, gt=0)
    rung: str = "rung4"
    unnamed: str = ""
    unnamed_share: float = Field(0.6, ge=0, le=1)
    path: str = ""
    fps: float = Field(12.0, gt=0)

    @model_validator(mode="after")
    def _check(self):
        if self.kind in ("images", "videos") and not Path(self.path).is_dir():
            raise ValueError(f"`path` must be a folder of {self.kind} for the kind '{self.kind}', got {self.path!r}.")
        return self


class BatchConfig(Section):
    """One shape of batch; a step picks one by `share`. Frames beyond the clip's come from playing it back again."""

    num_frames: int = 17
    size: int = Field(96, ge=32, multiple_of=16)
    batch_size: int = Field(8, ge=1)
    share: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _check(self):
        check_num_frames(self.num_frames)
        return self


class LossConfig(Section):
    """Weights of the loss, see `tokenizer3d.losses`. `noise`: largest latent noise in deviations of its channel."""

    mse_weight: float = 1.0
    band_weight: float = 0.5
    actor_weight: float = 1.0
    penalty_weight: float = 3e-3
    smoothness_weight: float = 0.0
    noise: float = Field(0.2, ge=0)


class TokenizerTrainConfig(Section):
    """A whole training run of the tokenizer.

    Attributes:
        task: says which loop this file is for.
        model: arguments of `CausalVideoAutoencoder`.
        optimizer: "muon" orthogonalises the updates of all convolutions but the first and last; "adamw".
        linear_scale: factor of the learning rate for the linear codec, whose values are right from the start.
        linear_clips: clips whose blocks' principal components a fresh model starts from; 0 keeps it random.
        decay_steps: the learning rate falls to 0 over the last so many of `steps`.
        group_size, reuse, pool_groups: clips per group; steps until the next new group; groups a batch is drawn from.
        workers: processes that draw clips ahead of the device; 1 = none but the run's own.
        mixed_precision: "bf16" multiplies in bfloat16, "no" in float32, "auto" in whichever is faster here.
        compile: torch.compile the encoder and the decoder, once for every shape of batch.
        statistics_clips: clips over which latent means and deviations are taken at the end.
        visibility_power: a channel's deviation after `normalize` is proportional to this power of what it changes in the
            picture. 0: all channels alike, noise hides all detail at once; 1: as in pixels, noise hides fine detail first.
        freeze_encoder: improve the decoder alone (with `--init-from`): latents, their statistics and every generator trained
            on them stay valid.
        generator: train the decoder on what this model makes of the latents, too (with `freeze_encoder`).
    """

    task: Literal["tokenizer"] = "tokenizer"
    seed: int = 0
    output: str = "runs/tokenizer_tiny"
    model: dict[str, Any] = Field(default_factory=dict)
    sources: tuple[SourceConfig, ...] = (SourceConfig(kind="stage"),)
    batches: tuple[BatchConfig, ...] = (BatchConfig(),)
    height: int = Field(96, ge=32)
    width: int = Field(96, ge=32)
    num_frames: int = 17
    group_size: int = Field(8, ge=1)
    reuse: int = Field(2, ge=1)
    pool_groups: int = Field(64, ge=1)
    workers: int = Field(1, ge=1)
    loss: LossConfig = LossConfig()
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = Field(2e-3, gt=0)
    linear_scale: float = Field(0.01, ge=0)
    linear_clips: int = Field(320, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    gradient_clip: float = Field(1.0, gt=0)
    steps: int = Field(20_000, ge=1)
    warmup_steps: int = Field(50, ge=0)
    decay_steps: int = Field(4_000, ge=0)
    ema_decay: float = Field(0.9995, ge=0, lt=1)
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    compile: bool = False
    freeze_encoder: bool = False
    generator: GeneratorConfig | None = None
    device: str = "auto"
    log_every: int = Field(20, ge=1)
    validate_every: int = Field(200, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    validation_clips: int = Field(16, ge=1)
    statistics_clips: int = Field(200, ge=2)
    visibility_power: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self):
        check_num_frames(self.num_frames)
        largest = max(batch.size for batch in self.batches)
        if largest > min(self.height, self.width):
            raise ValueError(f"`batches` must not be larger than the clips, got the size {largest}; raise `height`.")
        if self.generator is not None and not self.freeze_encoder:
            raise ValueError("`generator` needs `freeze_encoder`: it was trained on the latents as they are.")
        if self.decay_steps > self.steps:
            raise ValueError(f"`decay_steps` must be at most `steps`, got {self.decay_steps} and {self.steps}.")
        return self


def load_tokenizer_config(path: str | Path, overrides: Sequence[str] = ()) -> TokenizerTrainConfig:
    """Read and check a run's YAML file; `overrides` are `section.key=value`.

    Raises:
        ValueError: with the setting's name and what is wrong.
    """
    return check_settings(TokenizerTrainConfig, apply_overrides(read_yaml(path), overrides))


# Optimisation


class ConvolutionMuon(Muon):
    """Muon on weights [out, in, ...], each seen as a matrix [out, in * ...] over the same memory."""

    def __init__(self, params: Sequence[Tensor], **options):
        self.weights = list(params)
        super().__init__([weight.detach().view(len(weight), -1) for weight in self.weights], **options)

    @torch.no_grad()
    def step(self, closure=None):
        for weight, matrix in zip(self.weights, self.param_groups[0]["params"], strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.reshape(matrix.shape)
        return super().step(closure)


def make_optimizers(model: CausalVideoAutoencoder, config: TokenizerTrainConfig) -> list[torch.optim.Optimizer]:
    """One or two optimisers; a parameter group's `scale` multiplies the run's learning rate."""
    ends = ("encoder.conv_in", "decoder.conv_out")
    hidden: list[Tensor] = []
    linear: list[Tensor] = []
    rest: list[Tensor] = []
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        full = name.endswith("weight") and param.ndim in (2, 5) and not name.startswith(ends)
        if name.startswith(("encoder.linear.", "decoder.linear.")):
            linear.append(param)
        elif full and "time_weight" not in name and config.optimizer == "muon":
            hidden.append(param)
        else:
            rest.append(param)
    groups = [{"params": rest, "scale": 1.0}, {"params": linear, "scale": config.linear_scale}]
    adamw = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True)
    if not hidden:
        return [adamw]
    muon = ConvolutionMuon(hidden, lr=1.0, weight_decay=config.weight_decay)
    muon.param_groups[0]["scale"] = 1.0
    return [adamw, muon]


def learning_rate(config: TokenizerTrainConfig, step: int) -> float:
    """Of a step (from 0): warm-up, constant, linear decay over the last `decay_steps`."""
    decay_start = config.steps - config.decay_steps if config.decay_steps else None
    return config.learning_rate * lr_scale(step, config.warmup_steps, decay_start, config.decay_steps)


# The loop


@training_precision()
def train_tokenizer(
    config: TokenizerTrainConfig,
    box: TimeBox | None = None,
    resume: bool = False,
    init_from: str | Path | None = None,
) -> dict[str, float]:
    """Train and save a tokenizer.

    The run folder gets `config.yaml`, `metrics.jsonl`, `metrics.png`, checkpoints, `samples/` (originals over reconstructions)
    and, at the end, `vae/` with averaged weights and latent statistics.

    Args:
        config: of the run.
        box: stop when its time is up, and finish as if done (so do Ctrl-C and SIGTERM); its decay multiplies the learning rate
            of the step. Its clock starts now if it has not.
        resume: go on from the folder's newest checkpoint.
        init_from: folder of a saved tokenizer to start from, with a fresh optimiser.

    Returns:
        The last validation's numbers.

    Raises:
        ValueError: nothing to resume from, a run in the way, both kinds of start asked for, or a frozen encoder without weights.
        FloatingPointError: the loss is not finite.
    """
    if resume and init_from:
        raise ValueError("`resume` and `init_from` exclude each other; `init_from` starts a fresh optimiser.")
    if config.freeze_encoder and not (init_from or resume):
        raise ValueError("`freeze_encoder` needs trained weights; give `init_from`.")
    box = (TimeBox() if box is None else box).start()
    keep_freed_memory()
    folder = Path(config.output)
    saved = list_checkpoints(folder)
    if resume and not saved:
        raise ValueError(f"`resume` needs a checkpoint in {config.output!r}, there is none; start without it.")
    if saved and not resume:
        raise ValueError(
            f"`output` must be a new folder, {config.output!r} holds a run; resume it or name another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    )
    processes = PartialState(cpu=device.type == "cpu")
    if device.type == "cuda":
        device = indexed(processes.device)
    torch.manual_seed(config.seed)
    if resume:  # the network that the run began with, whatever the file says by now
        config = config.model_copy(update={"model": read_yaml(folder / "config.yaml")["model"]})
    model = CausalVideoAutoencoder(**config.model) if init_from is None else load_tokenizer(init_from)
    check_same_network("model", config.model, model)
    config = config.model_copy(update={"model": arguments_of(model)})
    model.to(device).train()
    model.encoder.requires_grad_(not config.freeze_encoder)
    optimizers = make_optimizers(model, config)
    ema = ExponentialMovingAverage(model, config.ema_decay)
    step, precision = 0, None
    if resume:
        files, state = load_checkpoint(saved[-1])
        load_model_tensors(model, files["model"])
        ema.load_state_dict(files["ema"])
        for index, optimizer in enumerate(optimizers):
            load_optimizer_tensors(optimizer, files[f"optimizer_{index}"])
        step, precision = state["step"], state.get("mixed_precision")
    precision = settle_precision(config.mixed_precision, device.type, precision)
    if processes.is_main_process:
        (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        metrics = MetricsFile(folder / "metrics.jsonl", step)

    if config.linear_clips and not resume and init_from is None:
        kept = model.fit_linear_codec(linear_clips(config, device))
        ema.update(0)
        if processes.is_main_process:
            print(f"the linear codec keeps {kept:.1%} of the variance", flush=True)

    own = config.model_copy(update={"seed": config.seed + 1_000_003 * processes.process_index})
    pool = ClipPool(own, device)
    validation = validation_clips(config, device)
    if config.compile:
        prepare_compiler()
        model.encoder.compile(dynamic=False)
        model.decoder.compile(dynamic=False)
    noise = torch.Generator(device)
    errors = None if config.generator is None else GeneratorErrors(config.generator, model, device)
    whole = (config.num_frames, config.height, config.width)
    scores: dict[str, float] = {}
    clips, mark = 0, time.monotonic()
    sums: dict[str, Tensor] = {}
    first_step, reported = step, step

    def check_finite() -> None:
        if sums and not math.isfinite(mean := float(sums["loss"]) / (step - reported)):
            raise FloatingPointError(f"the loss is {mean} at step {step}; lower `learning_rate` and resume.")

    def report(rate: float, with_scores: bool) -> None:
        """Writes down the steps since the last report; the first place where the host waits for the device."""
        nonlocal clips, mark, reported, scores
        check_finite()
        row = {name: round(float(value) / (step - reported), 6) for name, value in sums.items()}
        sums.clear()
        row.update(step=step, learning_rate=rate, minutes=round(box.minutes, 2))
        row["clips_per_second"] = round(clips / (time.monotonic() - mark), 2)
        if with_scores:
            with ema.applied():
                scores = validate(model, validation, device, folder / "samples" / f"{step:08d}.png")
            row.update(scores)
        metrics.write(row)
        left = min((config.steps - step) * box.minutes / (step - first_step), box.minutes_left)
        print(
            f"step {step}/{config.steps}  loss {row['loss']:.4f}  l1 {row['l1']:.4f}  lr {rate:.2e}  "
            f"{row['clips_per_second']:.1f} clips/s  {left:.1f} min left"
            + "".join(f"  {name} {value:.2f}" for name, value in row.items() if name.startswith("psnr")),
            flush=True,
        )
        clips, mark, reported = 0, time.monotonic(), step

    def checkpoint() -> None:
        check_finite()
        files = {"model": model_tensors(model), "ema": ema.state_dict()}
        files.update({f"optimizer_{i}": optimizer_tensors(optimizer) for i, optimizer in enumerate(optimizers)})
        state = {"minutes": round(box.minutes, 2), "mixed_precision": precision}
        save_checkpoint(folder, step, files, state)

    try:
        with stop_requests() as stopped:
            scale, stop = box.look(stopped(), device)
            while step < config.steps and not stop:
                rate = learning_rate(config, step) * scale
                video, boxes = pool.batch(step)
                weight = None
                if config.loss.actor_weight > 0 and boxes is not None:
                    weight = actor_weight(boxes, video.shape, config.loss.actor_weight)
                noise.manual_seed((config.seed << 32) + step)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    corrupt = errors if video.shape[2:] == whole else None
                    sample, latents = model.forward_train(video, config.loss.noise, noise, corrupt)
                parts = reconstruction_loss(sample, video, weight, config.loss.mse_weight, config.loss.band_weight)
                loss = parts.pop("total")
                if config.loss.penalty_weight > 0 and not config.freeze_encoder:
                    parts["penalty"] = latent_penalty(latents)
                    loss = loss + config.loss.penalty_weight * parts["penalty"]
                if config.loss.smoothness_weight > 0 and not config.freeze_encoder:
                    parts["smoothness"] = smoothness_penalty(latents)
                    loss = loss + config.loss.smoothness_weight * parts["smoothness"]
                loss.backward()
                average_gradients(processes, model)
                parts["gradient_norm"] = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate * group["scale"]
                    optimizer.step()
                model.zero_grad(set_to_none=True)
                step += 1
                ema.update(step)
                clips += len(video) * processes.num_processes
                parts["loss"] = loss
                for name, value in parts.items():
                    sums[name] = sums.get(name, 0.0) + value.detach()
                scale, stop = box.look(stopped(), device)
                last = stop or step == config.steps
                if processes.is_main_process:
                    if step % config.log_every == 0 or last:
                        report(rate, last or step % config.validate_every == 0)
                    if step % config.checkpoint_every == 0:
                        checkpoint()
    finally:
        pool.close()

    if processes.is_main_process:
        checkpoint()
        with ema.applied():
            if not config.freeze_encoder:
                measure_statistics(model, config, device)
            model.save_pretrained(folder / "vae", max_shard_size=SHARD_SIZE)
        try:
            plot_metrics(metrics.read(), folder / "metrics.png", TOKENIZER_PLOTS)
        except ImportError as error:
            print(f"no plot: {error}", file=sys.stderr)
    processes.wait_for_everyone()
    return scores


def average_gradients(processes: PartialState, model: torch.nn.Module) -> None:
    """Data parallelism in one call: the mean of all processes' gradients, everywhere."""
    if processes.num_processes == 1:
        return
    for param in model.parameters():  # every process must send the same number of values
        if param.requires_grad and param.grad is None:
            param.grad = torch.zeros_like(param)
    grads = [param.grad for param in model.parameters() if param.grad is not None]
    flat = torch._utils._flatten_dense_tensors(grads)
    dist.all_reduce(flat)
    flat /= processes.num_processes
    for grad, mean in zip(grads, torch._utils._unflatten_dense_tensors(flat, grads), strict=True):
        grad.copy_(mean)


def load_tokenizer(path: str | Path) -> CausalVideoAutoencoder:
    """A saved tokenizer in float32, from its folder or a run folder that holds `vae/`."""
    path = Path(path)
    path = path / "vae" if (path / "vae").is_dir() else path
    return CausalVideoAutoencoder.from_pretrained(path, torch_dtype=torch.float32)


def linear_clips(config: TokenizerTrainConfig, device: torch.device) -> Iterator[Tensor]:
    """Clips as training draws them, whole."""
    work = PoolWork(config)
    for group in range(-(-config.linear_clips // config.group_size)):
        source = work.sources[work.source_of(group)]
        yield to_floats(source.clips(work.group(group), device)[0])


def validation_clips(config: TokenizerTrainConfig, device: torch.device) -> dict[str, Tensor]:
    """Fixed clips per kind of source, outside of what training draws, on the host."""
    size = (config.num_frames, config.height, config.width)
    clips: dict[str, Tensor] = {}
    for source in config.sources:
        if source.kind not in clips:
            named = make_source(source.model_copy(update={"unnamed_share": 0.0}), *size)
            clips[source.kind] = draw_clips_of(named, VALIDATION_SEED, 0, config.validation_clips, device).cpu()
    return clips


@torch.no_grad()
def validate(
    model: CausalVideoAutoencoder, validation: dict[str, Tensor], device: torch.device, sheet: Path
) -> dict[str, float]:
    """Mean PSNR per kind of clip, and a sheet of originals over reconstructions."""
    scores, rows = {}, []
    for kind, video in validation.items():
        samples = torch.cat([model(part.to(device)).cpu() for part in video.split(8)])
        scores[f"psnr_{kind}"] = round(float(psnr(samples, video).mean()), 3)
        picked = [0, video.shape[2] // 2, video.shape[2] - 1]
        for clip in range(0, min(4, len(video)), 2):
            for source in (video, samples):
                rows.append(rearrange(source[clip : clip + 2, :, picked], "b c f h w -> h (b f w) c"))
    picture = torch.cat(rows).add(1).mul(127.5).clamp(0, 255).byte().numpy()
    sheet.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(sheet), cv2.resize(picture[..., ::-1], None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST))
    return scores


@torch.no_grad()
def measure_statistics(model: CausalVideoAutoencoder, config: TokenizerTrainConfig, device: torch.device) -> None:
    """Set the model's latent statistics from fresh clips (of the first source, named actors)."""
    named = config.sources[0].model_copy(update={"unnamed_share": 0.0})
    source = make_source(named, config.num_frames, config.height, config.width)
    first, rest = [], []
    visibility = torch.zeros(model.config.latent_channels, device=device)
    for group in range(-(-config.statistics_clips // 8)):
        latents = model.encode_chunk(draw_clips_of(source, VALIDATION_SEED, 1 + group, 8, device))
        first.append(rearrange(latents[:, :, 0], "b c h w -> (b h w) c"))
        rest.append(rearrange(latents[:, :, 1:], "b c f h w -> (b f h w) c"))
        if group == 0 and config.visibility_power > 0:
            visibility = model.visibility(latents)
    model.set_statistics(torch.cat(first), torch.cat(rest), visibility**config.visibility_power)
