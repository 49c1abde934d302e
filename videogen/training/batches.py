"""Training batches: clips from the latent cache or stream, one task per micro-batch, words chosen anew each time.

A batch is a function of (seed, step, micro-batch index, rank) and of nothing else, so a resumed run sees what an
uninterrupted one would have seen. The task depends on (seed, step, micro-batch index) only: every rank works on the
same shape.

First a batch is *drawn* (`BatchDrawer`): which clips, which words, what is known. That needs no latents and can be done ahead in
other processes. Then it is *assembled* from latents on their device.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from videogen.conditioning.camera import camera_frame_vectors, parse_camera, pool_camera
from videogen.conditioning.frames import FrameSequence, build_frames
from videogen.data.device import to_device
from videogen.data.stage.actors import UNNAMED
from videogen.training.config import DataConfig, TrainConfig
from videogen.training.latent_cache import LatentCache, guide_frames

FUNCTION_WORDS = frozenset(
    ["a", "an", "the", "in", "on", "at", "by", "to", "of", "is", "and", "under", "during", "among"]
)
"""English words that a loosened caption may lose."""

ONSETS = (
    "b",
    "br",
    "d",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "sh",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "y",
)
VOWELS = ("a", "e", "i", "o", "u", "ea", "oo", "ai")
CODAS = ("", "", "n", "r", "s", "t", "ck", "ll", "ng", "ing", "ed", "ly", "land")
"""Of the words that a loosened caption invents."""

SHOWN_TASKS = frozenset(["first_image", "last_image", "keyframes", "extend"])
"""Frames of the clip are given, and with them its scene and light."""

SUBJECT_TASKS = frozenset(["subject", "subject_image"])
"""Pictures of the actors elsewhere are given."""

IMAGE_TASKS = frozenset(["image", "subject_image"])
"""A single frame is made: no motion, no camera, and six times as many examples an hour."""

NAMED_SUBJECTS = 0.25
"""How many of the references show a named actor, for each that shows an unnamed one: names are learnt without pictures, too."""

TWO_SUBJECTS_SHARE = 0.35
"""Of the micro-batches with references, where clips show two actors."""


@dataclass(frozen=True)
class Draw:
    """What a micro-batch consists of, before any latent is touched.

    Attributes:
        task: one of `videogen.training.config.TASKS`.
        indices: numbers of its B clips.
        windows: numbers of the windows from mid-clip that are shown instead of the clips (task "extend"), or None.
        captions: B texts; "" where dropped.
        camera: `[B, f, CAMERA_DIM]` float32, f = 1 for single images.
        shown_guide: of single images, the number of the guide that is shown; None = the clip's first latent frame.
        num_known: how many of the video's first latent frames are known.
        guides: numbers of the guides that are appended.
        num_references: pictures of subjects that are appended.
        text_seed: of the pieces that words are cut into; None = the usual ones.
    """

    task: str
    indices: list[int]
    windows: list[int] | None
    captions: list[str]
    camera: np.ndarray
    shown_guide: int | None
    num_known: int
    guides: tuple[int, ...]
    num_references: int
    text_seed: int | None = None


@dataclass
class Batch:
    """One micro-batch.

    Attributes:
        task: one of `videogen.training.config.TASKS`.
        frames: what the network is told.
        sample: `[B, C, n, h, w]` float32, clean latents of all frames, known or not; on the device of the latents.
        captions: B texts; "" where dropped.
        indices: clip numbers.
        text: `captions` as ids and mask `[B, S]`, where they were tokenised ahead.
        text_seed: see `Draw`.
    """

    task: str
    frames: FrameSequence
    sample: Tensor
    captions: list[str]
    indices: list[int]
    text: tuple[Tensor, Tensor] | None = None
    text_seed: int | None = None


class ClipList(Protocol):
    """What drawing needs to know of the clips there are; `choosers` make every decision.

    Attributes:
        max_references: pictures of subjects that a clip has at most.
        window_share: how many windows from mid-clip there are for each clip; above 0 they can be drawn in every step.
    """

    max_references: int
    window_share: float

    def choose(self, chooser: random.Random, step: int, count: int) -> list[int]:
        """Clip numbers to train on in a step."""

    def choose_windows(self, chooser: random.Random, step: int, count: int) -> tuple[list[int], list[int]]:
        """Numbers of windows from mid-clip, and of their clips."""

    def choose_pairs(self, chooser: random.Random, step: int, count: int) -> list[int]:
        """Numbers of clips with two actors; empty where there are none."""

    def validation(self) -> list[int]:
        """Numbers of the clips that are never trained on."""

    def story(self, index: int) -> Any:
        """A clip's `ClipSpec`, or the `CameraPlan` of a folder's caption."""


class Latents(Protocol):
    """Latents of clips, see the table in `videogen.training.latent_cache`."""

    def take(self, name: str, numbers: Sequence[int]) -> Tensor:
        """Rows of "clips", "guides", "references" (by clip number) or "windows" (by window number), float32."""


def derive_seed(*parts: Any) -> int:
    """A seed from any printable parts, the same on every machine, 0 .. 2**63 - 1."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


