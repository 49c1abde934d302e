"""Training of the causal video tokenizer: clips drawn by (seed, step), reconstruction, no labels.

Clips come in groups of a few, each group drawn from (seed, group number) alone. A step draws its batch from the last groups,
every time flipped, reversed, recoloured and cropped anew, so that the renderer is not the bottleneck; a resumed run renders
the groups it needs again and therefore sees the same batches.

Run: `python -m videogen.training.tokenizer configs/train/tokenizer_tiny_cpu.yaml --max-minutes 25 --decay-minutes 8`.

Shapes: B batch; F, H, W pixel frames, height, width; C latent channels; f, h, w latent frames, height, width.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import yaml
from accelerate import PartialState
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor

from tokenizer3d.autoencoder import CausalVideoAutoencoder
from tokenizer3d.losses import actor_weight, latent_penalty, psnr, reconstruction_loss, smoothness_penalty
from tokenizer3d.shapes import check_num_frames
from videogen.data.allocator import keep_freed_memory
from videogen.data.folder import read_clip
from videogen.data.stage import Cast, stage_clips
from videogen.data.stage.actors import load_unnamed_sprites
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
from videogen.training.metrics import MetricsFile
from videogen.training.muon import Muon
from videogen.training.signals import stop_requests

ClipSource = Callable[[int, int, int], tuple[Tensor, Tensor]]
"""(seed, group, count) -> video [count, 3, F, H, W] in -1..1 and boxes [count, A, F, 4] in pixels, NaN where none."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FOOTAGE_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif")
MAX_STRETCHES = 8
"""Of a clip's length: what lies further from the start of a video is not used."""

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
        compile: torch.compile the encoder and the decoder, once for every shape of batch.
        statistics_clips: clips over which latent means and deviations are taken at the end.
        visibility_power: a channel's deviation after `normalize` is proportional to this power of what it changes in the
            picture. 0: all channels alike, noise hides all detail at once; 1: as in pixels, noise hides fine detail first.
        freeze_encoder: improve the decoder alone (with `--init-from`): latents, their statistics and every generator trained
            on them stay valid.
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
    precision: Literal["bf16", "fp32"] = "bf16"
    compile: bool = False
    freeze_encoder: bool = False
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
        if self.decay_steps > self.steps:
            raise ValueError(f"`decay_steps` must be at most `steps`, got {self.decay_steps} and {self.steps}.")
        return self


def load_tokenizer_config(path: str | Path, overrides: Sequence[str] = ()) -> TokenizerTrainConfig:
    """Read and check a run's YAML file; `overrides` are `section.key=value`.

    Raises:
        ValueError: with the setting's name and what is wrong.
    """
    return check_settings(TokenizerTrainConfig, apply_overrides(read_yaml(path), overrides))


# Clips


def stage_source(config: SourceConfig, num_frames: int, height: int, width: int) -> ClipSource:
    """Clips of Stage, most of them with unnamed actors if those have been fetched."""
    cast = None
    if config.unnamed_share > 0:
        try:
            cast = Cast(load_unnamed_sprites(config.unnamed or None))
        except (OSError, ValueError) as error:
            print(f"unnamed actors are not used: {error}", file=sys.stderr)

    def draw(seed: int, group: int, count: int) -> tuple[Tensor, Tensor]:
        return stage_clips(
            seed, group, count, num_frames, height, width,
            rung=config.rung, cast=cast, unnamed_share=config.unnamed_share,
        )  # fmt: skip

    return draw


