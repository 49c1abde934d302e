"""Checkpoints of a run: written beside, then renamed, so that a crash leaves either the old one or the new one.

A checkpoint is a folder `checkpoint-00001000/` with safetensors files and one JSON file; nothing is pickled.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

NUM_KEPT = 2


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and every buffer that is part of the state, once, by its first name."""
    persistent = model.state_dict().keys()
    tensors: dict[str, Tensor] = {name: param.detach() for name, param in model.named_parameters()}
    tensors.update({name: buffer for name, buffer in model.named_buffers() if name in persistent})
    return tensors


@torch.no_grad()
def load_model_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy saved tensors into the model in place.

    Raises:
        ValueError: names or shapes do not fit the model.
    """
    own = model_tensors(model)
    if own.keys() != tensors.keys():
        missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        raise ValueError(
            f"the checkpoint must fit the model, missing {missing[:3]}, unknown {extra[:3]}; use the run's config."
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"the checkpoint's `{name}` is {list(tensors[name].shape)}, the model's {list(tensor.shape)}."
            )
        tensor.copy_(tensors[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors named `index.key`."""
    flat = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            flat[f"{index}.{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return flat


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; learning rates stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(folder: Path, step: int, files: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Path:
    """Write `folder/checkpoint-STEP` atomically and delete all but the last two.

    Args:
        folder: of the run.
        step: steps done.
        files: file stem -> tensors.
        state: JSON values; `step` is added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"checkpoint-{step:08d}"
    if final.exists():
        return final
    temporary = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for stem, tensors in files.items():
        save_file(
            {name: t.detach().contiguous().cpu() for name, t in tensors.items()}, temporary / f"{stem}.safetensors"
        )
    (temporary / "state.json").write_text(json.dumps({**state, "step": step}, indent=1))
    for path in temporary.iterdir():
        _sync(path)
    os.replace(temporary, final)
    _sync(folder)
    for old in list_checkpoints(folder)[:-NUM_KEPT]:
        shutil.rmtree(old)
    return final


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("checkpoint-*") if (path / "state.json").is_file())


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by file stem and the JSON state of a checkpoint."""
    files = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return files, json.loads((path / "state.json").read_text())