class CacheClips:
    """The clips of a cache; the last `config.data.num_validation` are never trained on."""

    def __init__(self, config: TrainConfig, cache: LatentCache):
        num_validation = config.data.num_validation
        self.num_train = len(cache) - num_validation
        if self.num_train < 1:
            raise ValueError(
                f"`data.num_validation` must leave clips to train on, got {num_validation} of {len(cache)}; use fewer."
            )
        self.num_clips = len(cache)
        self.max_references = cache.references.shape[2] if cache.has_references else 0
        self._clip_of_window = cache.window_index.tolist()
        self._windows = [i for i, clip in enumerate(self._clip_of_window) if clip < self.num_train]
        self.window_share = len(self._windows) / self.num_train
        if config.data.source == "stage":
            from videogen.data.stage import ClipSpec

            self.stories: list[Any] = [ClipSpec.from_json(record["spec"]) for record in cache.records]
        else:
            self.stories = [parse_camera(record["caption"]) for record in cache.records]
        self._pairs: list[int] = []  # clips with a reference of each of two actors
        if self.max_references > 1:
            self._pairs = [i for i in range(self.num_train) if len(self.stories[i].actors) > 1]

    def choose(self, chooser: random.Random, step: int, count: int) -> list[int]:
        return [chooser.randrange(self.num_train) for _ in range(count)]

    def choose_windows(self, chooser: random.Random, step: int, count: int) -> tuple[list[int], list[int]]:
        windows = [chooser.choice(self._windows) for _ in range(count)]
        return windows, [self._clip_of_window[window] for window in windows]

    def choose_pairs(self, chooser: random.Random, step: int, count: int) -> list[int]:
        return [chooser.choice(self._pairs) for _ in range(count)] if self._pairs else []

    def validation(self) -> list[int]:
        return list(range(self.num_train, self.num_clips))

    def story(self, index: int) -> Any:
        return self.stories[index]


