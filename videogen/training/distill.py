"""Distillation: a student that needs few steps and no guidance, as a low-rank change of its teacher.

The student's noise levels are those of its sampler. At one of them it learns the straight way to the next, which the teacher walks in
several guided Euler steps: progressive distillation (Salimans & Ho 2022, arXiv:2202.00512) in one go, with guidance folded in (Meng et al.
2022, arXiv:2210.03142). What is stored is an adapter (`videogen.models.low_rank`) beside the teacher's own weights.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from pydantic import Field, model_validator
from torch import Tensor

from videogen.conditioning.frames import FrameSequence
from videogen.data.device import training_precision
from videogen.diffusion.sampling import guide, sampling_sigmas
from videogen.models.low_rank import FAST_FOLDER, add_low_rank, low_rank_tensors, save_adapter
from videogen.training.config import (
    FlowConfig,
    LogConfig,
    OptimizerConfig,
    RouterConfig,
    TrainConfig,
    apply_overrides,
    check_settings,
    read_yaml,
)
from videogen.training.export import export_weights
from videogen.training.schedule import TimeBox
from videogen.training.trainer import Trainer, VideoModel, carry_through, load_networks

_UNUSED = ("model", "transformer", "init_layers", "curriculum", "router")


class DistillConfig(TrainConfig):
    """A run; data, tasks, optimiser and the rest as for any other.

    Attributes:
        teacher: folder of a published model, or of exported weights.
        num_inference_steps: of the student.
        teacher_steps: Euler steps of the teacher for each of them.
        guidance_scale: of the teacher; 1 = none.
        guidance_interval: lowest and highest noise level at which it is guided.
        rank: of a matrix's change; `expert_rank` of each expert's.
    """

    task: Literal["distill"] = "distill"  # type: ignore[assignment]
    teacher: str
    num_inference_steps: int = Field(default=4, ge=1)
    teacher_steps: int = Field(default=4, ge=1)
    guidance_scale: float = Field(default=3.0, ge=1)
    guidance_interval: tuple[float, float] = (0.5, 1.0)
    rank: int = Field(default=12, ge=1)
    expert_rank: int = Field(default=3, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, use_muon=False, weight_decay=0.0)
    router: RouterConfig = RouterConfig(bias_rate=0.0)
    log: LogConfig = LogConfig(sample_steps=4, sample_guidance_scale=1.0)

    @model_validator(mode="after")
    def _check_teacher(self):
        if not (Path(self.teacher) / "transformer" / "config.json").is_file():
            raise ValueError(f"`teacher` must be a folder of trained weights, {self.teacher!r} has no transformer/.")
        fields = type(self).model_fields
        given = [name for name in _UNUSED if getattr(self, name) != fields[name].default]
        if given:
            raise ValueError(f"`{given[0]}` must be left out of a distillation, which takes the teacher's network.")
        levels = [name for name in ("mean", "std", "tail") if getattr(self.flow, name) != getattr(FlowConfig(), name)]
        if levels:
            raise ValueError(f"`flow.{levels[0]}` must be left out of a distillation: the steps are the noise levels.")
        self._check_clips()
        return self

    def _check_clips(self) -> None:
        """The student is published with its teacher's vocabulary: what it learns from must have that shape."""
        known, trained = (self.of_teacher(name) for name in ("vocabulary", "training"))
        data = self.data
        for name, value in (("num_frames", data.num_frames), ("fps", data.fps), ("sizes", [data.width, data.height])):
            if name in known and value not in known[name]:
                key = "width` and `data.height" if name == "sizes" else name
                raise ValueError(f"`data.{key}` must be the teacher's, one of {known[name]}, got {value}.")
        shift = trained.get("config", {}).get("flow", {}).get("shift", self.flow.shift)
        if self.flow.shift != shift:
            raise ValueError(f"`flow.shift` must be the teacher's, {shift:g}, got {self.flow.shift:g}.")

    def of_teacher(self, name: str) -> dict[str, Any]:
        """A JSON file beside the teacher's weights; empty where there is none."""
        path = Path(self.teacher) / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


