"""What the four pipelines share: components, loading and saving, text encoding, and generation along a timeline.

A request becomes a timeline of pixel frames: some at its start may be there already (a first image, the end of a video
to extend), some carry an image as a guide, the rest is generated. A timeline longer than the trained length is generated
in windows; each takes over the tail of what was decoded before it, encoded anew by the causal tokenizer.

Shapes: `B` videos, `C` latent channels, `F H W` pixel frames/height/width, `f h w` latent, `S` text tokens.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

import videogen
from tokenizer3d.autoencoder import CausalVideoAutoencoder
from tokenizer3d.shapes import num_latent_frames
from videogen.conditioning.camera import CameraPlan
from videogen.conditioning.frames import build_frames
from videogen.conditioning.images import ConditioningImage, ImageInput, load_image
from videogen.conditioning.prompt import check_prompt, vocabulary_warnings
from videogen.diffusion.sampling import denoise, sampling_sigmas
from videogen.models.low_rank import FAST_FOLDER, load_adapter, merge_low_rank, save_adapter
from videogen.models.text_encoder import TextEncoder
from videogen.models.text_tokenizer import BytePairTokenizer
from videogen.models.transformer import VideoTransformer
from videogen.receipt import Task
from videogen_pipelines.joins import without_colour_step
from videogen_pipelines.output import GenerationCancelled, VideoPipelineOutput, convert_frames
from videogen_pipelines.requests import (
    DEFAULT_GUIDANCE_INTERVAL,
    DEFAULT_GUIDANCE_SCALE,
    DEFAULT_INFERENCE_STEPS,
    CameraInput,
    Quality,
    camera_of_timeline,
    check_fps,
    check_length,
    check_sampling,
    check_size,
    complete_prompt,
    make_generators,
    notes_without_guidance,
    plan_windows,
    read_camera,
    read_negative_prompt,
    read_prompt,
    settle_quality,
)

SHIPPED_WEIGHTS = Path(videogen.__file__).parent / "assets" / "weights" / "tiny"
"""Folder of the model that is installed with the package."""

VOCABULARY_FILE = "vocabulary.json"
MAX_TEXT_TOKENS = 128

OutputType = Literal["np", "pt", "pil", "latent"]
StepEndCallback = Callable[[Any, int, float, dict[str, Tensor]], Mapping[str, Tensor] | None]
"""Called after each step with (pipeline, step, timestep 0..1000, {"latents": [B, C, f, h, w]}). Steps count through all
videos and windows up to `pipeline.num_timesteps`. An exception it raises, or `pipeline.interrupt = True`, ends the run."""


@dataclass(frozen=True)
class Plan:
    """A checked request but for its text."""

    height: int
    width: int
    num_frames: int  # of the timeline
    fps: float
    adjusted: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Conditions:
    """Pictures of a request as float32 in -1..1, the same for each of its videos.

    Attributes:
        source: [3, P, H, W], what the timeline starts with; P on the frame grid.
        keep_source: put the source itself into the output (extension) rather than its reconstruction.
        guides: frame number -> [3, H, W].
        references: one or two subjects, each [3, H, W].
        pictures: for the output, as the model saw them.
    """

    source: Tensor | None = None
    keep_source: bool = False
    guides: dict[int, Tensor] = field(default_factory=dict)
    references: list[Tensor] = field(default_factory=list)
    pictures: dict[str, Image.Image] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """What the pictures are for."""
        if self.keep_source:
            return "extend"
        return "image" if self.source is not None or self.guides else "subject" if self.references else "text"


@dataclass(frozen=True)
class Checkpoint:
    """Where the generation of one video stands after a step: enough to go on with the same bits.

    Attributes:
        window: index of the window at work.
        step: steps done in it, 1 .. num_inference_steps.
        latents: [1, C, f, h, w] float32, the window's latents after that step.
        generator_state: of the video's generator, with this window's noise drawn.
        video: [1, 3, F, H, W] float32, what the windows before this one made; None in the first.
    """

    window: int
    step: int
    latents: Tensor
    generator_state: Tensor
    video: Tensor | None = None


@dataclass(frozen=True)
class _Text:
    embeds: Tensor  # [1, S, T]
    mask: Tensor  # [1, S]


class VideoGenerationPipeline(DiffusionPipeline):
    """Components and generation; use one of the four pipelines.

    Args:
        vae: the causal 3D tokenizer.
        transformer: the backbone.
        text_encoder: its text encoder.
        tokenizer: of the text.
        scheduler: diffusers' Euler scheduler for flow matching; its `shift` applies.

    Attributes:
        vocabulary: content of `vocabulary.json` beside the weights (what the model was trained on) or None; saved and
            loaded with the pipeline.
        fast: adapter of the model for few steps without guidance, and what it was trained for (`num_inference_steps`), or None;
            saved and loaded with the pipeline.
        checkpoint: where the running generation stands, new after each step; read it in `callback_on_step_end`.
        resume_from: set it to a checkpoint of the same request to go on from there in the next call, which takes it
            away again, even if it refuses the request. One video a call.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"  # type: ignore[assignment]
    _callback_tensor_inputs = ("latents",)
    vae: Any  # the components, set by `register_modules`
    transformer: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    def __init__(
        self,
        vae: CausalVideoAutoencoder,
        transformer: VideoTransformer,
        text_encoder: TextEncoder,
        tokenizer: BytePairTokenizer,
        scheduler: FlowMatchEulerDiscreteScheduler,
    ):
        super().__init__()
        self.register_modules(
            vae=vae, transformer=transformer, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )
        self.vocabulary: dict[str, Any] | None = None
        self.fast: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self._fast_copy: tuple[Any, torch.dtype, Any] | None = None  # a transformer, its dtype, its copy with `fast`
        self.interrupt = False
        self.checkpoint: Checkpoint | None = None
        self.resume_from: Checkpoint | None = None
        self._num_timesteps = 0

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None = None, **kwargs: Any):
        """Loads a model folder; without argument the shipped model.

        Args:
            pretrained_model_name_or_path: a local folder written by `save_pretrained`; nothing is downloaded.
            **kwargs: passed to diffusers; weights become float32 (`dtype`) and only safetensors are read unless told otherwise.

        Raises:
            ValueError: no such folder, or no pipeline in it.
        """
        folder = Path(SHIPPED_WEIGHTS if pretrained_model_name_or_path is None else pretrained_model_name_or_path)
        if not (folder / "model_index.json").is_file():
            way_out = (
                "the installation has no shipped weights; install the package again or pass your own folder"
                if pretrained_model_name_or_path is None
                else "pass a folder written by `save_pretrained`, or nothing for the shipped model"
            )
            raise ValueError(
                f"`pretrained_model_name_or_path` must be a folder with model_index.json, got '{folder}'; {way_out}."
            )
        pipe = super().from_pretrained(str(folder), **{"use_safetensors": True, **kwargs})
        if not {"dtype", "torch_dtype"} & kwargs.keys():  # weights are stored in bfloat16
            for component in pipe.components.values():
                if isinstance(component, torch.nn.Module):
                    torch.nn.Module.to(component, torch.float32)  # diffusers' own `to` warns about modules kept float32
        if (folder / VOCABULARY_FILE).is_file():
            pipe.vocabulary = json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
        if (folder / FAST_FOLDER).is_dir():
            pipe.fast = load_adapter(folder / FAST_FOLDER)
        return pipe

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:  # type: ignore[override]
        """Saves all components, the vocabulary and the adapter for few steps to a folder that `from_pretrained` reads."""
        super().save_pretrained(os.fspath(save_directory), **kwargs)
        if self.vocabulary is not None:
            text = json.dumps(self.vocabulary, ensure_ascii=False, indent=1) + "\n"
            (Path(save_directory) / VOCABULARY_FILE).write_text(text, encoding="utf-8")
        if self.fast is not None:
            save_adapter(Path(save_directory) / FAST_FOLDER, *self.fast)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any):
        """This pipeline with the components, the vocabulary and the adapter of another of the four; no weights are copied."""
        pipe = cls(**{**pipeline.components, **kwargs})
        pipe.vocabulary = getattr(pipeline, "vocabulary", None)
        pipe.fast = getattr(pipeline, "fast", None)
        return pipe

    def transformer_of(self, quality: Quality) -> Any:
        """The backbone as a quality runs it; that of "fast" is a copy, made when it is first needed."""
        if quality == "high":
            return self.transformer
        assert self.fast is not None
        kept = self._fast_copy
        if kept is None or kept[0] is not self.transformer or kept[1] != self.transformer.dtype:
            changed = copy.deepcopy(self.transformer)
            merge_low_rank(changed, self.fast[0])
            kept = self._fast_copy = self.transformer, self.transformer.dtype, changed
        return torch.nn.Module.to(kept[2], self._execution_device)

    @property
    def num_timesteps(self) -> int:
        """Steps of the running or last request, over all its videos and windows."""
        return self._num_timesteps

    @property
    def scale_factor_temporal(self) -> int:
        return int(self.vae.config.scale_factor_temporal)

    @property
    def trained_num_frames(self) -> int | None:
        """Longest trained length in frames, None when there is no vocabulary to say."""
        lengths = (self.vocabulary or {}).get("num_frames")
        return max(lengths) if lengths else None

    @property
    def default_num_inference_steps(self) -> int:
        return int((self.vocabulary or {}).get("num_inference_steps", DEFAULT_INFERENCE_STEPS))

    @property
    def default_guidance_scale(self) -> float:
        return float((self.vocabulary or {}).get("guidance_scale", DEFAULT_GUIDANCE_SCALE))

    @property
    def default_guidance_interval(self) -> tuple[float, float]:
        low, high = (self.vocabulary or {}).get("guidance_interval", DEFAULT_GUIDANCE_INTERVAL)
        return float(low), float(high)

    @torch.no_grad()
    def encode_prompt(self, prompt: str | Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encodes prompts (camera brackets taken out before).

        Returns:
            embeddings [B, S, T] and mask [B, S] bool; at most `MAX_TEXT_TOKENS` tokens of each prompt are read.
        """
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        input_ids, mask = self.tokenizer(texts, max_length=MAX_TEXT_TOKENS)
        length = int(mask.sum(1).max())  # the tokenizer pads to the limit
        device = self._execution_device
        input_ids, mask = input_ids[:, :length].to(device), mask[:, :length].to(device).bool()
        return self.text_encoder(input_ids, mask), mask

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """`video` [B, 3, F, H, W] in -1..1 -> normalised latents [B, C, f, h, w] float32; one image is F = 1."""
        video = video.to(self._execution_device, self.vae.dtype)
        return self.vae.normalize(self.vae.encode(video).latents).float()

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, C, f, h, w] -> video [B, 3, F, H, W] float32 in -1..1.

        Raises:
            FloatingPointError: a pixel is not finite.
        """
        video = self.vae.decode(self.vae.denormalize(latents.to(self.vae.dtype))).sample.float()
        if not bool(torch.isfinite(video).all()):
            raise FloatingPointError("the decoded video is not finite: the weights of the tokenizer are damaged.")
        return video

    def load_picture(self, image: ImageInput, plan: Plan, name: str) -> ConditioningImage:
        """Loads a conditioning image at the size of the plan; its adjustments are noted there."""
        if isinstance(image, list | tuple):
            raise TypeError(f"`{name}` must be one picture for the whole call, got {len(image)}; call once for each.")
        loaded = load_image(image, plan.height, plan.width, name)
        plan.adjusted.extend(loaded.adjusted)
        return loaded

    def take_checkpoint(self) -> Checkpoint | None:
        """`resume_from`, which is then None: the first thing that a call does, so that no later one finds it."""
        checkpoint, self.resume_from = self.resume_from, None
        return checkpoint

    def plan(
        self, height: int | None, width: int | None, num_frames: int | None, duration: float | None, fps: float | None
    ) -> Plan:
        """Checks size, rate and length of a video that starts from nothing or from one image."""
        adjusted: list[str] = []
        size = check_size(height, width, self.vocabulary, self._size_multiple())
        fps = check_fps(fps, self.vocabulary)
        num_frames = check_length(num_frames, duration, fps, self.vocabulary, self.scale_factor_temporal, adjusted)
        return Plan(*size, num_frames, fps, adjusted)

    def _size_multiple(self) -> int:
        return int(self.vae.config.scale_factor_spatial) * int(getattr(self.transformer.config, "patch_size", 1))

    @torch.no_grad()
    def generate(
        self,
        plan: Plan,
        conditions: Conditions,
        *,
        resume_from: Checkpoint | None,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        num_videos_per_prompt: int,
        batch_size: int,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        seed: int | None,
        latents: Tensor | None,
        prompt_embeds: Tensor | None,
        prompt_attention_mask: Tensor | None,
        negative_prompt_embeds: Tensor | None,
        negative_prompt_attention_mask: Tensor | None,
        camera: CameraInput | None,
        literal_prompt: bool,
        guidance_method: Literal["standard", "cfg_zero"],
        guidance_rescale: float,
        guidance_interval: tuple[float, float] | None,
        quality: Quality | None,
        output_type: OutputType,
        return_dict: bool,
        callback_on_step_end: StepEndCallback | None,
        callback_on_step_end_tensor_inputs: Sequence[str],
        requested: dict[str, Any] | None = None,
    ) -> VideoPipelineOutput | tuple:
        """Generates the videos of a request; arguments as in the pipelines' `__call__`, `resume_from` of `take_checkpoint`."""
        adjusted = list(plan.adjusted)
        notes: list[str] = []
        fast = None if self.fast is None else self.fast[1]
        negative = negative_prompt if negative_prompt_embeds is None else "as embeddings"
        quality = settle_quality(
            quality,
            fast,
            num_inference_steps,
            guidance_scale,
            guidance_interval,
            guidance_method,
            guidance_rescale,
            negative,
        )
        if quality == "fast":
            assert fast is not None
            num_inference_steps, guidance_scale = fast["num_inference_steps"], 1.0
        steps = self.default_num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = self.default_guidance_scale if guidance_scale is None else guidance_scale
        interval = self.default_guidance_interval if guidance_interval is None else tuple(guidance_interval)
        check_sampling(steps, scale, guidance_method, guidance_rescale, interval, num_videos_per_prompt, batch_size)
        if output_type not in ("np", "pt", "pil", "latent"):
            raise ValueError(f"`output_type` must be 'np', 'pt', 'pil' or 'latent', got {output_type!r}.")
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(f"`callback_on_step_end_tensor_inputs` may hold 'latents', got {sorted(unknown)}.")

        # Text and camera
        for name, embeds, mask in (
            ("prompt", prompt_embeds, prompt_attention_mask),
            ("negative_prompt", negative_prompt_embeds, negative_prompt_attention_mask),
        ):
            if mask is not None and embeds is None:
                raise ValueError(f"`{name}_attention_mask` must come with `{name}_embeds`; a text makes its own.")
        if literal_prompt and prompt_embeds is not None:
            raise ValueError("`literal_prompt` must be left out beside `prompt_embeds`, which hold no words.")
        read, prompts, camera_plans, vectors = self._read_prompts(
            prompt, prompt_embeds, camera, literal_prompt, conditions.task, adjusted, notes
        )
        texts = self._texts(prompts, prompt_embeds, prompt_attention_mask, "prompt_embeds", notes)
        negatives: list[_Text | None] = [None] * len(texts)
        negative_prompts: list[str] | None = None
        if scale != 1.0:
            negative_prompts = self._read_negative(
                negative_prompt, len(texts), negative_prompt_embeds, literal_prompt, adjusted, notes
            )
            negatives = list(
                self._texts(
                    negative_prompts,
                    negative_prompt_embeds,
                    negative_prompt_attention_mask,
                    "negative_prompt_embeds",
                    notes,
                )
            )
            if len(negatives) not in (1, len(texts)):
                raise ValueError(
                    f"`negative_prompt_embeds` must hold one text or one for each of {len(texts)} prompts, got {len(negatives)}."
                )
            negatives = negatives * len(texts) if len(negatives) == 1 else negatives
        own_interval = None if interval == self.default_guidance_interval else interval  # replays pass the default too
        notes.extend(notes_without_guidance(scale, own_interval, guidance_method, guidance_rescale, negative))

        # Timeline
        num_source = 0 if conditions.source is None else conditions.source.shape[1]
        window = self.trained_num_frames
        windows = plan_windows(plan.num_frames, window, self.scale_factor_temporal)
        if len(windows) > 1:
            adjusted.append(
                f"{plan.num_frames} frames are beyond the trained length of {window}; the clip is continued in "
                f"{len(windows)} windows, each from the last frames of the one before."
            )
            for argument, used in (("latents", latents is not None), ("output_type='latent'", output_type == "latent")):
                if used:
                    raise ValueError(f"`{argument}` cannot be used beyond the trained length; use {window} frames.")
        num_videos = len(texts) * num_videos_per_prompt
        generators, seeds = make_generators(seed, generator, num_videos)
        cameras = [
            camera_of_timeline(
                camera_plan,
                vectors,
                plan.num_frames,
                num_source if conditions.keep_source else 0,
                self.scale_factor_temporal,
            )
            for camera_plan in camera_plans
        ]
        channels, *size = self._latent_size(plan)
        wanted = [num_videos, channels, num_latent_frames(plan.num_frames, self.scale_factor_temporal), *size]
        if latents is not None and list(latents.shape) != wanted:
            raise ValueError(f"`latents` must have the shape {wanted} for these videos, got {list(latents.shape)}.")

        # Videos, one by one unless batches were asked for
        transformer = self.transformer_of(quality)
        num_batches = -(-num_videos // batch_size)
        self._num_timesteps = num_batches * len(windows) * steps
        self.interrupt = False
        self.checkpoint = None
        if resume_from is not None:
            if num_videos > 1:
                raise ValueError(f"`resume_from` must be used for one video at a time, got {num_videos}.")
            self._check_checkpoint(resume_from, plan, windows, steps)
        results = []
        references = [self.encode_video(picture[None, :, None]) for picture in conditions.references]
        guides = {frame: self.encode_video(picture[None, :, None]) for frame, picture in conditions.guides.items()}
        with self.progress_bar(total=self._num_timesteps) as progress:
            done = 0 if resume_from is None else resume_from.window * steps + resume_from.step
            on_step = self._step_counter(progress, done, callback_on_step_end, callback_on_step_end_tensor_inputs)
            for start in range(0, num_videos, batch_size):
                chosen = range(start, min(start + batch_size, num_videos))
                rows = [i // num_videos_per_prompt for i in chosen]
                sampling = {
                    "transformer": transformer,
                    **_stacked("prompt", [texts[row] for row in rows]),
                    **_stacked("negative_prompt", [text for row in rows if (text := negatives[row]) is not None]),
                    "generators": [generators[i] for i in chosen],
                    "num_inference_steps": steps,
                    "guidance_scale": scale,
                    "guidance_method": guidance_method,
                    "guidance_rescale": guidance_rescale,
                    "guidance_interval": interval,
                    "noise": None if latents is None else latents[chosen.start : chosen.stop],
                }
                results.append(
                    self._run_timeline(
                        plan,
                        conditions,
                        windows,
                        torch.stack([cameras[row] for row in rows]),
                        guides,
                        references,
                        sampling,
                        on_step,
                        output_type == "latent",
                        resume_from,
                    )
                )
        video = torch.cat(results)
        if output_type != "latent":
            notes.extend(_judge(video[:, :, num_source if conditions.keep_source else 0 :], camera_plans))
        self.maybe_free_model_hooks()

        frames = video.cpu() if output_type == "latent" else convert_frames(video, output_type)
        if not return_dict:
            return (frames,)
        settings = {
            "height": plan.height,
            "width": plan.width,
            "num_frames": plan.num_frames,
            "fps": plan.fps,
            "num_inference_steps": steps,
            "guidance_scale": scale,
            "guidance_method": guidance_method,
            "guidance_rescale": guidance_rescale,
            "guidance_interval": interval,
            "quality": quality,
            "num_videos_per_prompt": num_videos_per_prompt,
            "batch_size": batch_size,
            "prompts": read,
            "negative_prompts": negative_prompts,
            **(requested or {}),
        }
        return VideoPipelineOutput(
            frames=frames,
            seeds=seeds,
            fps=plan.fps,
            num_frames=plan.num_frames,
            output_type=output_type,
            camera=[camera_plans[i // num_videos_per_prompt].segments for i in range(num_videos)],
            adjusted=adjusted,
            warnings=list(dict.fromkeys(notes)),
            conditioning=conditions.pictures,
            settings=settings,
        )

    def _check_checkpoint(
        self, checkpoint: Checkpoint, plan: Plan, windows: Sequence[tuple[int, int]], num_steps: int
    ) -> None:
        """Raises `ValueError` where a checkpoint cannot be of a request like this."""
        fits = 0 <= checkpoint.window < len(windows) and 0 <= checkpoint.step <= num_steps
        if fits:
            channels, *size = self._latent_size(plan)
            length = num_latent_frames(windows[checkpoint.window][1], self.scale_factor_temporal)
            fits = list(checkpoint.latents.shape) == [1, channels, length, *size]
        if not fits:
            raise ValueError(
                f"`resume_from` must be a checkpoint of the same request, got one at window {checkpoint.window}, step "
                f"{checkpoint.step}, with latents {list(checkpoint.latents.shape)}."
            )

    def _latent_size(self, plan: Plan) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        scale = int(self.vae.config.scale_factor_spatial)
        return int(self.vae.config.latent_channels), plan.height // scale, plan.width // scale

    def _run_timeline(
        self,
        plan: Plan,
        conditions: Conditions,
        windows: list[tuple[int, int]],
        camera: Tensor,
        guides: dict[int, Tensor],
        references: list[Tensor],
        sampling: dict[str, Any],
        on_step: Callable[[int, float, Tensor], None],
        latents_only: bool,
        resume_from: Checkpoint | None,
    ) -> Tensor:
        """One batch of videos [B, 3, F, H, W], window after window; or the latents of the only window."""
        generators = sampling["generators"]
        batch = len(generators)
        scale = self.scale_factor_temporal
        video: Tensor | None = None
        if conditions.source is not None:
            video = conditions.source[None].expand(batch, -1, -1, -1, -1).to(self._execution_device)
        if resume_from is not None:
            generators[0].set_state(resume_from.generator_state)
            if resume_from.video is not None:
                video = resume_from.video.to(self._execution_device)
        for index, (start, length) in enumerate(windows):
            if resume_from is not None and index < resume_from.window:
                continue
            num_known = 0 if video is None else video.shape[2] - start
            known_video = None if video is None else self.encode_video(video[:, :, start:])
            here = sorted(frame for frame in guides if start + num_known <= frame < start + length)
            frames = build_frames(
                num_latent_frames(length, scale),
                self._latent_size(plan),
                batch_size=batch,
                fps=plan.fps,
                scale_factor_temporal=scale,
                camera=camera[:, start // scale : (start + length - 1) // scale + 1],
                known_video=known_video,
                guides=torch.cat([guides[frame] for frame in here], 2) if here else None,
                guide_frames=[frame - start for frame in here],
                references=torch.cat(references, 2) if references else None,
                device=self._execution_device,
            )

            here_sampling, first_step = sampling, 0
            if resume_from is not None and index == resume_from.window:
                first_step = resume_from.step
                sigmas = sampling_sigmas(sampling["num_inference_steps"])[first_step:]
                here_sampling = {**sampling, "sigmas": sigmas, "noise": resume_from.latents}

            def on_window_step(
                step: int,
                sigma: float,
                latents: Tensor,
                frames=frames,
                index=index,
                first_step=first_step,
                before=video,
            ) -> None:
                if batch == 1:
                    self.checkpoint = Checkpoint(
                        index,
                        first_step + step + 1,
                        frames.video(latents),
                        generators[0].get_state(),
                        before if index > 0 else None,
                    )
                on_step(step, sigma, frames.video(latents))

            if here_sampling.get("sigmas") == []:  # the last step was done, the decoding was not
                assert resume_from is not None
                latents = resume_from.latents.to(self._execution_device)
            else:
                latents = denoise(scheduler=self.scheduler, frames=frames, callback=on_window_step, **here_sampling)
            if latents_only:
                return latents
            decoded = self.decode_latents(latents)
            if video is None:
                video = decoded
                continue
            shown = video if index > 0 or conditions.keep_source else decoded[:, :, :num_known]
            made = without_colour_step(decoded[:, :, num_known:], shown[:, :, -1], plan.fps)
            video = torch.cat([shown, made], 2)
        assert video is not None and video.shape[2] == plan.num_frames
        return video

    def _read_prompts(
        self,
        prompt: str | Sequence[str] | None,
        prompt_embeds: Tensor | None,
        camera: CameraInput | None,
        literal_prompt: bool,
        task: Task,
        adjusted: list[str],
        notes: list[str],
    ) -> tuple[list[str], list[str] | None, list[CameraPlan], CameraInput | None]:
        """Prompts as they were read, those without brackets (None with embeddings), camera plans, and camera vectors if passed."""
        if (prompt is None) == (prompt_embeds is None):
            raise ValueError("`prompt` or `prompt_embeds` must be given, and not both.")
        if prompt_embeds is not None:
            plan, vectors = read_camera("", camera)
            adjusted.extend(plan.notes)
            return [], None, [plan] * len(prompt_embeds), vectors
        asked = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(asked, list | tuple) or not asked:
            raise TypeError(f"`prompt` must be text or a list of texts, got {type(prompt).__name__}.")
        read: list[str] = []
        texts, plans, vectors = [], [], None
        for text in asked:
            wording = read_prompt(check_prompt(text), self.vocabulary, literal_prompt)
            said = complete_prompt(wording.prompt, self.vocabulary, literal_prompt, task, camera is not None)
            plan, vectors = read_camera(said.prompt, camera)
            if not plan.prompt_without_brackets:
                raise ValueError("`prompt` must not be empty beside its camera commands; say what the video shows.")
            read.append(said.prompt)
            adjusted.extend(note for note in (*wording.notes, *said.notes) if note not in adjusted)
            texts.append(plan.prompt_without_brackets)
            plans.append(plan)
            adjusted.extend(note for note in plan.notes if note not in adjusted)
            notes.extend(vocabulary_warnings(plan.prompt_without_brackets, self.vocabulary))
        known = (self.vocabulary or {}).get("cameras")
        if known:
            asked_for = {name for plan in plans for segment in plan.segments for name in segment}
            for name in sorted(asked_for - set(known)):
                notes.append(f"the model has not learnt [{name}]; it knows {', '.join(known)}.")
        return read, texts, plans, vectors

    def _read_negative(
        self,
        negative_prompt: str | Sequence[str] | None,
        num_prompts: int,
        negative_prompt_embeds: Tensor | None,
        literal_prompt: bool,
        adjusted: list[str],
        notes: list[str],
    ) -> list[str] | None:
        """Negative prompts as they were read, None with embeddings."""
        if negative_prompt_embeds is not None:
            if negative_prompt is not None:
                raise ValueError("`negative_prompt` and `negative_prompt_embeds` must not both be given.")
            return None
        texts = [negative_prompt or ""] if isinstance(negative_prompt, str | None) else list(negative_prompt)
        if len(texts) not in (1, num_prompts):
            raise ValueError(
                f"`negative_prompt` must be one text or one for each of {num_prompts} prompts, got {len(texts)}."
            )
        read = []
        for text in texts:
            wording = read_negative_prompt(text, self.vocabulary, literal_prompt)
            adjusted.extend(note for note in wording.notes if note not in adjusted)
            notes.extend(vocabulary_warnings(wording.prompt, self.vocabulary))
            read.append(wording.prompt)
        return read

    def _texts(
        self, prompts: list[str] | None, embeds: Tensor | None, mask: Tensor | None, name: str, notes: list[str]
    ) -> list[_Text]:
        """One encoded text per prompt, each encoded on its own so that it cannot depend on its neighbours."""
        if prompts is not None:
            trained = (self.vocabulary or {}).get("max_length", MAX_TEXT_TOKENS)
            for text in prompts:
                num_tokens = len(self.tokenizer.encode(text))
                says = f"the text '{text[:20]}…' has {num_tokens} tokens; the model"
                if num_tokens > MAX_TEXT_TOKENS:
                    notes.append(f"{says} reads the first {MAX_TEXT_TOKENS}.")
                elif num_tokens > trained:
                    notes.append(f"{says} was trained on texts of at most {trained}.")
            return [_Text(*self.encode_prompt(text)) for text in prompts]
        assert embeds is not None
        if embeds.ndim != 3:
            raise ValueError(f"`{name}` must be [B, S, T], got {list(embeds.shape)}.")
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.bool)
        if mask.shape != embeds.shape[:2]:
            raise ValueError(f"the mask of `{name}` must be {list(embeds.shape[:2])}, got {list(mask.shape)}.")
        device = self._execution_device
        embeds, mask = embeds.to(device, self.transformer.dtype), mask.to(device).bool()
        return [_Text(embeds[i : i + 1], mask[i : i + 1]) for i in range(len(embeds))]

    def _step_counter(
        self, progress: Any, done: int, callback: StepEndCallback | None, tensor_inputs: Sequence[str]
    ) -> Callable[[int, float, Tensor], None]:

        def on_step(step: int, sigma: float, latents: Tensor) -> None:
            nonlocal done
            progress.update()
            if callback is not None:
                given = dict.fromkeys(tensor_inputs, latents)
                returned = callback(self, done, 1000.0 * sigma, given)
                if returned and any(returned.get(name, latents) is not latents for name in tensor_inputs):
                    raise ValueError("`callback_on_step_end` must not replace tensors; it may look, or cancel.")
            done += 1
            if self.interrupt:
                raise GenerationCancelled(f"cancelled after step {done} of {self._num_timesteps}.")

        return on_step


def _stacked(name: str, texts: list[_Text]) -> dict[str, Tensor | None]:
    """Embeddings and masks padded to one length, under the argument names of `denoise`."""
    if not texts:
        return {f"{name}_embeds": None, f"{name}_attention_mask": None}
    length = max(text.mask.shape[1] for text in texts)
    pad = torch.nn.functional.pad
    return {
        f"{name}_embeds": torch.cat([pad(text.embeds, (0, 0, 0, length - text.mask.shape[1])) for text in texts]),
        f"{name}_attention_mask": torch.cat([pad(text.mask, (0, length - text.mask.shape[1])) for text in texts]),
    }


def _judge(video: Tensor, plans: list[CameraPlan]) -> list[str]:
    """Warnings about clips [B, 3, F, H, W] that are black, or frozen although the camera was to move."""
    found = []
    per_prompt = len(video) // len(plans)
    for i, clip in enumerate(video):
        if float(clip.mean()) < -1 + 2 * 4 / 255:
            found.append(f"video {i} is almost black; try another seed.")
        moves = any(name != "Static shot" for segment in plans[i // per_prompt].segments for name in segment)
        if moves and clip.shape[1] > 1 and float((clip[:, 1:] - clip[:, :-1]).abs().mean()) < 2 * 0.25 / 255:
            found.append(f"video {i} hardly moves although a camera movement was asked for; try another seed.")
    return found