class BatchDrawer:
    """Draws micro-batches.

    Args:
        config: of the run.
        clips: what there is to draw from.
        scale_factor_temporal: of the video tokenizer.

    Attributes:
        tasks: share of each task that these clips can train.
    """

    def __init__(self, config: TrainConfig, clips: ClipList, scale_factor_temporal: int):
        self.config, self.clips, self.scale_factor_temporal = config, clips, scale_factor_temporal
        self.num_latent_frames = (config.data.num_frames - 1) // scale_factor_temporal + 1
        usable = {**dict.fromkeys(SUBJECT_TASKS, clips.max_references > 0), "extend": self.num_latent_frames > 1}
        self.tasks = {t: share for t, share in config.tasks.items() if share > 0 and usable.get(t, True)}
        if not self.tasks:
            raise ValueError(f"`tasks` must hold one that this data can train, got {sorted(config.tasks)}.")
        self._most = _most_emphasis(config.data)

    def task(self, step: int, micro: int) -> str:
        if step < self.config.curriculum.image_only_steps:
            return "image"
        chooser = random.Random(derive_seed("task", self.config.seed, step, micro))
        return chooser.choices(list(self.tasks), list(self.tasks.values()))[0]

    def training_draw(self, step: int, micro: int = 0, rank: int = 0) -> Draw:
        """The micro-batch of a step."""
        task = self.task(step, micro)
        size = self.config.image_batch_size if task in IMAGE_TASKS else self.config.batch_size
        chooser = random.Random(derive_seed("clips", self.config.seed, step, micro, rank))
        indices = self._choose(chooser, step, size, task)
        # The layout (which guides, how much is known) is shared by the ranks, like the task.
        layout = random.Random(derive_seed("layout", self.config.seed, step, micro))
        draw = self._draw(task, indices, chooser, layout, step)
        return replace(draw, text_seed=derive_seed("pieces", self.config.seed, step, micro, rank))

    def _choose(self, chooser: random.Random, step: int, count: int, task: str) -> list[int]:
        """Clip numbers that suit a task, those of emphasised stories as much more often as `data.emphasis` says."""
        emphasis, has_unnamed = self.config.data.emphasis, self.config.data.unnamed_share > 0
        if not emphasis and not has_unnamed:
            return self.clips.choose(chooser, step, count)
        chosen: list[int] = []
        tries = 0
        while len(chosen) < count:
            for index in self.clips.choose(chooser, step, count - len(chosen)):
                tries += 1
                words = story_words(self.clips.story(index))
                factor = math.prod(factor for word, factor in emphasis.items() if word in words)
                # A small pool may hold no clip that suits: better another one than none.
                suits = not has_unnamed or tries > 100 * count or self._suits(index, task, chooser)
                if suits and chooser.random() * self._most < factor:
                    chosen.append(index)
        return chosen

    def _suits(self, index: int, task: str, chooser: random.Random) -> bool:
        """Whether a clip is to be drawn for a task; nobody can ask for an unnamed actor without its picture."""
        if task not in SUBJECT_TASKS or is_unnamed(self.clips.story(index)):
            return self._may_show(index, task)
        share = self.config.data.unnamed_share
        return chooser.random() < NAMED_SUBJECTS * share / (1 - share)

    def _may_show(self, index: int, task: str) -> bool:
        return task in SUBJECT_TASKS | SHOWN_TASKS or not is_unnamed(self.clips.story(index))

    def validation_draw(self, task: str = "text") -> Draw:
        """All validation clips that suit the task, without caption dropout; always the same."""
        chooser = random.Random(derive_seed("validation", self.config.seed, task))
        indices = self.clips.validation()
        if self.config.data.unnamed_share > 0:
            indices = [index for index in indices if self._may_show(index, task)] or indices
        return self._draw(task, indices, chooser, random.Random(0), None)

    def _from_windows(self, layout: random.Random) -> bool:
        """Whether a continuation is learnt from windows cut from mid-clip: of Stage wherever there are any; of a folder, where only
        the longer videos have one, in proportion, so that these are not all that is seen."""
        share = self.clips.window_share
        return share > 0 if self.config.data.source == "stage" else layout.random() < share

    def _draw(
        self, task: str, indices: list[int], chooser: random.Random, layout: random.Random, step: int | None
    ) -> Draw:
        """`step` None: of validation clips, which are all taken as they are."""
        data = self.config.data
        windows = None
        num_subjects = 1
        may_be_two = step is not None and task in SUBJECT_TASKS and self.clips.max_references > 1
        if step is not None and may_be_two and layout.random() < TWO_SUBJECTS_SHARE:
            pairs = self.clips.choose_pairs(chooser, step, len(indices))
            if pairs:
                num_subjects, indices = 2, pairs
        if step is not None and task == "extend" and self._from_windows(layout):
            windows, indices = self.clips.choose_windows(chooser, step, len(indices))
        shown_guide, num_known = None, 0
        guides: tuple[int, ...] = ()
        num_guides = len(guide_frames(data.num_frames))
        num_latent_frames = self.num_latent_frames
        if task in IMAGE_TASKS:
            num_latent_frames = 1
            if layout.random() < 0.5:  # any frame of the clip, not only the first
                shown_guide = layout.randrange(num_guides)
        elif task == "first_image":
            num_known = 1
        elif task == "last_image":
            guides = (num_guides - 1,)
            num_known = int(layout.random() < 0.5)
        elif task == "keyframes":
            guides = tuple(sorted(layout.sample(range(num_guides), min(num_guides, layout.choice((1, 1, 2))))))
            num_known = int(layout.random() < 0.3)
        elif task == "extend":
            num_known = layout.randint(1, num_latent_frames - 1)

        dropout = data.caption_dropout if step is not None else 0.0
        captions, cameras = [], []
        for index in indices:
            caption, segments = self._words(index, task, chooser, num_subjects)
            dropped = chooser.random() < dropout
            captions.append("" if dropped else caption)
            vectors = self._camera(() if dropped else segments, self._amounts(index), windows is not None)
            cameras.append(vectors[:num_latent_frames])
        num_references = num_subjects if task in SUBJECT_TASKS else 0
        camera = torch.stack(cameras).numpy()
        return Draw(task, indices, windows, captions, camera, shown_guide, num_known, guides, num_references)

    def _words(
        self, index: int, task: str, chooser: random.Random, num_subjects: int = 1
    ) -> tuple[str, tuple[tuple[str, ...], ...]]:
        """Caption and camera segments to tell by vector; the move is told one way or the other."""
        data = self.config.data
        if data.source == "folder":  # brackets become vectors, as in a prompt
            plan = self.clips.story(index)
            return plan.prompt_without_brackets, () if task in IMAGE_TASKS else plan.segments
        from videogen.data.stage import action_caption, caption

        spec = self.clips.story(index)
        language = "zh" if chooser.random() < data.chinese_share else "en"
        by_vector = chooser.random() < data.camera_vector_share
        style = "none" if by_vector or task in IMAGE_TASKS else "words"
        loose = chooser.random() < data.loose_caption_share
        share = data.action_caption_share if task in SHOWN_TASKS else 0.0
        if spec.relation is None and share > 0 and chooser.random() < share:
            text = action_caption(spec, chooser, language, style)  # type: ignore[arg-type]
        else:
            text = caption(spec, chooser, language, style, free_order=loose)  # type: ignore[arg-type]
        if num_subjects == 1 and (task in SUBJECT_TASKS or is_unnamed(spec)):
            text = name_the_subject(text, spec.actors[0].name, language)
        elif task in SUBJECT_TASKS:
            for number, actor in enumerate(spec.actors, 1):
                text = name_the_subject(text, actor.name, language, number)
        if loose:
            text = loosen(text, chooser, language)
        told = by_vector and spec.camera_told and task not in IMAGE_TASKS
        return text, spec.camera if told else ()

    def _amounts(self, index: int) -> tuple[tuple[float, ...], ...] | None:
        """The true speed of a clip's camera commands, where it is known: what is told by vector is told exactly."""
        if self.config.data.source == "folder":
            return None
        from videogen.data.stage import camera_amounts

        return camera_amounts(self.clips.story(index))

    def _camera(
        self,
        segments: tuple[tuple[str, ...], ...],
        amounts: tuple[tuple[float, ...], ...] | None,
        from_mid_clip: bool,
    ) -> Tensor:
        """`[f, CAMERA_DIM]`; a window cut from mid-clip takes its part of the clip's plan."""
        num_frames = self.config.data.num_frames
        # The window is a clip of its own: its first latent stands for its first frame alone, wherever that lies.
        skipped = num_frames // 2 if from_mid_clip else 0
        vectors = camera_frame_vectors(segments, num_frames + skipped, amounts)
        return pool_camera(vectors[skipped:], self.scale_factor_temporal)


