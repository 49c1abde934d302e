"""Stage: a world of painted scenes and emoji actors that can be rendered without end and checked exactly."""

from videogen.data.stage.captions import action_caption, caption
from videogen.data.stage.clips import draw_clips, stage_clips
from videogen.data.stage.render import (
    RenderPlan,
    StageClip,
    camera_amounts,
    plan_clips,
    render,
    render_plan,
    render_with_truth,
)
from videogen.data.stage.textures import Cast
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
    "Cast",
    "ClipSpec",
    "RenderPlan",
    "StageClip",
    "Vocabulary",
    "action_caption",
    "attributes",
    "camera_amounts",
    "caption",
    "draw_clips",
    "held_out_pairs",
    "plan_clips",
    "render",
    "render_plan",
    "render_with_truth",
    "rungs",
    "sample_spec",
    "stage_clips",
]
