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
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videogen.data.stage.actors import load_sprite

TINTS = ((1.0, 1.0, 1.0), (1.0, 0.84, 0.72), (0.62, 0.68, 0.88))  # day, sunset, night, as the renderer lights actors
_MIXED_TINTS = (*TINTS, (0.87, 0.89, 0.96), (0.75, 0.79, 0.92))  # and while night falls
_COARSE = 32  # rows of a reduced frame
_DIAMETERS = (6, 7, 8, 9, 10, 12, 14, 16, 19, 22, 25)  # of the coarse templates, in pixels of the reduced frame
_GRID = 18  # points across a fine template
MIN_SCORE = 0.7  # mean concordance below which nothing was recognised
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


@dataclass(frozen=True)
class _Candidate:
    name: int
    frame: int
    pose: np.ndarray  # x, y, half, angle
    score: float


class ActorBank:
    """Templates of a set of actors."""

    def __init__(self, sprites: dict[str, np.ndarray]) -> None:
        """`sprites`: name -> uint8 RGBA [T, h, w, 4]; of an animation four frames are used."""
        self.names = list(sprites)
        pictures, owners = [], []
        for index, sprite in enumerate(sprites.values()):
            for frame in sprite[:: max(1, len(sprite) // 4)][:4]:
                pictures.append(torch.from_numpy(np.array(frame)).float() / 255)
                owners.append(index)
        rgba = torch.stack(pictures).permute(0, 3, 1, 2)
        self.owner = torch.tensor(owners)
        self.templates_of = [torch.nonzero(self.owner == index)[:, 0] for index in range(len(self.names))]
        premultiplied = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
        self.fine = _statistics(F.interpolate(premultiplied, (_GRID, _GRID), mode="area"))
        self.coarse = {d: _statistics(F.interpolate(premultiplied, (d, d), mode="area")) for d in _DIAMETERS}

    def search(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Best place of every template in every coarse frame.

        Args:
            frames: [n, 3, 32, w], already divided by the tint.

        Returns:
            Score maps reduced over sizes: best score [n, T, 32, w] and the diameter's index [n, T, 32, w].
        """
        n, _, height, width = frames.shape
        best = torch.full((n, len(self.owner), height, width), -1.0)
        which = torch.zeros(best.shape, dtype=torch.long)
        sources = torch.cat([frames.reshape(-1, 1, height, width), frames.square().sum(1, keepdim=True)])
        for index, diameter in enumerate(_DIAMETERS):
            stats = self.coarse[diameter]
            before, after = (diameter - 1) // 2, diameter - 1 - (diameter - 1) // 2
            pad = lambda image: F.pad(image, (before, after, before, after), mode="replicate")  # noqa: B023, E731
            cross = F.conv2d(pad(frames), stats.colour)
            sums = F.conv2d(pad(sources), stats.alpha)
            totals = sums[: 3 * n].view(n, 3, *sums.shape[1:]).unbind(1)
            means = [mean.view(1, -1, 1, 1) for mean in stats.means.unbind(1)]
            weight, energy = stats.weight.view(1, -1, 1, 1), stats.energy.view(1, -1, 1, 1)
            score, _ = _concordance(cross, totals, sums[3 * n :], weight, means, energy)
            box = F.conv2d(pad(sources), torch.ones(1, 1, diameter, diameter))
            around = box[: 3 * n].view(n, 3, *box.shape[1:]).unbind(1)
            score += 0.5 * _evidence(cross, totals, sums[3 * n :], weight, energy, around, box[3 * n :], diameter**2).clamp(min=-1)
            better = score > best
            best = torch.where(better, score, best)
            which[better] = index
        return best, which

    def measure(self, image: Tensor, poses: Tensor, templates: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Concordance of templates at poses.

        Args:
            image: [3, H, W] of one frame, divided by the tint.
            poses: [P, 4] as x, y, half, angle.
            templates: [t] indices.

        Returns:
            Concordance, gain, evidence and the share of each template inside the frame; [P, t] each.
        """
        values, inside = _sampled(image, poses)  # [P, 3, G*G], [P, G*G]
        colour, alpha = self.fine.colour[templates].flatten(2), self.fine.alpha[templates].flatten(1)
        weight_sum = inside @ alpha.T  # [P, t]
        cross = values.flatten(1) @ colour.flatten(1).T
        totals, square = [values[:, c] @ alpha.T for c in range(3)], values.square().sum(1) @ alpha.T
        means = [inside @ colour[:, c].T for c in range(3)]
        energy = inside @ (colour.square() / alpha[:, None].clamp(min=1e-3)).sum(1).T
        score, gain = _concordance(cross, totals, square, weight_sum, means, energy)
        around = [values[:, c].sum(1, keepdim=True) for c in range(3)]
        around_square = values.square().sum((1, 2))[:, None]
        evidence = _evidence(cross, totals, square, weight_sum, energy, around, around_square, inside.sum(1, keepdim=True))
        return score, gain, evidence, weight_sum / alpha.sum(1)


@dataclass(frozen=True)
class _Statistics:
    colour: Tensor  # premultiplied, [T, 3, d, d]
    alpha: Tensor  # [T, 1, d, d]
    weight: Tensor  # [T] sum of alpha
    means: Tensor  # [T, 3] sums of the premultiplied colour
    energy: Tensor  # [T] sum of alpha * colour^2


def _statistics(premultiplied: Tensor) -> _Statistics:
    alpha = premultiplied[:, 3:] ** _SOFTNESS  # pixels mixed with the background count for little
    colour = premultiplied[:, :3] / premultiplied[:, 3:].clamp(min=1e-3) * alpha
    energy = (colour.square() / alpha.clamp(min=1e-3)).sum((1, 2, 3))
    return _Statistics(colour, alpha, alpha.sum((1, 2, 3)), colour.sum((2, 3)), energy)


def _concordance(
    cross: Tensor, totals: Sequence[Tensor], square: Tensor, weight: Tensor, means: Sequence[Tensor], energy: Tensor
) -> tuple[Tensor, Tensor]:
    """Concordance and regression gain from weighted sums: of the image `totals`, `square`; of the template `means`, `energy`."""
    weight = weight.clamp(min=1e-3)
    total, mean = totals[0] + totals[1] + totals[2], means[0] + means[1] + means[2]
    floor = 1e-3 * weight
    joint = 2 * (cross - total * mean / (3 * weight))
    joint = joint / (square + energy - 2 * total * mean / (3 * weight) + floor)
    between = sum(t * m for t, m in zip(totals, means, strict=True)) / weight
    image_variance = square - sum(t.square() for t in totals) / weight
    template_variance = energy - sum(m.square() for m in means) / weight
    covariance = cross - between
    within = 2 * covariance / (image_variance + template_variance + floor)
    return (joint + within) / 2, covariance / template_variance.clamp(min=1e-6)


def _evidence(
    cross: Tensor,
    totals: Sequence[Tensor],
    square: Tensor,
    weight: Tensor,
    energy: Tensor,
    around: Sequence[Tensor],
    around_square: Tensor,
    area: Tensor | int,
) -> Tensor:
    """1 - (error of the sprite on a plain ground) / (error of a plain ground), over the sprite's square; `around` sums over the square."""
    nothing = around_square - sum(value.square() for value in around) / area
    outside = (area - weight).clamp(min=1e-3)
    ground = around_square - square - sum((a - t).square() for a, t in zip(around, totals, strict=True)) / outside
    sprite = square - 2 * cross + energy
    return 1 - (sprite.clamp(min=0) + ground.clamp(min=0)) / (nothing + 1e-3 * area)


@lru_cache(maxsize=1)
def _grid_points() -> Tensor:
    line = (torch.arange(_GRID) + 0.5) / _GRID * 2 - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)  # x, y


def _sampled(image: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    height, width = image.shape[1:]
    points = _grid_points()
    cos, sin = poses[:, 3, None].cos(), poses[:, 3, None].sin()
    x = poses[:, 0, None] + poses[:, 2, None] * (cos * points[:, 0] - sin * points[:, 1])
    y = poses[:, 1, None] + poses[:, 2, None] * (sin * points[:, 0] + cos * points[:, 1])
    grid = torch.stack([x * height / width, y], -1)  # [P, G*G, 2]
    values = F.grid_sample(image[None], grid[None], align_corners=False, padding_mode="border")[0].transpose(0, 1)
    inside = (grid.abs().amax(-1) <= 1).float()
    return values * inside[:, None], inside


def find_actors(
    frames: np.ndarray, bank: ActorBank, light: int, wanted: Sequence[str] = (), turning: bool = True, max_actors: int = 2
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
    tint = torch.tensor(TINTS[light]).view(3, 1, 1)
    lit = video / tint
    num_frames, _, height, width = lit.shape
    coarse_frames = sorted({0, num_frames // 2, num_frames - 1})
    small = F.interpolate(lit[coarse_frames], (_COARSE, round(_COARSE * width / height)), mode="area")
    maps, sizes = bank.search(small)
    tracks: list[ActorTrack] = []
    for _ in range(max_actors):
        refined = []
        for group in _candidates(bank, maps, sizes, coarse_frames, wanted):
            points = [_refine(bank, lit[c.frame], c.name, c.pose, turning=False) for c in group]
            scores = [score for _, score in points]
            refined.append((max(float(np.mean(scores)), max(scores) - 0.15), group, points))
        refined.sort(key=lambda item: -item[0])
        if tracks and refined[0][0] < MIN_SCORE:
            break
        followed = []
        for mean, group, points in refined[:2]:
            if mean > refined[0][0] - 0.12:
                start = int(np.argmax([score for _, score in points]))
                followed.append(_follow(bank, lit, group[0].name, group[start].frame, points[start][0], turning))
        followed.sort(key=lambda track: -_quality(track))
        track = _with_rivals(bank, video, followed[0])
        if any(_same_place(track, other) for other in tracks):
            break
        tracks.append(track)
        _blank(maps, track, coarse_frames)
    return tracks


def _quality(track: ActorTrack) -> float:
    seen = track.visible
    return float(track.score[seen].mean() * min(1.0, seen.mean() * 3)) if seen.any() else -1.0


def _same_place(a: ActorTrack, b: ActorTrack) -> bool:
    both = a.visible & b.visible
    distance = np.hypot(a.x - b.x, a.y - b.y) / (a.half + b.half)
    return bool(both.any()) and float(np.median(distance[both])) < 0.45


def _candidates(
    bank: ActorBank, maps: Tensor, sizes: Tensor, coarse_frames: list[int], wanted: Sequence[str]
) -> list[list[_Candidate]]:
    """For the most likely names, the best pose in each coarse frame."""
    n, num_templates, height, width = maps.shape
    score, place = maps.flatten(2).max(-1)  # [n, T]
    by_name = torch.full((n, len(bank.names)), -1.0)
    by_name.scatter_reduce_(1, bank.owner.expand(n, -1), score, "amax")
    chosen = set(by_name.mean(0).topk(min(4, len(bank.names))).indices.tolist())
    chosen |= set(by_name[0].topk(min(2, len(bank.names))).indices.tolist())
    chosen |= set(by_name[-1].topk(min(1, len(bank.names))).indices.tolist())
    chosen |= {bank.names.index(name) for name in wanted}
    groups = []
    for name in sorted(chosen):
        group = []
        for k, frame in enumerate(coarse_frames):
            templates = bank.templates_of[name]
            best = templates[score[k, templates].argmax()]
            where = int(place[k, best])
            row, column = divmod(where, width)
            diameter = _DIAMETERS[int(sizes[k, best, row, column])]
            shift = (diameter / 2 - (diameter - 1) // 2) if diameter % 2 == 0 else 0.5  # template centre within the pixel
            y = (row + shift) / height * 2 - 1
            x = ((column + shift) / width * 2 - 1) * width / height
            group.append(_Candidate(name, frame, np.array([x, y, diameter / height, 0.0]), float(score[k, best])))
        groups.append(group)
    return groups


@lru_cache(maxsize=8)
def _offsets(reach: int, step: float, scales: tuple[float, ...], angles: tuple[float, ...]) -> Tensor:
    """Pose offsets: dx, dy in pixels of a 96-row frame, log scale, angle."""
    line = torch.arange(-reach, reach + 1) * step
    mesh = torch.meshgrid(line, line, torch.tensor(scales), torch.tensor(angles), indexing="ij")
    return torch.stack([axis.flatten() for axis in mesh], -1)


_CLIMB = (1, 2.0, (-0.08, 0.0, 0.08), (0.0,))
_NARROW = (1, 0.7, (-0.03, 0.0, 0.03), (0.0,))
_TURN = (1, 1.5, (0.0,), tuple(np.deg2rad(range(-42, 43, 7)).tolist()))
_TURN_FINE = (1, 0.7, (0.0,), tuple(np.deg2rad((-4.0, 0.0, 4.0)).tolist()))


def _moved(pose: np.ndarray, offsets: Tensor) -> Tensor:
    base = torch.from_numpy(pose).float()
    poses = base + offsets * torch.tensor([1 / 48, 1 / 48, 0.0, 1.0])
    poses[:, 2] = base[2] * offsets[:, 2].exp()
    return poses


def _refine(bank: ActorBank, image: Tensor, name: int, pose: np.ndarray, turning: bool) -> tuple[np.ndarray, float]:
    """Best pose near `pose`, coarse to fine."""
    score = -2.0
    templates = bank.templates_of[name]
    for _ in range(4):
        better, better_score = _best(bank, image, templates, pose, _CLIMB)
        if better_score <= score + 1e-4:
            break
        pose, score = better, better_score
    pose, score = _best(bank, image, templates, pose, _NARROW)
    if turning and score < 1.15:
        turned, turned_score = _best(bank, image, templates, pose, _TURN)
        if turned_score > score + 0.02:
            pose, score = _best(bank, image, templates, turned, _NARROW)
    if turning:
        pose, score = _best(bank, image, templates, pose, _TURN_FINE)
    return pose, score


def _best(bank: ActorBank, image: Tensor, templates: Tensor, pose: np.ndarray, offsets: tuple) -> tuple[np.ndarray, float]:
    poses = _moved(pose, _offsets(*offsets))
    score, _, evidence, inside = bank.measure(image, poses, templates)
    score = torch.where(inside > _VISIBLE, score + 0.5 * evidence.clamp(min=-1), -2.0).amax(1)
    best = int(score.argmax())
    return poses[best].double().numpy(), float(score[best])


def _follow(bank: ActorBank, lit: Tensor, name: int, start: int, pose: np.ndarray, turning: bool) -> ActorTrack:
    num_frames = lit.shape[0]
    poses = np.full((num_frames, 4), np.nan)
    scores = np.full(num_frames, np.nan)
    for direction in (1, -1):
        current, velocity, misses = pose, np.zeros(4), 0
        for frame in range(start, num_frames if direction > 0 else -1, direction):
            guess = current + velocity
            guess[2] = max(guess[2], 0.05)
            found, score = _refine(bank, lit[frame], name, guess, turning)
            if score < 1.1 and abs(velocity[:2]).max() > 0.02:  # it may have turned back
                still, still_score = _refine(bank, lit[frame], name, current, turning)
                if still_score > score:
                    found, score = still, still_score
            misses = misses + 1 if score <= -2 else 0
            if misses > 1:  # it left the frame
                break
            if score > -2:
                poses[frame], scores[frame] = found, score
                velocity = 0.7 * (found - current) if frame != start else velocity
                velocity[2] *= 0.5
                current = found
    nothing = np.full(num_frames, np.nan)
    return ActorTrack(bank.names[name], *poses.T, scores, nothing, nothing, "", nothing)


def _with_rivals(bank: ActorBank, video: Tensor, track: ActorTrack) -> ActorTrack:
    """Compares all templates at the found poses, under the tint that fits each frame best."""
    own = bank.names.index(track.name)
    score, gain, evidence = (np.full_like(track.score, np.nan) for _ in range(3))
    others = np.full((len(score), len(bank.names)), np.nan)
    every = torch.arange(len(bank.owner))
    nearby = _offsets(1, 1.5, (-0.12, 0.0, 0.12), (0.0,))
    for frame in np.flatnonzero(track.visible):
        pose = np.array([track.x[frame], track.y[frame], track.half[frame], track.angle[frame]])
        best = -2.0
        for tint in _MIXED_TINTS:
            image = video[frame] / torch.tensor(tint).view(3, 1, 1)
            values, gains, evidences, _ = bank.measure(image, torch.from_numpy(pose).float()[None], bank.templates_of[own])
            top = int(values[0].argmax())
            if float(values[0, top]) > best:
                best, best_image = float(values[0, top]), image
                score[frame], gain[frame], evidence[frame] = best, gains[0, top], evidences[0, top]
        values, _, _, _ = bank.measure(best_image, _moved(pose, nearby), every)
        names = torch.full((len(bank.names),), -1.0).scatter_reduce_(0, bank.owner, values.amax(0), "amax")
        names[own] = -1.0
        others[frame] = names.numpy()
    mean = np.nanmean(others, 0) if track.visible.any() else np.zeros(len(bank.names))
    rival = int(np.argmax(mean))
    return ActorTrack(
        track.name, track.x, track.y, track.half, track.angle, score, gain, evidence, bank.names[rival], others[:, rival]
    )


def _blank(maps: Tensor, track: ActorTrack, coarse_frames: list[int]) -> None:
    """Removes the surroundings of a found actor from the score maps."""
    _, _, height, width = maps.shape
    y = (torch.arange(height) + 0.5) / height * 2 - 1
    x = ((torch.arange(width) + 0.5) / width * 2 - 1) * width / height
    for k, frame in enumerate(coarse_frames):
        if track.visible[frame]:
            near_x = (x - track.x[frame]).abs() < 0.95 * track.half[frame]
            near_y = (y - track.y[frame]).abs() < 0.95 * track.half[frame]
            maps[k, :, near_y[:, None] & near_x[None]] = -1.0


@lru_cache(maxsize=8)
def actor_bank(names: tuple[str, ...]) -> ActorBank:
    """The bank of the named actors."""
    return ActorBank({name: load_sprite(name) for name in names})
