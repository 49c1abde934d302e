"""The generation pipelines: text, images, subjects or a video in, a video out."""

from videogen_pipelines.base import SHIPPED_WEIGHTS
from videogen_pipelines.image_to_video import ImageToVideoPipeline
from videogen_pipelines.output import GenerationCancelled, VideoPipelineOutput, frames_to_uint8
from videogen_pipelines.requests import longest_num_frames
from videogen_pipelines.subject_to_video import SubjectToVideoPipeline
from videogen_pipelines.text_to_video import TextToVideoPipeline
from videogen_pipelines.video_extension import VideoExtensionPipeline

__all__ = [
    "SHIPPED_WEIGHTS",
    "GenerationCancelled",
    "ImageToVideoPipeline",
    "SubjectToVideoPipeline",
    "TextToVideoPipeline",
    "VideoExtensionPipeline",
    "VideoPipelineOutput",
    "frames_to_uint8",
    "longest_num_frames",
]
