"""Camera commands: the 15 bracket commands of MiniMax video-01-Director, read from a prompt and turned into vectors.

A prompt carries commands in brackets: several in one bracket act together (``[Pan left,Pedestal up]``), brackets along
the prompt act one after another (``[Push in] ... [Pull out]``). The vectors are what the backbone sees: one per latent
frame, the amount of each movement in units of the standard speed of one command.

Source of names and rules: MiniMax platform documentation, "Video Generation: camera movement" (English and Chinese).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokenizer3d.shapes import check_num_frames

if TYPE_CHECKING:  # reading commands is for programs without torch too (the server's front)
    import torch

CAMERA_AXES = ("truck", "pan", "push", "pedestal", "tilt", "zoom", "shake", "tracking", "specified")
"""Columns of a camera vector. Positive: right, right, in, up, up, in. ``specified`` is 1 where a command was given, so
that no command (all zeros) differs from [Static shot] (zeros, but specified)."""

CAMERA_DIM = len(CAMERA_AXES)

CAMERA_EFFECTS: dict[str, tuple[str, float] | None] = {
    "Truck left": ("truck", -1.0),
    "Truck right": ("truck", 1.0),
    "Pan left": ("pan", -1.0),
    "Pan right": ("pan", 1.0),
    "Push in": ("push", 1.0),
    "Pull out": ("push", -1.0),
    "Pedestal up": ("pedestal", 1.0),
    "Pedestal down": ("pedestal", -1.0),
    "Tilt up": ("tilt", 1.0),
    "Tilt down": ("tilt", -1.0),
    "Zoom in": ("zoom", 1.0),
    "Zoom out": ("zoom", -1.0),
    "Shake": ("shake", 1.0),
    "Tracking shot": ("tracking", 1.0),
    "Static shot": None,
}
"""Command -> its column of `CAMERA_AXES` and the amount there; None for stillness. Stage draws, and its checkers judge, by
this table."""

CAMERA_COMMANDS: tuple[str, ...] = tuple(CAMERA_EFFECTS)
"""The 15 commands in MiniMax's order and spelling."""

CAMERA_CHINESE: dict[str, str] = {
    "Truck left": "左移",
    "Truck right": "右移",
    "Pan left": "左摇",
    "Pan right": "右摇",
    "Push in": "推进",
    "Pull out": "拉远",
    "Pedestal up": "上升",
    "Pedestal down": "下降",
    "Tilt up": "上摇",
    "Tilt down": "下摇",
    "Zoom in": "变焦推近",
    "Zoom out": "变焦拉远",
    "Shake": "晃动",
    "Tracking shot": "跟随",
    "Static shot": "固定",
}
"""Command -> documented Chinese spelling."""

CAMERA_ALIASES: dict[str, str] = {
    "push out": "Pull out",  # stands in MiniMax's own example, not in its list
    "pull back": "Pull out",
    "pull in": "Push in",
    "dolly in": "Push in",
    "dolly out": "Pull out",
    "rise": "Pedestal up",
    "lower": "Pedestal down",
    "tilt left": "Pan left",
    "tilt right": "Pan right",
    "shaking": "Shake",
    "camera shake": "Shake",
    "tracking": "Tracking shot",
    "track": "Tracking shot",
    "follow": "Tracking shot",
    "static": "Static shot",
    "fixed": "Static shot",
    "still": "Static shot",
    "跟拍": "Tracking shot",
    "固定镜头": "Static shot",
}
"""Spellings seen in the wild -> command. Reading one is noted in `CameraPlan.notes`."""

MAX_ADVISED_TOGETHER = 3

_SPELLINGS = {
    **{name.casefold(): name for name in CAMERA_COMMANDS},
    **{chinese: name for name, chinese in CAMERA_CHINESE.items()},
}
_BRACKET = re.compile(r"[\[【［]([^\[\]【】［］]*)[\]】］]")
_STRAY_BRACKET = re.compile(r"[\[\]【】［］]")
_SEPARATOR = re.compile(r"[,，、;；]")


