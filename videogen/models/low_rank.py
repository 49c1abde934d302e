"""A second behaviour of the same network for a tenth of its size: low-rank changes of its matrices, new values of its vectors.

After LoRA (Hu et al. 2021, arXiv:2106.09685), here also for stacks of experts. While it is trained, every matrix is `W + up @ down` by
parametrisation; what is stored is `up` and `down`; loading adds them to the weights once, so that nothing is slower.

Shapes: a matrix `[.., m, n]` has `up [.., m, r]` and `down [.., r, n]`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

FROZEN = ("router",)
"""Parts that keep their weights: which expert takes a token stays as it is."""

FAST_FOLDER = "fast"
"""Of an adapter for few steps, in a model folder."""

WEIGHTS_FILE, CONFIG_FILE = "adapter.safetensors", "config.json"
_PART = "parametrizations"


class LowRank(nn.Module):
    """`weight + up @ down`; starts as `weight`, since `up` is zero."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        *stack, rows, columns = weight.shape
        self.up = nn.Parameter(weight.new_zeros(*stack, rows, rank))
        self.down = nn.Parameter(torch.randn(*stack, rank, columns).to(weight) * columns**-0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def add_low_rank(model: nn.Module, rank: int, expert_rank: int) -> None:
    """Freezes a network's matrices, except for low-rank changes, and its router; everything else stays trainable.

    Args:
        model: changed in place. Its own forward pass reads the changed matrices.
        rank: r of a matrix.
        expert_rank: r of every matrix in a stack `[E, m, n]`.

    Raises:
        ValueError: a rank below 1.
    """
    for name, value in (("rank", rank), ("expert_rank", expert_rank)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    for name, parameter in model.named_parameters():
        if any(part in name.split(".") for part in FROZEN):
            parameter.requires_grad_(False)
    for path, module in list(model.named_modules()):
        if any(part in path.split(".") for part in FROZEN):
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            chosen = expert_rank if parameter.ndim == 3 else rank
            if parameter.ndim in (2, 3) and min(parameter.shape[-2:]) > 2 * chosen:
                parameter.requires_grad_(False)
                parametrize.register_parametrization(module, name, LowRank(parameter.detach(), chosen))


def low_rank_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What is trainable in a network that `add_low_rank` has changed, by the names of the network before: `NAME.up` and `NAME.down` of a
    matrix, `NAME` of anything else."""
    found: dict[str, Tensor] = {}
    for path, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        parts = path.split(".")
        if _PART in parts:  # MODULE.parametrizations.NAME.0.up
            at = parts.index(_PART)
            path = ".".join([*parts[:at], parts[at + 1], parts[-1]])
        found[path] = parameter.detach()
    return found


@torch.no_grad()
def merge_low_rank(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts what `low_rank_tensors` returned into a network as it was before `add_low_rank`, in place.

    Raises:
        ValueError: a tensor that the network has no place for, or of another shape.
    """
    own = dict(model.named_parameters())
    names = {name.removesuffix(".up").removesuffix(".down") for name in tensors}
    unknown = sorted(names - own.keys())
    if unknown:
        raise ValueError(f"the adapter must fit the network, which has no `{unknown[0]}`; it belongs to another model.")
    for name in names:
        parameter = own[name]
        value = tensors.get(name)
        if value is None:
            up, down = (tensors[f"{name}.{part}"].to(parameter.device, torch.float32) for part in ("up", "down"))
            value = parameter.float() + up @ down
        if value.shape != parameter.shape:
            raise ValueError(
                f"the adapter's `{name}` must be {list(parameter.shape)}, got {list(value.shape)}; it belongs to another model."
            )
        parameter.copy_(value)


def save_adapter(folder: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    """Writes an adapter: bfloat16, biases float32; `settings` are the sampling defaults that it was trained for."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        name: tensor.detach().to("cpu", torch.float32 if name.endswith("bias") else torch.bfloat16).contiguous()
        for name, tensor in tensors.items()
    }
    save_file(stored, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")


def load_adapter(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings as `save_adapter` wrote them."""
    settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return load_file(folder / WEIGHTS_FILE), settings
