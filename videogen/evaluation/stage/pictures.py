"""Compares frames with given pictures and with each other: nearness, order, cuts.

A *jump* between two frames is their difference relative to what the clip does there anyway: the median difference of the neighbouring frames around.
It is taken twice. Of frames reduced to a few cells, in the median cell, it shows a change of colour or light everywhere; of all pixels also one of
place or sharpness. A clip that hardly moves is given the noise of a coded video in place of its median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

MOST_PSNR = 60.0
"""dB, of equal pictures."""

_CELLS = 6  # of a reduced frame, each way
_AROUND = 8  # frames before and after that a jump is compared with: a hop takes about as many
_NOISE = {
    "colour": 1.2,
    "place": 3.0,
}  # of 255: what may differ between neighbouring frames of a clip that stands still
COLOUR_JUMP, PLACE_JUMP = 2.6, 2.4
"""The most that passes for no cut; see `docs/evaluation.md` for how many true renders stay below."""


@dataclass(frozen=True)
class Jump:
    """The largest jump at some places of a clip; 1 = what the frames around differ by."""

    colour: float
    place: float

    @property
    def smooth(self) -> bool:
        """Whether neither is seen as a cut."""
        return self.colour <= COLOUR_JUMP and self.place <= PLACE_JUMP


def psnr(frame: np.ndarray, picture: np.ndarray) -> float:
    """Likeness of two uint8 pictures [H, W, 3] in dB, at most `MOST_PSNR`; the second is brought to the size of the first."""
    error = float(np.mean((frame.astype(np.float32) - _sized(picture, frame.shape[:2])) ** 2))
    return min(MOST_PSNR, 10 * float(np.log10(255**2 / max(error, 1e-9))))


def nearest_frames(frames: np.ndarray, pictures: Sequence[np.ndarray]) -> list[int]:
    """For each picture the number of the frame that differs least from it; frames uint8 [F, H, W, 3]."""
    video = frames.astype(np.float32)
    return [int(((video - _sized(p, frames.shape[1:3])) ** 2).mean((1, 2, 3)).argmin()) for p in pictures]


def jump(frames: np.ndarray, places: Sequence[int]) -> Jump:
    """The largest jump of a clip, uint8 [F, H, W, 3], into the frames of the given numbers.

    Raises:
        ValueError: No place, or one that is not a later frame of the clip, or no other frames to compare with.
    """
    if not places or min(places) < 1 or max(places) >= len(frames) or len(frames) - 1 <= len(set(places)):
        raise ValueError(f"`places` must be some of the frames 1 to {len(frames) - 1}, not all, got {list(places)}.")
    reduced = [cv2.resize(frame, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA) for frame in frames]
    cells = np.abs(np.diff(np.stack(reduced).astype(np.float32), axis=0)).mean(-1)  # [F-1, 6, 6]
    pixels = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))
    found = {}
    # Half of the cells: what changes colour everywhere is no actor that moves.
    for name, steps in (("colour", np.median(cells, (1, 2))), ("place", pixels)):
        at = np.array(sorted(set(places))) - 1
        others = np.setdiff1d(np.arange(len(steps)), at)
        ratios = []
        for place in at:
            around = others[np.abs(others - place) <= _AROUND]
            usual = np.median(steps[around if len(around) else others])
            ratios.append(steps[place] / max(float(usual), _NOISE[name]))
        found[name] = float(max(ratios))
    return Jump(**found)


def _sized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if picture.shape[:2] != size:
        picture = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
    return picture.astype(np.float32)
