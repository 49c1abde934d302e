"""What may be asked for: sizes, rates, lengths, seeds and camera of a request, checked against what was trained.

All checks stand here, none in the pipelines: they share them with the command line and the server. `vocabulary` is the
content of `vocabulary.json` beside the weights; without one (a model of your own) only the grid of the model binds.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from tokenizer3d.shapes import check_num_frames, num_latent_frames, num_pixel_frames
from videogen.conditioning.camera import (
    CAMERA_DIM,
    CameraPlan,
    camera_frame_vectors,
    parse_camera,
    pool_camera,
)
from videogen.conditioning.camera_words import read_camera_words
from videogen.conditioning.prompt import check_prompt
from videogen.conditioning.unsaid import say_the_unsaid
from videogen.conditioning.wording import Read, read_words

if TYPE_CHECKING:  # checking a request is for programs without torch too (the server's front)
    import torch

    from videogen.receipt import Task

MAX_DURATION = 600.0
"""Seconds; a longer video is refused."""

Quality = Literal["fast", "high"]
DEFAULT_INFERENCE_STEPS = 20
DEFAULT_GUIDANCE_SCALE = 3.0
DEFAULT_GUIDANCE_INTERVAL = (0.0, 1.0)
MAX_INFERENCE_STEPS = 1000
MAX_GUIDANCE_SCALE = 100.0
MAX_SEED = 2**63 - 1
CameraInput: TypeAlias = "str | torch.Tensor | np.ndarray | Sequence[Sequence[float]]"


def check_size(
    height: int | None, width: int | None, vocabulary: Mapping[str, Any] | None, multiple: int
) -> tuple[int, int]:
    """Returns (height, width) in pixels; what is None becomes the first trained size's.

    Raises:
        ValueError: not a trained size; without a vocabulary: not given, or no positive multiple of `multiple`.
    """
    if vocabulary and vocabulary.get("sizes"):
        sizes = [(int(h), int(w)) for w, h in vocabulary["sizes"]]
        matching = [size for size in sizes if height in (None, size[0]) and width in (None, size[1])]
        if matching:
            return matching[0]
        shown = " or ".join(f"{w}x{h}" for h, w in sizes)
        asked = f"{width if width is not None else sizes[0][1]}x{height if height is not None else sizes[0][0]}"
        raise ValueError(f"`width` and `height` must be a size the model was trained on, got {asked}; use {shown}.")
    if height is None or width is None:
        raise ValueError("`height` and `width` must be given for a model without `vocabulary.json`.")
    for name, value in (("height", height), ("width", width)):
        if value < multiple or value % multiple:
            good = max(multiple, round(value / multiple) * multiple)
            raise ValueError(f"`{name}` must be a positive multiple of {multiple}, got {value}; use {good}.")
    return height, width


def check_fps(fps: float | None, vocabulary: Mapping[str, Any] | None) -> float:
    """Returns the frames per second; None becomes the first trained rate.

    Raises:
        ValueError: not a trained rate, or not a positive number.
    """
    if vocabulary and vocabulary.get("fps"):
        rates = vocabulary["fps"]
        if fps is None:
            return float(rates[0])
        if fps not in rates:
            shown = " or ".join(f"{rate:g}" for rate in rates)
            raise ValueError(f"`fps` must be a rate the model was trained on, got {fps:g}; use {shown}.")
    if fps is None:
        raise ValueError("`fps` must be given for a model without `vocabulary.json`.")
    if not (math.isfinite(fps) and 0 < fps <= 240):
        raise ValueError(f"`fps` must be above 0 and at most 240, got {fps:g}.")
    return float(fps)


def longest_num_frames(duration: float, fps: float, scale_factor_temporal: int = 4) -> int:
    """The largest frame count ``1 + 4 k`` (k >= 0) whose clip, ``num_frames / fps`` seconds, is not longer than asked.

    Args:
        duration: seconds.
        fps: frames per second.
        scale_factor_temporal: pixel frames per latent frame.

    Raises:
        ValueError: not finite, above `MAX_DURATION`, or shorter than one frame.
    """
    if not math.isfinite(duration) or duration > MAX_DURATION:
        raise ValueError(f"`duration` must be at most {MAX_DURATION:g} seconds, got {duration:g}.")
    available = math.floor(duration * fps + 1e-6)
    if available < 1:
        raise ValueError(f"`duration` must hold at least one frame, got {duration:g} s at {fps:g} frames per second.")
    return num_pixel_frames(1 + (available - 1) // scale_factor_temporal, scale_factor_temporal)


def resampled_num_frames(num_frames: int, video_fps: float, fps: float) -> int:
    """Frames of a video of `num_frames` at `video_fps` once it is taken at `fps`: one at each tick from the first frame to the last."""
    if abs(video_fps - fps) < 1e-3:
        return num_frames
    return math.floor((num_frames - 1) / video_fps * fps + 1e-6) + 1


def check_length(
    num_frames: int | None,
    duration: float | None,
    fps: float,
    vocabulary: Mapping[str, Any] | None,
    scale_factor_temporal: int,
    adjusted: list[str],
) -> int:
    """Returns the number of frames: the given one, the longest that fits in `duration`, or the trained one.

    A `duration` below every trained length becomes the shortest of them; that is noted in `adjusted`.

    Raises:
        ValueError: both given, off the grid, too long, or a number of frames shorter than the longest trained length and not
            a trained one.
    """
    lengths = sorted(vocabulary["num_frames"]) if vocabulary and vocabulary.get("num_frames") else []
    if num_frames is not None and duration is not None:
        raise ValueError(f"`num_frames` and `duration` must not both be given, got {num_frames} and {duration:g}.")
    if duration is not None:
        num_frames = longest_num_frames(duration, fps, scale_factor_temporal)
        if lengths and num_frames < lengths[-1]:
            num_frames = max((length for length in lengths if length <= num_frames), default=lengths[0])
        if abs(num_frames / fps - duration) > 0.5 / fps:
            why = "the longest length that fits" if num_frames / fps < duration else "the shortest trained length"
            adjusted.append(
                f"`duration` {duration:g} s became {num_frames / fps:.2f} s ({num_frames} frames at {fps:g} per "
                f"second), {why}."
            )
        _check_makes_clips(lengths, num_frames, "duration")
        return num_frames
    if num_frames is None:
        if not lengths:
            raise ValueError("`num_frames` or `duration` must be given for a model without `vocabulary.json`.")
        return lengths[-1]
    check_grid(num_frames, scale_factor_temporal)
    if num_frames > MAX_DURATION * fps:
        raise ValueError(f"`num_frames` must make at most {MAX_DURATION:g} seconds, got {num_frames}.")
    if lengths and num_frames not in lengths and num_frames < lengths[-1]:
        shown = ", ".join(map(str, lengths))
        raise ValueError(
            f"`num_frames` must be a length the model was trained on ({shown}) or longer, got {num_frames}; "
            f"use {min(lengths, key=lambda length: abs(length - num_frames))}."
        )
    _check_makes_clips(lengths, num_frames, "num_frames")
    return num_frames


def _check_makes_clips(lengths: Sequence[int], num_frames: int, name: str) -> None:
    if num_frames > 1 and lengths and lengths[-1] == 1:
        raise ValueError(
            f"`{name}` must be left out for a model of single pictures, which makes no clip of {num_frames} frames."
        )


def check_grid(num_frames: int, scale_factor_temporal: int) -> None:
    """Raises ValueError unless `num_frames` is 1 plus a multiple of `scale_factor_temporal`."""
    if isinstance(num_frames, bool) or not isinstance(num_frames, int | np.integer):
        raise ValueError(f"`num_frames` must be a whole number, got {num_frames!r}.")
    check_num_frames(num_frames, scale_factor_temporal)


def check_sampling(
    num_inference_steps: int,
    guidance_scale: float,
    guidance_method: str,
    guidance_rescale: float,
    guidance_interval: Sequence[float],
    num_videos: int,
    batch_size: int,
) -> None:
    """Raises ValueError for a number of steps, videos or a batch below 1, or a guidance that is not usable."""
    for name, value, most in (
        ("num_inference_steps", num_inference_steps, MAX_INFERENCE_STEPS),
        ("num_videos_per_prompt", num_videos, 10_000),
        ("batch_size", batch_size, 10_000),
    ):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= most:
            raise ValueError(f"`{name}` must be a whole number from 1 to {most}, got {value}.")
    if not math.isfinite(guidance_scale) or not 0 <= guidance_scale <= MAX_GUIDANCE_SCALE:
        raise ValueError(
            f"`guidance_scale` must be from 0 to {MAX_GUIDANCE_SCALE:g}, got {guidance_scale}; 1.0 switches guidance off."
        )
    if guidance_method not in ("standard", "cfg_zero"):
        raise ValueError(f"`guidance_method` must be 'standard' or 'cfg_zero', got {guidance_method!r}.")
    if not 0 <= guidance_rescale <= 1:
        raise ValueError(f"`guidance_rescale` must be from 0 to 1, got {guidance_rescale}.")
    if len(guidance_interval) != 2 or not 0 <= guidance_interval[0] <= guidance_interval[1] <= 1:
        raise ValueError(
            f"`guidance_interval` must be two noise levels from 0 to 1, the lower one first, got {tuple(guidance_interval)}."
        )


def notes_without_guidance(
    guidance_scale: float,
    guidance_interval: Sequence[float] | None = None,
    guidance_method: str = "standard",
    guidance_rescale: float = 0.0,
    negative_prompt: str | Sequence[str] | None = None,
) -> list[str]:
    """One sentence for each setting that was asked for (None = not) and does nothing, because a scale of 1 switches guidance off."""
    if guidance_scale != 1.0:
        return []
    asked = {
        "negative_prompt": any([negative_prompt] if isinstance(negative_prompt, str) else negative_prompt or ()),
        "guidance_interval": guidance_interval is not None,
        "guidance_method": guidance_method != "standard",
        "guidance_rescale": guidance_rescale != 0.0,
    }
    return [f"`{name}` has no effect while `guidance_scale` is 1.0." for name, given in asked.items() if given]


def make_generators(
    seed: int | None, generator: torch.Generator | Sequence[torch.Generator] | None, num_videos: int
) -> tuple[list[torch.Generator], list[int]]:
    """One generator per video and its seed: video i gets ``seed + i``; without a seed one is drawn and reported.

    Raises:
        ValueError: both given, a seed out of range, or not one generator per video.
    """
    import torch

    if generator is not None:
        if seed is not None:
            raise ValueError("`seed` and `generator` must not both be given; leave one out.")
        generators = [generator] if isinstance(generator, torch.Generator) else list(generator)
        if len(generators) != num_videos or len(set(map(id, generators))) != num_videos:
            raise ValueError(
                f"`generator` must hold one generator of its own for each of {num_videos} videos, "
                f"got {len(generators)}; pass a list, or `seed`."
            )
        return generators, [generator.initial_seed() for generator in generators]
    if seed is None:
        seed = secrets.randbelow(2**31)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= MAX_SEED - num_videos:
        raise ValueError(f"`seed` must be a whole number from 0 to {MAX_SEED - num_videos}, got {seed}.")
    seeds = [int(seed) + i for i in range(num_videos)]
    return [torch.Generator("cpu").manual_seed(value) for value in seeds], seeds


def settle_quality(
    quality: str | None,
    fast: Mapping[str, Any] | None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_interval: Sequence[float] | None = None,
    guidance_method: str = "standard",
    guidance_rescale: float = 0.0,
    negative_prompt: str | Sequence[str] | None = None,
) -> Quality:
    """Which weights a request runs with: those for few steps where the model has them and nothing that is asked for stands against it.

    Args:
        quality: "fast", "high" or None.
        fast: what the weights for few steps were trained for (`num_inference_steps`), None where there are none.
        num_inference_steps, guidance_scale, guidance_interval, guidance_method, guidance_rescale, negative_prompt: as asked for;
            None = not.

    Raises:
        ValueError: an unknown quality, or a fast one that cannot be had.
    """
    if quality not in (None, "fast", "high"):
        raise ValueError(f"`quality` must be 'fast' or 'high', got {quality!r}.")
    if fast is None:
        if quality == "fast":
            raise ValueError(
                "`quality` must be 'high' or left out, got 'fast': this model has no weights for few steps."
            )
        return "high"
    steps = fast["num_inference_steps"]
    guided = guidance_interval is not None or guidance_method != "standard" or guidance_rescale != 0.0
    guided = guided or any([negative_prompt] if isinstance(negative_prompt, str) else negative_prompt or ())
    fits = num_inference_steps in (None, steps) and guidance_scale in (None, 1.0) and not guided
    if quality == "fast" and not fits:
        raise ValueError(
            f"`quality` 'fast' takes {steps} steps, no guidance and no negative prompt; leave these out or ask for 'high'."
        )
    return "fast" if fits and quality != "high" else "high"


def read_prompt(prompt: str, vocabulary: Mapping[str, Any] | None, literal_prompt: bool = False) -> Read:
    """A prompt as the model is given it: unknown words read as the nearest known ones, unless it is to be taken literally."""
    return Read(prompt) if literal_prompt else read_words(prompt, vocabulary)


def complete_prompt(
    prompt: str, vocabulary: Mapping[str, Any] | None, literal_prompt: bool, task: Task, camera_given: bool
) -> Read:
    """A prompt after reading with what it leaves unsaid (`say_the_unsaid`), unless it is to be taken literally.

    A movement and a place are added where no picture of the clip shows them, a camera that stands still where a clip begins and nobody
    moves it.
    """
    if literal_prompt:
        return Read(prompt)
    kinds = [] if task in ("image", "extend") else ["motions", "scenes"]
    kinds += [] if task == "extend" or camera_given else ["cameras"]
    return say_the_unsaid(prompt, vocabulary, kinds)


def read_negative_prompt(
    negative_prompt: str, vocabulary: Mapping[str, Any] | None, literal_prompt: bool = False
) -> Read:
    """What to keep away from, checked and read as `read_prompt` reads a prompt; what is to be taken literally may hold anything.

    Raises:
        ValueError: it cannot be a prompt, or holds camera commands.
    """
    text = check_prompt(negative_prompt, "negative_prompt", allow_empty=True)
    if literal_prompt:
        return Read(text)
    try:
        commands = [name for segment in parse_camera(text).segments for name in segment]
    except ValueError:  # brackets that hold no command are text
        commands = []
    if commands:
        raise ValueError(
            f"`negative_prompt` must not hold camera commands, got [{commands[0]}]; ask for the wanted ones in `prompt`."
        )
    return read_words(text, vocabulary)


def read_camera(prompt: str, camera: CameraInput | None) -> tuple[CameraPlan, CameraInput | None]:
    """The camera plan of a prompt and of the argument `camera`, and the vectors where those were passed.

    Without commands in brackets or in the argument, moves told in plain words are read as commands (`read_camera_words`).

    Raises:
        ValueError: both the prompt and the argument name commands, or a command is wrong (see `parse_camera`).
    """
    plan = parse_camera(prompt)
    if camera is None:
        return read_camera_words(plan), None
    if plan.segments:
        raise ValueError(
            "`camera` and the brackets in `prompt` must not both name camera commands; keep one of the two."
        )
    if not isinstance(camera, str):
        return plan, camera
    told = camera if any(bracket in camera for bracket in "[【［") else f"[{camera}]"
    named = parse_camera(told)
    if named.prompt_without_brackets:
        raise ValueError(
            f"`camera` must hold commands only, got also '{named.prompt_without_brackets}'; "
            f"write for example '[Pan left] [Zoom in]'."
        )
    return CameraPlan(plan.prompt_without_brackets, named.segments, named.notes), None


def camera_of_timeline(
    plan: CameraPlan,
    vectors: CameraInput | None,
    num_frames: int,
    num_source_frames: int,
    scale_factor_temporal: int,
) -> torch.Tensor:
    """Camera vectors [f, 9] float32 of a whole timeline, of which the first frames may be there already.

    Args:
        plan: commands; they share the new frames equally, what is there already moves like the first of them.
        vectors: [f, 9] instead of commands; with source frames one row per *new* latent frame.
        num_frames: of the timeline, new and old.
        num_source_frames: old frames that an extension starts from.
        scale_factor_temporal: pixel frames per latent frame.

    Raises:
        ValueError: vectors of another shape or not finite.
    """
    import torch

    num_latents = num_latent_frames(num_frames, scale_factor_temporal)
    num_new = num_latents - (num_latent_frames(num_source_frames, scale_factor_temporal) if num_source_frames else 0)
    if vectors is not None:
        table = torch.as_tensor(np.asarray(vectors, dtype=np.float32))
        if table.shape != (num_new, CAMERA_DIM):
            raise ValueError(f"`camera` as vectors must be [{num_new}, {CAMERA_DIM}], got {list(table.shape)}.")
        if not bool(torch.isfinite(table).all()):
            raise ValueError("`camera` as vectors must be finite, got NaN or infinity.")
        return torch.cat([table[:1].expand(num_latents - num_new, -1), table])
    frame_vectors = camera_frame_vectors(plan.segments, num_frames - num_source_frames)
    frame_vectors = torch.cat([frame_vectors[:1].expand(num_source_frames, -1), frame_vectors])
    return pool_camera(frame_vectors, scale_factor_temporal)


def plan_windows(num_frames: int, window: int | None, scale_factor_temporal: int) -> list[tuple[int, int]]:
    """Cuts a timeline into windows (start, length) of trained length that overlap by about half, the last one by more where need be.

    The first starts at frame 0, each later one within its predecessor, the last one ends with the timeline. Starts are
    multiples of `scale_factor_temporal`, so that windows lie on the latent grid.

    Args:
        num_frames: of the timeline, on the grid.
        window: trained length in frames; None = no limit.
    """
    if window is None or num_frames <= window:
        return [(0, num_frames)]
    stride = window - overlap_frames(window, scale_factor_temporal)
    starts = [*range(0, num_frames - window, stride), num_frames - window]
    return [(start, window) for start in starts]


def overlap_frames(window: int, scale_factor_temporal: int) -> int:
    """How many frames a continued window takes over: about half of it, at least one latent frame with its motion."""
    num_later_latents = (window - 1) // scale_factor_temporal
    return 1 + scale_factor_temporal * (num_later_latents // 2)


def extension_window(trained_num_frames: int | None, scale_factor_temporal: int) -> int:
    """Frames that are known or new in one window of an extension: the trained length, or five latent frames' worth."""
    return trained_num_frames or num_pixel_frames(5, scale_factor_temporal)


