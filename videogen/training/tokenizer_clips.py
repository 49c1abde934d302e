"""Clips for the tokenizer's training: their sources, and the pool that batches are drawn from.

Clips come in groups, each drawn from (seed, group number) alone. The host draws ahead, in worker processes if there are any; the
device renders Stage, keeps the last groups as uint8, and cuts batches out of them, each clip mirrored, reversed, recoloured and
cropped anew, all clips of a batch at once. What a step gets depends on (seed, step) alone.

Shapes: B batch; F, H, W pixel frames, height, width of a group's clips; T, S frames and side of a batch's; A actors.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from videogen.data.device import to_device
from videogen.data.folder import read_clip
from videogen.data.stage import Cast, RenderPlan, draw_clips, plan_clips, render_plan
from videogen.data.stage.actors import load_unnamed_sprites
from videogen.training.prefetch import Prefetcher

if TYPE_CHECKING:
    from videogen.training.tokenizer import BatchConfig, SourceConfig, TokenizerTrainConfig

DrawVideo = Callable[[int, int, int], Tensor]
"""(seed, group, count) -> video [count, 3, F, H, W] in -1..1."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FOOTAGE_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif")
MAX_STRETCHES = 8
"""Of a clip's length: what lies further from the start of a video is not used."""
MAX_ACTORS = 2


# Sources


class ClipSource(Protocol):
    """One kind of clips.

    Attributes:
        has_boxes: whether it is known where their actors are.
    """

    has_boxes: bool

    def draw(self, seed: int, group: int, count: int) -> Any:
        """The host's part of a group, in any process; picklable."""

    def clips(self, drawn: Any, device: torch.device) -> tuple[Tensor, Tensor]:
        """The device's part: uint8 video [B, 3, F, H, W] and boxes [B, A, F, 4] in pixels, NaN where there is no actor."""


class StageSource:
    """Clips of Stage, most of them with unnamed actors if those have been fetched.

    Args:
        config: of the source.
        num_frames: F.
        height: H.
        width: W.
        verbose: say on the error stream when there are no unnamed actors.
    """

    has_boxes = True

    def __init__(self, config: SourceConfig, num_frames: int, height: int, width: int, verbose: bool = True):
        self.config, self.size = config, (num_frames, height, width)
        self.cast = Cast()
        if config.unnamed_share > 0:
            try:
                self.cast = Cast(load_unnamed_sprites(config.unnamed or None))
            except (OSError, ValueError) as error:
                if verbose:
                    print(f"unnamed actors are not used: {error}", file=sys.stderr)

    def draw(self, seed: int, group: int, count: int) -> RenderPlan:
        config = self.config
        specs = draw_clips(seed, group, count, config.rung, self.cast.num_unnamed, config.unnamed_share)
        return plan_clips(specs, *self.size, config.fps)

    def clips(self, drawn: RenderPlan, device: torch.device) -> tuple[Tensor, Tensor]:
        clip = render_plan(drawn, device, self.cast)
        return to_bytes(clip.video), clip.boxes


