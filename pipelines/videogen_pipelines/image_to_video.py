"""Image to video: from a first image, towards a last one, through keyframes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from videogen.conditioning.images import ImageInput
from videogen_pipelines.base import Conditions, OutputType, StepEndCallback, VideoGenerationPipeline
from videogen_pipelines.output import VideoPipelineOutput
from videogen_pipelines.requests import CameraInput, Quality, keyframe_numbers


class ImageToVideoPipeline(VideoGenerationPipeline):
    """A prompt and pictures of some of its frames in, a video out.

    The first image is the first latent frame itself, so that the video starts with its reconstruction. Images of later
    frames are guides: the video passes through them closely, not exactly.

    >>> from videogen import ImageToVideoPipeline
    >>> pipe = ImageToVideoPipeline.from_pretrained()
    >>> output = pipe("a fox jumps in the snow", image="first.png", last_image="last.png", seed=0)
    """

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: ImageInput | None = None,
        *,
        last_image: ImageInput | None = None,
        keyframes: Mapping[float, ImageInput] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        duration: float | None = None,
        fps: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_videos_per_prompt: int = 1,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | None = None,
        latents: torch.Tensor | None = None,
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
        """Generates videos; the other arguments are those of `TextToVideoPipeline`.

        Args:
            prompt: one text or several; may hold camera brackets.
            image: the first frame: path, PIL image, array or tensor (see `videogen.conditioning.images.load_image`).
            last_image: the last frame.
            keyframes: seconds -> image; a time is moved to the nearest frame and reported.

        Raises:
            ValueError: no image at all, two for one frame, or anything `TextToVideoPipeline` refuses.
        """
        resume_from = self.take_checkpoint()
        plan = self.plan(height, width, num_frames, duration, fps)
        keyframes = dict(keyframes or {})
        numbers = keyframe_numbers(list(keyframes), plan.num_frames, plan.fps, plan.adjusted)
        asked: dict[int, tuple[str, ImageInput]] = {}
        if image is not None:
            if plan.num_frames == 1:
                raise ValueError("`image` must be left out for a clip of one frame, which it would be itself.")
            asked[0] = ("image", image)
        for number, (time, picture) in zip(numbers, keyframes.items(), strict=True):
            if number in asked:
                raise ValueError(f"`keyframes` at {time:g} s and `image` must not both name the first frame.")
            asked[number] = (f"keyframe {time:g}", picture)
        if last_image is not None:
            if plan.num_frames - 1 in asked:
                raise ValueError("`last_image` and another image must not both name the last frame; leave one out.")
            asked[plan.num_frames - 1] = ("last_image", last_image)
        if not asked:
            raise ValueError("`image`, `last_image` or `keyframes` must be given; without a picture use text to video.")
        loaded = {number: self.load_picture(picture, plan, name) for number, (name, picture) in asked.items()}
        conditions = Conditions(
            source=loaded[0].pixels[:, None] if 0 in loaded else None,
            guides={number: picture.pixels for number, picture in loaded.items() if number > 0},
            pictures={asked[number][0]: picture.picture for number, picture in loaded.items()},
        )
        return self.generate(
            plan,
            conditions,
            resume_from=resume_from,
            prompt=prompt,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            num_videos_per_prompt=num_videos_per_prompt,
            batch_size=batch_size,
            generator=generator,
            seed=seed,
            latents=latents,
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
            output_type=output_type,
            return_dict=return_dict,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            requested={"keyframes": sorted(number for number in asked)},
        )