def extension_overlap(trained_num_frames: int | None, scale_factor_temporal: int, available: int) -> int:
    """How many frames of a video's end to go on from: as between windows, fewer where the video is shorter, at least one."""
    wanted = overlap_frames(extension_window(trained_num_frames, scale_factor_temporal), scale_factor_temporal)
    while wanted > available:
        wanted -= scale_factor_temporal
    return wanted


def keyframe_numbers(
    times: Sequence[float], num_frames: int, fps: float, adjusted: list[str], name: str = "keyframes"
) -> list[int]:
    """Frame numbers of keyframe times (seconds), rounded to the nearest frame and reported where that moves them.

    Raises:
        ValueError: outside the clip, not finite, or two keyframes on one frame.
    """
    numbers: list[int] = []
    last = (num_frames - 1) / fps
    for time in times:
        if not math.isfinite(time) or time < 0 or round(time * fps) > num_frames - 1:
            raise ValueError(f"`{name}` must lie within the clip, 0 to {last:.2f} seconds, got {time:g}.")
        number = round(time * fps)
        if number in numbers:
            raise ValueError(
                f"`{name}` must lie on different frames, got two on frame {number} ({number / fps:.2f} s)."
            )
        if abs(time - number / fps) > 5e-3:
            adjusted.append(f"keyframe at {time:g} s was put on the nearest frame, {number} ({number / fps:.2f} s).")
        numbers.append(number)
    return numbers
