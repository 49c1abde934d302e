"""Weights of a run, written as diffusers folders: what `--init-from` reads and the pipelines load."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SHARD_SIZE = "14MB"
"""Shards stay below the 15 MB that a file in the repository may have."""


def to_storage_dtype(model: Any) -> Any:
    """A copy in bfloat16 with the router and every bias in float32, as routing needs them exactly."""
    stored = copy.deepcopy(model)
    for name, param in stored.named_parameters():
        if not ("router" in name or name.endswith("bias")):
            param.data = param.data.to(torch.bfloat16)
    return stored


def export_weights(
    folder: Path,
    transformer: Any,
    text_encoder: Any,
    text_tokenizer: Any,
    vocabulary: dict,
    summary: dict,
    add: Callable[[Path], None] | None = None,
) -> None:
    """Write `transformer/`, `text_encoder/`, `tokenizer/`, `vocabulary.json` and `training.json`, all at once.

    Args:
        folder: to write.
        transformer, text_encoder: models carrying the weights to publish.
        text_tokenizer: saved with them.
        vocabulary: what the model knows.
        summary: data, steps, clips seen, wall time and settings of the run.
        add: writes what else belongs into the folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    to_storage_dtype(transformer).save_pretrained(temporary / "transformer", max_shard_size=SHARD_SIZE)
    to_storage_dtype(text_encoder).save_pretrained(temporary / "text_encoder", max_shard_size=SHARD_SIZE)
    text_tokenizer.save_pretrained(temporary / "tokenizer")
    (temporary / "vocabulary.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=1), encoding="utf-8")
    (temporary / "training.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1), encoding="utf-8")
    if add is not None:
        add(temporary)
    replace_folder(temporary, folder)


def replace_folder(new: Path, folder: Path) -> None:
    """Put the folder `new` in the place of `folder`, which may exist; both lie beside each other."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)
