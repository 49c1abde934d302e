"""Finds actors in the frames of a clip: which, where, how large, how turned.

Every sprite of a bank is a template. A coarse search compares all of them, in all sizes, with a few reduced frames; the best names are refined
and then followed through all frames. The measure is Lin's concordance correlation under the sprite's soft alpha: 1 for equal pixels, lowered by wrong colours, wrong contrast (a
half-transparent actor) and wrong shape alike. Half of it is taken over all colour channels together (so that the colour itself counts), half
within the channels (so that a plain blue sky is no blue whale). Beside it stands the *evidence*: how much better the sprite on a plain ground
explains its square of the picture than no sprite at all.

Positions and sizes are in screen units: the frame is 2 high, (0, 0) its centre, x right, y down; `half` is half the sprite square's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videogen.data.stage.actors import load_sprite

TINTS = ((1.0, 1.0, 1.0), (1.0, 0.84, 0.72), (0.62, 0.68, 0.88))  # day, sunset, night, as the renderer lights actors
_MIXED_TINTS = (*TINTS, (0.87, 0.89, 0.96), (0.75, 0.79, 0.92))  # and while night falls
_COARSE = 32  # rows of a reduced frame
_DIAMETERS = (7, 8, 10, 12, 14, 17, 20, 24)  # of the coarse templates, in pixels of the reduced frame
_GRID = 18  # points across a fine template
SECOND_SCORE = 0.8  # a second actor needs this concordance
SECOND_HALF = 0.24  # and this size: the moon is no penguin
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
        self.fine = _statistics(F.interpolate(premultiplied, (_GRID, _GRID), mode="area"))
        self.coarse = {d: _statistics(F.interpolate(premultiplied, (d, d), mode="area")) for d in _DIAMETERS}
        # The coarse search takes every sixth picture of an animation.
        self.first = torch.cat([templates[::6] for templates in self.templates_of])

    def search(self, frames: Tensor, templates: Tensor, diameters: Sequence[int] = _DIAMETERS) -> tuple[Tensor, Tensor]:
        """Best size of templates at every place of coarse frames.

        Args:
            frames: [n, 3, 32, w], already divided by the tint.
            templates: [t] indices.
            diameters: The sizes to look for, a part of `_DIAMETERS`.

        Returns:
            Concordance plus half the evidence [n, t, 32, w] and the index of the diameter [n, t, 32, w].
        """
        n, _, height, width = frames.shape
        best = torch.full((n, len(templates), height, width), -2.0)
        which = torch.zeros(best.shape, dtype=torch.long)
        sources = torch.cat([frames.reshape(-1, 1, height, width), frames.square().sum(1, keepdim=True)])
        for index, diameter in enumerate(_DIAMETERS):
            if diameter not in diameters:
                continue
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
            score += 0.5 * evidence.clamp(min=-1)
            which[score > best] = index
            best = torch.maximum(best, score)
        return best, which

    def measure(self, images: Tensor, poses: Tensor, templates: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compares templates with frames at poses.

        Args:
            images: [n, 3, H, W], divided by the tint.
            poses: [n, P, 4] as x, y, half, angle.
            templates: [t] indices.

        Returns:
            Concordance, gain, evidence and the share of each template inside the frame; [n, P, t] each.
        """
        values, inside = _sampled(images, poses)  # [n, 3, P, G*G], [n, P, G*G]
        colour, alpha = self.fine.colour[templates].flatten(2), self.fine.alpha[templates].flatten(1)
        squares = values.square().sum(1)
        weight = inside @ alpha.T
        cross = torch.stack([values[:, c] @ colour[:, c].T for c in range(3)]).sum(0)
        energy = inside @ (colour.square() / alpha[:, None].clamp(min=1e-3)).sum(1).T
        means = torch.stack([inside @ colour[:, c].T for c in range(3)], 1)
        around = values.sum(-1, keepdim=True)
        compared = _compare(
            cross, values @ alpha.T, squares @ alpha.T, weight, means, energy, around, squares.sum(-1, keepdim=True),
            inside.sum(-1, keepdim=True),
        )  # fmt: skip
        return *compared, weight / alpha.sum(1)


@dataclass(frozen=True)
class _Statistics:
    colour: Tensor  # premultiplied, [T, 3, d, d]
    alpha: Tensor  # [T, 1, d, d]
    weight: Tensor  # [T] sum of alpha
    means: Tensor  # [T, 3] sums of the premultiplied colour
    energy: Tensor  # [T] sum of alpha * colour^2

    def chosen(self, index: Tensor) -> _Statistics:
        return _Statistics(*(getattr(self, f)[index] for f in ("colour", "alpha", "weight", "means", "energy")))


