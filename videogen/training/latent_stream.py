"""Latents rendered and encoded while training: a pool on the device that every step renews a little.

Clips come in groups, one per optimiser step and process, each clip a function of (seed, number). A step adds its group, forgets
the oldest, and draws its batches from the pool, so a clip is seen a few times, each time with other words, noise and task. What
the host has to do (draw clips and words, plan their pictures) is done ahead by worker processes; rendering, encoding and
training stay on one device, and nothing is written to disk. A resumed run renders the pool it had again.

The tensors are those of the table in `videogen.training.latent_cache`, but that every group has the same number of windows.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videogen.data.device import to_device
from videogen.data.stage import RenderPlan, plan_clips, render_plan, rungs
from videogen.training.batches import SUBJECT_TASKS, Batch, BatchDrawer, Draw, assemble, tokenize
from videogen.training.config import TrainConfig
from videogen.training.latent_cache import clip_story, encode, encode_images, guide_frames, stage_cast
from videogen.training.prefetch import Prefetcher


class StreamClips:
    """The clips of an endless stream, by number; numbers below 0 are for validation.

    Group g of process r holds the numbers `(g * group_size + i) * num_processes + r`, window j of it is the window of clip j.

    Args:
        config: of the run.
        rank: of this process.
        num_processes: of the run.
    """

    def __init__(self, config: TrainConfig, rank: int = 0, num_processes: int = 1):
        data = config.data
        vocabulary = rungs()[data.rung]
        self.config, self.rank, self.num_processes = config, rank, num_processes
        self.max_references = vocabulary.max_actors
        self.group_size = config.new_clips
        self.num_groups = data.pool // self.group_size
        self.group_windows = math.ceil(data.mid_clip_share * self.group_size)
        self.window_share = self.group_windows / self.group_size

    def groups(self, step: int) -> range:
        """The groups that are in the pool in a step."""
        return range(max(0, step - self.num_groups + 1), step + 1)

    def numbers(self, group: int) -> list[int]:
        """Clip numbers of a group."""
        first = group * self.group_size
        return [n * self.num_processes + self.rank for n in range(first, first + self.group_size)]

    def validation(self) -> list[int]:
        return [-1 - i for i in range(self.config.data.num_validation)]

    def choose(self, chooser: random.Random, step: int, count: int) -> list[int]:
        groups = self.groups(step)
        first, end = groups.start * self.group_size, groups.stop * self.group_size
        return [chooser.randrange(first, end) * self.num_processes + self.rank for _ in range(count)]

    def choose_windows(self, chooser: random.Random, step: int, count: int) -> tuple[list[int], list[int]]:
        windows, indices = [], []
        for _ in range(count):
            group, place = chooser.choice(self.groups(step)), chooser.randrange(self.group_windows)
            windows.append(group * self.group_windows + place)
            indices.append((group * self.group_size + place) * self.num_processes + self.rank)
        return windows, indices

    def choose_pairs(self, chooser: random.Random, step: int, count: int) -> list[int]:
        # A pool without any is next to impossible: a third of the clips show two actors.
        pairs: list[int] = []
        for _ in range(100):
            pairs += [index for index in self.choose(chooser, step, count) if len(self.story(index).actors) > 1]
            if len(pairs) >= count:
                return pairs[:count]
        return []

    def story(self, index: int) -> Any:
        return clip_story(self.config.data, self.config.clip_seed, index)[0]


@dataclass(frozen=True)
class GroupPlan:
    """The pictures of a group of clips, planned.

    Attributes:
        clips: of G clips.
        references: one frame for each actor of each clip, clip after clip; None if no task needs them.
        reference_rows: [number of references] int64: clip of the group times the most references of a clip, plus the actor.
        windows: longer clips, the end of which is the window; None if no task needs them.
    """

    clips: RenderPlan
    references: RenderPlan | None
    reference_rows: np.ndarray
    windows: RenderPlan | None


@dataclass(frozen=True)
class StepWork:
    """What the host does for one optimiser step: the group that is new, and every micro-batch with its text as ids and mask."""

    group: GroupPlan
    draws: list[tuple[Draw, np.ndarray, np.ndarray]]


class StreamWork:
    """Makes `StepWork` (of a step number) or a `GroupPlan` (of ("group", number)), in any process.

    Args:
        config: of the run.
        clips: of this process.
        scale_factor_temporal: of the video tokenizer.
        text_tokenizer: of the captions.
    """

    def __init__(self, config: TrainConfig, clips: StreamClips, scale_factor_temporal: int, text_tokenizer: Any):
        self.config, self.clips, self.text_tokenizer = config, clips, text_tokenizer
        self.drawer = BatchDrawer(config, clips, scale_factor_temporal)

    def __call__(self, key: int | tuple[str, int]) -> StepWork | GroupPlan:
        if isinstance(key, tuple):
            return self.group(self.clips.numbers(key[1]))
        draws = []
        for micro in range(self.config.accumulation):
            draw = self.drawer.training_draw(key, micro, self.clips.rank)
            # Eights, since attention likes aligned lengths.
            ids, mask = tokenize(self.text_tokenizer, draw.captions, self.config, 8, draw.text_seed)
            draws.append((draw, ids.numpy(), mask.numpy()))
        return StepWork(self.group(self.clips.numbers(key)), draws)

    def group(self, numbers: Sequence[int]) -> GroupPlan:
        data, tasks = self.config.data, self.drawer.tasks
        stories = [clip_story(data, self.config.clip_seed, number)[:2] for number in numbers]
        size: dict[str, Any] = {"height": data.height, "width": data.width, "fps": data.fps}
        specs = [spec for spec, _ in stories]
        references = windows = None
        rows = []
        if not SUBJECT_TASKS.isdisjoint(tasks):
            references = plan_clips([pose for _, poses in stories for pose in poses], num_frames=1, **size)
            rows = [
                clip * self.clips.max_references + actor
                for clip, (_, poses) in enumerate(stories)
                for actor in range(len(poses))
            ]
        if "extend" in tasks and self.clips.window_share > 0 and numbers[0] >= 0:
            length = data.num_frames + data.num_frames // 2
            windows = plan_clips(specs[: self.clips.group_windows], num_frames=length, **size)
        plan = plan_clips(specs, num_frames=data.num_frames, **size)
        return GroupPlan(plan, references, np.array(rows, np.int64), windows)


class LatentPool:
    """The latents of the groups that are at hand, and of the validation clips, float16 on one device."""

    def __init__(self, config: TrainConfig, clips: StreamClips, vae: Any):
        data = config.data
        param = next(vae.parameters())
        self.config, self.clips, self.vae, self.device = config, clips, vae, param.device
        self.cast = stage_cast(data)
        scale_t, scale_s = vae.config.scale_factor_temporal, vae.config.scale_factor_spatial
        size = (data.height // scale_s, data.width // scale_s)
        channels = vae.config.latent_channels
        frames = (data.num_frames - 1) // scale_t + 1
        self.guide_frames = to_device(np.array(guide_frames(data.num_frames)), self.device)
        self.capacity = clips.num_groups * clips.group_size
        rows = self.capacity + data.num_validation

        def pool(count: int, length: int) -> Tensor:
            return torch.zeros(count, channels, length, *size, dtype=torch.float16, device=self.device)

        self.tensors = {
            "clips": pool(rows, frames),
            "guides": pool(rows, len(self.guide_frames)),
            "references": pool(rows, clips.max_references),
            "windows": pool(clips.num_groups * clips.group_windows, frames),
        }

    def take(self, name: str, numbers: Sequence[int]) -> Tensor:
        """Rows of "clips", "guides", "references" (by clip number) or "windows" (by window number), float32."""
        rows = self._rows(name, np.array(numbers, np.int64))
        return self.tensors[name][to_device(rows, self.device)].float()

    def _rows(self, name: str, numbers: np.ndarray) -> np.ndarray:
        if name == "windows":
            return numbers % max(1, len(self.tensors[name]))
        places = (numbers - self.clips.rank) // self.clips.num_processes % self.capacity
        return np.where(numbers < 0, self.capacity - 1 - numbers, places)

    @torch.no_grad()
    def add(self, plan: GroupPlan, numbers: Sequence[int]) -> None:
        """Renders and encodes a group into the places of its clips."""
        rows = to_device(self._rows("clips", np.array(numbers, np.int64)), self.device)
        video = render_plan(plan.clips, self.device, self.cast).video
        self.tensors["clips"][rows] = self._encode(video)
        self.tensors["guides"][rows] = encode_images(self.vae, video[:, :, self.guide_frames])
        if plan.references is not None:
            pictures = render_plan(plan.references, self.device, self.cast).video
            latents = self._encode(pictures)[:, :, 0]
            found = latents.new_zeros(len(rows) * self.clips.max_references, *latents.shape[1:])
            found[to_device(plan.reference_rows, self.device)] = latents
            self.tensors["references"][rows] = found.unflatten(0, (len(rows), -1)).transpose(1, 2)
        if plan.windows is not None:
            # Clip i of a group is window i of it.
            group = numbers[0] // self.clips.num_processes // self.clips.group_size
            first = group % self.clips.num_groups * self.clips.group_windows
            video = render_plan(plan.windows, self.device, self.cast).video[:, :, -self.config.data.num_frames :]
            self.tensors["windows"][first : first + len(video)] = self._encode(video)

    def _encode(self, video: Tensor) -> Tensor:
        parts = video.split(self.config.data.encode_batch_size)
        return torch.cat([encode(self.vae, part, in_one_piece=True) for part in parts])


class StreamBatches:
    """Micro-batches from a stream: what `videogen.training.batches.BatchMaker` is for a cache.

    Steps are asked for in order; the first one may be any.

    Args:
        config: of the run.
        vae: the video tokenizer, on the device that renders and trains.
        text_tokenizer: of the captions.
        rank: of this process.
        num_processes: of the run.

    Raises:
        ValueError: the tasks cannot be trained on these clips.
    """

    def __init__(self, config: TrainConfig, vae: Any, text_tokenizer: Any, rank: int = 0, num_processes: int = 1):
        self.config = config
        self.clips = StreamClips(config, rank, num_processes)
        self.scale_factor_temporal = vae.config.scale_factor_temporal
        self.work = StreamWork(config, self.clips, self.scale_factor_temporal, text_tokenizer)
        self.tasks = self.work.drawer.tasks
        self.pool = LatentPool(config, self.clips, vae)
        numbers = self.clips.validation()
        self.pool.add(self.work.group(numbers), numbers)
        self._prefetcher: Prefetcher[Any] = Prefetcher(self.work, config.data.workers)
        self._steps: Iterator[StepWork] | None = None
        self._step = -1
        self._batches: list[Batch] = []

    def num_clips(self, steps: int) -> int:
        """How many different clips all processes of the run have learnt from after so many steps."""
        return steps * self.clips.group_size * self.clips.num_processes

    def training_batch(self, step: int, micro: int = 0, rank: int = 0) -> Batch:
        """The micro-batch of a step of this process (`rank` is its own)."""
        if step != self._step:
            self._advance(step)
        return self._batches[micro]

    def _advance(self, step: int) -> None:
        if self._steps is None or step != self._step + 1:
            groups = self.clips.groups(step)[:-1]
            for group, plan in zip(groups, self._prefetcher.map(("group", g) for g in groups), strict=True):
                self.pool.add(plan, self.clips.numbers(group))
            self._steps = self._prefetcher.map(itertools.count(step))
        work = next(self._steps)
        self.pool.add(work.group, self.clips.numbers(step))
        self._batches = []
        for draw, ids, mask in work.draws:
            batch = assemble(draw, self.pool, self.config.data, self.scale_factor_temporal)
            batch.text = (torch.from_numpy(ids), torch.from_numpy(mask))
            self._batches.append(batch)
        self._step = step

    def validation_batch(self, task: str = "text") -> Batch:
        """All validation clips, without caption dropout; always the same."""
        draw = self.work.drawer.validation_draw(task)
        return assemble(draw, self.pool, self.config.data, self.scale_factor_temporal)

    def close(self) -> None:
        """Ends the worker processes."""
        self._prefetcher.close()
