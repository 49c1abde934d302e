"""Training batches: clips from the latent cache, one task per micro-batch, words chosen anew each time.

A batch is a function of (seed, step, micro-batch index, rank) and of nothing else, so a resumed run sees what an
uninterrupted one would have seen. The task depends on (seed, step, micro-batch index) only: every rank works on the
same shape.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from videogen.conditioning.camera import CAMERA_DIM, camera_frame_vectors, parse_camera, pool_camera
from videogen.conditioning.frames import FrameSequence, build_frames
from videogen.training.config import TrainConfig
from videogen.training.latent_cache import LatentCache, guide_frames

TWO_SUBJECTS_SHARE = 0.35
"""Of the micro-batches with references, where clips show two actors."""


@dataclass
class Batch:
    """One micro-batch.

    Attributes:
        task: one of `videogen.training.config.TASKS`.
        frames: what the network is told.
        sample: `[B, C, n, h, w]` float32, clean latents of all frames, known or not.
        captions: B texts; "" where dropped.
        indices: clip numbers in the cache.
    """

    task: str
    frames: FrameSequence
    sample: Tensor
    captions: list[str]
    indices: list[int]


def derive_seed(*parts: Any) -> int:
    """A seed from any printable parts, the same on every machine, 0 .. 2**63 - 1."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


