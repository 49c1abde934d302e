"""The metrics of clips, in one table.

A metric whose definition is VBench's own bears the bare name of its dimension. Everything else carries a suffix that says what is different, so that no
number of ours can be taken for one of VBench's: `@dis` (DIS flow), `@efflite0`, `@efflite0-border`, `@pixels` (features), `@lk` (corners followed by
Lucas-Kanade), `@simple` (a proxy of ours), `@static-dis` (after a static filter with DIS flow), `@stage` (the checkers of Stage's closed world) and `@look`
(likeness by colours and structure).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from videogen.evaluation.metrics import camera, consistency, flow, identity, pixels, stage
from videogen.evaluation.metrics.features import missing_package
from videogen.evaluation.metrics.sample import Sample, Value
from videogen.evaluation.suite import Entry

__all__ = ["METRICS", "NOT_COMPUTED", "Metric", "Sample", "Value", "base_name"]

Definition = Literal["vbench", "vbench formula, other features", "proxy", "stage"]


def _always(entry: Entry) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number for a clip.

    Attributes:
        measure: from a clip to its value.
        definition: "vbench" = its own definition; "vbench formula, other features" = its formula or rule with another network or estimator in it;
            "proxy" = something else about the same thing; "stage" = exact in Stage's world.
        about: what it measures, for the report; higher is better for all.
        applies: whether a prompt asks for it at all.
        extractor: of features, or "".
        picture: which picture of the prompt it needs: "image" (the first frame), "subject" or "".
        min_frames: shorter clips count as broken.
        version: another one when the numbers change, so that stored ones are made anew.
    """

    measure: Callable[[Sample], Value]
    definition: Definition
    about: str
    applies: Callable[[Entry], bool] = _always
    extractor: str = ""
    picture: Literal["", "image", "subject"] = ""
    min_frames: int = 2
    version: int = 1

    def missing(self) -> str | None:
        """Why it cannot be computed here, or `None`."""
        return missing_package(self.extractor) if self.extractor else None


def base_name(metric: str) -> str:
    """The VBench dimension that a metric is about: its name up to the suffix."""
    return metric.split("@")[0]


def _static_flickering(sample: Sample) -> Value:
    return pixels.temporal_flickering(sample) if flow.is_static(sample) else Value(None, {"left_out": "the clip moves"})


def _has_image(entry: Entry) -> bool:
    return bool(entry.image)


def _has_subject(entry: Entry) -> bool:
    return bool(entry.subject)


def _asks_camera(entry: Entry) -> bool:
    return camera.asked_camera(entry) is not None


