"""Text to video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from videogen_pipelines.base import Conditions, OutputType, StepEndCallback, VideoGenerationPipeline
from videogen_pipelines.output import VideoPipelineOutput
from videogen_pipelines.requests import CameraInput, Quality


class TextToVideoPipeline(VideoGenerationPipeline):
    """A prompt in, a video out.

    >>> from videogen import TextToVideoPipeline
    >>> pipe = TextToVideoPipeline.from_pretrained()
    >>> output = pipe("a fox jumps in the snow, [Pan left]", seed=0)
    """

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
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
        """Generates videos.

        Args:
            prompt: one text or several, English or Chinese, at most 2,000 characters each; may hold camera brackets.
            negative_prompt: what to steer away from; one for all prompts or one each.
            height: pixels; None = the trained size.
            width: pixels; None = the trained size.
            num_frames: 1 plus a multiple of 4; None = the trained length. Longer clips are continued in windows.
            duration: seconds instead of `num_frames`; the longest length that fits is taken and reported, or the shortest trained one.
            fps: frames per second; None = the trained rate.
            num_inference_steps: denoising steps; None = the model's own default.
            guidance_scale: 1.0 = off; None = the model's own default.
            num_videos_per_prompt: videos of each prompt.
            batch_size: videos per forward pass. 1 keeps every video independent of its neighbours, bit for bit.
            generator: one `torch.Generator` per video.
            seed: video i uses ``seed + i``; None draws one, reported in the output.
            latents: initial noise [B, C, f, h, w], standard normal.
            prompt_embeds: [P, S, T] from `encode_prompt`, instead of `prompt`.
            prompt_attention_mask: [P, S] bool; None = all tokens.
            negative_prompt_embeds: [1 or P, S, T], instead of `negative_prompt`.
            negative_prompt_attention_mask: [1 or P, S] bool.
            camera: commands ("[Pan left] [Zoom in]") or vectors [f, 9] (see `videogen.conditioning.camera`); then no
                brackets in the prompt.
            literal_prompt: False reads words that the model does not know as the nearest it knows (`videogen.conditioning.wording`),
                adds a movement and a place where none is named and no picture of the clip is given, and `[Static shot]` where no camera
                move is (`videogen.conditioning.unsaid`), and reports it in `adjusted`; True gives the prompt to the model as it is.
            guidance_method: see `videogen.diffusion.sampling.guide`.
            guidance_rescale: 0..1, likewise.
            guidance_interval: lowest and highest noise level, 0..1, at which to guide, if at all; None = the
                model's own default.
            quality: "fast" is a few steps without guidance, "high" as many as the model was trained for; None = fast where the model
                can and nothing else that is asked for needs the other.
            output_type: see `VideoPipelineOutput.frames`.
            return_dict: False gives the tuple ``(frames,)``.
            callback_on_step_end: see `StepEndCallback`.
            callback_on_step_end_tensor_inputs: "latents" or nothing.

        Raises:
            ValueError: an argument the model cannot honour; the message says what it can.
            FloatingPointError: the result is not finite.
            GenerationCancelled: `pipe.interrupt` was set to True.
        """
        resume_from = self.take_checkpoint()
        plan = self.plan(height, width, num_frames, duration, fps)
        return self.generate(
            plan,
            Conditions(),
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