class HostSource:
    """Clips that the host makes whole."""

    has_boxes = False

    def __init__(self, draw_video: DrawVideo):
        self._draw_video = draw_video

    def draw(self, seed: int, group: int, count: int) -> np.ndarray:
        return to_bytes(self._draw_video(seed, group, count)).numpy()

    def clips(self, drawn: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        video = to_device(drawn, device)
        return video, torch.full((len(video), MAX_ACTORS, video.shape[2], 4), float("nan"), device=device)


def to_bytes(video: Tensor) -> Tensor:
    """-1..1, which is written over, to uint8."""
    return video.add_(1).mul_(127.5).round_().to(torch.uint8)


def to_floats(video: Tensor) -> Tensor:
    """The inverse of `to_bytes`."""
    return video.float().div_(127.5).sub_(1)


def make_source(config: SourceConfig, num_frames: int, height: int, width: int, verbose: bool = True) -> ClipSource:
    """The source that a configuration names.

    Raises:
        ValueError: a folder holds nothing of its kind.
    """
    size = (num_frames, height, width)
    if config.kind == "stage":
        return StageSource(config, *size, verbose)
    if config.kind == "images":
        return HostSource(image_source(config.path, *size))
    if config.kind == "videos":
        return HostSource(video_source(config.path, *size, config.fps))
    return HostSource(texture_source(*size))


def draw_clips_of(source: ClipSource, seed: int, group: int, count: int, device: torch.device | None = None) -> Tensor:
    """A group's video [count, 3, F, H, W] in -1..1, as training sees it."""
    return to_floats(source.clips(source.draw(seed, group, count), device or torch.device("cpu"))[0])


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


def image_source(path: str, num_frames: int, height: int, width: int) -> DrawVideo:
    """Pictures of a folder, moved.

    Raises:
        ValueError: the folder holds no picture.
    """
    files = sorted(file for file in Path(path).rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"`path` must hold images ({', '.join(IMAGE_SUFFIXES)}), got {path!r} with none.")
    pictures: dict[Path, Tensor] = {}

    def draw(seed: int, group: int, count: int) -> Tensor:
        generator = random.Random(f"images:{seed}:{group}")
        clips = []
        for _ in range(count):
            file = generator.choice(files)
            if file not in pictures:
                pictures[file] = read_image(file)
            clips.append(move_image(pictures[file], generator, num_frames, height, width))
        return torch.stack(clips)

    return draw


def video_source(path: str, num_frames: int, height: int, width: int, fps: float) -> DrawVideo:
    """Stretches of the videos of a folder; one that is too short is played back and forth.

    Raises:
        ValueError: the folder holds no video.
    """
    files = sorted(file for file in Path(path).rglob("*") if file.suffix.lower() in FOOTAGE_SUFFIXES)
    if not files:
        raise ValueError(f"`path` must hold videos ({', '.join(FOOTAGE_SUFFIXES)}), got {path!r} with none.")

    def draw(seed: int, group: int, count: int) -> Tensor:
        generator = random.Random(f"videos:{seed}:{group}")
        clips = []
        for _ in range(count):
            video = read_clip(generator.choice(files), MAX_STRETCHES * num_frames, height, width, fps)  # [3, F, H, W]
            last = video.shape[1] - 1
            start = generator.randint(0, max(0, last + 1 - num_frames))
            turns = [abs((i + last) % (2 * last) - last) if last else 0 for i in range(start, start + num_frames)]
            clips.append(video[:, turns])
        return torch.stack(clips)

    return draw


def texture_source(num_frames: int, height: int, width: int) -> DrawVideo:
    """Coloured noise with a natural spectrum and hard-edged shapes in it, moved: stands in for photographs."""

    def draw(seed: int, group: int, count: int) -> Tensor:
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
        return torch.stack(clips)

    return draw


# The pool


@dataclass(frozen=True)
class BatchCut:
    """How a batch is cut out of the pool; B clips.

    Attributes:
        clips: [B] numbers of the clips, counted through all groups.
        frames: [B, T] which frames, in order.
        colors: [B, 3] which channels, in order.
        top: [B] first row.
        left: [B] first column.
        mirrored: [B] bool.
        gain: [B] factor on the values -1..1.
        shift: [B] added after it.
        size: S.
        has_boxes: whether a clip may show actors whose place is known.
    """

    clips: np.ndarray
    frames: np.ndarray
    colors: np.ndarray
    top: np.ndarray
    left: np.ndarray
    mirrored: np.ndarray
    gain: np.ndarray
    shift: np.ndarray
    size: int
    has_boxes: bool


class PoolWork:
    """What the host does for the pool, in any process: a group's clips (of ("group", number)), or a step's new group, if it has
    one, and the cut of its batch (of the step)."""

    def __init__(self, config: TokenizerTrainConfig, verbose: bool = True):
        self.config, self.verbose = config, verbose

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "verbose": False}  # sources are made anew in every process

    @cached_property
    def sources(self) -> list[ClipSource]:
        config = self.config
        size = (config.num_frames, config.height, config.width)
        return [make_source(source, *size, self.verbose) for source in config.sources]

    def __call__(self, key: int | tuple[str, int]) -> Any:
        if isinstance(key, tuple):
            return self.group(key[1])
        new = key // self.config.reuse if key % self.config.reuse == 0 else None
        return (None if new is None else self.group(new)), self.cut(key)

    def group(self, number: int) -> Any:
        """What the group's source draws."""
        return self.sources[self.source_of(number)].draw(self.config.seed, number, self.config.group_size)

    def source_of(self, group: int) -> int:
        """Which source a group comes from."""
        generator = random.Random(f"group:{self.config.seed}:{group}")
        return generator.choices(range(len(self.sources)), [source.share for source in self.config.sources])[0]

    def groups(self, step: int) -> range:
        """The groups that a step draws from."""
        newest = step // self.config.reuse
        return range(max(0, newest - self.config.pool_groups + 1), newest + 1)

    def cut(self, step: int) -> BatchCut:
        config = self.config
        generator = random.Random(f"batch:{config.seed}:{step}")
        shape = generator.choices(config.batches, [batch.share for batch in config.batches])[0]
        groups = self.groups(step)
        rows, has_boxes = [], False
        for index in range(shape.batch_size):
            # Half of the batch from the newest group, so that every clip is seen at once.
            newest = index < shape.batch_size // 2
            group = groups[-1] if newest else generator.randint(groups[0], groups[-1])
            clip = group * config.group_size + generator.randrange(config.group_size)
            has_boxes = has_boxes or self.sources[self.source_of(group)].has_boxes
            rows.append((clip, *vary(config.num_frames, config.height, config.width, shape, generator)))
        clips, frames, colors, top, left, mirrored, gain, shift = zip(*rows, strict=True)
        whole, real = np.int64, np.float32
        return BatchCut(
            np.array(clips, whole), np.array(frames, whole), np.array(colors, whole), np.array(top, whole),
            np.array(left, whole), np.array(mirrored), np.array(gain, real), np.array(shift, real), shape.size, has_boxes,
        )  # fmt: skip