@dataclass(frozen=True)
class CameraPlan:
    """What a prompt says about the camera.

    Attributes:
        prompt_without_brackets: the prompt with every bracket taken out.
        segments: commands in sequence; those of one inner tuple act together. Empty when no command was given.
        notes: what was read tolerantly, for the user to see.
    """

    prompt_without_brackets: str
    segments: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)


def parse_camera(prompt: str) -> CameraPlan:
    """Reads the bracket commands of a prompt.

    Case, spaces, underscores, Chinese brackets and Chinese commas are all accepted, as are the spellings of
    `CAMERA_ALIASES`. More than three commands in one bracket are allowed and noted; a repeated one counts once.

    Raises:
        ValueError: unknown command (names the nearest), empty or unpaired bracket, or commands that contradict each
            other in one bracket (opposite directions, or [Static shot] beside a movement).
    """
    notes: list[str] = []
    segments = tuple(_parse_bracket(match.group(1), notes) for match in _BRACKET.finditer(prompt))
    text = _BRACKET.sub(" ", prompt)
    stray = _STRAY_BRACKET.search(text)
    if stray:
        raise ValueError(
            f"`prompt` must close every camera bracket, got a lone '{stray.group()}'; write for example [Pan left]."
        )
    return CameraPlan(_tidy(text) if segments else prompt.strip(), segments, tuple(notes))


def check_segments(segments: tuple[tuple[str, ...], ...]) -> None:
    """Raises ValueError if a segment holds an unknown command or commands that contradict each other."""
    for segment in segments:
        for name in segment:
            if name not in CAMERA_EFFECTS:
                raise _unknown(name)
        _check_together(segment)


def camera_text(segments: tuple[tuple[str, ...], ...], language: str = "en") -> str:
    """Writes segments as the canonical bracket string, e.g. ``"[Pan left,Pedestal up] [Push in]"``.

    `parse_camera(camera_text(segments)).segments == segments` for segments that all name a command.

    Args:
        segments: commands in sequence.
        language: "en" or "zh".

    Raises:
        ValueError: unknown or contradictory command, an empty segment, or another language.
    """
    if language not in ("en", "zh"):
        raise ValueError(f"`language` must be 'en' or 'zh', got '{language}'.")
    check_segments(segments)
    if not all(segments):
        raise ValueError("`segments` must each name a command to be written as text; use 'Static shot' for stillness.")
    spell = CAMERA_CHINESE if language == "zh" else {name: name for name in CAMERA_COMMANDS}
    return " ".join("[" + ",".join(spell[name] for name in segment) + "]" for segment in segments)


def camera_frame_vectors(
    segments: tuple[tuple[str, ...], ...], num_frames: int, amounts: tuple[tuple[float, ...], ...] | None = None
) -> torch.Tensor:
    """One camera vector per pixel frame.

    The segments share the clip equally in time; a frame belongs to the segment that holds its centre.

    Args:
        segments: commands in sequence; an empty inner tuple leaves its stretch without a command.
        num_frames: F, at least 1.
        amounts: speed of every command, in units of the standard one; None = 1.

    Returns:
        float32 [F, 9], columns as in `CAMERA_AXES`; all zeros when there is no segment.
    """
    import torch

    check_segments(segments)
    vectors = torch.zeros(num_frames, CAMERA_DIM)
    for frame in range(num_frames if segments else 0):
        index = (2 * frame + 1) * len(segments) // (2 * num_frames)
        for place, name in enumerate(segments[index]):
            vectors[frame, CAMERA_AXES.index("specified")] = 1.0
            effect = CAMERA_EFFECTS[name]
            if effect is not None:
                amount = 1.0 if amounts is None else amounts[index][place]
                vectors[frame, CAMERA_AXES.index(effect[0])] = effect[1] * amount
    return vectors


