"""One mechanism for every condition: a sequence of latent frames, some of which are known.

A request becomes a `FrameSequence`: the latent frames of the video first, then *guides* (single images pinned to a
time: a last image, a keyframe), then *references* (what a subject looks like, at no time). Known frames carry their
clean latent and timestep 0, unknown ones are denoised. The trainer and the pipelines build their sequences with the
same function, `build_frames`.

Which task is which call:

| task | arguments of `build_frames` |
| --- | --- |
| text | none |
| first image | `known_video` = the image's latent, 1 frame |
| last image, keyframes | `guides` = images encoded alone, `guide_frames` = their pixel frame numbers |
| extend | `known_video` = the latents of the tail, k frames |
| subject reference | `references` = 1 or 2 images encoded alone |
| single image | `num_latent_frames=1` |

Shapes: `B` batch, `C` latent channels, `f` latent frames of the video, `n` frames of the sequence (video, guides,
references), `h w` latent size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from videogen.conditioning.camera import CAMERA_DIM

KIND_FIRST, KIND_VIDEO, KIND_GUIDE, KIND_REFERENCE = 0, 1, 2, 3
"""Kinds of frames: first video latent (an image), later video latent, guide, first reference (the second reference is
4)."""
NUM_KINDS = 5
MAX_REFERENCES = 2


@dataclass(frozen=True)
class FrameSequence:
    """What the backbone sees of a request besides its text.

    Attributes:
        latents: `[B, C, n, h, w]`, normalised latents; clean where `known`, 0 elsewhere.
        known: `[n]` bool, the same for every item of a batch.
        times: `[n]` float32, seconds from the start of the window.
        kinds: `[n]` int64, one of the `KIND_*` values.
        camera: `[B, n, CAMERA_DIM]`, see `videogen.conditioning.camera`; all zeros where nothing was asked.
        num_video_frames: f, how many of the n frames are the video's; they come first.
    """

    latents: Tensor
    known: Tensor
    times: Tensor
    kinds: Tensor
    camera: Tensor
    num_video_frames: int

    @property
    def batch_size(self) -> int:
        return self.latents.shape[0]

    def keep_known(self, latents: Tensor) -> Tensor:
        """`latents [B, C, n, h, w]` with every known frame replaced by its clean latent, bit for bit."""
        return torch.where(self.known[:, None, None], self.latents.to(latents.dtype), latents)

    def frame_timesteps(self, sigmas: Tensor) -> Tensor:
        """Noise level of every frame, `[B, n]`: `sigmas [B]` where unknown, 0 where known."""
        return sigmas[:, None] * (~self.known).to(sigmas.dtype)

    def video(self, latents: Tensor) -> Tensor:
        """The video's part `[B, C, f, h, w]` of `latents [B, C, n, h, w]`."""
        return latents[:, :, : self.num_video_frames]

    @property
    def num_references(self) -> int:
        """How many of the n frames are references; they come last."""
        return int((self.kinds >= KIND_REFERENCE).sum())

    def unconditional(self) -> FrameSequence:
        """What the branch sees that guidance leads away from: no camera asked for and no pictures of subjects, so
        `n - num_references` frames."""
        kept = slice(len(self.kinds) - self.num_references)
        return replace(
            self,
            latents=self.latents[:, :, kept],
            known=self.known[kept],
            times=self.times[kept],
            kinds=self.kinds[kept],
            camera=torch.zeros_like(self.camera[:, kept]),
        )

    def repeat(self, count: int) -> FrameSequence:
        """The batch repeated `count` times, `[B, ...] -> [count * B, ...]`."""
        return replace(self, latents=self.latents.repeat(count, 1, 1, 1, 1), camera=self.camera.repeat(count, 1, 1))

    def select(self, item: int) -> FrameSequence:
        """One item as a batch of 1."""
        return replace(self, latents=self.latents[item : item + 1], camera=self.camera[item : item + 1])

    def to(self, device: torch.device | str) -> FrameSequence:
        """The same on `device`; the host does not wait for copies to a GPU, only for those from one."""
        ahead = torch.device(device).type != "cpu"
        latents, known, times, kinds, camera = (
            tensor.to(device, non_blocking=ahead)
            for tensor in (self.latents, self.known, self.times, self.kinds, self.camera)
        )
        return FrameSequence(latents, known, times, kinds, camera, self.num_video_frames)


