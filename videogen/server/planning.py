"""What a request becomes: every parameter is used, or named as adjusted, or refused.

The dialects translate their bodies into an `Ask`; `Planner.plan` makes of it the `JobRequest` that a worker carries out, with every number
settled, so that a job repeats with the same bytes after any interruption. The rules of sizes and lengths are those of the pipelines
(`videogen_pipelines.requests`); what differs is that a server, unless `strict` was asked for, goes to the nearest supported value and says so.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from videogen.conditioning.fit import fit
from videogen.server.lexicon import Lexicon, load_lexicon

Quality = Literal["fast", "high"]

Role = Literal["first", "last", "keyframe", "subject", "source"]
Task = Literal["text", "image", "subject", "extend"]
MAX_PICTURES = 8
MAX_REFERENCE = 32 * 1024**2  # characters of one data URL

Prompt = Annotated[str, StringConstraints(max_length=2000)]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=MAX_REFERENCE)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NoiseLevel = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Refused(ValueError):
    """A request that cannot be honoured. `param` is the name of the argument at fault, if it is one."""

    def __init__(self, message: str, param: str | None = None):
        super().__init__(message)
        self.param = param if param is not None else _first_argument(message)


class Keyframe(BaseModel):
    """A picture at a time."""

    model_config = ConfigDict(extra="forbid")

    time: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False, description="Seconds from the start.")]
    image: Annotated[Reference, Field(description="File id, data URL or (where enabled) http(s) address.")]


class Ask(BaseModel):
    """Body of `POST /v1/jobs`: everything this server can be asked for.

    Pictures are named by the id of an upload, as a data URL, or, where the operator enabled it, by http(s) address.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[Prompt, Field(description="What the video shows; may hold camera brackets such as [Pan left].")]
    negative_prompt: Annotated[Prompt, Field(description="What to keep away from.")] = ""
    camera: Annotated[
        str | list[Annotated[list[Finite], Field(min_length=9, max_length=9)]] | None,
        Field(
            description="Camera commands '[Pan left] [Zoom in]' instead of brackets in the prompt, or one vector per latent "
            "frame: truck, pan, push, pedestal, tilt, zoom, shake, tracking, specified."
        ),
    ] = None
    first_frame: Annotated[Reference | None, Field(description="Picture that the clip starts with.")] = None
    last_frame: Annotated[Reference | None, Field(description="Picture that the clip ends with.")] = None
    keyframes: Annotated[list[Keyframe], Field(max_length=MAX_PICTURES, description="Pictures in between.")] = []
    subjects: Annotated[
        list[Reference], Field(max_length=2, description="One or two pictures of 'the subject' of the prompt.")
    ] = []
    source: Annotated[
        str | None,
        Field(max_length=100, description="Job or file id of a video to continue; `duration` is what is added."),
    ] = None
    width: Annotated[int | None, Field(ge=1, le=16384, description="Pixels.")] = None
    height: Annotated[int | None, Field(ge=1, le=16384, description="Pixels.")] = None
    num_frames: Annotated[int | None, Field(ge=1, le=100_000, description="Frames, instead of `duration`.")] = None
    duration: Annotated[float | None, Field(gt=0, le=3600, allow_inf_nan=False, description="Seconds.")] = None
    fps: Annotated[float | None, Field(gt=0, le=240, allow_inf_nan=False, description="Frames per second.")] = None
    steps: Annotated[int | None, Field(ge=1, le=1000, description="Denoising steps.")] = None
    guidance_scale: Annotated[
        float | None,
        Field(ge=0, le=100, allow_inf_nan=False, description="How strictly to follow the prompt; 1 is off."),
    ] = None
    quality: Annotated[
        Quality | None,
        Field(
            description="Few steps without guidance, or as many as the model was trained for. None is fast where the model can, and "
            "nothing else that is asked for needs the other."
        ),
    ] = None
    guidance_method: Annotated[Literal["standard", "cfg_zero"], Field(description="How guidance is computed.")] = (
        "standard"
    )
    guidance_rescale: Annotated[
        float, Field(ge=0, le=1, allow_inf_nan=False, description="Against colours that guidance exaggerates.")
    ] = 0.0
    guidance_interval: Annotated[
        tuple[NoiseLevel, NoiseLevel] | None,
        Field(description="Lowest and highest noise level at which to guide; None is the model's own."),
    ] = None
    seed: Annotated[int | None, Field(ge=0, le=2**53, description="None draws one and reports it.")] = None
    prompt_optimizer: Annotated[bool, Field(description="Rewrite the prompt towards the model's words.")] = False
    literal_prompt: Annotated[
        bool,
        Field(
            description="Give the prompt to the model as it is: read no unknown words as known ones, add no movement, place or camera move; the default with `strict`."
        ),
    ] = False
    watermark: Annotated[bool, Field(description="Draw the visible mark.")] = False
    receipt_images: Annotated[
        bool, Field(description="Keep the pictures in the file's receipt (needed for replay).")
    ] = True
    batching: Annotated[
        bool,
        Field(description="Allow to be computed together with others: faster, but the last bits may depend on them."),
    ] = False
    strict: Annotated[bool, Field(description="Refuse what would have to be adjusted.")] = False
    priority: Annotated[int, Field(ge=-100, le=100, description="Higher goes first.")] = 0
    callback_url: Annotated[str | None, Field(max_length=2048, description="Told of every change of state.")] = None


