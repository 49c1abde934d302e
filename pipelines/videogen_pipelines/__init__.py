"""The generation pipelines: text, images, subjects or a video in, a video out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from videogen_pipelines.requests import longest_num_frames

if TYPE_CHECKING:
    from videogen_pipelines.base import SHIPPED_WEIGHTS, Checkpoint
    from videogen_pipelines.image_to_video import ImageToVideoPipeline
    from videogen_pipelines.output import GenerationCancelled, VideoPipelineOutput, frames_to_uint8
    from videogen_pipelines.subject_to_video import SubjectToVideoPipeline
    from videogen_pipelines.text_to_video import TextToVideoPipeline
    from videogen_pipelines.video_extension import VideoExtensionPipeline

__all__ = [
    "SHIPPED_WEIGHTS",
    "Checkpoint",
    "GenerationCancelled",
    "ImageToVideoPipeline",
    "SubjectToVideoPipeline",
    "TextToVideoPipeline",
    "VideoExtensionPipeline",
    "VideoPipelineOutput",
    "frames_to_uint8",
    "longest_num_frames",
]

_HOMES = {
    "SHIPPED_WEIGHTS": "videogen_pipelines.base",
    "Checkpoint": "videogen_pipelines.base",
    "GenerationCancelled": "videogen_pipelines.output",
    "ImageToVideoPipeline": "videogen_pipelines.image_to_video",
    "SubjectToVideoPipeline": "videogen_pipelines.subject_to_video",
    "TextToVideoPipeline": "videogen_pipelines.text_to_video",
    "VideoExtensionPipeline": "videogen_pipelines.video_extension",
    "VideoPipelineOutput": "videogen_pipelines.output",
    "frames_to_uint8": "videogen_pipelines.output",
}


def __getattr__(name: str) -> Any:
    """What needs torch and diffusers, imported when first asked for: `requests` alone needs neither."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