def _most_emphasis(data: DataConfig) -> float:
    """The largest factor, at least 1, that `data.emphasis` can give one clip: of scenes, say, it shows only one."""
    if not data.emphasis:
        return 1.0
    from videogen.data.stage import rungs

    vocabulary = rungs()[data.rung]
    num_commands = vocabulary.max_camera_commands * vocabulary.max_camera_segments
    at_once = (
        (vocabulary.actors, vocabulary.max_actors),
        (vocabulary.motions, vocabulary.max_actors),
        (vocabulary.speeds, vocabulary.max_actors),
        (vocabulary.scenes, 1),
        (vocabulary.lights, 1),
        (vocabulary.cameras, num_commands),
        (vocabulary.events, 1),
    )
    most = 1.0
    for words, count in at_once:
        factors = sorted((data.emphasis.get(word, 1.0) for word in words), reverse=True)
        most *= math.prod(factor for factor in factors[:count] if factor > 1)
    return most


def is_unnamed(spec: Any) -> bool:
    """Whether the first actor of a Stage clip has no name."""
    return spec.actors[0].name.startswith(UNNAMED)


def story_words(spec: Any) -> set[str]:
    """What a clip of Stage shows, as words of its vocabulary."""
    shown = {spec.scene, spec.light, *(command for group in spec.camera for command in group)}
    for actor in spec.actors:
        shown |= {actor.name, actor.motion, actor.speed}
    return shown | {spec.event} if spec.event else shown