class Picture(BaseModel):
    """A picture or video of a request, in the storage of this server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    file_id: str
    time: float | None = None
    is_clip: bool = False  # a clip of ours, not an upload


class JobRequest(BaseModel):
    """What a worker carries out; nothing is left to a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Task
    prompt: str
    asked_prompt: str | None = None  # where words of it were read as others
    negative_prompt: str
    camera: str | None
    camera_vectors: tuple[tuple[float, ...], ...] | None
    height: int
    width: int
    num_frames: int  # of an extension: the new ones
    fps: float
    steps: int
    guidance_scale: float
    guidance_method: Literal["standard", "cfg_zero"]
    guidance_rescale: float
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    quality: Quality = "high"
    seed: int
    pictures: tuple[Picture, ...] = ()
    watermark: bool = False
    receipt_images: bool = True


def shape_of(request: JobRequest) -> str:
    """Requests of one shape cost the same and may share a batch."""
    r = request
    guided = "guided" if r.guidance_scale != 1.0 else "plain"
    return (
        f"{r.task}-{len(r.pictures)}:{r.width}x{r.height}x{r.num_frames}@{r.fps:g}:{r.steps}:"
        f"{r.guidance_scale:g}-{r.guidance_method}-{r.guidance_rescale:g}-"
        f"{r.guidance_interval[0]:g}-{r.guidance_interval[1]:g}:{guided}-{r.quality}"
    )


@dataclass(frozen=True)
class StoredPicture:
    """An upload as `media` left it; what it changed is among `adjusted`. A video has `num_frames` at `fps` (None = the model's), a
    picture `width` and `height` (None = kept by a version that did not say)."""

    file_id: str
    adjusted: tuple[str, ...] = ()
    is_clip: bool = False
    num_frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Planned:
    """A request that was accepted."""

    request: JobRequest
    adjusted: list[str]
    warnings: list[str]
    num_windows: int

    @property
    def num_steps(self) -> int:
        return self.num_windows * self.request.steps

    @property
    def shape(self) -> str:
        return shape_of(self.request)

    @property
    def batchable_task(self) -> bool:
        return self.request.task == "text" and self.num_windows == 1 and self.request.camera_vectors is None


