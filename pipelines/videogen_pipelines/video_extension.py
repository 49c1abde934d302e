"""Video extension: a video goes on."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image

from videogen.conditioning.images import load_image
from videogen.data.video import read_video
from videogen_pipelines.base import (
    Conditions,
    OutputType,
    Plan,
    StepEndCallback,
    VideoGenerationPipeline,
)
from videogen_pipelines.output import VideoPipelineOutput, convert_frames
from videogen_pipelines.requests import (
    MAX_DURATION,
    CameraInput,
    Quality,
    check_fps,
    check_size,
    extension_overlap,
    extension_window,
    resampled_num_frames,
)

VideoInput = str | os.PathLike | np.ndarray | torch.Tensor | Sequence[Image.Image]


class VideoExtensionPipeline(VideoGenerationPipeline):
    """A video and a prompt in, the longer video out.

    The tail of the video (its motion, not only its last picture) is encoded, and the clip goes on from there. What was
    there before stays as it was, but for the size and rate of the model.

    >>> from videogen import VideoExtensionPipeline
    >>> pipe = VideoExtensionPipeline.from_pretrained()
    >>> output = pipe("a fox jumps in the snow", "clip.mp4", duration=2, seed=0)
    """

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        video: VideoInput | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_frames: int | None = None,
        duration: float | None = None,
        fps: float | None = None,
        video_fps: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_videos_per_prompt: int = 1,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        camera: CameraInput | None = None,
        literal_prompt: bool = False,
        guidance_method: Literal["standard", "cfg_zero"] = "standard",
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
        quality: Quality | None = None,
        output_type: OutputType = "np",
        return_dict: bool = True,
        callback_on_step_end: StepEndCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> VideoPipelineOutput | tuple:
        """Generates the continuation; the other arguments are those of `TextToVideoPipeline`.

        Args:
            prompt: one text or several; may hold camera brackets, which share the new frames equally.
            video: path of a video file, frames uint8 (0..255) or float (0..1) as array [F, H, W, 3] or tensor
                [F, 3, H, W], or a list of PIL images. Frames are fitted to the model's size and rate, reported.
            num_frames: *new* frames, a multiple of 4.
            duration: seconds to add instead of `num_frames`; the longest whole number of latent frames that fits. With
                neither, one window's worth is added.
            fps: frames per second of the result; None = the trained rate.
            video_fps: frames per second of `video` when it is not a file; None = `fps`.

        Returns:
            Old and new frames together; `num_frames` counts both, and `settings["num_source_frames"]` the old ones.

        Raises:
            ValueError: no or an unusable video, or anything `TextToVideoPipeline` refuses.
        """
        resume_from = self.take_checkpoint()
        if video is None:
            raise ValueError("`video` must be given; without one use text to video.")
        if output_type == "latent":
            raise ValueError("`output_type` must be 'np', 'pt' or 'pil' for an extension, got 'latent'.")
        if self.trained_num_frames == 1:
            raise ValueError("`video` cannot be continued by a model of single pictures; use one that makes clips.")
        fps = check_fps(fps, self.vocabulary)
        height, width = (
            check_size(None, None, self.vocabulary, self._size_multiple()) if self.vocabulary else (None, None)
        )
        frames, video_fps = _read_frames(video, video_fps, fps)
        if height is None or width is None:
            height, width = check_size(frames[0].shape[0], frames[0].shape[1], None, self._size_multiple())
        adjusted: list[str] = []
        frames = _resample(frames, video_fps, fps, adjusted)
        source = _fit_frames(frames, height, width, adjusted)  # [3, F, H, W]

        overlap = extension_overlap(self.trained_num_frames, self.scale_factor_temporal, source.shape[1])
        if overlap == 1:
            adjusted.append("`video` is too short to show its motion; it is continued from its last picture alone.")
        window = extension_window(self.trained_num_frames, self.scale_factor_temporal)
        num_new = self._num_new_frames(num_frames, duration, fps, window - overlap, adjusted)
        plan = Plan(height, width, overlap + num_new, fps, adjusted)
        output = self.generate(
            plan,
            Conditions(source=source[:, -overlap:], keep_source=True),
            resume_from=resume_from,
            prompt=prompt,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            num_videos_per_prompt=num_videos_per_prompt,
            batch_size=batch_size,
            generator=generator,
            seed=seed,
            latents=None,
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            camera=camera,
            literal_prompt=literal_prompt,
            guidance_method=guidance_method,
            guidance_rescale=guidance_rescale,
            guidance_interval=guidance_interval,
            quality=quality,
            output_type="pt",
            return_dict=True,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            requested={"num_new_frames": num_new, "num_source_frames": source.shape[1]},
        )
        assert isinstance(output, VideoPipelineOutput) and isinstance(output.frames, torch.Tensor)
        new = output.frames[:, overlap:].permute(0, 2, 1, 3, 4) * 2 - 1  # [B, 3, F, H, W]
        whole = torch.cat([source[None].expand(len(new), -1, -1, -1, -1), new], 2)
        output.frames, output.output_type = convert_frames(whole, output_type), output_type
        output.num_frames = output.settings["num_frames"] = whole.shape[2]
        return output if return_dict else (output.frames,)

    def _num_new_frames(
        self, num_frames: int | None, duration: float | None, fps: float, default: int, adjusted: list[str]
    ) -> int:
        step = self.scale_factor_temporal
        if num_frames is not None and duration is not None:
            raise ValueError(f"`num_frames` and `duration` must not both be given, got {num_frames} and {duration:g}.")
        if duration is not None:
            if not math.isfinite(duration) or duration > MAX_DURATION:
                raise ValueError(f"`duration` must be at most {MAX_DURATION:g} seconds, got {duration:g}.")
            new = math.floor(duration * fps + 1e-6) // step * step
            if new < step:
                raise ValueError(
                    f"`duration` must be at least {step / fps:.2f} seconds ({step} frames), got {duration:g}."
                )
            if abs(new / fps - duration) > 0.5 / fps:
                adjusted.append(
                    f"`duration` {duration:g} s became {new / fps:.2f} s ({new} new frames at {fps:g} per second), "
                    f"the longest length that fits."
                )
            return new
        if num_frames is None:
            return default
        most = math.floor(MAX_DURATION * fps) // step * step
        if num_frames > most:
            raise ValueError(
                f"`num_frames` must make at most {MAX_DURATION:g} seconds, got {num_frames} new frames at {fps:g} per "
                f"second; use {most}."
            )
        if num_frames < step or num_frames % step:
            good = max(step, round(num_frames / step) * step)
            raise ValueError(
                f"`num_frames` must be a positive multiple of {step} new frames, got {num_frames}; use {good}."
            )
        return num_frames


def _read_frames(video: VideoInput, video_fps: float | None, fps: float) -> tuple[list[np.ndarray], float]:
    """Frames as arrays [H, W, 3] uint8 and their rate."""
    if isinstance(video, str | os.PathLike):
        if video_fps is not None:
            raise ValueError("`video_fps` must not be given with a video file, which says its own.")
        read = read_video(os.fspath(video))
        return list(read.frames), read.fps
    if video_fps is not None and not (math.isfinite(video_fps) and video_fps > 0):
        raise ValueError(f"`video_fps` must be above 0, got {video_fps:g}.")
    if isinstance(video, torch.Tensor):
        if video.ndim != 4 or video.shape[1] != 3:
            raise ValueError(f"`video` as a tensor must be [F, 3, H, W], got {list(video.shape)}.")
        frames = list(video.detach().cpu().permute(0, 2, 3, 1).numpy())
    elif isinstance(video, np.ndarray):
        if video.ndim != 4 or video.shape[3] != 3:
            raise ValueError(f"`video` as an array must be [F, H, W, 3], got {list(video.shape)}.")
        frames = list(video)
    elif isinstance(video, list | tuple) and all(isinstance(frame, Image.Image) for frame in video):
        frames = [np.asarray(frame.convert("RGB")) for frame in video]
    else:
        raise TypeError(f"`video` must be a path, frames or a list of PIL images, got {type(video).__name__}.")
    if not frames:
        raise ValueError("`video` must hold at least one frame, got none.")
    return frames, float(video_fps or fps)


def _resample(frames: list[np.ndarray], video_fps: float, fps: float, adjusted: list[str]) -> list[np.ndarray]:
    """The frame that is shown at each tick of `fps`, as training reads videos."""
    if abs(video_fps - fps) < 1e-3:
        return frames
    count = resampled_num_frames(len(frames), video_fps, fps)
    adjusted.append(
        f"`video` was resampled from {video_fps:g} to {fps:g} frames per second ({len(frames)} became {count} frames)."
    )
    return [frames[min(len(frames) - 1, int(i / fps * video_fps + 1e-6))] for i in range(count)]


def _fit_frames(frames: list[np.ndarray], height: int, width: int, adjusted: list[str]) -> torch.Tensor:
    loaded = [load_image(frame, height, width, "video") for frame in frames]
    adjusted.extend(loaded[0].adjusted)
    return torch.stack([picture.pixels for picture in loaded], 1)  # [3, F, H, W]
