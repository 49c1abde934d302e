"""What a run's networks were made with: kept, so that a resumed run has those that it began with, and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def with_places_in_the_scenery(transformer: Any, camera_speeds: Sequence[float]) -> Any:
    """A transformer whose rotary positions are on the screen, as one to train on with positions in the scenery.

    What it knows of places counts as the screen's; that the learnt part of the camera's way is forgotten, and that attention sees other
    positions while the camera moves, training has to make good (docs/training.md: within minutes).

    Args:
        transformer: `VideoTransformer` without `camera_speeds`.
        camera_speeds: of the new one.
    """
    from videogen.models.transformer import VideoTransformer

    new = VideoTransformer(**{**arguments_of(transformer), "camera_speeds": tuple(camera_speeds)})
    known = {name: tensor for name, tensor in transformer.state_dict().items() if name != "token_position.speed"}
    added = new.load_state_dict(known, strict=False)
    assert not added.unexpected_keys and all("scenery" in name for name in added.missing_keys)
    return new