@dataclass
class Planner:
    """Plans requests for one model folder, without reading weights or importing torch.

    Args:
        folder: of the model.
        data: folder of the server, where the model's words are kept.
        max_duration: seconds of the longest clip.
    """

    folder: Path
    data: Path
    max_duration: float = 30.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def vocabulary(self) -> dict[str, Any] | None:
        path = self.folder / "vocabulary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    @cached_property
    def lexicon(self) -> Lexicon:
        """The words that the model knows."""
        return load_lexicon(self.vocabulary, self.data)

    @cached_property
    def words_vocabulary(self) -> dict[str, Any] | None:
        """The vocabulary with its words and phrases written out, for those who read prompts without the tables of Stage."""
        words, phrases = self.lexicon.words, self.lexicon.phrases
        return {**(self.vocabulary or {}), "words": words, "phrases": phrases} if any(words.values()) else None

    @cached_property
    def model_name(self) -> str:
        return "videogen-" + self.folder.name

    @cached_property
    def model_sha256(self) -> str:
        from videogen.receipt import weights_sha256

        return weights_sha256(self.folder)

    @cached_property
    def scale_factor_temporal(self) -> int:
        return int(self._config("vae")["scale_factor_temporal"])

    @cached_property
    def size_multiple(self) -> int:
        patch = int(self._config("transformer").get("patch_size", 1))
        return int(self._config("vae")["scale_factor_spatial"]) * patch

    @cached_property
    def longest_side(self) -> int:
        """Pixels of the longest side that the model makes: what it sees of a video needs no longer shorter side."""
        return max((int(side) for size in (self.vocabulary or {}).get("sizes", ()) for side in size), default=256)

    @cached_property
    def fast(self) -> dict[str, Any] | None:
        """What the model's weights for few steps were trained for; None where it has none."""
        file = self.folder / "fast" / "config.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def default_steps(self, quality: Quality) -> int:
        if quality == "fast" and self.fast is not None:
            return int(self.fast["num_inference_steps"])
        return int((self.vocabulary or {}).get("num_inference_steps", self._rules.DEFAULT_INFERENCE_STEPS))

    def default_guidance_scale(self, quality: Quality) -> float:
        if quality == "fast":
            return 1.0
        return float((self.vocabulary or {}).get("guidance_scale", self._rules.DEFAULT_GUIDANCE_SCALE))

    @cached_property
    def default_guidance_interval(self) -> tuple[float, float]:
        low, high = (self.vocabulary or {}).get("guidance_interval", self._rules.DEFAULT_GUIDANCE_INTERVAL)
        return float(low), float(high)

    def _config(self, component: str) -> dict[str, Any]:
        return json.loads((self.folder / component / "config.json").read_text(encoding="utf-8"))

    @cached_property
    def _rules(self) -> ModuleType:
        from videogen_pipelines import requests

        return requests

    def warm(self) -> None:
        """Read what planning needs; the first time it takes seconds."""
        with self._lock:
            _ = (
                self._rules,
                self.fast,
                self.default_guidance_interval,
                self.lexicon,
                self.model_sha256,
            )

    def plan(
        self, ask: Ask, pictures: Mapping[str, Sequence[StoredPicture]], *, force_watermark: bool = False
    ) -> Planned:
        """Settle a request.

        Args:
            ask: what was asked for.
            pictures: role -> stored files of `ask`'s references, keyframes in their order.
            force_watermark: the operator draws the visible mark on everything.

        Raises:
            Refused: what cannot be honoured, or, with `ask.strict`, what would have to be adjusted.
        """
        self.warm()
        from videogen.conditioning.prompt import check_prompt, vocabulary_warnings
        from videogen.server.optimizer import optimize_prompt

        adjusted: list[str] = []
        warnings: list[str] = []
        rules = self._rules
        for name, text in (("prompt", ask.prompt), ("negative_prompt", ask.negative_prompt)):
            check_text(text, name)
        if isinstance(ask.camera, str):
            check_text(ask.camera, "camera")
        task = _task(ask)
        for stored in (stored for group in pictures.values() for stored in group):
            adjusted.extend(stored.adjusted)
        try:
            prompt = check_prompt(ask.prompt)
            literal = ask.literal_prompt or (ask.strict and "literal_prompt" not in ask.model_fields_set)
            avoided = rules.read_negative_prompt(ask.negative_prompt, self.words_vocabulary, literal)
            negative = avoided.prompt
            read = rules.read_prompt(prompt, self.words_vocabulary, literal)
            asked, prompt = prompt, read.prompt
            adjusted.extend(dict.fromkeys((*read.notes, *avoided.notes)))
            if ask.prompt_optimizer:
                rewritten = optimize_prompt(
                    prompt, self.lexicon, has_subject=task == "subject", camera_given=ask.camera is not None
                )
                if rewritten.prompt != prompt:
                    adjusted.append(f"`prompt` was rewritten: {'; '.join(rewritten.changes)}.")
                    prompt = rewritten.prompt
            said = rules.complete_prompt(prompt, self.words_vocabulary, literal, task, ask.camera is not None)
            adjusted.extend(said.notes)
            asked_prompt = asked if read.prompt != asked or said.notes else None
            prompt = said.prompt
            camera, vectors = (ask.camera, None) if isinstance(ask.camera, str) else (None, ask.camera)
            plan, _ = rules.read_camera(prompt, ask.camera if camera is None else camera)
            if not plan.prompt_without_brackets:
                raise ValueError("`prompt` must not be empty beside its camera commands; say what the video shows.")
            adjusted.extend(plan.notes)
            for text in (plan.prompt_without_brackets, negative):
                warnings.extend(vocabulary_warnings(text, self.words_vocabulary))
            warnings.extend(self._camera_warnings(plan.segments))

            fps = self._fps(ask, adjusted)
            height, width = self._size(ask, adjusted, extends=task == "extend")
            adjusted.extend(_fitted(ask, pictures, height, width))
            if task == "extend":
                if self.trained_num_frames == 1:
                    raise ValueError("`source` cannot be continued by a model of single pictures.")
                num_frames = self._num_new_frames(ask, fps, self._num_source_frames(pictures, fps), adjusted)
            else:
                num_frames = self._length(ask, fps, adjusted)
            quality = rules.settle_quality(
                ask.quality,
                self.fast,
                ask.steps,
                ask.guidance_scale,
                ask.guidance_interval,
                ask.guidance_method,
                ask.guidance_rescale,
                negative,
            )
            steps = self.default_steps(quality) if ask.steps is None else ask.steps
            scale = self.default_guidance_scale(quality) if ask.guidance_scale is None else ask.guidance_scale
            interval = ask.guidance_interval or self.default_guidance_interval
            rules.check_sampling(steps, scale, ask.guidance_method, ask.guidance_rescale, interval, 1, 1)
            if scale == 1.0 and negative:
                raise ValueError(
                    "`negative_prompt` has no effect while `guidance_scale` is 1.0; leave one of them out."
                )
            for name in ("guidance_method", "guidance_rescale", "guidance_interval"):
                if scale == 1.0 and getattr(ask, name) not in (None, "standard", 0.0):
                    raise ValueError(f"`{name}` has no effect while `guidance_scale` is 1.0; leave one of them out.")
            if task == "image":
                frames = rules.keyframe_numbers([frame.time for frame in ask.keyframes], num_frames, fps, adjusted)
                first, last = ask.first_frame is not None, ask.last_frame is not None
                if first and num_frames == 1:
                    raise ValueError(
                        "`first_frame` must be left out for a clip of one frame, which it would be itself."
                    )
                if (first and 0 in frames) or (last and num_frames - 1 in frames):
                    raise ValueError("`keyframes` must not name a frame that `first_frame` or `last_frame` names.")
            windows, num_latents = self._windows(task, num_frames, fps, pictures)
            if vectors is not None and len(vectors) != num_latents:
                raise ValueError(f"`camera` as vectors must be [{num_latents}, 9], got [{len(vectors)}, 9].")
        except Refused:
            raise
        except (ValueError, TypeError) as error:
            raise Refused(str(error)) from None

        watermark = ask.watermark or force_watermark
        if force_watermark and not ask.watermark:
            adjusted.append("`watermark` is on: the operator of this server marks every clip.")
        if ask.strict and adjusted:
            raise Refused("`strict` was asked for, but this would be adjusted: " + " ".join(adjusted), "strict")
        request = JobRequest(
            task=task,
            prompt=prompt,
            asked_prompt=asked_prompt,
            negative_prompt=negative,
            camera=camera,
            camera_vectors=None if vectors is None else tuple(map(tuple, vectors)),
            height=height,
            width=width,
            num_frames=num_frames,
            fps=fps,
            steps=steps,
            guidance_scale=scale,
            guidance_method=ask.guidance_method,
            guidance_rescale=ask.guidance_rescale,
            quality=quality,
            guidance_interval=interval,
            seed=secrets.randbelow(2**31) if ask.seed is None else ask.seed,
            pictures=_pictures(ask, pictures),
            watermark=watermark,
            receipt_images=ask.receipt_images,
        )
        return Planned(request, list(dict.fromkeys(adjusted)), list(dict.fromkeys(warnings)), windows)

    def _camera_warnings(self, segments: Sequence[Sequence[str]]) -> list[str]:
        asked = {name for segment in segments for name in segment}
        known = (self.vocabulary or {}).get("cameras") or sorted(asked)
        return [
            f"the model has not learnt [{name}]; it knows {', '.join(known)}." for name in sorted(asked - set(known))
        ]

    def _fps(self, ask: Ask, adjusted: list[str]) -> float:
        rates = (self.vocabulary or {}).get("fps")
        fps = ask.fps
        if fps is not None and rates and fps not in rates and not ask.strict:
            nearest = float(min(rates, key=lambda rate: abs(rate - fps)))
            adjusted.append(f"`fps` {fps:g} became {nearest:g}, the nearest that the model was trained on.")
            return nearest
        return self._rules.check_fps(fps, self.vocabulary)

    def _size(self, ask: Ask, adjusted: list[str], extends: bool) -> tuple[int, int]:
        height, width = ask.height, ask.width
        given = {name: value for name, value in (("width", width), ("height", height)) if value is not None}
        if extends and given:
            raise Refused(
                "`width` and `height` must not be given with `source`, whose clip has a size; leave them out.",
                next(iter(given)),
            )
        try:
            return self._rules.check_size(height, width, self.vocabulary, self.size_multiple)
        except ValueError as error:
            if ask.strict or not given:
                raise Refused(str(error), next(iter(given), None)) from None
        sizes = [(int(h), int(w)) for w, h in (self.vocabulary or {}).get("sizes", ())]
        if sizes:
            want_height, want_width = height or width or 1, width or height or 1

            def distance(size: tuple[int, int]) -> tuple[float, float]:
                shape = abs(math.log(size[1] / size[0]) - math.log(want_width / want_height))
                return shape, abs(math.log(size[0] * size[1] / (want_height * want_width)))

            nearest = min(sizes, key=distance)
        else:
            if height is None or width is None:
                missing = "width" if width is None else "height"
                raise Refused("`width` and `height` must both be given for this model.", missing)
            step = self.size_multiple
            nearest = max(step, round(height / step) * step), max(step, round(width / step) * step)
        adjusted.append(
            f"{' and '.join(f'`{name}`' for name in given)} {'x'.join(map(str, given.values()))} became "
            f"{nearest[1]}x{nearest[0]}, the nearest that the model supports."
        )
        return nearest

    def _length(self, ask: Ask, fps: float, adjusted: list[str]) -> int:
        duration, num_frames = ask.duration, ask.num_frames
        if num_frames is not None and num_frames / fps > self.max_duration:
            if ask.strict or duration is not None:
                raise ValueError(f"`num_frames` must make at most {self.max_duration:g} seconds, got {num_frames}.")
            adjusted.append(
                f"`num_frames` {num_frames} is beyond the {self.max_duration:g} seconds that this server makes."
            )
            longest = ask.model_copy(update={"num_frames": None, "duration": self.max_duration})
            made = self._length(longest, fps, [])
            adjusted.append(f"`num_frames` {num_frames} became {made}, the nearest that fits.")
            return made
        if duration is not None and duration > self.max_duration:
            if ask.strict:
                raise ValueError(f"`duration` must be at most {self.max_duration:g} seconds, got {duration:g}.")
            adjusted.append(
                f"`duration` {duration:g} s is beyond the {self.max_duration:g} seconds that this server makes."
            )
            duration = self.max_duration
        lengths = sorted((self.vocabulary or {}).get("num_frames", ()))
        if duration is not None and num_frames is None and lengths and duration < lengths[0] / fps and not ask.strict:
            adjusted.append(
                f"`duration` {duration:g} s became {lengths[0] / fps:.2f} s ({lengths[0]} frames), the shortest length."
            )
            return lengths[0]
        check = self._rules.check_length
        try:
            return check(num_frames, duration, fps, self.vocabulary, self.scale_factor_temporal, adjusted)
        except ValueError:
            if ask.strict or num_frames is None or duration is not None:
                raise
        step = self.scale_factor_temporal
        nearest = 1 + step * max(0, round((num_frames - 1) / step))
        if lengths and nearest < lengths[-1]:
            wanted = num_frames
            nearest = min(lengths, key=lambda length: abs(length - wanted))
        adjusted.append(f"`num_frames` {num_frames} became {nearest}, the nearest length that the model makes.")
        return check(nearest, None, fps, self.vocabulary, step, adjusted)

    def _num_new_frames(self, ask: Ask, fps: float, available: int, adjusted: list[str]) -> int:
        step = self.scale_factor_temporal
        if ask.duration is not None and ask.num_frames is not None:
            raise ValueError("`num_frames` and `duration` must not both be given; leave one out.")
        window = self._rules.extension_window(self.trained_num_frames, step)
        usual = window - self._rules.extension_overlap(self.trained_num_frames, step, available)
        wanted = ask.duration * fps if ask.duration is not None else float(ask.num_frames or usual)
        if wanted / fps > self.max_duration:
            if ask.strict:
                argument = "num_frames" if ask.duration is None else "duration"
                raise ValueError(f"`{argument}` must make at most {self.max_duration:g} seconds, got {wanted / fps:g}.")
            wanted = self.max_duration * fps
        new = max(step, math.floor(wanted / step + 1e-6) * step)
        if ask.duration is not None and abs(new / fps - ask.duration) > 0.5 / fps:
            adjusted.append(
                f"`duration` {ask.duration:g} s became {new / fps:.2f} s ({new} new frames), the nearest that fits."
            )
        elif ask.num_frames is not None and new != ask.num_frames:
            adjusted.append(f"`num_frames` {ask.num_frames} became {new} new frames, the nearest that fits.")
        return new

    @property
    def trained_num_frames(self) -> int | None:
        """Frames of the longest clip that is made in one window."""
        return max((self.vocabulary or {}).get("num_frames", (0,))) or None

    def _num_source_frames(self, pictures: Mapping[str, Sequence[StoredPicture]], fps: float) -> int:
        """Frames of the video to continue, at the rate of the clip."""
        source = pictures["source"][0]
        return self._rules.resampled_num_frames(source.num_frames or 1, source.fps or fps, fps)

    def _windows(
        self, task: Task, num_frames: int, fps: float, pictures: Mapping[str, Sequence[StoredPicture]]
    ) -> tuple[int, int]:
        """Number of windows, and of latent frames that camera vectors are for."""
        from tokenizer3d.shapes import num_latent_frames

        step = self.scale_factor_temporal
        trained = self.trained_num_frames
        if task != "extend":
            return len(self._rules.plan_windows(num_frames, trained, step)), num_latent_frames(num_frames, step)
        available = self._num_source_frames(pictures, fps)
        overlap = self._rules.extension_overlap(trained, step, available)
        return len(self._rules.plan_windows(overlap + num_frames, trained, step)), num_frames // step


