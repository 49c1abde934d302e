"""What a run's networks were made with: kept, so that a resumed run has those that it began with, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def arguments_of(network: Any) -> dict[str, Any]:
    """What a network of diffusers was made with."""
    return {name: value for name, value in network.config.items() if not name.startswith("_")}


def check_same_network(name: str, asked: Mapping[str, Any], network: Any) -> None:
    """Compares what a run asks for with the network whose weights it starts from.

    Args:
        name: section of the settings, for the message.
        asked: its entries.
        network: of diffusers.

    Raises:
        ValueError: an entry differs.
    """
    for key, value in asked.items():
        wanted, has = (list(v) if isinstance(v, list | tuple) else v for v in (value, network.config[key]))
        if wanted != has:
            raise ValueError(f"`{name}.{key}` must be {has!r} as in the weights of `--init-from`, got {wanted!r}.")