def assemble(draw: Draw, latents: Latents, data: DataConfig, scale_factor_temporal: int) -> Batch:
    """A drawn micro-batch with its latents, on their device."""
    if draw.windows is not None:
        video = latents.take("windows", draw.windows)
    elif draw.shown_guide is not None:
        video = latents.take("guides", draw.indices)[:, :, draw.shown_guide, None]
    else:
        video = latents.take("clips", draw.indices)[:, :, : draw.camera.shape[1]]
    batch, channels, num_latent_frames, height, width = video.shape
    guides = references = None
    if draw.guides:
        found = latents.take("guides", draw.indices)
        guides = torch.stack([found[:, :, guide] for guide in draw.guides], dim=2)
    if draw.num_references:
        references = latents.take("references", draw.indices)[:, :, : draw.num_references]
    numbers = guide_frames(data.num_frames)
    frames = build_frames(
        num_latent_frames,
        (channels, height, width),
        batch_size=batch,
        fps=data.fps,
        scale_factor_temporal=scale_factor_temporal,
        camera=to_device(draw.camera, video.device),
        known_video=video[:, :, : draw.num_known] if draw.num_known else None,
        guides=guides,
        guide_frames=[numbers[guide] for guide in draw.guides],
        references=references,
        device=video.device,
    )
    sample = torch.cat([video, frames.latents[:, :, num_latent_frames:]], dim=2)
    return Batch(draw.task, frames, sample, draw.captions, draw.indices, text_seed=draw.text_seed)


