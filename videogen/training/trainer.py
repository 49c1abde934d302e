"""The training loop of the video transformer and its text encoder, on accelerate.

One optimiser step: for each micro-batch a task, noise, forward, backward; then clip, Muon and AdamW, router bias, EMA.
Everything random is derived from (seed, step, micro-batch, rank), so a run that was killed and resumed has the same
losses as one that was not.
"""

from __future__ import annotations

import json
import math
import platform
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn

from videogen.conditioning.frames import FrameSequence
from videogen.data.allocator import keep_freed_memory
from videogen.data.device import prepare_compiler, settle_precision, to_device, training_precision
from videogen.diffusion.flow_matching import add_noise, flow_matching_loss, sample_sigmas, velocity_target
from videogen.models.transformer import MIN_SIGMA
from videogen.training.batches import Batch, BatchMaker, caption_corpus, derive_seed, tokenize
from videogen.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_model_tensors,
    load_optimizer_tensors,
    model_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from videogen.training.config import TrainConfig, read_yaml, save_config
from videogen.training.ema import ExponentialMovingAverage
from videogen.training.export import export_weights
from videogen.training.latent_cache import LatentCache, build_cache, count_clips, missing_shards
from videogen.training.latent_stream import StreamBatches
from videogen.training.metrics import QUARTERS, VIDEO_PLOTS, LossMeter, MetricsFile, Progress, duration, plot_metrics
from videogen.training.muon import Muon, split_parameters
from videogen.training.networks import (
    arguments_of,
    check_same_network,
    with_more_layers,
    with_places_in_the_scenery,
)
from videogen.training.schedule import TimeBox
from videogen.training.sheets import default_prompts, draw_samples, write_sheet
from videogen.training.signals import stop_requests

AnyTrainer = TypeVar("AnyTrainer", bound="Trainer")

NETWORK_FILE = "network.json"
"""In a run's folder: what its networks were made with."""