def check_text(text: str, name: str) -> None:
    """Refuse what no database or page can hold: NUL and broken characters.

    Raises:
        Refused: such a character.
    """
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Refused(f"`{name}` must be valid text without NUL, got a broken character; type it again.", name)


def references(ask: Ask) -> Iterator[tuple[Role, str, str]]:
    """The pictures and videos that a request names: their roles, the arguments, and what these hold."""
    if ask.first_frame is not None:
        yield "first", "first_frame", ask.first_frame
    if ask.last_frame is not None:
        yield "last", "last_frame", ask.last_frame
    for index, keyframe in enumerate(ask.keyframes):
        yield "keyframe", f"keyframes.{index}.image", keyframe.image
    for index, subject in enumerate(ask.subjects):
        yield "subject", f"subjects.{index}", subject
    if ask.source is not None:
        yield "source", "source", ask.source


def _task(ask: Ask) -> Task:
    frames = [name for name in ("first_frame", "last_frame", "keyframes") if getattr(ask, name)]
    alone = [name for name in ("source", "subjects") if getattr(ask, name)]
    if len(alone) + bool(frames) > 1:
        names = [f"`{name}`" for name in (*alone, *frames)]
        raise Refused(
            f"{', '.join(names[:-1])} and {names[-1]} must not be combined: the model takes a clip to continue, what a "
            "subject looks like, or pictures of the clip; leave the others out.",
            alone[0],
        )
    return "extend" if ask.source else "subject" if ask.subjects else "image" if frames else "text"