def latent_times(num_latent_frames: int, fps: float, scale_factor_temporal: int) -> Tensor:
    """Time of each latent frame in seconds, `[f]` float32.

    Latent 0 stands for the first pixel frame alone (time 0); latent k > 0 for `scale_factor_temporal` pixel frames, at
    their centre.
    """
    index = torch.arange(num_latent_frames, dtype=torch.float32)
    centre = (index - 1) * scale_factor_temporal + 1 + (scale_factor_temporal - 1) / 2
    return torch.where(index == 0, torch.zeros(()), centre) / fps


def build_frames(
    num_latent_frames: int,
    latent_size: tuple[int, int, int],
    *,
    fps: float,
    batch_size: int = 1,
    scale_factor_temporal: int = 4,
    camera: Tensor | None = None,
    known_video: Tensor | None = None,
    guides: Tensor | None = None,
    guide_frames: Sequence[int] = (),
    references: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> FrameSequence:
    """Build the sequence of one task (see the module's table); tasks combine freely.

    Args:
        num_latent_frames: f, latent frames of the video (1 for a single image).
        latent_size: `(C, h, w)`.
        fps: frames per second of the video, > 0: times are in seconds.
        batch_size: B; every item has the same layout.
        scale_factor_temporal: pixel frames per latent frame after the first.
        camera: `[f, CAMERA_DIM]` or `[B, f, CAMERA_DIM]`; None asks for nothing.
        known_video: `[B, C, k, h, w]` (or B = 1, shared), the clean first k latents of the video, 0 <= k <= f.
        guides: `[B, C, g, h, w]`, images encoded alone.
        guide_frames: the pixel frame number (0-based) of each guide.
        references: `[B, C, r, h, w]`, r <= 2, images encoded alone.

    Raises:
        ValueError: a size does not fit, a guide lies outside the video, or there are more than two references.
    """
    channels, height, width = latent_size
    num_guides = 0 if guides is None else guides.shape[2]
    num_references = 0 if references is None else references.shape[2]
    num_known = 0 if known_video is None else known_video.shape[2]
    last_frame = (num_latent_frames - 1) * scale_factor_temporal
    if num_guides != len(guide_frames):
        raise ValueError(
            f"`guide_frames` must name one frame per guide, got {len(guide_frames)} for {num_guides} guides."
        )
    for frame in guide_frames:
        if not 0 <= frame <= last_frame:
            raise ValueError(f"`guide_frames` must lie within the video, 0 to {last_frame}, got {frame}.")
    if num_references > MAX_REFERENCES:
        raise ValueError(f"`references` must hold at most {MAX_REFERENCES} images, got {num_references}.")
    if num_known > num_latent_frames:
        raise ValueError(
            f"`known_video` must not be longer than the video ({num_latent_frames} latent frames), got {num_known}."
        )

    latents = torch.zeros(
        batch_size, channels, num_latent_frames + num_guides + num_references, height, width, dtype=dtype, device=device
    )
    for name, part, start in (
        ("known_video", known_video, 0),
        ("guides", guides, num_latent_frames),
        ("references", references, num_latent_frames + num_guides),
    ):
        if part is None:
            continue
        if part.shape[0] not in (1, batch_size) or (part.shape[1], *part.shape[3:]) != (channels, height, width):
            raise ValueError(
                f"`{name}` must have the shape [{batch_size}, {channels}, frames, {height}, {width}], "
                f"got {list(part.shape)}."
            )
        latents[:, :, start : start + part.shape[2]] = part.to(device=device, dtype=dtype)

    known = torch.zeros(latents.shape[2], dtype=torch.bool)
    known[:num_known] = True
    known[num_latent_frames:] = True
    times = torch.cat(
        [
            latent_times(num_latent_frames, fps, scale_factor_temporal),
            torch.tensor([frame / fps for frame in guide_frames], dtype=torch.float32),
            torch.zeros(num_references),
        ]
    )
    kinds = torch.tensor(
        [KIND_FIRST]
        + [KIND_VIDEO] * (num_latent_frames - 1)
        + [KIND_GUIDE] * num_guides
        + [KIND_REFERENCE + i for i in range(num_references)]
    )
    camera_frames = torch.zeros(batch_size, latents.shape[2], CAMERA_DIM, dtype=torch.float32, device=device)
    if camera is not None:
        if camera.shape[-2:] != (num_latent_frames, CAMERA_DIM):
            raise ValueError(f"`camera` must end in [{num_latent_frames}, {CAMERA_DIM}], got {list(camera.shape)}.")
        camera_frames[:, :num_latent_frames] = camera.to(device=device, dtype=torch.float32)
    known, times, kinds = (tensor.to(device, non_blocking=True) for tensor in (known, times, kinds))
    return FrameSequence(latents, known, times, kinds, camera_frames, num_latent_frames)