class BatchMaker:
    """Makes micro-batches from a cache.

    Args:
        config: of the run.
        cache: latents and records; its last `config.data.num_validation` clips are never trained on.
        scale_factor_temporal: of the video tokenizer.
    """

    def __init__(self, config: TrainConfig, cache: LatentCache, scale_factor_temporal: int = 4):
        self.config = config
        self.cache = cache
        self.scale_factor_temporal = scale_factor_temporal
        num_validation = config.data.num_validation
        self.num_train = len(cache) - num_validation
        if self.num_train < 1:
            raise ValueError(
                f"`data.num_validation` must leave clips to train on, got {num_validation} of {len(cache)}; use fewer."
            )
        self.pairs: list[int] = []  # clips with a reference of each of two actors
        self.train_windows = [i for i, clip in enumerate(cache.window_index.tolist()) if clip < self.num_train]
        usable = {"subject": cache.has_references, "extend": cache.clips.shape[2] > 1}
        self.tasks = {t: share for t, share in config.tasks.items() if share > 0 and usable.get(t, True)}
        if not self.tasks:
            raise ValueError(f"`tasks` must hold one that this data can train, got {sorted(config.tasks)}.")
        if config.data.source == "stage":
            from videogen.data.stage import ClipSpec

            self.specs = [ClipSpec.from_json(record["spec"]) for record in cache.records]
            if cache.references.shape[2] > 1:
                self.pairs = [i for i in range(self.num_train) if len(self.specs[i].actors) > 1]
        else:
            self.plans = [parse_camera(record["caption"]) for record in cache.records]

    def task(self, step: int, micro: int) -> str:
        if step < self.config.curriculum.image_only_steps:
            return "image"
        chooser = random.Random(derive_seed("task", self.config.seed, step, micro))
        return chooser.choices(list(self.tasks), list(self.tasks.values()))[0]

    def training_batch(self, step: int, micro: int = 0, rank: int = 0) -> Batch:
        """The micro-batch of a step."""
        task = self.task(step, micro)
        size = self.config.image_batch_size if task == "image" else self.config.batch_size
        chooser = random.Random(derive_seed("clips", self.config.seed, step, micro, rank))
        indices = [chooser.randrange(self.num_train) for _ in range(size)]
        # The layout (which guides, how much is known) is shared by the ranks, like the task.
        return self._make(task, indices, chooser, random.Random(derive_seed("layout", self.config.seed, step, micro)))

    def validation_batch(self, task: str = "text") -> Batch:
        """All validation clips, without caption dropout; always the same."""
        chooser = random.Random(derive_seed("validation", self.config.seed, task))
        indices = list(range(self.num_train, len(self.cache)))
        return self._make(task, indices, chooser, random.Random(0), dropout=0.0)

    def _make(
        self, task: str, indices: list[int], chooser: random.Random, layout: random.Random, dropout: float | None = None
    ) -> Batch:
        cache, data = self.cache, self.config.data
        windows = None
        num_subjects = 1
        if task == "subject" and self.pairs and layout.random() < TWO_SUBJECTS_SHARE:
            num_subjects = 2
            indices = [chooser.choice(self.pairs) for _ in indices]
        if task == "extend" and self.train_windows:
            windows = [chooser.choice(self.train_windows) for _ in indices]
            indices = cache.window_index[windows].tolist()
            video = cache.windows[windows].float()
        else:
            video = cache.clips[indices].float()  # [B, C, f, h, w]
        if task == "image":
            if layout.random() < 0.5:  # any frame of the clip, not only the first
                video = cache.guides[indices][:, :, layout.randrange(cache.guides.shape[2])].unsqueeze(2).float()
            else:
                video = video[:, :, :1]
        batch, channels, num_latent_frames, height, width = video.shape

        known, guides, references = None, None, None
        frames: tuple[int, ...] = ()
        numbers = guide_frames(data.num_frames)
        if task == "first_image":
            known = video[:, :, :1]
        elif task == "last_image":
            guides, frames = cache.guides[indices][:, :, -1:].float(), numbers[-1:]
            known = video[:, :, :1] if layout.random() < 0.5 else None
        elif task == "keyframes":
            chosen = sorted(layout.sample(range(len(numbers)), min(len(numbers), layout.choice((1, 1, 2)))))
            guides, frames = cache.guides[indices][:, :, chosen].float(), tuple(numbers[i] for i in chosen)
            known = video[:, :, :1] if layout.random() < 0.3 else None
        elif task == "extend":
            known = video[:, :, : layout.randint(1, num_latent_frames - 1)]
        elif task == "subject":
            references = cache.references[indices][:, :, :num_subjects].float()

        dropout = data.caption_dropout if dropout is None else dropout
        captions, cameras = [], []
        for index in indices:
            caption, segments = self._words(index, task, chooser, num_subjects)
            dropped = chooser.random() < dropout
            captions.append("" if dropped else caption)
            cameras.append(
                self._camera(() if dropped else segments, data.num_frames, windows is not None)[:num_latent_frames]
            )
        sequence = build_frames(
            num_latent_frames,
            (channels, height, width),
            batch_size=batch,
            fps=data.fps,
            scale_factor_temporal=self.scale_factor_temporal,
            camera=torch.stack(cameras),
            known_video=known,
            guides=guides,
            guide_frames=frames,
            references=references,
        )
        sample = torch.cat([video, sequence.latents[:, :, num_latent_frames:]], dim=2)
        return Batch(task, sequence, sample, captions, indices)

    def _words(
        self, index: int, task: str, chooser: random.Random, num_subjects: int = 1
    ) -> tuple[str, tuple[tuple[str, ...], ...]]:
        """Caption and camera segments to tell by vector; the move is told one way or the other."""
        data = self.config.data
        if data.source == "folder":  # brackets become vectors, as in a prompt
            plan = self.plans[index]
            return plan.prompt_without_brackets, () if task == "image" else plan.segments
        from videogen.data.stage import caption

        spec = self.specs[index]
        language = "zh" if chooser.random() < data.chinese_share else "en"
        by_vector = chooser.random() < data.camera_vector_share
        style = "none" if by_vector or task == "image" else "words"
        text = caption(spec, chooser, language=language, style=style)  # type: ignore[arg-type]
        if task == "subject" and num_subjects == 1:
            text = name_the_subject(text, spec.actors[0].name, language)
        elif task == "subject":
            for number, actor in enumerate(spec.actors, 1):
                text = name_the_subject(text, actor.name, language, number)
        told = by_vector and spec.camera_told and task != "image"
        return text, spec.camera if told else ()

    def _camera(self, segments: tuple[tuple[str, ...], ...], num_frames: int, from_mid_clip: bool) -> Tensor:
        """`[f, CAMERA_DIM]`; a window cut from mid-clip takes its part of the clip's plan."""
        return _camera_of(segments, num_frames, num_frames // 2 if from_mid_clip else 0, self.scale_factor_temporal)


@lru_cache(maxsize=4096)
def _camera_of(
    segments: tuple[tuple[str, ...], ...], num_frames: int, skipped: int, scale_factor_temporal: int
) -> Tensor:
    num_latent_frames = (num_frames - 1) // scale_factor_temporal + 1
    if not segments:
        return torch.zeros(num_latent_frames, CAMERA_DIM)
    # The window is a clip of its own: its first latent stands for its first frame alone, wherever that lies.
    return pool_camera(camera_frame_vectors(segments, num_frames + skipped)[skipped:], scale_factor_temporal)


def name_the_subject(caption: str, actor: str, language: str, number: int = 0) -> str:
    """The caption with an actor called "the subject" (主角), or "subject 1" (主角1) given a number, as prompts with reference
    pictures call it."""
    subject = "主角" if language == "zh" else "subject" if number else "the subject"
    if number:
        subject += str(number) if language == "zh" else f" {number}"
    for pattern in _actor_patterns(actor, language):
        renamed, count = pattern.subn(subject, caption, count=1)
        if count:
            return renamed
    return caption


@lru_cache(maxsize=4096)
def _actor_patterns(actor: str, language: str) -> list[re.Pattern[str]]:
    """What captions call an actor, the longest name first."""
    from videogen.data.stage.actors import load_actors

    entry = load_actors()[actor]
    if language == "zh":
        names = [entry.name_zh, *entry.synonyms_zh, *entry.held_out_synonyms_zh]
        return [re.compile(f"一个{name}") for name in sorted(names, key=len, reverse=True)]
    names = [entry.name, *entry.synonyms_en, *entry.held_out_synonyms_en]
    return [re.compile(rf"\ban? {re.escape(name)}\b") for name in sorted(names, key=len, reverse=True)]


def caption_corpus(config: TrainConfig, cache: LatentCache) -> list[str]:
    """Texts to train the text tokenizer on: captions of the first and last rung of Stage in both languages, or the folder's."""
    if config.data.source == "folder":
        return [parse_camera(record["caption"]).prompt_without_brackets for record in cache.records]
    from videogen.data.stage import caption, rungs, sample_spec

    chooser = random.Random(derive_seed("corpus", config.seed))
    texts = []
    vocabularies = list(rungs().values())
    for i in range(config.text.corpus_size):
        spec = sample_spec(chooser, vocabularies[-1 - i % 2 * (len(vocabularies) - 1)], "any")
        for language in ("en", "zh"):
            text = caption(spec, chooser, language=language, held_out=chooser.random() < 0.1)  # type: ignore[arg-type]
            texts.append(name_the_subject(text, spec.actors[0].name, language) if i % 8 == 0 else text)
    return texts