class Distiller(Trainer):
    """Sets up a distillation and carries it through; arguments as of `Trainer`, but no weights to start from.

    Raises:
        ValueError: weights to start from, and what `Trainer` raises.
    """

    config: DistillConfig
    teacher: Any
    levels: Tensor  # [K + 1], the student's noise levels and 0

    def __init__(self, config: DistillConfig, resume: bool = False, init_from: str = ""):
        if init_from:
            raise ValueError("`--init-from` must be left out of a distillation, which starts from its `teacher`.")
        super().__init__(config, resume)
        self.teacher.to(self.device)
        with torch.no_grad():
            ids, mask = self.text_tokenizer([""], max_length=config.text.max_length)
            length = int(mask.sum())
            ids, mask = ids[:, :length].to(self.device), mask[:, :length].to(self.device)
            self.no_text = self.model.text_encoder(ids, mask), mask.bool()

    def _load_text_tokenizer(self, config: TrainConfig, resume: bool, init_from: str) -> Any:
        from videogen.models.text_tokenizer import BytePairTokenizer

        assert isinstance(config, DistillConfig)
        return BytePairTokenizer.from_pretrained(str(Path(config.teacher) / "tokenizer"))

    def _build_model(self, config: TrainConfig, resume: bool, init_from: str) -> VideoModel:
        assert isinstance(config, DistillConfig)
        model = load_networks(Path(config.teacher))
        model.text_encoder.requires_grad_(False)
        self.teacher = copy.deepcopy(model.transformer).eval().requires_grad_(False)
        add_low_rank(model.transformer, config.rank, config.expert_rank)
        scheduler = FlowMatchEulerDiscreteScheduler(shift=config.flow.shift)
        scheduler.set_timesteps(sigmas=sampling_sigmas(config.num_inference_steps))
        self.levels = scheduler.sigmas.float()
        return model

    def draw_sigmas(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, generator=generator)

    def noise_levels(self, sigmas: Tensor) -> Tensor:
        steps = len(self.levels) - 1
        return self.levels[((1 - sigmas) * steps).long().clamp(0, steps - 1)]

    @torch.no_grad()
    def target(
        self,
        sample: Tensor,
        noise: Tensor,
        noisy: Tensor,
        sigmas: Tensor,
        frames: FrameSequence,
        ids: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """The mean velocity of the teacher's way from each item's level to the student's next one."""
        levels = self.levels.to(sigmas)
        following = levels[(levels[None] >= sigmas[:, None]).sum(1)]
        embeds = self.model.text_encoder(ids, mask)
        steps = self.config.teacher_steps
        x = noisy
        for step in range(steps):
            here, there = (torch.lerp(sigmas, following, at / steps) for at in (step, step + 1))
            velocity = self._guided(x, here, frames, embeds, mask)
            x = frames.keep_known(x + (there - here).view(-1, 1, 1, 1, 1) * velocity)
        return (noisy - x) / (sigmas - following).view(-1, 1, 1, 1, 1)

    def _guided(self, x: Tensor, sigmas: Tensor, frames: FrameSequence, embeds: Tensor, mask: Tensor) -> Tensor:
        """The teacher's velocity; items outside the interval go without guidance."""

        def evaluate(frames: FrameSequence, rows: Tensor, embeds: Tensor, mask: Tensor) -> Tensor:
            count = frames.latents.shape[2]
            with self.accelerator.autocast():
                velocity = self.teacher(
                    x[rows][:, :, :count],
                    frames.frame_timesteps(sigmas)[rows],
                    embeds,
                    mask,
                    frames.times,
                    frames.kinds,
                    frames.camera[rows],
                    return_dict=False,
                )[0].float()
            return torch.nn.functional.pad(velocity, (0, 0, 0, 0, 0, x.shape[2] - count))

        config = self.config
        velocity = evaluate(frames, torch.arange(len(x), device=x.device), embeds, mask)
        low, high = config.guidance_interval
        rows = ((sigmas >= low - 1e-6) & (sigmas <= high + 1e-6)).nonzero()[:, 0]
        if config.guidance_scale == 1.0 or not len(rows):
            return velocity
        no_text, no_mask = (tensor.expand(len(rows), *tensor.shape[1:]) for tensor in self.no_text)
        without = evaluate(frames.unconditional(), rows, no_text, no_mask)
        return velocity.index_copy(0, rows, guide(velocity[rows], without, config.guidance_scale, frames.known))

    def write_weights(self, folder: Path, vocabulary: dict[str, Any], summary: dict[str, Any]) -> None:
        known, trained = (self.config.of_teacher(name) for name in ("vocabulary", "training"))
        tensors = low_rank_tensors(self.model.transformer)
        settings = {"num_inference_steps": self.config.num_inference_steps, "guidance_scale": 1.0}

        def add(temporary: Path) -> None:
            fast = temporary / FAST_FOLDER
            save_adapter(fast, tensors, settings)
            (fast / "training.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1), encoding="utf-8")

        export_weights(folder, self.teacher, self.model.text_encoder, self.text_tokenizer, known, trained, add)


def load_distill_config(path: str | Path, overrides: Sequence[str] = ()) -> DistillConfig:
    """Read and check the YAML file of a distillation.

    Raises:
        ValueError: with the setting's name and what is wrong, in one line.
    """
    return check_settings(DistillConfig, apply_overrides(read_yaml(path), overrides))


@training_precision()
def distill(
    config: DistillConfig, resume: bool = False, init_from: str = "", box: TimeBox | None = None
) -> tuple[Distiller, str]:
    """Set up and carry through a run; see `Distiller` and `Trainer.run`."""
    return carry_through(Distiller, config, resume, init_from, box)
