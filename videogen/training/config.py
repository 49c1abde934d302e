"""The configuration of a training run: one YAML file, checked when read, saved resolved beside the output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from videogen.training.schedule import lr_scale

TASKS = ("text", "first_image", "last_image", "keyframes", "extend", "subject", "image", "subject_image")


class Section(BaseModel):
    """Settings that refuse unknown keys and do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnySection = TypeVar("AnySection", bound=Section)


class DataConfig(Section):
    """Where clips come from. They are encoded once into the latent cache or, for Stage without one, while training.

    Attributes:
        source: "stage" renders clips of a rung, "folder" reads videos and captions.
        rung: of Stage.
        other_rungs: share of the clips that are stories of another rung, whose words `rung` has, too, e.g. `{rung1: 0.5}` in rung
            "cameras" (Stage). Unlike `emphasis` this makes more clips, instead of showing the same ones more often.
        num_clips: of Stage; the last `num_validation` clips of the cache are kept for validation.
        seed: of the clips (Stage); null = the run's. Another run seed on the same clips draws other batches, captions and noise from
            a cache that is there already.
        path: folder of videos with `captions` (JSONL: `file`, `caption`).
        cache: folder of the latent cache; built when missing or incomplete. Empty: clips of Stage are rendered and encoded
            while training, on the device that trains; `num_clips` is then of no account.
        pool: without a cache, how many clips a process keeps to draw batches from; whole steps' worth of new ones.
        reuse: without a cache, how often a clip is drawn on average before it is forgotten.
        workers: processes that build the cache, each with its share of the cores, or that draw clips and words ahead of the
            device; 1 = none but the run's own.
        mid_clip_share: share of clips that also get a window cut from mid-clip (task "extend"); of a folder's, of those that are long
            enough.
        chinese_share: share of Chinese captions (Stage).
        camera_vector_share: share of clips whose camera move is told by vector instead of words (Stage).
        loose_caption_share: share of captions in free order, small words left out, unknown words put in (Stage).
        action_caption_share: share of captions that tell only what happens, and neither scene nor light, where frames of the clip
            are given: the picture says the rest (Stage).
        caption_dropout: share of clips trained without text and camera, for guidance.
        unnamed_share: share of clips whose first actor is one of the unnamed (Stage; `videogen stage fetch`). They are drawn only where a
            picture shows the actor, as first or last image, keyframe, beginning or subject, and four of five subjects are such.
        unnamed: folder of the unnamed actors; empty for the default place.
        emphasis: words of the rung's vocabulary (motions, camera commands, actors, ...) and how much more often than the others
            the clips that show them are drawn, e.g. `{jumps: 1.5, Static shot: 0.5}` (Stage).
    """

    source: Literal["stage", "folder"] = "stage"
    rung: str = "rung1"
    other_rungs: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}
    num_clips: int = Field(default=20_000, ge=2)
    seed: int | None = None
    num_validation: int = Field(default=64, ge=1)
    path: str = ""
    captions: str = "captions.jsonl"
    cache: str = "runs/cache"
    pool: int = Field(default=8192, ge=1)
    reuse: int = Field(default=4, ge=1)
    workers: int = Field(default=1, ge=1)
    shard_size: int = Field(default=500, ge=1)
    encode_batch_size: int = Field(default=16, ge=1)
    num_frames: int = Field(default=17, ge=1)
    height: int = Field(default=96, ge=16)
    width: int = Field(default=96, ge=16)
    fps: float = Field(default=12.0, gt=0)
    mid_clip_share: float = Field(default=0.25, ge=0, le=1)
    chinese_share: float = Field(default=0.25, ge=0, le=1)
    camera_vector_share: float = Field(default=0.5, ge=0, le=1)
    loose_caption_share: float = Field(default=0.0, ge=0, le=1)
    action_caption_share: float = Field(default=0.0, ge=0, le=1)
    caption_dropout: float = Field(default=0.12, ge=0, le=1)
    unnamed_share: float = Field(default=0.0, ge=0, le=0.5)
    unnamed: str = ""
    emphasis: dict[str, Annotated[float, Field(gt=0)]] = {}

    @model_validator(mode="after")
    def _check_other_rungs(self):
        if not self.other_rungs:
            return self
        if self.source == "folder":
            raise ValueError(
                "`data.other_rungs` must be empty when `data.source` is 'folder': rungs are those of Stage."
            )
        from videogen.data.stage import rungs

        own = rungs()[self.rung]
        for name in self.other_rungs:
            if name not in rungs() or name == self.rung:
                raise ValueError(
                    f"`data.other_rungs` must name other rungs, got {name!r}; there are {', '.join(rungs())}."
                )
            other = rungs()[name]
            if unknown := sorted(other.words() - own.words()):
                raise ValueError(
                    f"`data.other_rungs` must name rungs whose words {self.rung} has, too; {name} has {unknown[0]!r}."
                )
            if other.max_actors > own.max_actors:
                raise ValueError(
                    f"`data.other_rungs` must name rungs of at most {own.max_actors} actors, {name} has {other.max_actors}."
                )
        if (total := sum(self.other_rungs.values())) > 1 + 1e-9:
            raise ValueError(f"`data.other_rungs` must hold shares that sum to 1 at most, got {total:g}.")
        return self

    @model_validator(mode="after")
    def _check(self):
        if self.emphasis and self.source == "folder":
            raise ValueError("`data.emphasis` must be empty when `data.source` is 'folder': it names words of Stage.")
        if self.emphasis:
            from videogen.data.stage import rungs

            known = rungs()[self.rung].words()
            unknown = sorted(set(self.emphasis) - known)
            if unknown:
                raise ValueError(f"`data.emphasis` must name words of {self.rung}, got {unknown[0]!r}.")
        if self.source == "folder" and self.seed is not None:
            raise ValueError("`data.seed` must be null when `data.source` is 'folder': its clips are what they are.")
        if self.source == "folder" and not self.path:
            raise ValueError("`data.path` must name the folder of videos when `data.source` is 'folder'.")
        if self.source == "folder" and self.loose_caption_share:
            raise ValueError(
                "`data.loose_caption_share` must be 0 when `data.source` is 'folder': only captions of Stage are loosened."
            )
        if self.source == "folder" and self.action_caption_share:
            raise ValueError(
                "`data.action_caption_share` must be 0 when `data.source` is 'folder': only captions of Stage can be cut."
            )
        if self.source == "folder" and self.unnamed_share:
            raise ValueError(
                "`data.unnamed_share` must be 0 when `data.source` is 'folder': unnamed actors play in Stage."
            )
        for name in ("chinese_share", "camera_vector_share"):
            if self.source == "folder" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"`data.{name}` must be left out when `data.source` is 'folder': its captions say how."
                )
        if self.source == "folder" and not self.cache:
            raise ValueError("`data.cache` must name a folder when `data.source` is 'folder'; only Stage does without.")
        return self


