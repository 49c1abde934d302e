"""The actors of Stage: their names in English and Chinese, their splits, their sprites."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "stage"
ACTOR_SIZE = 64  # pixels
UNNAMED = "unnamed "  # and a number: what unnamed actors are called
UNNAMED_FILE = "unnamed_actors.npy"


@dataclass(frozen=True, kw_only=True)
class Actor:
    """One actor. `held_out_*` words are never used in training captions; strangers have no synonyms."""

    name: str
    code: str
    kind: Literal["animal", "vehicle", "food", "plant", "object"]
    split: Literal["named", "stranger"]
    animated: bool
    plural: str
    synonyms_en: tuple[str, ...]
    held_out_synonyms_en: tuple[str, ...]
    name_zh: str
    synonyms_zh: tuple[str, ...]
    held_out_synonyms_zh: tuple[str, ...]


@lru_cache(maxsize=1)
def load_actors() -> dict[str, Actor]:
    """All actors by name: the named ones in rung order (the first 12 are rung 1), then the strangers."""
    entries = json.loads((ASSETS / "actors.json").read_text(encoding="utf-8"))
    actors = {}
    for entry in entries:
        lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
        actors[entry["name"]] = Actor(**{**entry, **lists})
    return actors


def named_actors() -> tuple[str, ...]:
    """Names of the actors that training may show, in rung order."""
    return tuple(actor.name for actor in load_actors().values() if actor.split == "named")


def strangers() -> tuple[str, ...]:
    """Names of the actors that training never shows."""
    return tuple(actor.name for actor in load_actors().values() if actor.split == "stranger")


@lru_cache(maxsize=256)
def load_sprite(name: str) -> np.ndarray:
    """The sprite [T, 64, 64, 4] uint8 RGBA with straight alpha; T = 1, or 12 frames of a loop for animated actors. Read-only.

    Raises:
        ValueError: no actor has this name.
    """
    if name not in load_actors():
        raise ValueError(f"`name` must be an actor of actors.json, got {name!r}; `load_actors()` lists them.")
    strip = np.asarray(Image.open(ASSETS / "actors" / f"{name.replace(' ', '_')}.webp").convert("RGBA"))
    frames = strip.reshape(ACTOR_SIZE, -1, ACTOR_SIZE, 4).transpose(1, 0, 2, 3).copy()
    frames.flags.writeable = False
    return frames


def default_cache_dir() -> Path:
    """Where `fetch` keeps the artwork that is not committed: ~/.cache/videogen/stage."""
    return Path.home() / ".cache" / "videogen" / "stage"


def load_unnamed_sprites(folder: str | Path | None = None) -> np.ndarray:
    """The unnamed actors [N, 64, 64, 4] uint8 RGBA (memory-mapped), for training identity and the tokenizer.

    Raises:
        ValueError: they have not been fetched into `folder` (default `default_cache_dir()`).
    """
    path = (Path(folder) if folder is not None else default_cache_dir()) / UNNAMED_FILE
    if not path.is_file():
        raise ValueError(f"`folder` must hold {UNNAMED_FILE}, got {path.parent}; run `videogen stage fetch` first.")
    return np.load(path, mmap_mode="r")
