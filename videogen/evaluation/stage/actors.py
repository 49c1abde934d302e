"""Finds actors in the frames of a clip: which, where, how large, how turned.

Every sprite of a bank is a template. A coarse search compares all of them, in all sizes, with a few reduced frames; the best names are refined
and then followed through all frames. The measure is Lin's concordance correlation under the sprite's soft alpha: 1 for equal pixels, lowered by wrong colours, wrong contrast (a
half-transparent actor) and wrong shape alike. Half of it is taken over all colour channels together (so that the colour itself counts), half
within the channels (so that a plain blue sky is no blue whale). Beside it stands the *evidence*: how much better the sprite on a plain ground
explains its square of the picture than no sprite at all.

Positions and sizes are in screen units: the frame is 2 high, (0, 0) its centre, x right, y down; `half` is half the sprite square's side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videogen.data.stage.actors import load_sprite
from videogen.evaluation.stage.blends import shown_by_second

TINTS = ((1.0, 1.0, 1.0), (1.0, 0.84, 0.72), (0.62, 0.68, 0.88))  # day, sunset, night, as the renderer lights actors
_MIXED_TINTS = (*TINTS, (0.87, 0.89, 0.96), (0.75, 0.79, 0.92))  # and while night falls
_COARSE = 32  # rows of a reduced frame
_DIAMETERS = (7, 8, 10, 12)  # of the coarse templates, in pixels of a reduced frame and of one half as large again
_LEVELS = 2
_CLIMB_GRID, _GRID = 12, 18  # points across a template: while looking for the pose, and for the final comparison
SECOND_HALF = 0.24  # a second actor is at least this large: the moon is no penguin
_WORTH_FOLLOWING = 0.82  # concordance plus half the evidence that a second actor shows in one of the frames looked at
_HARD_TO_SEE = 0.65  # the same for actors that are asked for
_CLEAR = 0.9  # and that any actor shows somewhere, so that it pays to mend its track
_MAY_TURN = 0.8  # the same for an actor that may have turned away since: one with holes, such as a crab's claws, has little evidence
_TRIES = 4  # names that are followed
_SURE = (
    0.75,
    0.88,
)  # a track begins and ends with this share of its best score; one may come in where another seemed to be
_ANOTHER_SIZE = 0.35  # so far a log size off the line through most of them belongs to something else
_OFF_LINE = 0.08  # a jump off the line through the frames before, in `half`
_PREFERENCE = 0.12  # how much worse the pose on that line may be
_PICTURES_A_SECOND = 12.0
_OUT_OF_TIME = 0.03  # what the right order of an animation may cost
_GOOD, _SLIP = 1.25, 0.04  # a frame so much worse than the one before it is tried again from there
_RESIZED = (0.75, 1.2, 1.4, 1.7)  # sizes that are tried besides, relative to the one found
_ALIKE, _CLEARER = 0.94, 0.02  # concordance that needs no other size, and how much better another must be
_POLISHING = 0.1  # the share of the evidence that counts for the final poses
# An actor that keeps this share of its best score throughout does not turn; a sunflower's head, alike all round, keeps 0.82 of it while it does.
_UPRIGHT = 0.92
_JERK = 0.3  # what a turning actor's score falls by when it has been lost
_SHIFTS = (-0.12, 0.0, 0.12)  # of the second sprite of a blend against the first: x and y in `half`, and log size
_SOFTNESS = 3
_VISIBLE = 0.4  # share of the sprite that must lie inside the frame to be judged


@dataclass(frozen=True)
class ActorTrack:
    """One actor through a clip; [F] arrays, NaN where it is (mostly) outside the frame.

    Attributes:
        name: Best template.
        x, y, half, angle: Pose in screen units and radians.
        score: Concordance with the template, at most 1.
        gain: Contrast relative to the template, 1 = as opaque as it should be.
        evidence: Share of the square's variance that the sprite explains, at most 1.
        rival: Best other template.
        rival_score: Concordance of `rival` at the same place.
        mixed: What another sprite, the same in all frames, explains of what the template leaves over: 0 for a single actor, most of 1 for a blend.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    half: np.ndarray
    angle: np.ndarray
    score: np.ndarray
    gain: np.ndarray
    evidence: np.ndarray
    rival: str
    rival_score: np.ndarray
    mixed: np.ndarray

    @property
    def visible(self) -> np.ndarray:
        """Frames in which enough of it is inside the frame, [F] bool."""
        return ~np.isnan(self.score)


