"""What is no success: a clip that is black though the scene is not dark, or frozen though something was to move."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BLACK_LEVEL = 4.0
"""Mean of 0..255 below which a clip is black."""

FROZEN_LEVEL = 0.25
"""Mean change from frame to frame, of 0..255, below which a clip is frozen."""

_DARK = re.compile(
    r"\b(?:night|dark(?:ness)?|black|midnight|space|starry|moonlit|moonlight|unlit)\b|夜|黑|暗|太空|星空|月光"
)


class BadClip(Exception):
    """A clip that must not be handed out. `code` is for programs."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


def check_clip(
    frames: np.ndarray, prompt: str, segments: Sequence[Sequence[str]], vocabulary: Mapping[str, Any] | None
) -> None:
    """Refuse a clip that cannot be what was asked for.

    Args:
        frames: uint8 [F, H, W, 3], the generated ones only.
        prompt: without camera brackets.
        segments: camera commands in sequence.
        vocabulary: of the model; says which words name a motion.

    Raises:
        BadClip: black, or frozen.
    """
    level = float(frames.mean())
    if level < BLACK_LEVEL and not _DARK.search(prompt.casefold()):
        raise BadClip(
            "black_clip", f"the clip is black (mean {level:.1f} of 255) though the scene is not dark; try another seed."
        )
    if len(frames) < 2:
        return
    change = float(np.abs(np.diff(frames.astype(np.int16), axis=0)).mean())
    if change >= FROZEN_LEVEL:
        return
    moves = any(name != "Static shot" for segment in segments for name in segment)
    what = "a camera move" if moves else "motion" if names_motion(prompt, vocabulary) else None
    if what:
        raise BadClip(
            "frozen_clip",
            f"the clip stands still (mean change {change:.2f} of 255) though {what} was asked for; try another seed.",
        )


def names_motion(prompt: str, vocabulary: Mapping[str, Any] | None) -> bool:
    """Whether a prompt asks for something to move, in words that the model was trained on."""
    if not vocabulary or not vocabulary.get("motions"):
        return False
    from videogen.data.stage import captions

    text = prompt.casefold()
    for name in vocabulary["motions"]:
        if name == "stays":
            continue
        english = [form for group in captions._MOTIONS_EN.get(name, ()) for pair in group for form in pair]
        chinese = [form for group in captions._MOTIONS_ZH.get(name, ()) for form in group]
        if any(re.search(rf"\b{re.escape(form)}\b", text) for form in english) or any(form in text for form in chinese):
            return True
    return False
