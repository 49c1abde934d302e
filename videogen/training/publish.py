"""A run's weights and a video tokenizer, put together into the one folder that pipelines load."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from videogen.models.low_rank import FAST_FOLDER
from videogen.training.export import SHARD_SIZE, replace_folder, to_storage_dtype
from videogen.training.networks import arguments_of

COMPONENTS = {"vae", "transformer", "text_encoder", "tokenizer", "scheduler"}
WRITTEN = COMPONENTS | {"model_index.json", "vocabulary.json", "training.json", FAST_FOLDER}


def publish(
    weights: str | Path,
    tokenizer: str | Path,
    output: str | Path,
    sampling: dict[str, Any] | None = None,
    average_with: str | Path | None = None,
    rung: str | None = None,
    cameras: Sequence[str] | None = None,
) -> Path:
    """Writes a model folder: `model_index.json`, the five components, `vocabulary.json` and `training.json`, and the adapter for few
    steps where the run has one.

    Weights are stored in bfloat16, routers and biases in float32; the rows of text pieces that the run never met are left out (a run on
    wider words goes on from `RUN/weights`, where they are). The folder appears whole or not at all.

    Args:
        weights: Exported weights of a run (`RUN/weights`).
        tokenizer: Folder of the trained video tokenizer (`RUN/vae`), the one whose latents the run was trained on.
        output: Folder to write; an older model there is replaced.
        sampling: Entries for `vocabulary.json` that set the pipelines' defaults: `num_inference_steps`, `guidance_scale`,
            `guidance_interval`.
        average_with: Exported weights, or a model, that the run began from (`--init-from`): what is published is the mean of
            the two (Wortsman et al. 2022, arXiv 2203.05482), which here keeps what the run unlearnt.
        rung: Of Stage, at most the run's own: the vocabulary that the model is to have. A run on a wider one shows more combinations
            of its words than the model can be trusted with yet.
        cameras: Camera commands that the model is to know, among those that it would; default all. It tries the others, too, but
            they are pointed out as not learnt.

    Raises:
        ValueError: If an input folder is not what it should be, the two do not fit, or `output` holds other things.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    from tokenizer3d.autoencoder import CausalVideoAutoencoder
    from videogen.models.text_encoder import TextEncoder
    from videogen.models.text_tokenizer import BytePairTokenizer
    from videogen.models.transformer import VideoTransformer
    from videogen_pipelines import TextToVideoPipeline

    weights, tokenizer, output = Path(weights), Path(tokenizer), Path(output)
    for name, folder in (("weights", weights / "transformer"), ("tokenizer", tokenizer)):
        if not (folder / "config.json").is_file():
            raise ValueError(f"`{name}` must be a folder of exported weights, {str(folder)!r} has no config.json.")
    others = {path.name for path in output.iterdir()} - WRITTEN if output.is_dir() else set()
    if others:
        raise ValueError(
            f"`output` must hold nothing but an older model, got {sorted(others)[0]!r} in {str(output)!r}."
        )
    summary = json.loads((weights / "training.json").read_text(encoding="utf-8"))
    vae = CausalVideoAutoencoder.from_pretrained(str(tokenizer))
    transformer = VideoTransformer.from_pretrained(str(weights / "transformer"))
    if vae.config.latent_channels != transformer.config.latent_channels:
        raise ValueError(
            f"`tokenizer` must make the latents that the run was trained on, got {vae.config.latent_channels} channels "
            f"instead of {transformer.config.latent_channels}; name the tokenizer of the run's `config.yaml`."
        )
    text_encoder = TextEncoder.from_pretrained(str(weights / "text_encoder"))
    text_tokenizer = BytePairTokenizer.from_pretrained(str(weights / "tokenizer"))
    if average_with is not None:
        other = Path(average_with)
        if not (other / "transformer" / "config.json").is_file():
            raise ValueError(
                f"`average_with` must be a folder of exported weights, {str(other)!r} has no transformer/."
            )
        if (weights / FAST_FOLDER).is_dir():
            raise ValueError(
                f"`average_with` must be left out for weights with an adapter for few steps, which fits no others: {str(weights)!r}."
            )
        if BytePairTokenizer.from_pretrained(str(other / "tokenizer")).merges != text_tokenizer.merges:
            raise ValueError(f"`average_with` must read text as the run does, {str(other)!r} has another tokenizer.")
        _average(transformer, VideoTransformer.from_pretrained(str(other / "transformer")))
        _average(text_encoder, TextEncoder.from_pretrained(str(other / "text_encoder")))
        summary["averaged_with"] = _shareable(json.loads((other / "training.json").read_text(encoding="utf-8")))
    text_encoder, text_tokenizer = _compact(text_encoder, text_tokenizer)
    if "parameters" in summary:
        summary["parameters"]["text_encoder"] = sum(parameter.numel() for parameter in text_encoder.parameters())
    pipe = TextToVideoPipeline(
        vae=to_storage_dtype(vae),
        transformer=to_storage_dtype(transformer),  # loading made float32 of it
        text_encoder=to_storage_dtype(text_encoder),
        tokenizer=text_tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=summary["config"]["flow"]["shift"]),
    )
    known = json.loads((weights / "vocabulary.json").read_text(encoding="utf-8"))
    known = known if rung is None else _restricted(known, rung)
    if cameras is not None:
        named, trained = {name.strip() for name in cameras}, known.get("cameras", [])
        strange = sorted(named - set(trained))
        if strange:
            raise ValueError(
                f"`cameras` must name some of {', '.join(trained) or 'none (the run knows none)'}, got {strange[0]!r}."
            )
        known = {**known, "cameras": [name for name in trained if name in named]}
    pipe.vocabulary = {**known, **(sampling or {})}
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    pipe.save_pretrained(temporary, max_shard_size=SHARD_SIZE)
    if (weights / FAST_FOLDER).is_dir():
        shutil.copytree(weights / FAST_FOLDER, temporary / FAST_FOLDER)
    _without_paths(temporary, summary)
    replace_folder(temporary, output)
    return output