def _table() -> dict[str, Metric]:
    table = {
        "temporal_flickering": Metric(
            measure=pixels.temporal_flickering,
            definition="vbench",
            about="1 - mean change from frame to frame, without VBench's static filter; any motion lowers it, so read it beside dynamic_degree",
        ),
        "temporal_flickering@static-dis": Metric(
            measure=_static_flickering,
            definition="vbench formula, other features",
            about="the same on the clips that a static filter with DIS flow in place of RAFT lets through",
        ),
        "motion_smoothness@dis": Metric(
            measure=flow.motion_smoothness,
            definition="vbench formula, other features",
            about="how well odd frames are interpolated from their neighbours along DIS flow (VBench: the AMT-S network)",
            min_frames=3,
        ),
        "dynamic_degree@dis": Metric(
            measure=flow.dynamic_degree,
            definition="vbench formula, other features",
            about="share of clips that move, by VBench's rule with DIS flow in place of RAFT",
        ),
        "imaging_quality@simple": Metric(
            measure=pixels.imaging_quality,
            definition="proxy",
            about="sharp, free of noise, not clipped: a formula, not the MUSIQ network",
            min_frames=1,
        ),
        "camera_motion@lk": Metric(
            measure=camera.camera_motion,
            definition="vbench formula, other features",
            about="VBench-I2V's vote of four edge points moved by a RANSAC similarity of followed corners (VBench: CoTracker2)",
            applies=_asks_camera,
        ),
    }
    for extractor, whole in (("efflite0", "EfficientNet-Lite0"), ("pixels", "frames reduced to 16 x 16")):
        border = "efflite0-border" if extractor == "efflite0" else extractor
        others = {"i2v_subject": extractor, "i2v_background": border}
        table[f"subject_consistency@{extractor}"] = Metric(
            measure=partial(consistency.subject_consistency, extractor=extractor),
            definition="vbench formula, other features",
            about=f"likeness to the frame before and to the first one; features: {whole} (VBench: DINO)",
            extractor=extractor,
        )
        if extractor == "efflite0":
            table["background_consistency@efflite0-border"] = Metric(
                measure=partial(consistency.subject_consistency, extractor=border),
                definition="vbench formula, other features",
                about="the same with the outer cells of EfficientNet-Lite0's map (VBench: CLIP of the whole frame)",
                extractor=border,
            )
        for name, chosen in others.items():
            if extractor == "pixels" and name == "i2v_background":
                continue
            table[f"{name}@{chosen}"] = Metric(
                measure=partial(consistency.image_consistency, extractor=chosen),
                definition="vbench formula, other features",
                about=f"likeness to the first-frame picture and between neighbours; features: {chosen} (VBench: "
                + ("DINO)" if name == "i2v_subject" else "DreamSim)"),
                applies=_has_image,
                picture="image",
                extractor=chosen,
            )
    for name, key in stage.ATTRIBUTE_OF.items():
        table[name] = Metric(
            measure=partial(stage.attribute, metric=name),
            definition="stage",
            about=f"the checkers see the {key} that the prompt names",
            applies=partial(stage.is_asked, metric=name),
            min_frames=1,
            version=stage.checkers_version(),
        )
    table["all@stage"] = Metric(
        measure=stage.everything,
        definition="stage",
        about="everything that the prompt names is right",
        applies=partial(stage.is_asked, metric="all@stage"),
        min_frames=1,
        version=stage.checkers_version(),
    )
    for name, measure, about in (
        ("identity_mean@look", identity.likeness, "likeness to the subject's picture, mean over frames"),
        ("identity_worst@look", identity.worst_frame, "likeness to the subject's picture in the worst frame"),
        ("identity_margin@look", identity.margin, "likeness to the subject minus that to strangers"),
        ("identity_retrieval@look", identity.retrieval, "the subject is found among strangers (1 of 5 by chance)"),
    ):
        table[name] = Metric(
            measure=measure, definition="proxy", about=about, applies=_has_subject, picture="subject", min_frames=1
        )
    return table


METRICS: dict[str, Metric] = _table()
"""Every metric by name."""

_BRIDGE = "run VBench itself with --vbench-python"
NOT_COMPUTED: dict[str, str] = {
    "subject_consistency": f"it needs DINO ViT-B/16, which cannot be had offline; use subject_consistency@efflite0, or {_BRIDGE}",
    "background_consistency": f"it needs CLIP ViT-B/32; use background_consistency@efflite0-border, or {_BRIDGE}",
    "motion_smoothness": f"it needs the AMT-S network; use motion_smoothness@dis, or {_BRIDGE}",
    "dynamic_degree": f"it needs the RAFT network; use dynamic_degree@dis, or {_BRIDGE}",
    "aesthetic_quality": f"it needs CLIP ViT-L/14 and the LAION head, and nothing stands in for taste; {_BRIDGE}",
    "imaging_quality": f"it needs the MUSIQ network; use imaging_quality@simple, or {_BRIDGE}",
    "object_class": f"it needs the GRiT detector; on Stage use object_class@stage, elsewhere {_BRIDGE}",
    "multiple_objects": f"it needs the GRiT detector; on Stage use multiple_objects@stage, elsewhere {_BRIDGE}",
    "human_action": f"it needs the UMT classifier; {_BRIDGE}",
    "color": f"it needs GRiT's captions; on Stage use light@stage, elsewhere {_BRIDGE}",
    "spatial_relationship": f"it needs the GRiT detector; on Stage use spatial_relationship@stage, elsewhere {_BRIDGE}",
    "scene": f"it needs the Tag2Text captioner; on Stage use scene@stage, elsewhere {_BRIDGE}",
    "appearance_style": f"it needs CLIP ViT-B/32; {_BRIDGE}",
    "temporal_style": f"it needs ViCLIP; {_BRIDGE}",
    "overall_consistency": f"it needs ViCLIP; {_BRIDGE}",
    "i2v_subject": "it needs DINO ViT-B/16; use i2v_subject@efflite0",
    "i2v_background": "it needs DreamSim; use i2v_background@efflite0-border",
    "camera_motion": "it needs CoTracker2; use camera_motion@lk, on Stage camera_motion@stage",
}
"""VBench's own definitions that cannot be computed here, with the reason."""