def _statistics(premultiplied: Tensor) -> _Statistics:
    alpha = premultiplied[:, 3:] ** _SOFTNESS  # pixels mixed with the background count for little
    colour = premultiplied[:, :3] / premultiplied[:, 3:].clamp(min=1e-3) * alpha
    energy = (colour.square() / alpha.clamp(min=1e-3)).sum((1, 2, 3))
    return _Statistics(colour, alpha, alpha.sum((1, 2, 3)), colour.sum((2, 3)), energy)


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
    floor = 1e-3 * weight
    both = totals.sum(1) * means.sum(1) / (1.5 * weight)
    joint = (2 * cross - both) / (square + energy - both + floor)
    covariance = cross - (totals * means).sum(1) / weight
    total_square = totals.square().sum(1)
    template_variance = energy - means.square().sum(1) / weight
    within = 2 * covariance / (square - total_square / weight + template_variance + floor)
    # Evidence: one minus (error of the sprite on a plain ground) / (error of a plain ground).
    nothing = around_square - around.square().sum(1) / area
    ground = around_square - square - (around - totals).square().sum(1) / (area - weight).clamp(min=1e-3)
    sprite = square - 2 * cross + energy
    evidence = 1 - (sprite.clamp(min=0) + ground.clamp(min=0)) / (nothing + 1e-3 * area)
    return (joint + within) / 2, covariance / template_variance.clamp(min=1e-6), evidence


@lru_cache(maxsize=1)
def _grid_points() -> Tensor:
    line = (torch.arange(_GRID) + 0.5) / _GRID * 2 - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)  # x, y


