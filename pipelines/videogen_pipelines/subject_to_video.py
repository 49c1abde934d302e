"""Subject to video: somebody or something from one or two pictures acts in a new scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from videogen.conditioning.images import ImageInput
from videogen_pipelines.base import Conditions, OutputType, StepEndCallback, VideoGenerationPipeline
from videogen_pipelines.output import VideoPipelineOutput
from videogen_pipelines.requests import CameraInput, Quality

MAX_SUBJECTS = 2
_NAMES = ("subject", "主角", "主体")


class SubjectToVideoPipeline(VideoGenerationPipeline):
    """A prompt and one or two pictures of its subjects in, a video out.

    The prompt calls them "the subject", or "subject 1" and "subject 2" (主角, 主角1, 主角2).

    >>> from videogen import SubjectToVideoPipeline
    >>> pipe = SubjectToVideoPipeline.from_pretrained()
    >>> output = pipe("the subject jumps in the snow", "dog.png", seed=0)
    """

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        subject_images: ImageInput | Sequence[ImageInput] | None = None,
        *,
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
            prompt: one text or several that name the subject; may hold camera brackets.
            subject_images: one or two pictures, one for each subject.

        Raises:
            ValueError: no picture or more than two, or anything `TextToVideoPipeline` refuses.
        """
        resume_from = self.take_checkpoint()
        plan = self.plan(height, width, num_frames, duration, fps)
        given: Sequence = subject_images if isinstance(subject_images, list | tuple) else [subject_images]
        pictures: list[ImageInput] = [picture for picture in given if picture is not None]
        if not 1 <= len(pictures) <= MAX_SUBJECTS:
            raise ValueError(f"`subject_images` must hold 1 to {MAX_SUBJECTS} pictures, got {len(pictures)}.")
        texts = [prompt] if isinstance(prompt, str) else list(prompt or [])
        if not all(any(name in text.casefold() for name in _NAMES) for text in texts if isinstance(text, str)):
            plan.adjusted.append(
                "the prompt does not name the subject; the model was taught to call it 'the subject' (主角)."
            )
        if len(pictures) > 1 and (self.vocabulary or {}).get("max_actors") == 1:
            plan.adjusted.append("the model was trained with one subject at a time; two may mix.")
        loaded = [self.load_picture(picture, plan, f"subject {i + 1}") for i, picture in enumerate(pictures)]
        conditions = Conditions(
            references=[picture.pixels for picture in loaded],
            pictures={f"subject {i + 1}": picture.picture for i, picture in enumerate(loaded)},
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
        )