def move_image(picture: Tensor, generator: random.Random, num_frames: int, height: int, width: int) -> Tensor:
    """A clip that pans, zooms and turns over a picture at constant speed.

    Args:
        picture: [3, h, w] in -1..1, any size from 2 x 2.
        generator: draws the path.
        num_frames: F.
        height: H.
        width: W.

    Returns:
        [3, F, H, W]; the picture is mirrored beyond its edges.
    """
    picture_height, picture_width = picture.shape[-2:]
    # The window's size in picture pixels: from one picture pixel per pixel down to the whole picture.
    largest = min(picture_height / height, picture_width / width)
    scale = float(np.exp(generator.uniform(0.0, np.log(max(largest, 1.0 + 1e-6))))) if largest > 1 else largest
    if scale > 1.5:  # filter before reducing
        size = (max(2, round(picture_height / scale)), max(2, round(picture_width / scale)))
        picture = F.interpolate(picture[None], size=size, mode="area")[0]
        picture_height, picture_width = picture.shape[-2:]
        scale = 1.0
    time_axis = torch.linspace(-0.5, 0.5, num_frames) if num_frames > 1 else torch.zeros(1)
    zoom = scale * torch.exp(time_axis * generator.gauss(0, 0.25))
    angle = time_axis * generator.gauss(0, 0.1)
    half_x, half_y = width / picture_width, height / picture_height
    center_x = generator.uniform(-1, 1) * max(0.0, 1 - half_x * scale) + time_axis * generator.gauss(0, 0.5) * half_x
    center_y = generator.uniform(-1, 1) * max(0.0, 1 - half_y * scale) + time_axis * generator.gauss(0, 0.3) * half_y
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height * 2 - 1, (torch.arange(width) + 0.5) / width * 2 - 1, indexing="ij"
    )
    x, y = x * width / height, y  # square pixels while turning
    cos, sin = torch.cos(angle).view(-1, 1, 1), torch.sin(angle).view(-1, 1, 1)
    turned_x, turned_y = (x * cos - y * sin) * height / width, x * sin + y * cos
    grid_x = center_x.view(-1, 1, 1) + turned_x * half_x * zoom.view(-1, 1, 1)
    grid_y = center_y.view(-1, 1, 1) + turned_y * half_y * zoom.view(-1, 1, 1)
    grid = torch.stack([grid_x, grid_y], dim=-1)  # [F, H, W, 2]
    frames = F.grid_sample(
        picture.expand(num_frames, -1, -1, -1), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return rearrange(frames, "f c h w -> c f h w")


def read_image(path: str | Path, largest_side: int = 768) -> Tensor:
    """A picture file as [3, h, w] in -1..1, reduced to `largest_side` pixels.

    Raises:
        ValueError: it cannot be read.
    """
    data = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if data is None:
        raise ValueError(f"`path` must be an image, {str(path)!r} cannot be read.")
    factor = largest_side / max(data.shape[:2])
    if factor < 1:
        data = cv2.resize(data, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(data[..., ::-1].copy()).permute(2, 0, 1).float().div_(127.5).sub_(1)


def no_boxes(count: int, num_frames: int) -> Tensor:
    return torch.full((count, 1, num_frames, 4), float("nan"))


def image_source(path: str, num_frames: int, height: int, width: int) -> ClipSource:
    """Pictures of a folder, moved.

    Raises:
        ValueError: the folder holds no picture.
    """
    files = sorted(file for file in Path(path).rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"`path` must hold images ({', '.join(IMAGE_SUFFIXES)}), got {path!r} with none.")
    pictures: dict[Path, Tensor] = {}

    def draw(seed: int, group: int, count: int) -> tuple[Tensor, Tensor]:
        generator = random.Random(f"images:{seed}:{group}")
        clips = []
        for _ in range(count):
            file = generator.choice(files)
            if file not in pictures:
                pictures[file] = read_image(file)
            clips.append(move_image(pictures[file], generator, num_frames, height, width))
        return torch.stack(clips), no_boxes(count, num_frames)

    return draw


def video_source(path: str, num_frames: int, height: int, width: int, fps: float) -> ClipSource:
    """Stretches of the videos of a folder; one that is too short is played back and forth.

    Raises:
        ValueError: the folder holds no video.
    """
    files = sorted(file for file in Path(path).rglob("*") if file.suffix.lower() in FOOTAGE_SUFFIXES)
    if not files:
        raise ValueError(f"`path` must hold videos ({', '.join(FOOTAGE_SUFFIXES)}), got {path!r} with none.")

    def draw(seed: int, group: int, count: int) -> tuple[Tensor, Tensor]:
        generator = random.Random(f"videos:{seed}:{group}")
        clips = []
        for _ in range(count):
            video = read_clip(generator.choice(files), MAX_STRETCHES * num_frames, height, width, fps)  # [3, F, H, W]
            last = video.shape[1] - 1
            start = generator.randint(0, max(0, last + 1 - num_frames))
            turns = [abs((i + last) % (2 * last) - last) if last else 0 for i in range(start, start + num_frames)]
            clips.append(video[:, turns])
        return torch.stack(clips), no_boxes(count, num_frames)

    return draw


def texture_source(num_frames: int, height: int, width: int) -> ClipSource:
    """Coloured noise with a natural spectrum and hard-edged shapes in it, moved: stands in for photographs."""

    def draw(seed: int, group: int, count: int) -> tuple[Tensor, Tensor]:
        generator = random.Random(f"textures:{seed}:{group}")
        noise = torch.Generator().manual_seed(generator.getrandbits(62))
        size = 2 * max(height, width)
        clips = []
        for _ in range(count):
            picture = torch.zeros(3, size, size)
            slope = generator.uniform(0.6, 1.2)
            for octave in range(1, 8):
                cells = min(size, 2**octave)
                layer = torch.randn(1, 3, cells, cells, generator=noise) * cells**-slope
                layer = layer * 0.4 + layer.mean(1, keepdim=True)
                picture += F.interpolate(layer, size=(size, size), mode="bicubic", align_corners=False)[0]
            picture = picture / picture.std() * generator.uniform(0.15, 0.5) + generator.uniform(-0.4, 0.4)
            canvas = picture.permute(1, 2, 0).contiguous().numpy()
            for _ in range(generator.randrange(0, 24)):
                points = np.array(
                    [[generator.gauss(0, 1), generator.gauss(0, 1)] for _ in range(generator.randrange(3, 7))]
                )
                points = points * generator.uniform(4, size / 5) + [generator.uniform(0, size) for _ in range(2)]
                color = [generator.uniform(-1, 1) for _ in range(3)]
                cv2.fillPoly(canvas, [points.astype(np.int32)], color, lineType=cv2.LINE_AA)
            moved = torch.from_numpy(canvas).permute(2, 0, 1).clamp(-1, 1)
            clips.append(move_image(moved, generator, num_frames, height, width))
        return torch.stack(clips), no_boxes(count, num_frames)

    return draw


def make_source(config: SourceConfig, num_frames: int, height: int, width: int) -> ClipSource:
    if config.kind == "stage":
        return stage_source(config, num_frames, height, width)
    if config.kind == "images":
        return image_source(config.path, num_frames, height, width)
    if config.kind == "videos":
        return video_source(config.path, num_frames, height, width, config.fps)
    return texture_source(num_frames, height, width)


class ClipPool:
    """Batches drawn from the last groups of clips; what a step gets depends on (seed, step) alone."""

    def __init__(self, config: TokenizerTrainConfig):
        self.config = config
        size = (config.num_frames, config.height, config.width)
        self.sources = [make_source(source, *size) for source in config.sources]
        self.groups: dict[int, tuple[Tensor, Tensor]] = {}  # uint8 video, boxes

    def group(self, number: int) -> tuple[Tensor, Tensor]:
        if number not in self.groups:
            generator = random.Random(f"group:{self.config.seed}:{number}")
            shares = [source.share for source in self.config.sources]
            source = generator.choices(self.sources, shares)[0]
            video, boxes = source(self.config.seed, number, self.config.group_size)
            self.groups[number] = (video.add(1).mul_(127.5).round_().to(torch.uint8), boxes)
        return self.groups[number]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Video [B, 3, F, H, W] in -1..1 and pixel weights' boxes [B, A, F, 4] of a step (from 0)."""
        config = self.config
        generator = random.Random(f"batch:{config.seed}:{step}")
        shape = generator.choices(config.batches, [batch.share for batch in config.batches])[0]
        newest = step // config.reuse
        oldest = max(0, newest - config.pool_groups + 1)
        for number in [number for number in self.groups if number < oldest]:
            del self.groups[number]
        clips, all_boxes = [], []
        for index in range(shape.batch_size):
            # Half of the batch from the newest group, so that every clip is seen at once.
            number = newest if index < shape.batch_size // 2 else generator.randint(oldest, newest)
            video, boxes = self.group(number)
            which = generator.randrange(len(video))
            clip, box = self._vary(video[which], boxes[which], shape, generator)
            clips.append(clip)
            all_boxes.append(box)
        most = max(len(box) for box in all_boxes)
        padded = [F.pad(box, (0, 0, 0, 0, 0, most - len(box)), value=float("nan")) for box in all_boxes]
        return torch.stack(clips), torch.stack(padded)

    @staticmethod
    def _vary(video: Tensor, boxes: Tensor, shape: BatchConfig, generator: random.Random) -> tuple[Tensor, Tensor]:
        """One clip [3, F, H, W] uint8 with boxes [A, F, 4], cut to shape, mirrored, reversed and recoloured."""
        frames = video.shape[1]
        order = list(range(frames))
        while len(order) < shape.num_frames:  # back and forth
            order += list(range(frames - 2, -1, -1)) + list(range(1, frames))
        start = generator.randint(0, len(order) - shape.num_frames)
        order = order[start : start + shape.num_frames]
        if generator.random() < 0.5:
            order.reverse()
        top = generator.randint(0, video.shape[2] - shape.size)
        left = generator.randint(0, video.shape[3] - shape.size)
        colors = [0, 1, 2]
        if generator.random() < 0.3:
            generator.shuffle(colors)
        clip = video[colors][:, order, top : top + shape.size, left : left + shape.size]
        box = boxes[:, order] - torch.tensor([left, top, left, top])
        clip = clip.float().div_(127.5).sub_(1)
        if generator.random() < 0.5:
            clip = clip.flip(-1)
            box = torch.stack([shape.size - box[..., 2], box[..., 1], shape.size - box[..., 0], box[..., 3]], dim=-1)
        if generator.random() < 0.3:
            gain, shift = generator.uniform(0.6, 1.1), generator.uniform(-0.2, 0.2)
            clip = clip.mul_(gain).add_(shift).clamp_(-1, 1)
        return clip, box


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
    adamw = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), weight_decay=config.weight_decay)
    if not hidden:
        return [adamw]
    muon = ConvolutionMuon(hidden, lr=1.0, weight_decay=config.weight_decay)
    muon.param_groups[0]["scale"] = 1.0
    return [adamw, muon]