def _sampled(images: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    height, width = images.shape[2:]
    points = _grid_points()
    cos, sin = poses[..., 3, None].cos(), poses[..., 3, None].sin()
    x = poses[..., 0, None] + poses[..., 2, None] * (cos * points[:, 0] - sin * points[:, 1])
    y = poses[..., 1, None] + poses[..., 2, None] * (sin * points[:, 0] + cos * points[:, 1])
    grid = torch.stack([x * (height / width), y], -1)  # [n, P, G*G, 2]
    values = F.grid_sample(images, grid, align_corners=False, padding_mode="border")  # [n, 3, P, G*G]
    inside = (grid.abs().amax(-1) <= 1).float()
    return values * inside[:, None], inside


def find_actors(
    frames: np.ndarray,
    bank: ActorBank,
    light: int,
    wanted: Sequence[str] = (),
    turning: bool = True,
    max_actors: int = 2,
) -> list[ActorTrack]:
    """The actors of a clip, the most certain first.

    Args:
        frames: uint8 [F, H, W, 3].
        bank: What may be found.
        light: Index into `TINTS`: how the scene seems to be lit.
        wanted: Names that are compared in any case; they get no advantage otherwise.
        turning: Whether actors may be turned.
        max_actors: Stop after so many.
    """
    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
    lit = video / torch.tensor(TINTS[light]).view(3, 1, 1)
    num_frames, _, height, width = lit.shape
    small = F.interpolate(lit, (_COARSE, round(_COARSE * width / height)), mode="area")
    looked_at = sorted({0, num_frames // 2, num_frames - 1})
    maps, sizes = bank.search(small[looked_at], bank.first)
    tracks: list[ActorTrack] = []
    for _ in range(max_actors):
        if tracks:
            maps[torch.tensor(_DIAMETERS)[sizes] / maps.shape[2] < SECOND_HALF] = -2.0
        likely = []
        for name in _likely(bank, maps, wanted):
            own = bank.owner[bank.first] == name
            poses = _places(maps[:, own], sizes[:, own])
            poses, score = _climb(bank, lit[looked_at], bank.templates_of[name], poses)
            likely.append((max(float(score.mean()), float(score.max()) - 0.3), name, poses, score))
        likely.sort(key=lambda item: -item[0])
        if tracks and likely[0][0] < SECOND_SCORE - 0.1:
            break
        likely = [item for item in likely[:3] if item[0] > likely[0][0] - 0.2]
        followed = [_follow(bank, lit, small, name, looked_at, poses, score) for _, name, poses, score in likely]
        if turning:
            followed = [_follow_turning(bank, lit, track) for track in followed]
        followed.sort(key=lambda track: -_quality(track))
        track = _trimmed(_with_rivals(bank, video, followed[0]))
        if any(_same_place(track, other) for other in tracks):
            break
        tracks.append(track)
        _blank(maps, track, looked_at)
    return tracks


def _quality(track: ActorTrack) -> float:
    seen = track.visible
    return float(track.score[seen].mean() * min(1.0, seen.mean() * 3)) if seen.any() else -1.0


def _same_place(a: ActorTrack, b: ActorTrack) -> bool:
    both = a.visible & b.visible
    distance = np.hypot(a.x - b.x, a.y - b.y) / (a.half + b.half)
    return bool(both.any()) and float(np.median(distance[both])) < 0.45


def _likely(bank: ActorBank, maps: Tensor, wanted: Sequence[str]) -> list[int]:
    """The names worth following: best on the whole, best in the first and in the last frame, and those asked for."""
    score = maps.flatten(2).amax(-1)  # [n, T]
    by_name = torch.full((len(maps), len(bank.names)), -2.0)
    by_name.scatter_reduce_(1, bank.owner[bank.first].expand(len(maps), -1), score, "amax")
    chosen = {bank.names.index(name) for name in wanted}
    for values, count in ((by_name.mean(0), 2), (by_name[0], 3), (by_name[-1], 1)):
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
_RIVAL = (1, 1.5, (-0.1, 0.1), (0.0,))
_TURN = (1, 1.5, (0.0,), tuple(np.deg2rad(range(-42, 43, 7)).tolist()))
_TURN_FINE = (1, 0.7, (-0.03, 0.0, 0.03), tuple(np.deg2rad((-4.0, 0.0, 4.0)).tolist()))


def _moved(poses: Tensor, offsets: Tensor) -> Tensor:
    """Poses [n, 4] moved by offsets [P, 4]: [n, P, 4]."""
    moved = poses[:, None] + offsets * torch.tensor([1 / 48, 1 / 48, 0.0, 1.0])
    moved[..., 2] = poses[:, None, 2] * offsets[:, 2].exp()
    return moved


def _best(bank: ActorBank, images: Tensor, templates: Tensor, poses: Tensor, offsets: tuple) -> tuple[Tensor, Tensor]:
    """The best of the poses around each frame's pose: [n, 4] and its score [n], -2 where it is out of sight."""
    moved = _moved(poses, _offsets(*offsets))
    score, _, evidence, inside = bank.measure(images, moved, templates)
    score = torch.where(inside > _VISIBLE, score + 0.5 * evidence.clamp(min=-1), -2.0).amax(2)
    best = score.argmax(1)
    every = torch.arange(len(poses))
    return moved[every, best], score[every, best]


def _climb(bank: ActorBank, images: Tensor, templates: Tensor, poses: Tensor, steps: int = 4) -> tuple[Tensor, Tensor]:
    score = torch.full((len(poses),), -2.0)
    for _ in range(steps):
        better, better_score = _best(bank, images, templates, poses, _CLIMB)
        gained = better_score > score + 1e-4
        if not bool(gained.any()):
            break
        poses = torch.where(gained[:, None], better, poses)
        score = torch.maximum(score, better_score)
    return _best(bank, images, templates, poses, _NARROW)


def _places(maps: Tensor, sizes: Tensor) -> Tensor:
    """Best place in each coarse frame, over the given templates: poses [n, 4]."""
    n, _, height, width = maps.shape
    flat = maps.flatten(1).argmax(1)
    diameter = torch.tensor(_DIAMETERS)[sizes.flatten(1)[torch.arange(n), flat]].float()
    place = flat % (height * width)
    shift = torch.where(diameter % 2 == 0, 1.0, 0.5)  # the template's centre within the pixel
    y = (place // width + shift) / height * 2 - 1
    x = ((place % width + shift) / width * 2 - 1) * width / height
    return torch.stack([x, y, diameter / height, torch.zeros(n)], 1)


def _follow(
    bank: ActorBank, lit: Tensor, small: Tensor, name: int, known: Sequence[int], poses: Tensor, score: Tensor
) -> ActorTrack:
    """One actor in all frames, given poses and scores in the `known` ones.

    First tries straight paths between them; where that is poor the coarse search of that frame, and last the neighbours' poses.
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
        diameters = [d for d in _DIAMETERS if 0.6 < d / _COARSE / middle < 1.6]
        found = _places(*bank.search(small[poor], bank.first[bank.owner[bank.first] == name], diameters))
        poses, score = _improved(bank, lit, templates, poses, score, poor, found)
    for direction in (1, -1):
        for _ in range(2):
            before = torch.arange(n).sub(direction).clamp(0, n - 1)
            poor = torch.nonzero((score < 1.0) & (score[before] > score + 0.1))[:, 0]
            if len(poor):
                poses, score = _improved(bank, lit, templates, poses, score, poor, poses[before[poor]])
    return _track(bank, name, poses, score)


def _improved(
    bank: ActorBank, lit: Tensor, templates: Tensor, poses: Tensor, score: Tensor, frames: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor]:
    better, better_score = _climb(bank, lit[frames], templates, starts)
    gained = better_score > score[frames]
    poses, score = poses.clone(), score.clone()
    poses[frames[gained]], score[frames[gained]] = better[gained], better_score[gained]
    return poses, score


def _track(bank: ActorBank, name: int, poses: Tensor, score: Tensor) -> ActorTrack:
    values = np.where((score > -2).numpy()[:, None], poses.double().numpy(), np.nan)
    scores = np.where((score > -2).numpy(), score.double().numpy(), np.nan)
    nothing = np.full(len(scores), np.nan)
    x, y, half, angle = values.T
    return ActorTrack(bank.names[name], x, y, half, angle, scores, nothing, nothing, "", nothing)


def _follow_turning(bank: ActorBank, lit: Tensor, track: ActorTrack) -> ActorTrack:
    """Follows an actor that may turn, frame by frame from where it stands upright."""
    if not track.visible.any():
        return track
    name = bank.names.index(track.name)
    templates = bank.templates_of[name]
    start = int(np.nanargmax(track.score))
    if np.nanmin(track.score) > 0.8 * track.score[start] and track.visible.all():
        return track
    poses = torch.from_numpy(np.stack([track.x, track.y, track.half, track.angle], 1)).float()
    score = torch.full((len(lit),), -2.0)
    for direction in (1, -1):
        current, velocity = poses[start : start + 1], torch.zeros(1, 4)
        for frame in range(start, len(lit) if direction > 0 else -1, direction):
            image = lit[frame : frame + 1]
            guess, _ = _best(bank, image, templates, current + velocity, _TURN)
            guess, value = _best(bank, image, templates, guess, _TURN_FINE)
            upright = torch.tensor([[*poses[frame, :3].tolist(), 0.0]])
            if not bool(upright.isnan().any()):
                straight, straight_value = _best(bank, image, templates, upright, _NARROW)
                if straight_value > value + 0.02:
                    guess, value = straight, straight_value
            if value <= -2:
                break
            velocity = torch.zeros(1, 4) if frame == start else 0.7 * (guess - current)
            poses[frame], score[frame], current = guess[0], value[0], guess
    turned = _track(bank, name, poses, score)
    return turned if _quality(turned) > _quality(track) + 0.05 else track


def _with_rivals(bank: ActorBank, video: Tensor, track: ActorTrack) -> ActorTrack:
    """Compares all templates at the found poses, under the tint that fits each frame best."""
    own = bank.names.index(track.name)
    score, gain, evidence = (np.full_like(track.score, np.nan) for _ in range(3))
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
        all_templates = torch.arange(len(bank.owner))
        values, _, _, _ = bank.measure(tinted[tint, every], _moved(poses, _offsets(*_RIVAL)), all_templates)
        names = torch.full((len(seen), len(bank.names)), -1.0)
        names.scatter_reduce_(1, bank.owner.expand(len(seen), -1), values.amax(1), "amax")
        names[:, own] = -1.0
        others[seen] = names.numpy()
    mean = np.nanmean(others, 0) if len(seen) else np.zeros(len(bank.names))
    rival = int(np.argmax(mean))
    return replace(
        track, score=score, gain=gain, evidence=evidence, rival=bank.names[rival], rival_score=others[:, rival]
    )


def _trimmed(track: ActorTrack) -> ActorTrack:
    """Without the frames before it comes in and after it goes out, where something else was followed."""
    if not track.visible.any():
        return track
    good = np.flatnonzero(np.nan_to_num(track.score, nan=-1.0) > 0.55 * np.nanmax(track.score))
    outside = np.ones(len(track.score), bool)
    outside[good[0] : good[-1] + 1] = False
    kept = lambda values: np.where(outside, np.nan, values)  # noqa: E731
    return ActorTrack(
        name=track.name,
        x=kept(track.x),
        y=kept(track.y),
        half=kept(track.half),
        angle=kept(track.angle),
        score=kept(track.score),
        gain=kept(track.gain),
        evidence=kept(track.evidence),
        rival=track.rival,
        rival_score=kept(track.rival_score),
    )


def _blank(maps: Tensor, track: ActorTrack, frames: Sequence[int]) -> None:
    """Removes the surroundings of a found actor from the score maps of these frames."""
    _, _, height, width = maps.shape
    y = (torch.arange(height) + 0.5) / height * 2 - 1
    x = ((torch.arange(width) + 0.5) / width * 2 - 1) * width / height
    for k, frame in enumerate(frames):
        if track.visible[frame]:
            near_x = (x - track.x[frame]).abs() < 0.95 * track.half[frame]
            near_y = (y - track.y[frame]).abs() < 0.95 * track.half[frame]
            maps[k, :, near_y[:, None] & near_x[None]] = -2.0


@lru_cache(maxsize=8)
def actor_bank(names: tuple[str, ...]) -> ActorBank:
    """The bank of the named actors."""
    return ActorBank({name: load_sprite(name) for name in names})