def _pictures(ask: Ask, pictures: Mapping[str, Sequence[StoredPicture]]) -> tuple[Picture, ...]:
    found = []
    roles: tuple[Role, ...] = ("first", "last", "keyframe", "subject", "source")
    for role in roles:
        for index, stored in enumerate(pictures.get(role, ())):
            time = ask.keyframes[index].time if role == "keyframe" else None
            found.append(Picture(role=role, file_id=stored.file_id, time=time, is_clip=stored.is_clip))
    return tuple(found)


def _fitted(ask: Ask, pictures: Mapping[str, Sequence[StoredPicture]], height: int, width: int) -> Iterator[str]:
    """What will be done to pictures of another size, in the words that the pipelines say it in."""
    names = {
        "first": ["first_frame"],
        "last": ["last_frame"],
        "keyframe": [f"keyframe {keyframe.time:g}" for keyframe in ask.keyframes],
        "subject": [f"subject {index + 1}" for index in range(len(ask.subjects))],
    }
    for role, group in names.items():
        for name, stored in zip(group, pictures.get(role, ()), strict=False):
            if stored.width is not None and stored.height is not None:
                yield from fit((stored.width, stored.height), height, width, name)[1]


def _first_argument(message: str) -> str | None:
    parts = message.split("`", 2)
    return parts[1] if len(parts) == 3 and parts[1].replace("_", "").isalnum() else None