def learning_rate(config: TokenizerTrainConfig, step: int) -> float:
    """Of a step (from 0): warm-up, constant, linear decay over the last `decay_steps`."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    left = (config.steps - step) / config.decay_steps if config.decay_steps else 1.0
    return config.learning_rate * min(warm, 1.0, left)


# The loop


def train_tokenizer(
    config: TokenizerTrainConfig,
    max_minutes: float | None = None,
    decay_minutes: float = 0.0,
    resume: bool = False,
    init_from: str | Path | None = None,
) -> dict[str, float]:
    """Train and save a tokenizer.

    The run folder gets `config.yaml`, `metrics.jsonl`, checkpoints, `samples/` (originals over reconstructions) and, at the
    end, `vae/` with averaged weights and latent statistics.

    Args:
        config: of the run.
        max_minutes: stop after so many minutes of this call, and finish as if done; so do Ctrl-C and SIGTERM.
        decay_minutes: let the learning rate fall to 0 over the last so many of `max_minutes`.
        resume: go on from the folder's newest checkpoint.
        init_from: folder of a saved tokenizer to start from, with a fresh optimiser.

    Returns:
        The last validation's numbers.

    Raises:
        ValueError: nothing to resume from, a run in the way, both kinds of start asked for, a frozen encoder without
            weights, or a decay longer than the run.
        FloatingPointError: the loss is not finite.
    """
    if resume and init_from:
        raise ValueError("`resume` and `init_from` exclude each other; `init_from` starts a fresh optimiser.")
    if config.freeze_encoder and not (init_from or resume):
        raise ValueError("`freeze_encoder` needs trained weights; give `init_from`.")
    if decay_minutes and (max_minutes is None or decay_minutes > max_minutes):
        raise ValueError(f"`decay_minutes` must be at most `max_minutes`, got {decay_minutes} and {max_minutes}.")
    started = time.monotonic()
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
        device = processes.device
    torch.manual_seed(config.seed)
    model = CausalVideoAutoencoder(**config.model) if init_from is None else load_tokenizer(init_from)
    model.to(device).train()
    model.encoder.requires_grad_(not config.freeze_encoder)
    optimizers = make_optimizers(model, config)
    ema = ExponentialMovingAverage(model, config.ema_decay)
    step = 0
    if resume:
        files, state = load_checkpoint(saved[-1])
        load_model_tensors(model, files["model"])
        ema.load_state_dict(files["ema"])
        for index, optimizer in enumerate(optimizers):
            load_optimizer_tensors(optimizer, files[f"optimizer_{index}"])
        step = state["step"]
    if processes.is_main_process:
        (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        metrics = MetricsFile(folder / "metrics.jsonl", step)

    if config.linear_clips and not resume and init_from is None:
        kept = model.fit_linear_codec(video.to(device) for video in linear_clips(config))
        ema.update(0)
        if processes.is_main_process:
            print(f"the linear codec keeps {kept:.1%} of the variance", flush=True)

    pool = ClipPool(config.model_copy(update={"seed": config.seed + 1_000_003 * processes.process_index}))
    validation = validation_clips(config)
    if config.compile:
        model.encoder.compile(dynamic=False)
        model.decoder.compile(dynamic=False)
    noise = torch.Generator(device)
    bf16 = config.precision == "bf16"
    scores: dict[str, float] = {}
    clips, mark = 0, time.monotonic()
    sums: dict[str, float] = {}
    stop, first_step = False, step
    with stop_requests() as stopped:
        while not stop:
            minutes = (time.monotonic() - started) / 60
            rate = learning_rate(config, step)
            if decay_minutes and max_minutes is not None:
                rate *= max(0.0, min(1.0, (max_minutes - minutes) / decay_minutes))
            enough = stopped() or (max_minutes is not None and minutes >= max_minutes)
            rate, enough = agree(processes, rate, enough)
            video, boxes = pool.batch(step)
            weight = None
            if config.loss.actor_weight > 0 and not boxes.isnan().all():
                weight = actor_weight(boxes, video.shape, config.loss.actor_weight).to(device)
            video = video.to(device)
            noise.manual_seed((config.seed << 32) + step)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                sample, latents = model.forward_train(video, config.loss.noise, noise)
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
                sums[name] = sums.get(name, 0.0) + float(value.detach())

            minutes = (time.monotonic() - started) / 60
            stop = step >= config.steps or enough
            if processes.is_main_process and (step % config.log_every == 0 or stop):
                count = (step - 1) % config.log_every + 1
                row: dict[str, float] = {name: round(value / count, 6) for name, value in sums.items()}
                row.update(step=step, learning_rate=rate, minutes=round(minutes, 2))
                row["clips_per_second"] = round(clips / (time.monotonic() - mark), 2)
                clips, mark, sums = 0, time.monotonic(), {}
                if not np.isfinite(row["loss"]):
                    raise FloatingPointError(
                        f"the loss is {row['loss']} at step {step}; lower `learning_rate` and resume."
                    )
                if step % config.validate_every == 0 or stop:
                    with ema.applied():
                        scores = validate(model, validation, device, folder / "samples" / f"{step:08d}.png")
                    row.update(scores)
                    mark = time.monotonic()
                metrics.write(row)
                left = (config.steps - step) * minutes / (step - first_step)
                if max_minutes is not None:
                    left = max(0.0, min(left, max_minutes - minutes))
                print(
                    f"step {step}/{config.steps}  loss {row['loss']:.4f}  l1 {row['l1']:.4f}  lr {rate:.2e}  "
                    f"{row['clips_per_second']:.1f} clips/s  {left:.1f} min left"
                    + "".join(f"  {name} {value:.2f}" for name, value in row.items() if name.startswith("psnr")),
                    flush=True,
                )
            if processes.is_main_process and (step % config.checkpoint_every == 0 or stop):
                files = {"model": model_tensors(model), "ema": ema.state_dict()}
                files.update({f"optimizer_{i}": optimizer_tensors(optimizer) for i, optimizer in enumerate(optimizers)})
                save_checkpoint(folder, step, files, {"clips_per_step": len(video)})

    if processes.is_main_process:
        with ema.applied():
            if not config.freeze_encoder:
                measure_statistics(model, config, device)
            model.save_pretrained(folder / "vae")
    processes.wait_for_everyone()
    return scores


def agree(processes: PartialState, rate: float, stop: bool) -> tuple[float, bool]:
    """The main process' learning rate and decision to stop, on every process: clocks differ."""
    if processes.num_processes == 1:
        return rate, stop
    shared = torch.tensor([rate, float(stop)], dtype=torch.float64, device=processes.device)
    dist.broadcast(shared, 0)
    return float(shared[0]), bool(shared[1])


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