class TextConfig(Section):
    """The text tokenizer, trained at the start of a run on the captions.

    Attributes:
        vocab_size: ids.
        max_length: tokens of a caption, begin and end included.
        corpus_size: how many clips are put into words for it (Stage).
        piece_dropout: share of merges that is skipped in training, see `BytePairTokenizer.encode`.
    """

    vocab_size: int = Field(default=1024, ge=300)
    max_length: int = Field(default=72, ge=4)
    corpus_size: int = Field(default=4000, ge=1)
    piece_dropout: float = Field(default=0.0, ge=0, lt=1)


class FlowConfig(Section):
    """Noise levels and loss, see `videogen.diffusion.flow_matching`."""

    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    tail: float = Field(default=0.1, ge=0, le=1)
    shift: float = Field(default=1.0, gt=0)
    contrastive_weight: float = Field(default=0.0, ge=0)
    temporal_weight: float = Field(default=0.0, ge=0)


class OptimizerConfig(Section):
    """AdamW with Muon for the hidden matrices; both use `learning_rate` (Muon's updates are scaled to AdamW's size)."""

    learning_rate: float = Field(default=2e-3, gt=0)
    use_muon: bool = True
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)


class ScheduleConfig(Section):
    """Warm-up, constant, decay; all in steps.

    Attributes:
        num_steps: end of the run when no decay is set.
        decay_start: step at which the decay begins; the run ends `decay_steps` later. "now" (with `--resume`) is the
            step resumed from.
    """

    num_steps: int = Field(default=20_000, ge=1)
    warmup_steps: int = Field(default=200, ge=0)
    decay_start: int | Literal["now"] | None = None
    decay_steps: int = Field(default=2000, ge=1)
    final_lr_ratio: float = Field(default=0.02, ge=0, le=1)

    def last_step(self) -> int:
        return self.decay_start + self.decay_steps if isinstance(self.decay_start, int) else self.num_steps

    def lr_scale(self, step: int) -> float:
        """Factor on the learning rate for optimiser step `step` (0-based)."""
        start = self.decay_start if isinstance(self.decay_start, int) else None
        return lr_scale(step, self.warmup_steps, start, self.decay_steps, self.final_lr_ratio)


class CurriculumConfig(Section):
    """Learn to draw first: the first steps see single images only (one latent frame each)."""

    image_only_steps: int = Field(default=0, ge=0)


class RouterConfig(Section):
    """Balancing of the experts: bias step per optimiser step, and weight of an optional auxiliary loss."""

    bias_rate: float = Field(default=1e-3, ge=0)
    balance_loss_weight: float = Field(default=0.0, ge=0)


class EmaConfig(Section):
    max_decay: float = Field(default=0.9995, ge=0, lt=1)
    power: float = Field(default=6.94, ge=0)