def vary(
    num_frames: int, height: int, width: int, shape: BatchConfig, generator: random.Random
) -> tuple[list[int], list[int], int, int, bool, float, float]:
    """How one clip is shown: frames, colours, first row and column, mirrored, gain and shift."""
    order = list(range(num_frames))
    while len(order) < shape.num_frames:  # back and forth
        order += list(range(num_frames - 2, -1, -1)) + list(range(1, num_frames))
    start = generator.randint(0, len(order) - shape.num_frames)
    order = order[start : start + shape.num_frames]
    if generator.random() < 0.5:
        order.reverse()
    top = generator.randint(0, height - shape.size)
    left = generator.randint(0, width - shape.size)
    colors = [0, 1, 2]
    if generator.random() < 0.3:
        generator.shuffle(colors)
    mirrored = generator.random() < 0.5
    gain, shift = 1.0, 0.0
    if generator.random() < 0.3:
        gain, shift = generator.uniform(0.6, 1.1), generator.uniform(-0.2, 0.2)
    return order, colors, top, left, mirrored, gain, shift


def cut_batch(video: Tensor, boxes: Tensor, cut: BatchCut) -> tuple[Tensor, Tensor]:
    """A batch out of a pool.

    Args:
        video: [N, 3, F, H, W] uint8; clip n of the cut lies at n modulo N.
        boxes: [N, A, F, 4] in pixels.
        cut: what to take.

    Returns:
        Video [B, 3, T, S, S] in -1..1 and boxes [B, A, T, 4] in its pixels.
    """
    count, _, num_frames, height, width = video.shape
    device, size, batch = video.device, cut.size, len(cut.clips)
    place = cut.clips % count
    planes = (place[:, None] * 3 + cut.colors)[:, :, None] * num_frames + cut.frames[:, None]  # [B, 3, T]
    first_rows = planes * height + cut.top[:, None, None]
    line = torch.arange(size, device=device)
    rows = to_device(first_rows, device)[..., None] + line  # [B, 3, T, S]
    mirrored = to_device(cut.mirrored, device)[:, None]
    columns = to_device(cut.left, device)[:, None] + torch.where(mirrored, size - 1 - line, line)  # [B, S]
    picked = video.view(-1, width).index_select(0, rows.flatten()).view(batch, 3, -1, size, width)
    clip = to_floats(picked.gather(-1, columns[:, None, None, None].expand(-1, 3, picked.shape[2], size, -1)))
    tone = to_device(np.stack([cut.gain, cut.shift]), device)[:, :, None, None, None, None]  # [2, B, 1, 1, 1, 1]
    clip = clip.mul_(tone[0]).add_(tone[1]).clamp_(-1, 1)

    frames = to_device(place[:, None] * num_frames + cut.frames, device)  # [B, T]
    box = boxes.transpose(1, 2).flatten(0, 1)[frames].transpose(1, 2)  # [B, A, T, 4]
    box = box - to_device(np.stack([cut.left, cut.top] * 2, -1), device)[:, None, None]
    flipped = torch.stack([size - box[..., 2], box[..., 1], size - box[..., 0], box[..., 3]], dim=-1)
    return clip, torch.where(mirrored[:, :, None, None], flipped, box)


class ClipPool:
    """Batches drawn from the last groups of clips, which are kept on the device; what a step gets depends on (seed, step) alone.

    Args:
        config: of the run.
        device: that renders, keeps the clips and cuts the batches.
    """

    def __init__(self, config: TokenizerTrainConfig, device: torch.device | None = None):
        self.config = config
        self.device = torch.device("cpu") if device is None else device
        self.work = PoolWork(config)
        self._prefetcher: Prefetcher[Any] = Prefetcher(self.work, config.workers)
        self._steps: Iterator[Any] | None = None
        self._step = -1
        count = config.pool_groups * config.group_size
        shape = (config.num_frames, config.height, config.width)
        self.video = torch.empty(count, 3, *shape, dtype=torch.uint8, device=self.device)
        self.boxes = torch.empty(count, MAX_ACTORS, config.num_frames, 4, device=self.device)

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Video [B, 3, F, H, W] in -1..1 and boxes [B, A, F, 4] in pixels of a step (from 0); None where nobody's is known."""
        if self._steps is None or step != self._step + 1:
            groups = self.work.groups(step)
            if step % self.config.reuse == 0:  # the newest one comes with the step
                groups = groups[:-1]
            for group, drawn in zip(groups, self._prefetcher.map(("group", g) for g in groups), strict=True):
                self._add(group, drawn)
            self._steps = self._prefetcher.map(itertools.count(step))
        drawn, cut = next(self._steps)
        if drawn is not None:
            self._add(step // self.config.reuse, drawn)
        self._step = step
        video, boxes = cut_batch(self.video, self.boxes, cut)
        return video, boxes if cut.has_boxes else None

    def _add(self, group: int, drawn: Any) -> None:
        first = group % self.config.pool_groups * self.config.group_size
        video, boxes = self.work.sources[self.work.source_of(group)].clips(drawn, self.device)
        self.video[first : first + len(video)] = video
        self.boxes[first : first + len(video)] = boxes

    def close(self) -> None:
        """Ends the worker processes."""
        self._prefetcher.close()