class VideoModel(nn.Module):
    """Transformer and text encoder as one module, so that one forward serves data-parallel training."""

    def __init__(self, transformer: Any, text_encoder: Any):
        super().__init__()
        self.transformer: Any = transformer
        self.text_encoder: Any = text_encoder

    def forward(
        self, latents: Tensor, timestep: Tensor, ids: Tensor, mask: Tensor, frames: FrameSequence, balance: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Velocity `[B, C, n, h, w]` for `latents` of that shape, `timestep [B, n]`, text `ids` and `mask [B, S]`; and
        the routers' balance loss if asked for."""
        embeds = self.text_encoder(ids, mask)
        output = self.transformer(
            latents, timestep, embeds, mask, frames.times, frames.kinds, frames.camera, return_router_losses=balance
        )
        return output.sample, output.load_balancing_loss


class Trainer:
    """Sets up a run and carries it through.

    Args:
        config: of the run.
        resume: go on from the last checkpoint in `config.output`.
        init_from: folder of exported weights to start from, with a fresh optimiser; "" for none.

    Raises:
        ValueError: nothing to resume, a run is in the way, or weights and config do not fit.
    """

    def __init__(self, config: TrainConfig, resume: bool = False, init_from: str = ""):
        self.folder = Path(config.output)
        checkpoints = list_checkpoints(self.folder)
        if resume and not checkpoints:
            raise ValueError(f"`--resume` needs a checkpoint in `output`, {self.folder} has none; start without it.")
        if resume and init_from:
            raise ValueError("`--resume` and `--init-from` exclude each other: a resumed run has its own weights.")
        if checkpoints and not resume:
            raise ValueError(
                f"`output` must be a new folder, {self.folder} holds a run; use --resume or another folder."
            )
        if config.schedule.decay_start == "now" and not resume:
            raise ValueError("`schedule.decay_start` must be a step, got 'now'; 'now' goes with --resume.")
        if config.init_layers and not (init_from or resume):
            raise ValueError("`init_layers` must be empty without `--init-from`: there are no weights to begin with.")
        if init_from and not (Path(init_from) / "transformer" / "config.json").is_file():
            raise ValueError(f"`--init-from` must be a folder of exported weights, {init_from} has no transformer/.")
        if config.compile:
            prepare_compiler()
        # The other processes wait while the first one builds the cache.
        patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))
        buckets = DistributedDataParallelKwargs(gradient_as_bucket_view=True)  # gradients are summed where they lie
        checkpoint: tuple[dict, dict] | None = load_checkpoint(checkpoints[-1]) if resume else None
        before = checkpoint[1].get("mixed_precision") if checkpoint is not None else None
        on_gpu = torch.cuda.is_available()
        # Several CPU processes are joined only when accelerate is told that a CPU is meant.
        self.accelerator = Accelerator(
            cpu=not on_gpu,
            mixed_precision=settle_precision(config.mixed_precision, "cuda" if on_gpu else "cpu", before),
            kwargs_handlers=[patience, buckets],
        )
        self.device = self.accelerator.device
        self.rank = self.accelerator.process_index
        torch.manual_seed(derive_seed("init", config.seed))

        self.vae = load_vae(config.tokenizer).to(self.device)
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.text_tokenizer = self._load_text_tokenizer(config, resume, init_from)
        self.batches = self._make_batches(config)
        data, scale = config.data, self.vae.config
        num_latent_frames = (data.num_frames - 1) // scale.scale_factor_temporal + 1
        height, width = data.height // scale.scale_factor_spatial, data.width // scale.scale_factor_spatial
        self.latent_size = (scale.latent_channels, num_latent_frames, height, width)

        self.model = self._build_model(config, resume, init_from)
        self.step = 0
        self.clips_seen = 0
        self.seconds = 0.0
        if checkpoint is not None:
            files, state = checkpoint
            load_model_tensors(self.model, files["model"])
            self.step, self.clips_seen, self.seconds = state["step"], state["clips_seen"], state["seconds"]
            config = _settle_decay(config, state)
        self.config = config
        self.last_step = config.schedule.last_step()

        self.model.to(self.device)
        self.ema = ExponentialMovingAverage(self.model, config.ema.max_decay, config.ema.power)
        self.optimizers = self._build_optimizers()
        if checkpoint is not None:
            self.ema.load_state_dict(files["ema"])
            for name, optimizer in self.optimizers.items():
                load_optimizer_tensors(optimizer, files[name])
        if config.compile:
            self.model.transformer.compile(dynamic=False)
        self.wrapped = self.accelerator.prepare_model(self.model)
        self.prepared = [self.accelerator.prepare_optimizer(optimizer) for optimizer in self.optimizers.values()]
        self.params = [param for param in self.model.parameters() if param.requires_grad]
        self.validation = self.batches.validation_batch()
        self._gradient: tuple[int, Tensor] | None = None  # step and norm of the last one

    def _print(self, text: str) -> None:
        if self.accelerator.is_main_process:
            print(text, flush=True)

    def _make_batches(self, config: TrainConfig) -> BatchMaker | StreamBatches:
        if not config.data.cache:
            return StreamBatches(config, self.vae, self.text_tokenizer, self.rank, self.accelerator.num_processes)
        if self.accelerator.is_main_process:
            self._build_cache(config)
        self.accelerator.wait_for_everyone()
        return BatchMaker(config, LatentCache(config.data), self.vae.config.scale_factor_temporal)

    def _build_cache(self, config: TrainConfig) -> None:
        missing = missing_shards(config.data, count_clips(config.data))
        start = time.monotonic()

        def report(done: int, total: int) -> None:
            left = (time.monotonic() - start) / done * (total - done) if done else math.inf
            self._print(f"latent cache: {done}/{total} shards, {duration(left)} left")

        build_cache(config.data, config.clip_seed, self.vae, report if missing else lambda done, total: None)

    def _load_text_tokenizer(self, config: TrainConfig, resume: bool, init_from: str) -> Any:
        from videogen.models.text_tokenizer import BytePairTokenizer

        saved = self.folder / "tokenizer"
        if self.accelerator.is_main_process and not resume:
            # Kept in the run's folder: a resumed run must read text as the weights learnt to.
            seen = caption_corpus(config, rung_only=True)
            if init_from:
                before = BytePairTokenizer.from_pretrained(str(Path(init_from) / "tokenizer"))
                unused = set(before.unused) & set(BytePairTokenizer(before.merges).without_unseen(seen).unused)
                tokenizer = BytePairTokenizer(before.merges, unused)  # what the weights can read, they can read on
            else:
                corpus = caption_corpus(config)
                tokenizer = BytePairTokenizer.train(corpus, config.text.vocab_size).without_unseen(seen)
            tokenizer.save_pretrained(str(saved))
        self.accelerator.wait_for_everyone()
        return BytePairTokenizer.from_pretrained(str(saved))

    def _build_model(self, config: TrainConfig, resume: bool, init_from: str) -> VideoModel:
        """The networks of a resumed run are those that it began with, whatever the model file says by now."""
        from videogen.models.text_encoder import TextEncoder
        from videogen.models.transformer import VideoTransformer

        kept = self.folder / NETWORK_FILE
        if resume and kept.is_file():
            networks = json.loads(kept.read_text(encoding="utf-8"))
            return VideoModel(VideoTransformer(**networks["transformer"]), TextEncoder(**networks["text_encoder"]))
        sections = read_yaml(config.model)
        text_settings = {**sections.get("text_encoder", {}), "vocab_size": self.text_tokenizer.vocab_size}
        settings = {**sections.get("transformer", {}), **config.transformer, "latent_channels": self.latent_size[0]}
        if init_from:
            model = load_networks(Path(init_from))
            if "camera_speeds" not in config.transformer:  # as the weights have them
                settings["camera_speeds"] = model.transformer.config.camera_speeds
            speeds = settings["camera_speeds"]
            if speeds is not None and model.transformer.config.camera_speeds is None:
                model.transformer = with_places_in_the_scenery(model.transformer, speeds)
            if config.init_layers:
                model.transformer = with_more_layers(model.transformer, settings, config.init_layers)
            del text_settings["vocab_size"]  # a row for every merge of the weights' own tokenizer
            check_same_network("transformer", settings, model.transformer)
            check_same_network("text_encoder", text_settings, model.text_encoder)
        else:
            text_encoder = TextEncoder(**text_settings)
            settings["text_width"] = text_encoder.config.width
            model = VideoModel(VideoTransformer(**settings), text_encoder)
        if self.accelerator.is_main_process and not resume:
            networks = {
                "transformer": arguments_of(model.transformer),
                "text_encoder": arguments_of(model.text_encoder),
            }
            kept.write_text(json.dumps(networks, indent=1) + "\n", encoding="utf-8")
        return model

    def _build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        settings = self.config.optimizer
        hidden, decayed, plain = split_parameters(self.model)
        optimizers: dict[str, torch.optim.Optimizer] = {}
        if settings.use_muon and hidden:
            optimizers["muon"] = Muon(
                hidden, settings.learning_rate, settings.muon_momentum, weight_decay=settings.weight_decay
            )
        else:
            decayed = hidden + decayed
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimizers["adamw"] = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=1e-10,
            fused=True,
        )
        return optimizers

    def draw_sigmas(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise levels `[count]` to train on."""
        flow = self.config.flow
        return sample_sigmas(count, generator, mean=flow.mean, std=flow.std, tail=flow.tail, shift=flow.shift)

    def noise_levels(self, sigmas: Tensor) -> Tensor:
        """The levels that `sigmas [B]` stand for."""
        return sigmas

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
        """The velocity to learn, `[B, C, n, h, w]`, for `sample` noised to `sigmas [B]` with the text `ids` and `mask [B, S]`."""
        return velocity_target(sample, noise, sigmas, MIN_SIGMA)

    def loss(self, batch: Batch, sigmas: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Scalar loss and the squared error per clip `[B]` of a batch noised to `sigmas [B]`."""
        noise = torch.randn(batch.sample.shape, generator=generator, device=generator.device).to(self.device)
        ids, mask = batch.text or tokenize(self.text_tokenizer, batch.captions, self.config, text_seed=batch.text_seed)
        ids, mask, sigmas = (to_device(tensor, self.device) for tensor in (ids, mask, self.noise_levels(sigmas)))
        sample, frames = batch.sample.to(self.device), batch.frames.to(self.device)
        noisy, timestep = add_noise(sample, noise, sigmas, frames.known)
        weight = self.config.router.balance_loss_weight if self.model.training else 0.0
        velocity, balance = self.wrapped(noisy, timestep, ids, mask, frames, weight > 0)
        target = self.target(sample, noise, noisy, sigmas, frames, ids, mask)
        flow = self.config.flow
        loss, per_item = flow_matching_loss(
            velocity,
            target,
            frames.known,
            flow.contrastive_weight,
            flow.temporal_weight,
            frames.num_video_frames,
        )
        return loss if balance is None else loss + weight * balance, per_item

    def train_step(self, meter: LossMeter, time_scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """One optimiser step; `time_scale` multiplies the learning rate. Returns loss and gradient norm, on the device."""
        config, total = self.config, torch.zeros((), device=self.device)
        scale = config.schedule.lr_scale(self.step) * time_scale
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = config.optimizer.learning_rate * scale
        for micro in range(config.accumulation):
            batch = self.batches.training_batch(self.step, micro, self.rank)
            seed = derive_seed("noise", config.seed, self.step, micro, self.rank)
            generator = torch.Generator().manual_seed(seed)
            sigmas = self.draw_sigmas(len(batch.indices), generator)
            if self.device.type != "cpu":  # a batch of noise is drawn where it is needed
                generator = torch.Generator(self.device).manual_seed(seed)
            last = micro == config.accumulation - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                loss, per_item = self.loss(batch, sigmas, generator)
                self.accelerator.backward(loss / config.accumulation)
            meter.add(batch.task, per_item, sigmas)
            total += per_item.mean() / config.accumulation
            self.clips_seen += len(batch.indices) * self.accelerator.num_processes
        norm = self.accelerator.clip_grad_norm_(self.params, config.optimizer.max_grad_norm)
        assert norm is not None
        for optimizer in self.prepared:
            optimizer.step()
            optimizer.zero_grad()
        if config.router.bias_rate > 0:
            self.model.transformer.update_router_bias(config.router.bias_rate)
        self.step += 1
        self.ema.update(self.step)
        # A step late, so that the host can run on while the device works.
        self._check_finite()
        self._gradient = self.step, norm
        return total, norm

    def _check_finite(self) -> None:
        if self._gradient is not None and not math.isfinite(float(self._gradient[1])):
            raise FloatingPointError(
                f"the gradient is not finite at step {self._gradient[0]}; lower `optimizer.learning_rate`."
            )

    def run(self, box: TimeBox | None = None) -> str:
        """Train until the last step, the time limit, or a signal; then checkpoint and export.

        Args:
            box: the time limit, and when the learning rate falls by the clock; its clock starts now if it has not.

        Returns:
            why it stopped: "finished", "time limit" or "signal".
        """
        config, log = self.config, self.config.log
        if self.accelerator.is_main_process:
            save_config(config, self.folder / "config.yaml")
            metrics = MetricsFile(self.folder / "metrics.jsonl", self.step)
        meter, progress = LossMeter(), Progress(self.step, self.last_step)
        box = (TimeBox() if box is None else box).start()
        self.session_start = time.monotonic()
        counts = ", ".join(
            f"{n / 1e6:.2f} M" for n in map(_num_parameters, (self.model.transformer, self.model.text_encoder))
        )
        self._print(
            f"training from step {self.step} to {self.last_step}: parameters {counts}, tasks {self.batches.tasks}"
        )
        with stop_requests() as self.stop_requested:
            while self.step < self.last_step:
                time_scale, stop = box.look(self.stop_requested(), self.device)
                if stop:
                    break
                clips = self.clips_seen
                loss, norm = self.train_step(meter, time_scale)
                progress.clips += self.clips_seen - clips
                record: dict[str, Any] = {}
                if self.step % log.metrics_every == 0 or self.step == self.last_step:
                    self._check_finite()
                    rate, left = progress.report(self.step)
                    lr = config.optimizer.learning_rate * config.schedule.lr_scale(self.step - 1) * time_scale
                    record = {"loss": float(loss), **meter.means(), "grad_norm": float(norm), "lr": lr}
                    record["clips_per_second"] = rate
                    meter.reset()
                    self._print(
                        f"step {self.step}/{self.last_step}  loss {loss:.4f}  grad {norm:.2f}  lr {lr:.2e}  "
                        f"{rate:.1f} clips/s  {duration(min(left, 60 * box.minutes_left))} left"
                    )
                if log.validate_every and self.step % log.validate_every == 0:
                    record.update(self.validate())
                if self.accelerator.is_main_process:
                    if record:
                        metrics.write({"step": self.step, "clips_seen": self.clips_seen, **record})
                    if log.sample_every and self.step % log.sample_every == 0:
                        self.draw_sheet()
                    if log.checkpoint_every and self.step % log.checkpoint_every == 0:
                        self.checkpoint()
        finished = self.step >= self.last_step
        reason = "finished" if finished else "signal" if self.stop_requested() else "time limit"
        if self.accelerator.is_main_process:
            self.checkpoint()
            self.export()
            self._plot(metrics)
        self.accelerator.wait_for_everyone()
        self._print(f"stopped at step {self.step} of {self.last_step}: {reason}; weights in {self.folder / 'weights'}")
        return reason

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Loss of the averaged weights per quarter of the noise range, and the experts' load in every layer (1 = the mean).

        Taken on the validation clips.
        """
        record: dict[str, Any] = {}
        losses, loads = [], []
        transformer, batch = self.model.transformer, self.validation
        self.model.eval()
        with self.ema.applied():
            for quarter in range(QUARTERS):
                generator = torch.Generator().manual_seed(derive_seed("validation noise", quarter))
                uniform = torch.rand(len(batch.indices), generator=generator)
                transformer.reset_expert_load()
                _, per_item = self.loss(batch, (quarter + 0.02 + 0.96 * uniform) / QUARTERS, generator)
                losses.append(float(per_item.mean()))
                record[f"validation_loss_quarter_{quarter + 1}"] = losses[-1]
                load = transformer.expert_load()  # [MoE layers, E]
                loads.append((load * load.shape[1]).tolist())
        transformer.reset_expert_load()
        self.model.train()
        record["validation_loss"] = sum(losses) / QUARTERS
        text = f"validation: loss {record['validation_loss']:.4f}"
        shares = [share for quarter in loads for layer in quarter for share in layer]
        if shares:
            record["expert_load"] = [[[round(x, 4) for x in layer] for layer in quarter] for quarter in loads]
            # The balance that matters is per layer over the whole noise range.
            per_layer = torch.tensor(loads).mean(0)
            record["expert_load_min"], record["expert_load_max"] = float(per_layer.min()), float(per_layer.max())
            text += f", expert load {per_layer.min():.2f} to {per_layer.max():.2f} of the mean"
        self._print(text)
        return record

    def draw_sheet(self) -> Path:
        """Write `samples/step-00001000.png` from the averaged weights."""
        path = self.folder / "samples" / f"step-{self.step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        prompts = self.config.log.sample_prompts or default_prompts(self.config)
        self.model.eval()
        with self.ema.applied(), self.accelerator.autocast():
            video = draw_samples(
                self.config,
                self.model.transformer,
                self.model.text_encoder,
                self.text_tokenizer,
                self.vae,
                self.latent_size,
                prompts,
            )
        self.model.train()
        write_sheet(video, path, prompts)
        return path

    def checkpoint(self) -> Path:
        """Save everything a resumed run needs."""
        self._check_finite()
        self.seconds += time.monotonic() - self.session_start
        self.session_start = time.monotonic()
        files = {"model": model_tensors(self.model), "ema": self.ema.state_dict()}
        files.update({name: optimizer_tensors(optimizer) for name, optimizer in self.optimizers.items()})
        state = {
            "clips_seen": self.clips_seen,
            "seconds": self.seconds,
            "decay_start": self.config.schedule.decay_start,
            "decay_steps": self.config.schedule.decay_steps,
            "mixed_precision": self.accelerator.mixed_precision,
        }
        return save_checkpoint(self.folder, self.step, files, state)

    def export(self) -> Path:
        """Write the averaged weights to `weights/` (see `videogen.training.export`)."""
        config, data = self.config, self.config.data
        vocabulary: dict[str, Any] = {}
        if data.source == "stage":
            from videogen.data.stage import rungs

            vocabulary = rungs()[data.rung].to_dict()
        vocabulary |= {"sizes": [[data.width, data.height]], "num_frames": [data.num_frames], "fps": [data.fps]}
        vocabulary["max_length"] = config.text.max_length
        summary = {
            "steps": self.step,
            "clips_seen": self.clips_seen,
            "clips": self.batches.num_clips(self.step),
            "training_seconds": round(self.seconds),
            "parameters": {
                "transformer": _num_parameters(self.model.transformer),
                "text_encoder": _num_parameters(self.model.text_encoder),
            },
            "hardware": _hardware(self.device),
            "torch": torch.__version__,
            "config": config.model_dump(mode="json"),
        }
        folder = self.folder / "weights"
        with self.ema.applied():
            self.write_weights(folder, vocabulary, summary)
        return folder

    def write_weights(self, folder: Path, vocabulary: dict[str, Any], summary: dict[str, Any]) -> None:
        """Write the weights that the model carries now; see `videogen.training.export`."""
        export_weights(
            folder, self.model.transformer, self.model.text_encoder, self.text_tokenizer, vocabulary, summary
        )

    def _plot(self, metrics: MetricsFile) -> None:
        try:
            plot_metrics(metrics.read(), self.folder / "metrics.png", VIDEO_PLOTS)
        except ImportError as error:
            self._print(f"no plot: {error}")


def load_vae(folder: str) -> Any:
    """The trained video tokenizer, frozen.

    Raises:
        ValueError: the folder holds none.
    """
    from tokenizer3d.autoencoder import CausalVideoAutoencoder

    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"`tokenizer` must be the folder of a trained video tokenizer, {folder!r} has no config.json.")
    return CausalVideoAutoencoder.from_pretrained(folder).eval().requires_grad_(False)


def load_networks(folder: Path) -> VideoModel:
    """Transformer and text encoder of a folder of exported weights, float32."""
    from videogen.models.text_encoder import TextEncoder
    from videogen.models.transformer import VideoTransformer

    transformer = VideoTransformer.from_pretrained(str(folder / "transformer")).float()
    return VideoModel(transformer, TextEncoder.from_pretrained(str(folder / "text_encoder")).float())


@training_precision()
def train(
    config: TrainConfig, resume: bool = False, init_from: str = "", box: TimeBox | None = None
) -> tuple[Trainer, str]:
    """Set up and carry through a run; see `Trainer` and `Trainer.run`."""
    return carry_through(Trainer, config, resume, init_from, box)


def carry_through(
    kind: type[AnyTrainer], config: Any, resume: bool, init_from: str, box: TimeBox | None
) -> tuple[AnyTrainer, str]:
    """The run of a trainer, from setting up to closing its data."""
    keep_freed_memory()
    trainer = kind(config, resume=resume, init_from=init_from)
    try:
        return trainer, trainer.run(box)
    finally:
        trainer.batches.close()


def _settle_decay(config: TrainConfig, state: dict[str, Any]) -> TrainConfig:
    """On resume: "now" becomes the step resumed from, and a decay that was planned stays so where the config is silent; an
    explicit null cancels it."""
    schedule = config.schedule
    silent = "decay_start" not in schedule.model_fields_set
    if schedule.decay_start == "now":
        schedule = schedule.model_copy(update={"decay_start": state["step"]})
    elif silent and state.get("decay_start") is not None:
        schedule = schedule.model_copy(
            update={"decay_start": state["decay_start"], "decay_steps": state["decay_steps"]}
        )
    return config.model_copy(update={"schedule": schedule})


def _num_parameters(model: nn.Module) -> int:
    return sum(param.numel() for param in model.parameters())


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
