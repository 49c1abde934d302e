"""What a run's networks were made with: kept, so that a resumed run has those that it began with, and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_OF_LAYERS = ("mixers", "feed_forwards", "cross_attention_layers")


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


def with_more_layers(transformer: Any, settings: Mapping[str, Any], init_layers: Sequence[int]) -> Any:
    """A deeper transformer that computes what a shallower one does, until it is trained on.

    A layer named once more is a copy whose outputs are zero, so that the residual stream passes it unchanged (function-preserving growth:
    Chen et al. 2015, arXiv:1511.05641; zero outputs as Gesmundo and Maile 2023, arXiv:2308.06103).

    Args:
        transformer: `VideoTransformer` to start from.
        settings: arguments of the new one; those that are not of its layers stay the old one's.
        init_layers: for each of its layers the one of `transformer` that it begins as; all of them, in order.

    Raises:
        ValueError: `init_layers` does not name all layers in order, or one as a layer of another kind.
    """
    from videogen.models.transformer import VideoTransformer

    has = arguments_of(transformer)
    count = len(has["mixers"])
    if list(dict.fromkeys(init_layers)) != list(range(count)):
        raise ValueError(
            f"`init_layers` must name all {count} layers of the weights of `--init-from`, each for the first time in order, got "
            f"{list(init_layers)}."
        )
    wanted = {**has, **{name: settings[name] for name in _OF_LAYERS if name in settings}}
    if len(wanted["mixers"]) != len(init_layers):
        raise ValueError(
            f"`init_layers` must have an entry for each of the {len(wanted['mixers'])} layers, got {len(init_layers)}."
        )
    new = VideoTransformer(**wanted)
    tensors = {name: tensor for name, tensor in transformer.state_dict().items() if not name.startswith("blocks.")}
    for layer, origin in enumerate(init_layers):
        if _layer_kind(wanted, layer) != _layer_kind(has, origin):
            raise ValueError(
                f"`init_layers` must name layers of the same kind; layer {layer} has another mixer, feed-forward or cross-attention "
                f"than layer {origin} of the weights."
            )
        again = origin in init_layers[:layer]
        for name, tensor in transformer.blocks[origin].state_dict().items():
            silent = again and name.endswith(("to_out.weight", "w_out"))
            tensors[f"blocks.{layer}.{name}"] = torch.zeros_like(tensor) if silent else tensor
    new.load_state_dict(tensors)
    return new


def _layer_kind(arguments: Mapping[str, Any], layer: int) -> tuple[str, str, bool]:
    """Mixer, feed-forward and whether there is cross-attention."""
    return (
        arguments["mixers"][layer],
        arguments["feed_forwards"][layer],
        layer in arguments["cross_attention_layers"],
    )
