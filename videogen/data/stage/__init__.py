"""Stage: a world of painted scenes and emoji actors that can be rendered without end and checked exactly."""

from videogen.data.stage.captions import caption
from videogen.data.stage.clips import premultiply, stage_clips
from videogen.data.stage.render import StageClip, render, render_with_truth
from videogen.data.stage.vocabulary import (
    CAMERAS,
    EVENTS,
    LIGHTS,
    MOTIONS,
    RELATIONS,
    SCENES,
    SPEEDS,
    ActorSpec,
    ClipSpec,
    Vocabulary,
    attributes,
    held_out_pairs,
    rungs,
    sample_spec,
)

__all__ = [
    "CAMERAS",
    "EVENTS",
    "LIGHTS",
    "MOTIONS",
    "RELATIONS",
    "SCENES",
    "SPEEDS",
    "ActorSpec",
    "ClipSpec",
    "StageClip",
    "Vocabulary",
    "attributes",
    "caption",
    "held_out_pairs",
    "premultiply",
    "render",
    "render_with_truth",
    "rungs",
    "sample_spec",
    "stage_clips",
]