def linear_clips(config: TokenizerTrainConfig) -> Iterator[Tensor]:
    """Clips as training draws them, whole."""
    pool = ClipPool(config)
    for number in range(-(-config.linear_clips // config.group_size)):
        yield pool.group(number)[0].float().div_(127.5).sub_(1)
        pool.groups.clear()


def validation_clips(config: TokenizerTrainConfig) -> dict[str, Tensor]:
    """Fixed clips per kind of source, outside of what training draws."""
    size = (config.num_frames, config.height, config.width)
    clips: dict[str, Tensor] = {}
    for source in config.sources:
        if source.kind not in clips:
            named = source.model_copy(update={"unnamed_share": 0.0})
            clips[source.kind] = make_source(named, *size)(VALIDATION_SEED, 0, config.validation_clips)[0]
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
        latents = model.encode_chunk(source(VALIDATION_SEED, 1 + group, 8)[0].to(device))
        first.append(rearrange(latents[:, :, 0], "b c h w -> (b h w) c"))
        rest.append(rearrange(latents[:, :, 1:], "b c f h w -> (b f h w) c"))
        if group == 0 and config.visibility_power > 0:
            visibility = model.visibility(latents)
    model.set_statistics(torch.cat(first), torch.cat(rest), visibility**config.visibility_power)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description="Train the video tokenizer.")
    parser.add_argument("config")
    parser.add_argument("--max-minutes", type=float)
    parser.add_argument("--decay-minutes", type=float, default=0.0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--init-from")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", dest="overrides")
    options = parser.parse_args(arguments)
    try:
        config = load_tokenizer_config(options.config, options.overrides)
        scores = train_tokenizer(config, options.max_minutes, options.decay_minutes, options.resume, options.init_from)
    except ValueError as error:
        sys.exit(str(error))
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