class LogConfig(Section):
    """How often, in steps; 0 = never."""

    metrics_every: int = Field(default=50, ge=1)
    validate_every: int = Field(default=1000, ge=0)
    sample_every: int = Field(default=2000, ge=0)
    checkpoint_every: int = Field(default=1000, ge=0)
    sample_steps: int = Field(default=12, ge=1)
    sample_guidance_scale: float = 3.0
    sample_prompts: tuple[str, ...] = ()


class TrainConfig(Section):
    """A whole run.

    Attributes:
        output: folder of the run: checkpoints, metrics, sample sheets, exported weights.
        tokenizer: folder of the trained video tokenizer (component `vae`).
        model: YAML of the model, with sections `transformer` and `text_encoder`.
        transformer: settings that override the model file's `transformer` section.
        init_layers: for a network of more layers than the weights of `--init-from` have: the layer of theirs that each of its layers
            begins as, e.g. [0, 1, 2, 3, 2, 3]. One that is named once more begins as a copy without effect (`with_more_layers`).
        tasks: share of each task; they need not sum to 1.
        batch_size: clips per micro-batch and process; `image_batch_size` for micro-batches of single images.
        mixed_precision: "bf16" multiplies in bfloat16, "no" in float32, "auto" in whichever is faster here; a resumed run goes
            on in the one that it began with.
    """

    task: Literal["video"] = "video"
    seed: int = 0
    output: str = "runs/train"
    tokenizer: str
    model: str = "configs/models/tiny.yaml"
    transformer: dict[str, Any] = {}
    init_layers: list[Annotated[int, Field(ge=0)]] = []
    data: DataConfig = DataConfig()
    text: TextConfig = TextConfig()
    tasks: dict[str, float] = {
        "text": 0.45,
        "first_image": 0.15,
        "last_image": 0.07,
        "keyframes": 0.06,
        "extend": 0.07,
        "subject": 0.12,
        "image": 0.08,
    }
    batch_size: int = Field(default=64, ge=1)
    image_batch_size: int = Field(default=160, ge=1)
    accumulation: int = Field(default=1, ge=1)
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    compile: bool = False
    flow: FlowConfig = FlowConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    router: RouterConfig = RouterConfig()
    ema: EmaConfig = EmaConfig()
    log: LogConfig = LogConfig()

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _read_no(cls, value: Any) -> Any:
        return "no" if value is False else value  # YAML's own word for it

    @model_validator(mode="after")
    def _check(self):
        unknown = sorted(set(self.tasks) - set(TASKS))
        if unknown:
            raise ValueError(f"`tasks` must name tasks of {', '.join(TASKS)}, got {unknown[0]!r}.")
        if not any(share > 0 for share in self.tasks.values()) or any(share < 0 for share in self.tasks.values()):
            raise ValueError("`tasks` must hold shares of at least 0, one of them above 0.")
        if not self.data.cache and self.data.pool < self.new_clips:
            raise ValueError(
                f"`data.pool` must hold the new clips of a step, `batch_size` * `accumulation` / `data.reuse`, got "
                f"{self.data.pool} for {self.new_clips}; raise it or `data.reuse`."
            )
        return self

    @property
    def clip_seed(self) -> int:
        """Seed of the clips."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def new_clips(self) -> int:
        """Without a cache: clips that a process renders for an optimiser step."""
        return -(-self.batch_size * self.accumulation // self.data.reuse)


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `section.key=value` settings to a nested dictionary; values are read as YAML.

    Raises:
        ValueError: a setting without "=".
    """
    for override in overrides:
        path, separator, value = override.partition("=")
        if not separator or not path:
            raise ValueError(f"`--set` must look like section.key=value, got {override!r}.")
        *sections, key = path.strip().split(".")
        target = raw
        for section in sections:
            if not isinstance(target.get(section), dict):
                target[section] = {}
            target = target[section]
        target[key] = yaml.safe_load(value)
    return raw


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that must hold a mapping.

    Raises:
        ValueError: the file is missing, is not YAML or is no mapping.
    """
    if not Path(path).is_file():
        raise ValueError(f"`config` must be a YAML file, got {str(path)!r}, which does not exist.")
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"`config` must be a YAML file, {str(path)!r} is not: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"`config` must hold a mapping of settings, {str(path)!r} does not.")
    return raw


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read and check a run's YAML file.

    Raises:
        ValueError: with the setting's name and what is wrong, in one line.
    """
    return check_settings(TrainConfig, apply_overrides(read_yaml(path), overrides))


def check_settings(kind: type[AnySection], raw: dict[str, Any]) -> AnySection:
    """Settings as their checked type.

    Raises:
        ValueError: with the setting's name and what is wrong, in one line.
    """
    try:
        return kind(**raw)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"`{name}`: {message}, got {first['input']!r}." if name else message) from error


def save_config(config: TrainConfig, path: Path) -> None:
    path.write_text(
        yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