def _compact(encoder: Any, tokenizer: Any) -> tuple[Any, Any]:
    """A text encoder and its tokenizer without the pieces that are never made and their rows."""
    small, rows = tokenizer.compact()
    fewer = type(encoder)(**{**arguments_of(encoder), "vocab_size": small.vocab_size})
    state = encoder.state_dict()
    fewer.load_state_dict({**state, "embedding.weight": state["embedding.weight"][rows]})
    return fewer, small


def _restricted(known: dict[str, Any], rung: str) -> dict[str, Any]:
    """A vocabulary with the words of a rung alone.

    Raises:
        ValueError: There is no such rung, or it has words that are not known.
    """
    from videogen.data.stage import rungs

    if rung not in rungs():
        raise ValueError(f"`rung` must be one of {', '.join(rungs())}, got {rung!r}.")
    narrow = rungs()[rung].to_dict()
    lists = ("actors", "scenes", "lights", "motions", "speeds", "cameras", "events")
    limits = ("max_actors", "max_camera_commands", "max_camera_segments")
    unknown = [word for name in lists for word in narrow[name] if word not in known.get(name, ())]
    if unknown or any(narrow[name] > known.get(name, 0) for name in limits):
        raise ValueError(f"`rung` must be at most the one that the run was trained on, got {rung!r}.")
    return {**known, **{name: narrow[name] for name in (*lists, *limits)}}


@torch.no_grad()
def _average(model: torch.nn.Module, other: torch.nn.Module) -> None:
    """Every tensor of `model` becomes the mean of the two, taken in float32.

    Raises:
        ValueError: The networks differ.
    """
    mine, theirs = model.state_dict(), other.state_dict()
    if {name: tensor.shape for name, tensor in mine.items()} != {name: tensor.shape for name, tensor in theirs.items()}:
        raise ValueError(
            "`average_with` must hold the same network as `weights`; name the weights that the run began from."
        )
    for name, tensor in mine.items():
        tensor.copy_((tensor.float() + theirs[name].float()) / 2)


def _without_paths(folder: Path, summary: dict[str, Any]) -> None:
    """Writes `training.json` and takes out where things lay on the machine that trained: folders are no one else's."""
    for file in folder.glob("*/config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _write_summary(folder, summary)
    fast = folder / FAST_FOLDER
    if fast.is_dir():
        _write_summary(fast, json.loads((fast / "training.json").read_text(encoding="utf-8")))


def _write_summary(folder: Path, summary: dict[str, Any]) -> None:
    text = json.dumps(_shareable(summary), ensure_ascii=False, indent=1) + "\n"
    (folder / "training.json").write_text(text, encoding="utf-8")


def _shareable(summary: dict[str, Any]) -> dict[str, Any]:
    """A run's summary without folders."""
    settings = {key: value for key, value in summary["config"].items() if key not in ("output", "tokenizer", "teacher")}
    if "data" in settings:
        settings["data"] = {
            key: value for key, value in settings["data"].items() if key not in ("cache", "path", "unnamed")
        }
    return {**summary, "config": settings}
