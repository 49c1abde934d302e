"""Textures of Stage, made once and kept on the device that renders: the cast's sprites and the painted scenery.

A store holds textures of one shape in one tensor, so that a batch is fetched by one gather. What is missing is made and
added when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videogen.data.stage.actors import ACTOR_SIZE, UNNAMED, load_sprite
from videogen.data.stage.scenery import paint_scene, plane_size

FAR_CHANNELS, SCENE_CHANNELS = 3, 11
"""A scene's texture: RGB of the far plane (opaque), premultiplied RGBA of the middle and of the near one."""


class TextureStore:
    """Textures [C, h, w] by key, in one tensor on one device that grows when needed.

    Attributes:
        slots: key -> (index of its first texture, number of textures).
        textures: [at least as many as are used, C, h, w] float32.
    """

    def __init__(self, shape: tuple[int, int, int], device: torch.device):
        self.slots: dict[Hashable, tuple[int, int]] = {}
        self.textures = torch.empty(0, *shape, device=device)
        self._used = 0

    def add(self, key: Hashable, textures: Tensor) -> None:
        """Appends the textures [T, C, h, w] of one key."""
        end = self._used + len(textures)
        if end > len(self.textures):
            grown = self.textures.new_empty(max(end, 2 * len(self.textures), 16), *self.textures.shape[1:])
            grown[: self._used] = self.textures[: self._used]
            self.textures = grown
        self.textures[self._used : end] = textures
        self.slots[key] = (self._used, len(textures))
        self._used = end


class Cast:
    """The pictures of the actors: the named ones and strangers by their names, and unnamed ones called "unnamed 0", ...

    Args:
        unnamed: [N, 64, 64, 4] uint8 RGBA with straight alpha, see `videogen.data.stage.actors.load_unnamed_sprites`.

    Raises:
        ValueError: `unnamed` has another shape.
    """

    def __init__(self, unnamed: np.ndarray | None = None):
        if unnamed is not None and unnamed.shape[1:] != (ACTOR_SIZE, ACTOR_SIZE, 4):
            raise ValueError(
                f"`unnamed` must be [N, {ACTOR_SIZE}, {ACTOR_SIZE}, 4], got {list(unnamed.shape)}; "
                "make it with `videogen stage fetch`."
            )
        self._unnamed = unnamed
        self._stores: dict[tuple[int, torch.device], TextureStore] = {}

    @property
    def num_unnamed(self) -> int:
        return 0 if self._unnamed is None else len(self._unnamed)

    def sprite(self, name: str) -> np.ndarray:
        """uint8 RGBA [T, 64, 64, 4]; T > 1 for animated actors.

        Raises:
            ValueError: nobody has this name.
        """
        if not name.startswith(UNNAMED):
            return load_sprite(name)
        number = int(name.removeprefix(UNNAMED))
        if self._unnamed is None or not 0 <= number < len(self._unnamed):
            raise ValueError(f"`name` must be one of {self.num_unnamed} unnamed actors, got {name!r}.")
        return self._unnamed[number][None]

    def textures(self, size: int, device: torch.device, names: Sequence[str]) -> TextureStore:
        """A store that holds the sprites of `names`: premultiplied RGBA in 0..1, no finer than `size` pixels.

        Sampling a sprite finer than it is shown would alias, and shimmer in motion.
        """
        size = min(size, ACTOR_SIZE)
        store = self._stores.setdefault((size, device), TextureStore((4, size, size), device))
        for name in names:
            if name not in store.slots:
                picture = torch.from_numpy(np.array(self.sprite(name))).to(device).float().div_(255)  # [T, 64, 64, 4]
                picture[..., :3] *= picture[..., 3:]
                picture = picture.permute(0, 3, 1, 2).contiguous()
                if picture.shape[-1] > size:
                    picture = F.interpolate(picture, size=(size, size), mode="area")
                store.add(name, picture)
        return store


@lru_cache(maxsize=1)
def named_cast() -> Cast:
    """The cast without unnamed actors, shared by all who render."""
    return Cast()


@lru_cache(maxsize=8)
def _scenery_store(texels: int, device: torch.device) -> TextureStore:
    height, width = plane_size(texels)
    return TextureStore((SCENE_CHANNELS, height, width), device)


def scenery(texels: int, device: torch.device, scenes: Sequence[tuple[str, int, str]]) -> TextureStore:
    """A store that holds the painted `scenes` (scene, variant, light), `SCENE_CHANNELS` channels each.

    Args:
        texels: per screen unit.
        device: of the store.
        scenes: what must be there.
    """
    store = _scenery_store(texels, device)
    for key in scenes:
        if key not in store.slots:
            planes = paint_scene(*key, texels)
            parts = [planes.far[:FAR_CHANNELS]]
            for plane in (planes.middle, planes.near):
                parts += [plane[:3] * plane[3:], plane[3:]]
            store.add(key, torch.from_numpy(np.concatenate(parts))[None])
    return store