def tokenize(
    text_tokenizer: Any,
    captions: Sequence[str],
    config: TrainConfig,
    multiple: int = 1,
    text_seed: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Ids and mask `[B, S]`, S no longer than the longest caption asks for, rounded up to a `multiple`; in a compiled run, which
    wants few shapes, the most there may be."""
    dropout = 0.0 if text_seed is None else config.text.piece_dropout
    ids, mask = text_tokenizer(captions, config.text.max_length, dropout, random.Random(text_seed))
    longest = ids.shape[1] if config.compile else -(-int(mask.sum(1).max()) // multiple) * multiple
    return ids[:, :longest], mask[:, :longest]


class BatchMaker(BatchDrawer):
    """Makes micro-batches from a cache.

    Args:
        config: of the run.
        cache: latents and records; its last `config.data.num_validation` clips are never trained on.
        scale_factor_temporal: of the video tokenizer.
    """

    def __init__(self, config: TrainConfig, cache: LatentCache, scale_factor_temporal: int = 4):
        super().__init__(config, CacheClips(config, cache), scale_factor_temporal)
        self.cache = cache

    def training_batch(self, step: int, micro: int = 0, rank: int = 0) -> Batch:
        """The micro-batch of a step."""
        draw = self.training_draw(step, micro, rank)
        return assemble(draw, self.cache, self.config.data, self.scale_factor_temporal)

    def validation_batch(self, task: str = "text") -> Batch:
        """All validation clips, without caption dropout; always the same."""
        return assemble(self.validation_draw(task), self.cache, self.config.data, self.scale_factor_temporal)

    def num_clips(self, steps: int) -> int:
        """How many different clips there are to learn from, however many `steps`."""
        return len(self.cache)

    def close(self) -> None:
        """Nothing is open."""


def loosen(caption: str, chooser: random.Random, language: str, unknown_share: float = 0.05) -> str:
    """A caption as people write it who do not know the grammar: other marks between its clauses, small words missing, and words
    among them that mean nothing to the model, some of them instead of others.

    The grammar's few phrases would otherwise be learnt as such, and a prompt with an unknown word in it be misread. The order stays
    that of the caption: the grammar's own free order leaves out what is held out for evaluation, and another shuffle would not.

    Args:
        caption: of the grammar.
        chooser: makes every decision.
        language: "en" or "zh".
        unknown_share: how many invented words there are for every word (in Chinese, for every character), and how many words
            are replaced by one.
    """
    clauses = [clause.strip() for clause in caption.split(",")]
    if language == "zh":
        clauses = [re.sub("一个|的|在", lambda m: "" if chooser.random() < 0.3 else m[0], clause) for clause in clauses]
        clauses = ["".join(_with_unknown(clause, chooser, unknown_share, _unknown_character)) for clause in clauses]
    else:
        split = [clause.split() for clause in clauses]
        kept = [[w for w in words[:-1] if w not in FUNCTION_WORDS or chooser.random() > 0.3] for words in split]
        clauses = [
            " ".join(_with_unknown(short + words[-1:], chooser, unknown_share, _unknown_word))
            for short, words in zip(kept, split, strict=True)
        ]
    marks = (",", ",", ":", "。") if language == "zh" else (", ", ", ", ": ", " and ")
    text, *others = filter(None, clauses)
    for clause in others:
        text += chooser.choice(marks) + clause
    return text


def _with_unknown(
    words: Sequence[str], chooser: random.Random, share: float, unknown: Callable[[random.Random], str]
) -> list[str]:
    """The words with unknown ones put between them, and some replaced by such, `share` of each."""
    found = []
    for word in words:
        if chooser.random() < share:
            found.append(unknown(chooser))
        found.append(unknown(chooser) if chooser.random() < share else word)
    return found


def _unknown_word(chooser: random.Random) -> str:
    """An invented English word of one to three syllables."""
    syllables = chooser.choice((1, 2, 2, 3))
    word = "".join(chooser.choice(ONSETS) + chooser.choice(VOWELS) for _ in range(syllables))
    return word + chooser.choice(CODAS)


def _unknown_character(chooser: random.Random) -> str:
    return chr(chooser.randrange(0x4E00, 0x9FA6))


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

    if actor.startswith(UNNAMED):
        return [re.compile(rf"(\ban? |一个){actor}(?!\d)")]
    entry = load_actors()[actor]
    if language == "zh":
        names = [entry.name_zh, *entry.synonyms_zh, *entry.held_out_synonyms_zh]
        return [re.compile(f"一个{name}") for name in sorted(names, key=len, reverse=True)]
    names = [entry.name, *entry.synonyms_en, *entry.held_out_synonyms_en]
    return [re.compile(rf"\ban? {re.escape(name)}\b") for name in sorted(names, key=len, reverse=True)]


def caption_corpus(config: TrainConfig, rung_only: bool = False) -> list[str]:
    """Texts to train the text tokenizer on: captions of the first and last rung of Stage in both languages, or the folder's.

    Held-out words are not among them: they would become ids whose embedding no caption trains.

    Args:
        config: of the run.
        rung_only: captions of the run's own rung, as training words them; what a tokenizer is then rid of the rest by.
    """
    if config.data.source == "folder":
        from videogen.data.folder import read_captions

        entries = read_captions(config.data.path, config.data.captions)
        return [parse_camera(entry["caption"]).prompt_without_brackets for entry in entries]
    from videogen.data.stage import caption, rungs, sample_spec

    chooser = random.Random(derive_seed("corpus", config.seed))
    texts = []
    vocabularies = [rungs()[config.data.rung]] if rung_only else list(rungs().values())
    moves_told = not rung_only or config.data.camera_vector_share < 1
    style = "words" if moves_told else "none"
    for i in range(config.text.corpus_size):
        vocabulary = vocabularies[-1 - i % 2 * (len(vocabularies) - 1)]
        spec = sample_spec(chooser, vocabulary, "train" if rung_only else "any")
        for language in ("en", "zh"):
            text = caption(spec, chooser, language=language, style=style)  # type: ignore[arg-type]
            texts.append(name_the_subject(text, spec.actors[0].name, language) if i % 8 == 0 else text)
    return texts
