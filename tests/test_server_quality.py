"""Jobs of a model with weights for few steps: what is planned, what a worker does, and what a job says when it is asked again."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the `server` extra is not installed")
import numpy as np
import torch
from fastapi.testclient import TestClient
from server_tools import SIZE, make_model

from videogen.data.video import write_video
from videogen.models.low_rank import FAST_FOLDER, add_low_rank, low_rank_tensors, save_adapter
from videogen.models.transformer import VideoTransformer
from videogen.server.app import create_app
from videogen.server.generation import Generator, calculated_timing
from videogen.server.planning import Ask, Planner, Refused, StoredPicture, shape_of
from videogen.server.settings import Settings
from videogen.server.storage import Storage

PROMPT = "a fox stays in the snow"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("model") / "tiny")
    transformer = VideoTransformer.from_pretrained(str(folder / "transformer")).float()
    add_low_rank(transformer, 1, 1)
    tensors = {name: 0.1 * torch.randn_like(tensor) for name, tensor in low_rank_tensors(transformer).items()}
    save_adapter(folder / FAST_FOLDER, tensors, {"num_inference_steps": 3, "guidance_scale": 1.0})
    return folder


def test_a_plain_request_is_fast_and_others_get_what_they_need(model: Path, tmp_path: Path) -> None:
    planner = Planner(model, tmp_path)
    planner.warm()

    def planned(**asked: object):
        return planner.plan(Ask(prompt=PROMPT, seed=1, **asked), {}).request  # type: ignore[arg-type]

    plain = planned()
    assert (plain.quality, plain.steps, plain.guidance_scale) == ("fast", 3, 1.0)
    for asked in ({"steps": 7}, {"guidance_scale": 2.0}, {"negative_prompt": "night"}, {"quality": "high"}):
        assert planned(**asked).quality == "high", asked
    assert planned(quality="high").steps == 2  # the tiny model's own
    same_numbers = planned(quality="high", steps=3, guidance_scale=1.0)
    assert shape_of(same_numbers) != shape_of(plain)  # never in one batch
    with pytest.raises(Refused, match="`quality` 'fast' takes 3 steps"):
        planned(quality="fast", steps=7)


def test_both_dialects_choose_a_quality(model: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((5, SIZE, SIZE, 3), np.uint8), 12)
    clip = {"video": ("a.mp4", (tmp_path / "a.mp4").read_bytes())}
    app = create_app(Settings(data=tmp_path / "data", model=model, workers=0))
    with TestClient(app, base_url="http://127.0.0.1") as api:
        for asked, settled in (({}, "fast"), ({"quality": "fast"}, "fast"), ({"quality": "high"}, "high")):
            body = {"prompt": PROMPT, **asked}
            ids = [
                api.post("/v1/video_generation", json={**body, "model": "video-01"}).json()["task_id"],
                api.post("/v1/videos", json=body).json()["id"],
                api.post("/v1/videos", data=body).json()["id"],
                api.post("/v1/videos/extensions", data={**body, "seconds": "1"}, files=clip).json()["id"],
            ]
            assert [api.get(f"/v1/jobs/{one}").json()["request"]["quality"] for one in ids] == [settled] * 4


def test_a_worker_makes_what_was_planned(model: Path, tmp_path: Path) -> None:
    generator, planner = Generator(model, "cpu"), Planner(model, tmp_path)
    storage = Storage(tmp_path)
    shape, *_ = calculated_timing(generator)
    steps: list[int] = []
    made = {}
    for quality in ("fast", "high"):
        same = {} if quality == "fast" else {"steps": 3, "guidance_scale": 1.0}
        job = planner.plan(Ask(prompt=PROMPT, seed=1, quality=quality, **same), {}).request  # type: ignore[arg-type]
        made[quality] = generator.run(job, storage, lambda step: steps.append(step.done))
        assert made[quality].receipt.request.quality == quality
        assert (shape == shape_of(job)) == (quality == "fast")
    assert steps == [1, 2, 3, 1, 2, 3]
    assert made["fast"].receipt.frames_sha256 != made["high"].receipt.frames_sha256


def test_what_cannot_be_combined_is_named(model: Path, tmp_path: Path) -> None:
    ask = Ask(prompt=PROMPT, subjects=["a"], first_frame="b")
    with pytest.raises(Refused, match=r"^`subjects` and `first_frame` must not be combined") as refused:
        Planner(model, tmp_path).plan(ask, {})
    assert refused.value.param == "subjects"


@pytest.mark.parametrize("argument", ["guidance_method", "guidance_rescale", "guidance_interval", "negative_prompt"])
def test_what_guides_is_refused_where_there_is_no_guidance(model: Path, tmp_path: Path, argument: str) -> None:
    values = {"guidance_method": "cfg_zero", "guidance_rescale": 0.5, "guidance_interval": (0.0, 0.5)}
    ask = Ask(prompt=PROMPT, guidance_scale=1.0, **{argument: values.get(argument, "night")})  # type: ignore[arg-type]
    with pytest.raises(Refused, match=f"^`{argument}` has no effect while `guidance_scale` is 1.0") as refused:
        Planner(model, tmp_path).plan(ask, {})
    assert refused.value.param == argument


def test_pictures_that_will_be_cropped_or_resized_are_told_before(model: Path, tmp_path: Path) -> None:
    planner = Planner(model, tmp_path)
    ask = Ask(
        prompt=f"{PROMPT} [Static shot]",
        first_frame="a",
        last_frame="b",
        keyframes=[{"time": 0.5, "image": "c"}],  # type: ignore[list-item]
    )
    pictures = {
        "first": [StoredPicture("a", width=64, height=48)],
        "last": [StoredPicture("b", width=SIZE, height=SIZE)],
        "keyframe": [StoredPicture("c", width=16, height=16)],
    }
    assert planner.plan(ask, pictures).adjusted == [
        "`first_frame` was cropped at the centre from 64x48 to 48x48.",
        f"`first_frame` was reduced to {SIZE}x{SIZE}.",
        f"`keyframe 0.5` was enlarged to {SIZE}x{SIZE}.",
    ]
    with pytest.raises(Refused, match="`strict` was asked for, but this would be adjusted: `first_frame` was cropped"):
        planner.plan(ask.model_copy(update={"strict": True}), pictures)