class ActorBank:
    """Templates of a set of actors."""

    def __init__(self, sprites: dict[str, np.ndarray]) -> None:
        """`sprites`: name -> uint8 RGBA [T, h, w, 4]."""
        self.names = list(sprites)
        pictures, owners = [], []
        for index, sprite in enumerate(sprites.values()):
            for frame in sprite:
                pictures.append(torch.from_numpy(np.array(frame)).float() / 255)
                owners.append(index)
        rgba = torch.stack(pictures).permute(0, 3, 1, 2)
        self.owner = torch.tensor(owners)
        self.templates_of = [torch.nonzero(self.owner == index)[:, 0] for index in range(len(self.names))]
        premultiplied = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
        self.fine = {g: _statistics(F.interpolate(premultiplied, (g, g), mode="area")) for g in (_CLIMB_GRID, _GRID)}
        self.pictures = F.interpolate(premultiplied, (_GRID, _GRID), mode="area")
        self.coarse = {d: _statistics(F.interpolate(premultiplied, (d, d), mode="area")) for d in _DIAMETERS}
        # The coarse search takes every fourth picture of an animation.
        self.first = torch.cat([templates[::4] for templates in self.templates_of])
        self.first_of = [torch.nonzero(self.owner[self.first] == index)[:, 0] for index in range(len(self.names))]

    @cached_property
    def shifted(self) -> Tensor:
        """The templates at slightly other places and sizes, premultiplied: [T, shifts, 4, G*G]."""
        placed = []
        for x, y, size in itertools.product(_SHIFTS, _SHIFTS, _SHIFTS):
            points = (_grid_points(_GRID) - torch.tensor([x, y])) / math.exp(size)
            grid = points.view(1, _GRID, _GRID, 2).expand(len(self.pictures), -1, -1, -1)
            placed.append(F.grid_sample(self.pictures, grid, align_corners=False))
        return torch.stack(placed, 1).flatten(3)

    def search(
        self, frames: Tensor, templates: Tensor, halves: tuple[float, float] = (0.0, math.inf)
    ) -> list[tuple[Tensor, Tensor]]:
        """Best size of templates at every place of coarse frames.

        Args:
            frames: [n, 3, 32, w], already divided by the tint.
            templates: [t] indices.
            halves: Least and largest size to look for, in screen units.

        Returns:
            For each level of the pyramid: concordance plus half the evidence [n, t, h, w] and the diameter [n, t, h, w] in its pixels.
        """
        found = []
        for level in range(_LEVELS):
            if level:
                frames = F.interpolate(frames, (frames.shape[2] // 2, round(frames.shape[3] / 2)), mode="area")
            n, _, height, width = frames.shape
            best = torch.full((n, len(templates), height, width), -2.0)
            which = torch.zeros(best.shape, dtype=torch.uint8)
            sources = torch.cat([frames.reshape(-1, 1, height, width), _over_channels(frames.square())[:, None]])
            for diameter in _DIAMETERS:
                if halves[0] <= diameter / height <= halves[1]:
                    score = self._search_one(frames, sources, templates, diameter)
                    which.masked_fill_(score > best, diameter)
                    best = torch.maximum(best, score)
            found.append((best, which))
        return found

    def _search_one(self, frames: Tensor, sources: Tensor, templates: Tensor, diameter: int) -> Tensor:
        n = len(frames)
        stats = self.coarse[diameter].chosen(templates)
        before, after = (diameter - 1) // 2, diameter - 1 - (diameter - 1) // 2
        sides = (before, after, before, after)
        padded = F.pad(sources, sides, mode="replicate")
        sums = F.conv2d(padded, stats.alpha)
        box = _box_sums(padded, diameter)
        score, _, evidence = _compare(
            F.conv2d(F.pad(frames, sides, mode="replicate"), stats.colour),
            sums[: 3 * n].view(n, 3, *sums.shape[1:]),
            sums[3 * n :],
            stats.weight.view(1, -1, 1, 1),
            stats.means.T.reshape(1, 3, -1, 1, 1),
            stats.energy.view(1, -1, 1, 1),
            box[: 3 * n].view(n, 3, *box.shape[1:]),
            box[3 * n :],
            torch.tensor(float(diameter**2)),
        )
        return score.add_(evidence.clamp_(min=-1), alpha=0.5)

    def measure(
        self, images: Tensor, poses: Tensor, templates: Tensor, grid: int = _GRID
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compares templates with frames at poses.

        Args:
            images: [n, 3, H, W], divided by the tint.
            poses: [n, P, 4] as x, y, half, angle.
            templates: [t] indices.
            grid: Points across a template, `_GRID` or `_CLIMB_GRID`.

        Returns:
            Concordance, gain, evidence and the share of each template inside the frame; [n, P, t] each.
        """
        values, inside = _sampled(images, poses, grid)  # [n, 3, P, G*G], [n, P, G*G]
        stats = self.fine[grid]
        colour, alpha = stats.colour[templates].flatten(2), stats.alpha[templates].flatten(1)
        squares = _over_channels(values.square())
        weight = inside @ alpha.T
        compared = _compare(
            values[:, 0] @ colour[:, 0].T + values[:, 1] @ colour[:, 1].T + values[:, 2] @ colour[:, 2].T,
            values @ alpha.T,
            squares @ alpha.T,
            weight,
            torch.stack([inside @ colour[:, c].T for c in range(3)], 1),
            inside @ stats.squares[templates].flatten(1).T,
            values.sum(-1, keepdim=True),
            squares.sum(-1, keepdim=True),
            inside.sum(-1, keepdim=True),
        )
        return *compared, weight / stats.weight[templates]


@dataclass(frozen=True)
class _Statistics:
    colour: Tensor  # premultiplied, [T, 3, d, d]
    alpha: Tensor  # [T, 1, d, d]
    weight: Tensor  # [T] sum of alpha
    means: Tensor  # [T, 3] sums of the premultiplied colour
    squares: Tensor  # [T, d, d] alpha * colour^2
    energy: Tensor  # [T] its sum

    def chosen(self, index: Tensor) -> _Statistics:
        return _Statistics(*(getattr(self, field.name)[index] for field in fields(self)))


def _statistics(premultiplied: Tensor) -> _Statistics:
    alpha = premultiplied[:, 3:] ** _SOFTNESS  # pixels mixed with the background count for little
    colour = premultiplied[:, :3] / premultiplied[:, 3:].clamp(min=1e-3) * alpha
    squares = (colour.square() / alpha.clamp(min=1e-3)).sum(1)
    return _Statistics(colour, alpha, alpha.sum((1, 2, 3)), colour.sum((2, 3)), squares, squares.sum((1, 2)))


def _over_channels(values: Tensor) -> Tensor:
    """Sum over the three channels in dimension 1; several times faster than `sum`."""
    return values[:, 0] + values[:, 1] + values[:, 2]


def _box_sums(images: Tensor, size: int) -> Tensor:
    total = F.pad(images.double().cumsum(2).cumsum(3), (1, 0, 1, 0))
    sums = (
        total[:, :, size:, size:]
        - total[:, :, :-size, size:]
        - total[:, :, size:, :-size]
        + total[:, :, :-size, :-size]
    )
    return sums.float()


def _compare(
    cross: Tensor,
    totals: Tensor,
    square: Tensor,
    weight: Tensor,
    means: Tensor,
    energy: Tensor,
    around: Tensor,
    around_square: Tensor,
    area: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Concordance, gain and evidence from weighted sums.

    Of the image under the sprite: `totals` (channels in dimension 1), `square`; of the template: `weight`, `means`, `energy`; of both: `cross`;
    of the image in the sprite's square: `around`, `around_square` over `area`.
    """
    weight = weight.clamp(min=1e-3)
    per_weight = 1 / weight
    floor = 1e-3 * weight
    both = _over_channels(totals) * (_over_channels(means) * per_weight / 1.5)
    joint = (2 * cross - both) / (square + energy - both + floor)
    covariance = cross - _over_channels(totals * means) * per_weight
    total_square = _over_channels(totals.square())
    template_variance = energy - _over_channels(means.square()) * per_weight
    within = 2 * covariance / (square - total_square * per_weight + template_variance + floor)
    # Evidence: one minus (error of the sprite on a plain ground) / (error of a plain ground).
    nothing = around_square - _over_channels(around.square()) / area
    ground = around_square - square - _over_channels((around - totals).square()) / (area - weight).clamp(min=1e-3)
    sprite = square - 2 * cross + energy
    evidence = 1 - (sprite.clamp(min=0) + ground.clamp(min=0)) / (nothing + 1e-3 * area)
    return (joint + within) / 2, covariance / template_variance.clamp(min=1e-6), evidence


@lru_cache(maxsize=2)
def _grid_points(grid: int) -> Tensor:
    line = (torch.arange(grid) + 0.5) / grid * 2 - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)  # x, y


def _sampled(images: Tensor, poses: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    height, width = images.shape[2:]
    points = _grid_points(grid)
    cos, sin = poses[..., 3, None].cos(), poses[..., 3, None].sin()
    x = poses[..., 0, None] + poses[..., 2, None] * (cos * points[:, 0] - sin * points[:, 1])
    y = poses[..., 1, None] + poses[..., 2, None] * (sin * points[:, 0] + cos * points[:, 1])
    x = x * (height / width)
    places = torch.stack([x, y], -1)  # [n, P, G*G, 2]
    values = F.grid_sample(images, places, align_corners=False, padding_mode="border")  # [n, 3, P, G*G]
    inside = ((x.abs() <= 1) & (y.abs() <= 1)).float()
    return values * inside[:, None], inside


def find_actors(
    frames: np.ndarray,
    bank: ActorBank,
    tints: np.ndarray,
    accept: Callable[[ActorTrack, int], bool],
    wanted: Sequence[str] = (),
    turning: bool = True,
    max_actors: int = 2,
    fps: float = _PICTURES_A_SECOND,
) -> list[ActorTrack]:
    """The actors of a clip, the most certain first.

    Args:
        frames: uint8 [F, H, W, 3].
        bank: What may be found.
        tints: Colour of the light on the actors in every frame, [F, 3].
        accept: Whether a track, after so many others, is clear enough to count; each place gets several tries.
        wanted: Names that are compared in any case; they get no advantage otherwise.
        turning: Whether actors may be turned.
        max_actors: Stop after so many.
        fps: Frames per second; animated actors show `_PICTURES_A_SECOND`.
    """
    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
    lit = video / torch.from_numpy(tints.astype(np.float32))[:, :, None, None]
    num_frames, _, height, width = lit.shape
    small = F.interpolate(lit, (_COARSE, round(_COARSE * width / height)), mode="area")
    looked_at = sorted({0, num_frames // 2, num_frames - 1})
    maps = bank.search(small[looked_at], bank.first)
    tracks: list[ActorTrack] = []
    for index in range(max_actors):
        if index:  # the moon is no second penguin
            maps = [(score.masked_fill(size < SECOND_HALF * score.shape[2], -2.0), size) for score, size in maps]
        candidates = []
        for name in _likely(bank, maps, wanted, everywhere=index > 0):
            starts = torch.cat([_places([level], bank.first_of[name]) for level in maps])
            images = lit[looked_at].repeat(len(maps), 1, 1, 1)
            poses, score = _climb(bank, images, bank.templates_of[name], starts, steps=2)
            score, level = score.view(len(maps), -1).max(0)
            poses = poses.view(len(maps), -1, 4)[level, torch.arange(len(looked_at))]
            # A first actor should be there throughout; a second one may come in.
            whole = float(score.max()) if index else max(float(score.mean()), float(score.max()) - 0.3)
            candidates.append((whole, name, poses, score))
        candidates.sort(key=lambda item: -item[0])
        least = max(candidates[0][0] - 0.2, _WORTH_FOLLOWING if index else -2.0)
        followed = []
        sought = {bank.names.index(name) for name in wanted} - {bank.names.index(track.name) for track in tracks}
        for place, (whole, name, poses, score) in enumerate(candidates):
            # Fine patterns, such as stripes, are hard to see at first.
            if (whole < least or place >= _TRIES) and not (name in sought and whole > _HARD_TO_SEE):
                continue
            track = _follow(bank, lit, small, name, looked_at, poses, score)
            if turning and float(score.max()) > _MAY_TURN:
                track = _follow_turning(bank, lit, track)
            followed.append(track)
        followed.sort(key=lambda track: -_quality(track))
        for track in followed:
            track = _in_time(bank, lit, _resized(bank, lit, track), _PICTURES_A_SECOND / fps)
            whole_track = _with_rivals(bank, video, _polished(bank, lit, track))
            ways = itertools.chain(
                (_trimmed(whole_track, share) for share in _SURE), (_trimmed(t, _SURE[0]) for t in _lately(whole_track))
            )
            fitting = (t for t in ways if not any(_same_place(t, other) for other in tracks) and accept(t, index))
            if (accepted := next(fitting, None)) is not None:
                tracks.append(accepted)
                _blank(maps, accepted, looked_at)
                break
        if not tracks:
            break
    return tracks


def _quality(track: ActorTrack) -> float:
    seen = track.visible
    return float(track.score[seen].mean() * min(1.0, seen.mean() * 3)) if seen.any() else -1.0


def _same_place(a: ActorTrack, b: ActorTrack) -> bool:
    both = a.visible & b.visible
    distance = np.hypot(a.x - b.x, a.y - b.y) / (a.half + b.half)
    return bool(both.any()) and float(np.median(distance[both])) < 0.45


def _likely(bank: ActorBank, maps: list[tuple[Tensor, Tensor]], wanted: Sequence[str], everywhere: bool) -> list[int]:
    """The names worth following: best on the whole, best in the first and in the last frame (or `everywhere`), and those asked for."""
    score = torch.stack([level.flatten(2).amax(-1) for level, _ in maps]).amax(0)  # [n, T]
    by_name = torch.full((len(score), len(bank.names)), -2.0)
    by_name.scatter_reduce_(1, bank.owner[bank.first].expand(len(score), -1), score, "amax")
    chosen = {bank.names.index(name) for name in wanted}
    counts = [(by_name[k], 3 if everywhere or k == 0 else 1) for k in range(len(by_name)) if everywhere or k != 1]
    for values, count in ((by_name.mean(0), 2), *counts):
        chosen |= set(values.topk(min(count, len(bank.names))).indices.tolist())
    return sorted(chosen)


@lru_cache(maxsize=8)
def _offsets(reach: int, step: float, scales: tuple[float, ...], angles: tuple[float, ...]) -> Tensor:
    """Pose offsets: dx, dy in pixels of a 96-row frame, log scale, angle."""
    line = torch.arange(-reach, reach + 1) * step
    mesh = torch.meshgrid(line, line, torch.tensor(scales), torch.tensor(angles), indexing="ij")
    return torch.stack([axis.flatten() for axis in mesh], -1)


_CLIMB = (1, 2.0, (-0.08, 0.0, 0.08), (0.0,))
_NARROW = (1, 0.7, (-0.03, 0.0, 0.03), (0.0,))
_POLISH = (1, 0.4, (-0.015, 0.0, 0.015), (0.0,))
_POLISH_TURNED = (1, 0.4, (-0.015, 0.0, 0.015), tuple(np.deg2rad((-2.0, 0.0, 2.0)).tolist()))
_RIVAL = (1, 1.5, (-0.1, 0.1), (0.0,))
_ANY_PICTURE = (3, 1.6, (0.0,), (0.0,))
_TURN_FAR = (4, 3.0, (0.0,), tuple(np.deg2rad(range(-42, 43, 14)).tolist()))
_TURN = (1, 1.5, (0.0,), tuple(np.deg2rad(range(-42, 43, 7)).tolist()))
_TURN_FINE = (1, 0.7, (-0.03, 0.0, 0.03), tuple(np.deg2rad((-4.0, 0.0, 4.0)).tolist()))


def _moved(poses: Tensor, offsets: Tensor) -> Tensor:
    """Poses [n, 4] moved by offsets [P, 4]: [n, P, 4]."""
    moved = poses[:, None] + offsets * torch.tensor([1 / 48, 1 / 48, 0.0, 1.0])
    moved[..., 2] = poses[:, None, 2] * offsets[:, 2].exp()
    return moved


def _scores(bank: ActorBank, images: Tensor, poses: Tensor, templates: Tensor, grid: int, share: float = 0.5) -> Tensor:
    """Concordance plus a share of the evidence of templates at poses [n, P, 4], [n, P, t]; -2 out of sight."""
    score, _, evidence, inside = bank.measure(images, poses, templates, grid)
    return torch.where(inside > _VISIBLE, score + share * evidence.clamp(min=-1), -2.0)


def _best(
    bank: ActorBank,
    images: Tensor,
    templates: Tensor,
    poses: Tensor,
    offsets: tuple,
    grid: int = _CLIMB_GRID,
    shown: Tensor | None = None,
    share: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """The best of the poses around each frame's pose: [n, 4] and its score [n], -2 where it is out of sight.

    `shown`: which of the templates each frame shows, [n]; by default the best one.
    """
    moved = _moved(poses, _offsets(*offsets))
    score = _scores(bank, images, moved, templates, grid, share)
    score = (
        score.amax(2) if shown is None else score.gather(2, shown[:, None, None].expand(-1, score.shape[1], 1))[..., 0]
    )
    best = score.argmax(1)
    every = torch.arange(len(poses))
    return moved[every, best], score[every, best]


def _climb(bank: ActorBank, images: Tensor, templates: Tensor, poses: Tensor, steps: int = 4) -> tuple[Tensor, Tensor]:
    poses, score = poses.clone(), torch.full((len(poses),), -2.0)
    rising = torch.arange(len(poses))
    for _ in range(steps):
        better, better_score = _best(bank, images[rising], templates, poses[rising], _CLIMB)
        gained = better_score > score[rising] + 1e-4
        rising = rising[gained]
        if not len(rising):
            break
        poses[rising], score[rising] = better[gained], better_score[gained]
    return _best(bank, images, templates, poses, _NARROW)


def _places(maps: list[tuple[Tensor, Tensor]], templates: Tensor) -> Tensor:
    """Best place in each coarse frame, over the given columns of the maps: poses [n, 4]."""
    scores, poses = [], []
    for score, size in maps:
        n, _, height, width = score.shape
        best, flat = score[:, templates].flatten(1).max(1)
        diameter = size[:, templates].flatten(1)[torch.arange(n), flat].float()
        place = flat % (height * width)
        shift = torch.where(diameter % 2 == 0, 1.0, 0.5)  # the template's centre within the pixel
        y = (place // width + shift) / height * 2 - 1
        x = ((place % width + shift) / width * 2 - 1) * width / height
        scores.append(best)
        poses.append(torch.stack([x, y, diameter.clamp(min=_DIAMETERS[0]) / height, torch.zeros(n)], 1))
    return torch.stack(poses)[torch.stack(scores).argmax(0), torch.arange(len(poses[0]))]


def _follow(
    bank: ActorBank, lit: Tensor, small: Tensor, name: int, known: Sequence[int], poses: Tensor, score: Tensor
) -> ActorTrack:
    """One actor in all frames, given poses and scores in the `known` ones.

    First tries straight paths between them; where that is poor the coarse search of that frame, and last the neighbours' poses. A frame whose
    pose lies off the neighbours' line goes back to that line unless it is clearly worse there.
    """
    templates = bank.templates_of[name]
    n = len(lit)
    good = [k for k in range(len(known)) if score[k] > score.max() - 0.25]
    frames = [known[k] for k in good]
    path = np.stack([np.interp(np.arange(n), frames, poses[good, i].numpy()) for i in range(4)], 1)
    poses, score = _climb(bank, lit, templates, torch.from_numpy(path).float())
    poor = torch.nonzero(score < max(1.0, float(score.max()) - 0.15))[:, 0]
    if len(poor):
        middle = float(poses[score.argmax(), 2])
        maps = bank.search(small[poor], bank.first[bank.first_of[name]], (0.6 * middle, 1.6 * middle))
        found = _places(maps, torch.arange(len(bank.first_of[name])))
        poses, score = _improved(bank, lit, templates, poses, score, poor, found)
    if score.max() < _CLEAR:
        return _track(bank, name, poses, score)
    for direction in (1, -1):  # a size or place that was mistaken once is kept by the frames that start from it
        for _ in range(2):
            before = torch.arange(n).sub(direction).clamp(0, n - 1)
            poor = torch.nonzero((score < _GOOD) & (score[before] > score + _SLIP))[:, 0]
            if len(poor):
                poses, score = _improved(bank, lit, templates, poses, score, poor, poses[before[poor]])
    for direction in (1, -1):
        for frame in range(2, n) if direction > 0 else range(n - 3, -1, -1):
            line = 2 * poses[frame - direction] - poses[frame - 2 * direction]
            known_line = min(score[frame - direction], score[frame - 2 * direction]) > -2
            off = (poses[frame] - line).abs()[:3].max() > _OFF_LINE * poses[frame - direction, 2]
            if known_line and off and score[frame] < score[frame - direction]:
                poses, score = _improved(
                    bank, lit, templates, poses, score, torch.tensor([frame]), line[None], _PREFERENCE
                )
    return _track(bank, name, poses, score)


def _improved(
    bank: ActorBank,
    lit: Tensor,
    templates: Tensor,
    poses: Tensor,
    score: Tensor,
    frames: Tensor,
    starts: Tensor,
    preference: float = 0.0,
) -> tuple[Tensor, Tensor]:
    better, better_score = _climb(bank, lit[frames], templates, starts)
    gained = better_score > score[frames] - preference
    poses, score = poses.clone(), score.clone()
    poses[frames[gained]], score[frames[gained]] = better[gained], better_score[gained]
    return poses, score


def _track(bank: ActorBank, name: int, poses: Tensor, score: Tensor) -> ActorTrack:
    values = np.where((score > -2).numpy()[:, None], poses.double().numpy(), np.nan)
    scores = np.where((score > -2).numpy(), score.double().numpy(), np.nan)
    nothing = np.full(len(scores), np.nan)
    x, y, half, angle = values.T
    return ActorTrack(bank.names[name], x, y, half, angle, scores, nothing, nothing, "", nothing, nothing)


def _follow_turning(bank: ActorBank, lit: Tensor, track: ActorTrack) -> ActorTrack:
    """Follows an actor that may turn, frame by frame from where it stands upright."""
    if not track.visible.any():
        return track
    name = bank.names.index(track.name)
    templates = bank.templates_of[name]
    start = int(np.nanargmax(track.score))
    if np.nanmin(track.score) > _UPRIGHT * track.score[start] and track.visible.all():
        return track
    poses = torch.from_numpy(np.stack([track.x, track.y, track.half, track.angle], 1)).float()
    score = torch.full((len(lit),), -2.0)
    for direction in (1, -1):
        current, velocity, known = poses[start : start + 1], torch.zeros(1, 4), torch.full((1,), -2.0)
        for frame in range(start, len(lit) if direction > 0 else -1, direction):
            image = lit[frame : frame + 1]
            guess, _ = _best(bank, image, templates, current + velocity, _TURN)
            guess, value = _best(bank, image, templates, guess, _TURN_FINE)
            if frame != start and value < known - _JERK:
                far, _ = _best(bank, image, templates, current, _TURN_FAR)
                for offsets in (_TURN, _TURN_FINE):
                    far, far_value = _best(bank, image, templates, far, offsets)
                if far_value > value:
                    guess, value = far, far_value
            upright = torch.tensor([[*poses[frame, :3].tolist(), 0.0]])
            if not bool(upright.isnan().any()):
                straight, straight_value = _best(bank, image, templates, upright, _NARROW)
                if straight_value > value + 0.02:
                    guess, value = straight, straight_value
            if value <= -2:
                break
            velocity = torch.zeros(1, 4) if frame == start else 0.7 * (guess - current)
            poses[frame], score[frame], current, known = guess[0], value[0], guess, value
    turned = _track(bank, name, poses, score)
    return turned if _quality(turned) > _quality(track) + 0.05 else track


def _resized(bank: ActorBank, lit: Tensor, track: ActorTrack) -> ActorTrack:
    """The track at another size, if it resembles the actor more there: a small umbrella also lies well inside a large one."""
    seen = np.flatnonzero(track.visible)
    if len(seen) < 6:
        return track
    name = bank.names.index(track.name)
    images, templates = lit[seen], bank.templates_of[name]
    poses = torch.from_numpy(np.stack([track.x, track.y, track.half, track.angle], 1)[seen]).float()

    def resembles(images: Tensor, poses: Tensor) -> Tensor:
        """Concordance alone: evidence prefers a small template on even ground."""
        score, _, _, inside = bank.measure(images, poses[:, None], templates)
        return torch.where(inside > _VISIBLE, score, -2.0).amax((1, 2))

    before = resembles(images, poses)
    if before.min() > _ALIKE:
        return track
    ways = itertools.product(_RESIZED, (-1, 1))  # with the upper, or the lower, edge in its place
    starts = torch.cat([_scaled(poses, *way) for way in ways])
    tried, _ = _climb(bank, images.repeat(len(starts) // len(seen), 1, 1, 1), templates, starts, steps=2)
    alike, way = resembles(images.repeat(len(starts) // len(seen), 1, 1, 1), tried).view(-1, len(seen)).max(0)
    better = alike > before + _CLEARER
    if not better.any():
        return track
    resized = torch.where(better[:, None], tried.view(-1, len(seen), 4)[way, torch.arange(len(seen))], poses)
    # No actor shrinks for one frame: a size may only come nearer to the line through most of them.
    sizes, line = poses[:, 2].log(), torch.from_numpy(_line(seen, resized[:, 2].double().log().numpy()))
    better &= (resized[:, 2].log() - line).abs() <= (sizes - line).abs()
    poses = torch.where(better[:, None], resized, poses)
    whole, scores = torch.full((len(lit), 4), torch.nan), torch.full((len(lit),), -2.0)
    whole[seen] = poses
    scores[seen] = _scores(bank, images, poses[:, None], templates, _CLIMB_GRID).amax((1, 2))
    return _track(bank, name, whole, scores)


def _line(frames: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The straight line through most of the values [n] (Theil and Sen's), at the same frames."""
    if len(frames) < 3:
        return values
    first, second = np.triu_indices(len(frames), 1)
    slope = np.median((values[second] - values[first]) / (frames[second] - frames[first]))
    return slope * frames + np.median(values - slope * frames)


def _scaled(poses: Tensor, factor: float, side: int) -> Tensor:
    scaled = poses.clone()
    scaled[:, 2] *= factor
    scaled[:, 1] += side * (poses[:, 2] - scaled[:, 2])
    return scaled


def _in_time(bank: ActorBank, lit: Tensor, track: ActorTrack, step: float) -> ActorTrack:
    """The track of an animated actor whose pictures follow one another, `step` a frame.

    Its pictures differ by little more than a shift, so the best one in each frame alone makes a walking crab seem to tremble.
    """
    name = bank.names.index(track.name)
    templates = bank.templates_of[name]
    seen = np.flatnonzero(track.visible)
    if len(templates) == 1 or len(seen) < 6:
        return track
    poses = torch.from_numpy(np.stack([track.x, track.y, track.half, track.angle], 1)).float()
    images, own = lit[seen], poses[seen]
    by_picture = _scores(bank, images, _moved(own, _offsets(*_ANY_PICTURE)), templates, _CLIMB_GRID).amax(1)  # [n, t]
    shown = (torch.arange(len(templates))[:, None] + torch.from_numpy(np.floor(seen * step + 1e-6)).long()) % len(
        templates
    )
    chosen = shown[by_picture.T.gather(0, shown).mean(1).argmax()]  # the phase that fits best, [n]
    score = torch.full((len(seen),), -2.0)
    for offsets in (_ANY_PICTURE, _CLIMB, _CLIMB, _NARROW, _NARROW):
        better, better_score = _best(bank, images, templates, own, offsets, shown=chosen)
        gained = better_score > score
        own = torch.where(gained[:, None], better, own)
        score = torch.maximum(score, better_score)
    if score.mean() < np.nanmean(track.score) - _OUT_OF_TIME:
        return track
    scores = torch.full((len(poses),), -2.0)
    poses[seen], scores[seen] = own, score
    return _track(bank, name, poses, scores)


def _polished(bank: ActorBank, lit: Tensor, track: ActorTrack) -> ActorTrack:
    """The same track with poses that are best at the final comparison's resolution."""
    seen = np.flatnonzero(track.visible)
    if not len(seen):
        return track
    poses = torch.from_numpy(np.stack([track.x, track.y, track.half, track.angle], 1)).float()
    name = bank.names.index(track.name)
    fine = _POLISH_TURNED if np.any(track.angle[seen]) else _POLISH
    scores = torch.full((len(poses),), -2.0)
    # What lies around the actor hardly counts here: on even ground evidence prefers it smaller than it is.
    for offsets in (_NARROW, _NARROW, fine):
        poses[seen], scores[seen] = _best(
            bank, lit[seen], bank.templates_of[name], poses[seen], offsets, _GRID, share=_POLISHING
        )
    return _track(bank, name, poses, scores)


def _with_rivals(bank: ActorBank, video: Tensor, track: ActorTrack) -> ActorTrack:
    """Compares all templates at the found poses, under the tint that fits each frame best."""
    own = bank.names.index(track.name)
    score, gain, evidence, mixed = (np.full_like(track.score, np.nan) for _ in range(4))
    others = np.full((len(score), len(bank.names)), np.nan)
    seen = np.flatnonzero(track.visible)
    if len(seen):
        poses = torch.from_numpy(np.stack([track.x, track.y, track.half, track.angle], 1)[seen]).float()
        tints = torch.tensor(_MIXED_TINTS).view(-1, 1, 3, 1, 1)
        tinted = video[seen] / tints  # [tints, n, 3, H, W]
        repeated = poses[:, None].repeat(len(tints), 1, 1)
        values, gains, evidences, _ = (
            value[:, 0].unflatten(0, (len(tints), -1))
            for value in bank.measure(tinted.flatten(0, 1), repeated, bank.templates_of[own])
        )  # [tints, n, t]
        best = values.permute(1, 0, 2).flatten(1).argmax(1)  # [n] over tints and templates
        tint, template = best // values.shape[2], best % values.shape[2]
        every = torch.arange(len(seen))
        score[seen], gain[seen], evidence[seen] = (v[tint, every, template].numpy() for v in (values, gains, evidences))
        few = slice(None, None, 2)  # every second frame tells which actor comes next
        images = tinted[tint, every][few]
        values, _, _, _ = bank.measure(images, _moved(poses[few], _offsets(*_RIVAL)), torch.arange(len(bank.owner)))
        names = torch.full((len(images), len(bank.names)), -1.0)
        names.scatter_reduce_(1, bank.owner.expand(len(images), -1), values.amax(1), "amax")
        names[:, own] = -1.0
        others[seen[few]] = names.numpy()
        mixed[seen[few]] = _mixed(bank, images, poses[few], own, bank.templates_of[own][template[few]]).numpy()
    mean = np.nanmean(others, 0) if len(seen) else np.zeros(len(bank.names))
    rival = int(np.argmax(mean))
    return replace(
        track,
        score=score,
        gain=gain,
        evidence=evidence,
        rival=bank.names[rival],
        rival_score=others[:, rival],
        mixed=mixed,
    )


def _mixed(bank: ActorBank, images: Tensor, poses: Tensor, own: int, templates: Tensor) -> Tensor:
    """What the best other sprite explains of what each frame's template leaves over, [n]; see `ActorTrack.mixed`."""
    values, inside = _sampled(images, poses[:, None], _GRID)  # [n, 3, 1, G*G], [n, 1, G*G]
    pictures = bank.pictures[templates].flatten(2)
    alpha = pictures[:, 3]
    sprites = pictures[:, :3] / alpha[:, None].clamp(min=1e-3)
    shown = shown_by_second(values[:, :, 0], alpha**_SOFTNESS * inside[:, 0], sprites, bank.shifted.flatten(0, 1))
    best = shown.unflatten(1, (len(bank.owner), -1)).amax(2)  # [n, T]
    by_name = torch.zeros(len(images), len(bank.names))
    by_name.scatter_reduce_(1, bank.owner.expand(len(images), -1), best, "amax")
    by_name[:, own] = 0.0
    return by_name[:, by_name.mean(0).argmax()]


def _lately(track: ActorTrack) -> list[ActorTrack]:
    """The track from where it was last lost for two frames or more, if what was followed before was of another size; else nothing.

    Before an actor comes in, a piece of sky may resemble it as well as the actor itself does at the edge.
    """
    score = np.nan_to_num(track.score, nan=-1.0)
    sure = np.flatnonzero(score > _SURE[0] * score.max()) if track.visible.any() else np.zeros(0, int)
    gaps = np.flatnonzero(np.diff(sure) > 2)
    if not len(gaps):
        return []
    before, after = np.split(sure, [gaps[-1] + 1])
    with np.errstate(invalid="ignore"):  # a size below 0 is of no actor: its distance is no number
        apart = np.abs(np.log(track.half[before] / np.median(track.half[after])))
    if score.argmax() < after[0] or apart.min() < _ANOTHER_SIZE:
        return []
    return [_without(track, np.arange(len(score)) < after[0] - 1)]


def _trimmed(track: ActorTrack, share: float) -> ActorTrack:
    """Without the frames before it comes in and after it goes out, where something else was followed."""
    if not track.visible.any():
        return track
    score = np.nan_to_num(track.score, nan=-1.0)
    there = np.flatnonzero(score > 0.55 * score.max())
    sure = np.flatnonzero(score > share * score.max())
    # A single doubtful frame at an end may stay.
    first = sure[0] if sure[0] - there[0] > 1 else there[0]
    last = sure[-1] if there[-1] - sure[-1] > 1 else there[-1]
    # Where little of it is in the picture something smaller may be taken for it.
    frames = np.arange(first, last + 1)[track.visible[first : last + 1]]
    with np.errstate(invalid="ignore"):
        sizes = np.log(track.half[frames])
    fitting = frames[np.abs(sizes - _line(frames, sizes)) < _ANOTHER_SIZE]
    if 2 * len(fitting) > len(frames):
        first, last = fitting[0], fitting[-1]
    outside = np.ones(len(track.score), bool)
    outside[first : last + 1] = False
    return _without(track, outside)


def _without(track: ActorTrack, outside: np.ndarray) -> ActorTrack:
    """The track without some frames, [F] bool."""
    kept: dict[str, Any] = {
        field.name: np.where(outside, np.nan, values)
        for field in fields(track)
        if isinstance(values := getattr(track, field.name), np.ndarray)
    }
    return replace(track, **kept)


def _blank(maps: list[tuple[Tensor, Tensor]], track: ActorTrack, frames: Sequence[int]) -> None:
    """Removes the surroundings of a found actor from the score maps of these frames."""
    for score, _ in maps:
        height, width = score.shape[2:]
        y = (torch.arange(height) + 0.5) / height * 2 - 1
        x = ((torch.arange(width) + 0.5) / width * 2 - 1) * width / height
        for k, frame in enumerate(frames):
            if track.visible[frame]:
                near_x = (x - track.x[frame]).abs() < 0.95 * track.half[frame]
                near_y = (y - track.y[frame]).abs() < 0.95 * track.half[frame]
                score[k, :, near_y[:, None] & near_x[None]] = -2.0


@lru_cache(maxsize=8)
def actor_bank(names: tuple[str, ...]) -> ActorBank:
    """The bank of the named actors."""
    return ActorBank({name: load_sprite(name) for name in names})
