"""The configurations of a whole model, from a name, a YAML file or a model folder."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tokenizer3d.autoencoder import CausalVideoAutoencoder
from videogen.models.low_rank import CONFIG_FILE, FAST_FOLDER
from videogen.models.text_encoder import TextEncoder
from videogen.models.transformer import VideoTransformer
from videogen.planning.counts import Config

#: Where the named configurations are: beside the packages, as in the repository.
CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs" / "models"
SHIPPED_FOLDER = Path(__file__).resolve().parents[1] / "assets" / "weights" / "tiny"

_NETWORKS: dict[str, type] = {
    "transformer": VideoTransformer,
    "text_encoder": TextEncoder,
    "tokenizer": CausalVideoAutoencoder,
}


@dataclass(frozen=True)
class ModelSpec:
    """Complete configurations of the three networks of a model.

    Attributes:
        name: for people.
        vocabulary: what a trained model accepts (`vocabulary.json`), or None.
        fast: what its weights for few steps were trained for, or None.
        shift: of the noise schedule.
    """

    name: str
    transformer: Config
    text_encoder: Config
    tokenizer: Config
    vocabulary: Mapping[str, Any] | None = None
    fast: Mapping[str, Any] | None = None
    shift: float = 1.0

    @property
    def pixels_per_token(self) -> int:
        """Pixels that a token's side stands for; the frames of a request are multiples of it."""
        return int(self.tokenizer["scale_factor_spatial"]) * int(self.transformer["patch_size"])


def load_spec(model: str | Path) -> ModelSpec:
    """The configurations of `model`.

    Args:
        model: a folder with `model_index.json`, a YAML file with `transformer` and `text_encoder` (and `tokenizer`, which may be left out for
            the default), or the name of a file in `configs/models`.

    Raises:
        ValueError: there is no such model, or the file lacks a network or has a setting that its network does not know.
    """
    path = Path(model)
    if (path / "model_index.json").is_file():
        folders = {"transformer": "transformer", "text_encoder": "text_encoder", "tokenizer": "vae"}
        sections = {
            name: json.loads((path / folder / "config.json").read_text(encoding="utf-8"))
            for name, folder in folders.items()
        }
        known = path / "vocabulary.json"
        vocabulary = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else None
        scheduler = json.loads((path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        few = path / FAST_FOLDER / CONFIG_FILE
        fast = json.loads(few.read_text(encoding="utf-8")) if few.is_file() else None
        spec = _spec(path.resolve().name, sections, vocabulary)
        return replace(spec, shift=float(scheduler["shift"]), fast=fast)
    if path.suffix not in (".yaml", ".yml"):
        path = CONFIG_FOLDER / f"{model}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in CONFIG_FOLDER.glob("*.yaml"))) or "none in this installation"
        raise ValueError(f"`model` must be a model folder, a YAML file or a name ({names}), got {str(model)!r}.")
    sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(sections, dict) or not {"transformer", "text_encoder"} <= sections.keys() <= _NETWORKS.keys():
        raise ValueError(
            f"`model` must be a YAML file with `transformer`, `text_encoder` and perhaps `tokenizer`, {str(path)!r} is not."
        )
    for section, network in _NETWORKS.items():
        unknown = sorted((sections.get(section) or {}).keys() - _defaults(network).keys())
        if unknown:
            raise ValueError(
                f"`{section}.{unknown[0]}` of {path.stem!r} is not a setting of {network.__name__}; remove it."
            )
    return _spec(path.stem, sections, None)


def _defaults(network: type) -> dict[str, Any]:
    parameters = list(inspect.signature(network.__init__).parameters.values())[1:]  # type: ignore[misc]
    return {parameter.name: parameter.default for parameter in parameters}


def _spec(name: str, sections: Mapping[str, Any], vocabulary: Mapping[str, Any] | None) -> ModelSpec:
    """What is not given takes its default; what a network does not know is left out, as diffusers does with checkpoints."""
    complete = {}
    for section, network in _NETWORKS.items():
        defaults, given = _defaults(network), sections.get(section) or {}
        complete[section] = {key: given.get(key, default) for key, default in defaults.items()}
    return ModelSpec(name, complete["transformer"], complete["text_encoder"], complete["tokenizer"], vocabulary)