def pool_camera(frame_vectors: torch.Tensor, scale_factor_temporal: int) -> torch.Tensor:
    """Averages camera vectors of pixel frames [F, 9] over the frames of each latent: [f, 9].

    Latent 0 stands for frame 0 alone, latent k > 0 for frames ``(k - 1) * s + 1 ... k * s``; F must be
    ``1 + (f - 1) * s``.
    """
    import torch

    first, rest = frame_vectors[:1], frame_vectors[1:]
    if len(rest) == 0:
        return first.clone()
    return torch.cat([first, rest.unflatten(0, (-1, scale_factor_temporal)).mean(1)])  # [f, 9]


def camera_vectors(
    segments: tuple[tuple[str, ...], ...], num_frames: int, scale_factor_temporal: int = 4
) -> torch.Tensor:
    """One camera vector per latent frame: the average over the pixel frames it stands for.

    Args:
        segments: commands in sequence, sharing the clip equally in time; ``()`` gives all zeros, `specified` included.
        num_frames: F, 1 plus a multiple of `scale_factor_temporal`.
        scale_factor_temporal: pixel frames per latent frame.

    Returns:
        float32 [f, 9], columns as in `CAMERA_AXES`, 1.0 = the standard speed of one command.

    Raises:
        ValueError: `num_frames` off the grid, or a command as in `check_segments`.
    """
    check_num_frames(num_frames, scale_factor_temporal)
    return pool_camera(camera_frame_vectors(segments, num_frames), scale_factor_temporal)


def _parse_bracket(content: str, notes: list[str]) -> tuple[str, ...]:
    spellings = [part.strip() for part in _SEPARATOR.split(content)]
    names: list[str] = []
    for spelling in spellings:
        if not spelling:
            raise ValueError(
                f"`prompt` has an empty camera command in [{content}]; write one of "
                f"{', '.join(CAMERA_COMMANDS)}, or leave the bracket out."
            )
        key = re.sub(r"[\s_\-]+", " ", spelling).casefold()
        name = _SPELLINGS.get(key)
        if name is None:
            name = CAMERA_ALIASES.get(key)
            if name is None:
                raise _unknown(spelling)
            notes.append(f"camera command [{spelling}] was read as [{name}].")
        if name in names:
            notes.append(f"camera command [{name}] stands twice in [{content.strip()}] and counts once.")
        else:
            names.append(name)
    _check_together(tuple(names))
    if len(names) > MAX_ADVISED_TOGETHER:
        notes.append(
            f"[{','.join(names)}] asks for {len(names)} camera movements at once; "
            f"at most {MAX_ADVISED_TOGETHER} are advised."
        )
    return tuple(names)


def _check_together(names: tuple[str, ...]) -> None:
    if "Static shot" in names and len(names) > 1:
        other = next(name for name in names if name != "Static shot")
        raise ValueError(
            f"camera commands of one bracket must not contradict each other, got [Static shot] with [{other}]; "
            f"keep one of them, or write two brackets for one after the other."
        )
    by_axis: dict[str, str] = {}
    for name in names:
        effect = CAMERA_EFFECTS[name]
        if effect is None:
            continue
        other = by_axis.setdefault(effect[0], name)
        if other != name:
            raise ValueError(
                f"camera commands of one bracket must not contradict each other, got [{other}] with [{name}]; "
                f"keep one of them, or write two brackets for one after the other."
            )


def _unknown(spelling: str) -> ValueError:
    known = {**_SPELLINGS, **CAMERA_ALIASES}
    nearest = known[difflib.get_close_matches(spelling.casefold(), known, n=1, cutoff=0.0)[0]]
    return ValueError(
        f"camera command [{spelling}] is unknown; the nearest is [{nearest}]. Known: {', '.join(CAMERA_COMMANDS)}."
    )


def _tidy(text: str) -> str:
    """Removes the spaces and commas that a bracket leaves behind."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([,.;:!?，。；：！？])", r"\1", text)
    text = re.sub(r"([,，;；])(?:\s*[,，;；])+", r"\1", text)
    text = re.sub(r"[,，;；]+\s*([.。!！?？])", r"\1", text)
    return text.strip().strip(",，;；").strip()
