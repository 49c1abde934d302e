"""What a model does with pictures, clips and camera vectors: the measures are right on true renders and fail on fakes."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from tiny_models import tiny_pipeline

import videogen.evaluation.stage_tasks as stage_tasks
from videogen.conditioning.camera import camera_vectors
from videogen.data.stage import ClipSpec, held_out_pairs, rungs
from videogen.data.stage.actors import strangers
from videogen.evaluation.stage.pictures import jump, nearest_frames, psnr
from videogen.evaluation.stage_shape import DEFAULT_SHAPE, ClipShape, clip_shape
from videogen.evaluation.stage_suite import model_folder
from videogen.evaluation.stage_task_prompts import (
    SPEEDS,
    TASKS,
    known_strangers,
    left_out,
    prompts_hash,
    reference_pictures,
    task_prompts,
    true_clip,
)
from videogen.evaluation.stage_tasks import (
    MEASURES,
    TaskSettings,
    extension_joins,
    format_tasks,
    judge,
    run_tasks,
    summarise,
)


def judged(prompt, frames):
    return judge(prompt, frames, DEFAULT_SHAPE.fps).right


def first(task: str, kind: str, rung: str = "rung1", **asked):
    """The first prompt of a kind that asks for this."""
    return next(
        prompt
        for prompt in task_prompts("dev", rung, task, 60)
        if prompt.kind == kind and all(prompt.asked[key] == value for key, value in asked.items())
    )


@pytest.mark.parametrize("rung", list(rungs()))
def test_prompts_are_honest(rung):
    vocabulary = rungs()[rung]
    for task in TASKS:
        prompts = task_prompts("dev", rung, task, 24)
        assert len({prompt.id for prompt in prompts}) == len(prompts) == (48 if task == "camera" else 24)
        assert {prompt.id for prompt in task_prompts("dev", rung, task, 5)} <= {prompt.id for prompt in prompts}
        for prompt in prompts:
            spec = ClipSpec.from_json(prompt.spec)
            assert spec.scene in vocabulary.scenes and spec.camera_told
            assert task == "subject" or not held_out_pairs(spec)
            assert (task == "subject") == bool(prompt.references) == (spec.actors[0].name in strangers())
            for reference in map(ClipSpec.from_json, prompt.references):
                assert reference.scene != spec.scene and reference.light != spec.light
        if task == "camera":
            commands = [prompt.given["command"] for prompt in prompts if prompt.kind == "command"]
            assert set(commands) == set(vocabulary.cameras)
            speeds = {prompt.given["amount"] for prompt in prompts if prompt.kind == "speed"}
            assert speeds == set(SPEEDS)
        if task == "keyframes":
            assert {len(prompt.given["keyframes"]) for prompt in prompts} == {2, 3}
    kinds = {prompt.kind for task in ("image", "subject") for prompt in task_prompts("dev", rung, task, 6)}
    assert kinds == ({"motion", "one"} if left_out(rung) else {"motion", "event", "one", "two"})


def test_splits_differ_and_stay():
    assert prompts_hash("dev", "rung1") != prompts_hash("test", "rung1")
    assert task_prompts("dev", "rung4", "subject", 3) == task_prompts("dev", "rung4", "subject", 9)[:3]
    assert len(set(known_strangers())) == 40


def test_a_prompt_with_a_picture_leaves_scene_and_light_to_it():
    prompt = first("image", "motion", motion="moves left", scene="snow")
    assert "snow" not in prompt.prompt and "雪" not in prompt.prompt
    night = first("image", "event", "rung3", event="night falls")
    assert any(word in night.prompt for word in ("night falls", "dark", "夜幕降临", "天黑了"))


def test_errors_say_what_is_possible(tmp_path):
    with pytest.raises(ValueError, match="`split` must be 'dev' or 'test', got 'train'"):
        task_prompts("train", "rung1", "image", 1)
    with pytest.raises(ValueError, match="`rung` must be one of rung1"):
        task_prompts("dev", "rung9", "image", 1)
    with pytest.raises(ValueError, match="`task` must be one of image"):
        task_prompts("dev", "rung1", "text", 1)
    with pytest.raises(ValueError, match="`num_prompts` must be at least 1, got 0"):
        task_prompts("dev", "rung1", "image", 0)
    with pytest.raises(ValueError, match="`tasks` must be among image"):
        run_tasks(TaskSettings(tasks=("text",)), tmp_path)
    with pytest.raises(ValueError, match="`places` must be some of the frames 1 to 3, not all"):
        jump(np.zeros((4, 8, 8, 3), np.uint8), [1, 2, 3])


def test_pictures_are_compared():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (9, 24, 24, 3)).astype(np.uint8)
    assert psnr(frames[0], frames[0]) == 60
    assert psnr(np.full((8, 8, 3), 10, np.uint8), np.full((16, 16, 3), 20, np.uint8)) == pytest.approx(28.13, abs=0.01)
    assert nearest_frames(frames, [frames[7], frames[2]]) == [7, 2]


def test_a_frozen_clip_does_not_move():
    prompt = first("image", "motion", motion="moves left")
    frames = true_clip(prompt)
    right = judged(prompt, frames)
    assert all(right.values()), right
    frozen = np.repeat(frames[:1], len(frames), 0)
    assert not judged(prompt, frozen)["motion"]


def test_a_cut_after_the_picture_is_seen():
    prompt = first("image", "motion", motion="moves left")
    other = first("image", "motion", motion="moves right")
    frames = true_clip(prompt)
    cut = np.concatenate([frames[:1], true_clip(replace(other, id="other"))[1:]])
    right = judged(prompt, cut)
    assert not right["no cut"] and not right["kept"] and not right["motion"]
    another_picture = np.roll(frames, 30, 2)
    assert not judged(prompt, another_picture)["no cut"]
    darker_from_the_second_on = np.concatenate([frames[:1], (frames[1:] * 0.85).astype(np.uint8)])
    assert not jump(darker_from_the_second_on, [1]).smooth


def test_the_last_picture_is_reached_or_not():
    prompt = first("last", "last", motion="moves left")
    frames = true_clip(prompt)
    assert judge(prompt, frames, DEFAULT_SHAPE.fps).values == {"psnr": 60.0}
    assert judge(prompt, frames[::-1], DEFAULT_SHAPE.fps).right == {"reached": False}


def test_keyframes_have_their_order():
    prompts = task_prompts("dev", "rung1", "keyframes", 8)
    for prompt in prompts:
        frames = true_clip(prompt)
        assert judged(prompt, frames) == {"order": True}
        assert judged(prompt, frames[::-1]) == {"order": False}
        # Shown, but too late.
        assert judged(prompt, np.concatenate([frames[:1].repeat(4, 0), frames[:-4]])) == {"order": False}


def test_a_swapped_stranger_is_another():
    prompt = first("subject", "one", motion="moves left")
    right = judged(prompt, true_clip(prompt))
    assert all(right.values()), right
    spec = ClipSpec.from_json(prompt.spec)
    other = next(name for name in known_strangers() if name != spec.actors[0].name)
    swapped = replace(spec, actors=(replace(spec.actors[0], name=other),))
    right = judged(prompt, true_clip(replace(prompt, spec=swapped.to_json())))
    assert right == {"nearest": False, "recognised": False, "scene and motion": True}


def test_two_subjects_may_change_places():
    prompt = first("subject", "two", "rung3", camera=[["Static shot"]])
    assert judged(prompt, true_clip(prompt)) == {"two": True, "exchanged": False}
    spec = ClipSpec.from_json(prompt.spec)
    one, other = spec.actors
    exchanged = replace(spec, actors=(replace(one, name=other.name), replace(other, name=one.name)))
    assert judged(prompt, true_clip(replace(prompt, spec=exchanged.to_json()))) == {"two": False, "exchanged": True}
    assert len(reference_pictures(prompt)) == 2


def test_an_actor_that_never_stands_upright_at_the_end_is_followed_through_the_clip():
    shape = ClipShape(33, 16.0)
    prompt = next(p for p in task_prompts("dev", "rung2", "image", 60) if p.id == "dev-rung2-image-042")  # it spins
    frames = true_clip(prompt, shape)
    assert prompt.asked["motion"] == "spins" and judge(prompt, frames, shape.fps, shape).right["actor"]
    smeared = frames.copy()
    smeared[-9:] = [cv2.GaussianBlur(frame, (0, 0), 5) for frame in frames[-9:]]
    assert not judge(prompt, smeared, shape.fps, shape).right["actor"]


def test_joins_of_an_extension():
    # Windows of 17 frames that take over 9 each; one of any length is made at once.
    assert extension_joins(ClipShape(17)) == [17, 25, 33, 41, 49, 57]
    assert extension_joins(ClipShape(33, 16.0)) == [33, 49, 65, 81, 97, 113]
    prompt = first("extend", "extend", motion="jumps")
    frames = true_clip(prompt)
    assert len(frames) == 17 + 48
    right = judged(prompt, frames)
    assert all(right.values()), right
    end = frames[41:]
    for changed in ((end * 0.85).astype(np.uint8), np.clip(end + np.array([14, 0, 0]), 0, 255).astype(np.uint8)):
        assert jump(np.concatenate([frames[:41], changed]), extension_joins()).colour > 3.5
    still = true_clip(first("extend", "extend", motion="stays"))
    end = still[41:]
    for changed in (np.roll(end, 4, 2), np.stack([cv2.GaussianBlur(frame, (0, 0), 2.0) for frame in end])):
        assert jump(np.concatenate([still[:41], changed]), extension_joins()).place > 3
        assert not jump(np.concatenate([still[:41], changed]), extension_joins()).smooth


def test_an_extension_that_is_frozen_does_not_move():
    shape = ClipShape(33, 16.0)
    prompt = first("extend", "extend", motion="jumps")
    frames = true_clip(prompt, shape)
    right = judge(prompt, frames, shape.fps, shape).right
    assert right["motion"] and all(right.values()), right
    frozen = np.concatenate([frames[:33], frames[32:33].repeat(len(frames) - 33, 0)])
    right = judge(prompt, frozen, shape.fps, shape).right
    assert right["kept"] and not right["motion"]


def test_an_extension_that_spins_may_stand_upright_before_its_last_clip_length():
    prompt = next(p for p in task_prompts("dev", "rung4", "extend", 4) if p.id == "dev-rung4-extend-003")
    frames = true_clip(prompt)
    assert prompt.asked["motion"] == "spins" and judged(prompt, frames)["motion"]
    assert not judged(prompt, np.concatenate([frames[:17], frames[16:17].repeat(48, 0)]))["motion"]


def test_a_camera_is_as_fast_as_asked():
    for command in ("Pan left", "Zoom in"):
        for amount in (0.5, 1.5):
            prompt = next(
                prompt
                for prompt in task_prompts("dev", "rung1", "camera", 40)
                if prompt.kind == "speed" and prompt.given["command"] == command and prompt.given["amount"] == amount
            )
            values = judge(prompt, true_clip(prompt), DEFAULT_SHAPE.fps).values
            assert values["asked"] == amount and abs(values["measured"] - amount) < 0.15, (command, values)
    backwards = judge(prompt, true_clip(prompt)[::-1], DEFAULT_SHAPE.fps).values
    assert backwards["measured"] < -1


def test_longer_clips_are_judged_by_longer_ones(tmp_path):
    """A model that makes 33 frames at 16 a second is given, and compared with, pictures from such clips."""
    known = {**rungs()["rung1"].to_dict(), "num_frames": [17, 33], "fps": [16]}
    (tmp_path / "vocabulary.json").write_text(json.dumps(known))
    shape = clip_shape(tmp_path)
    assert shape == ClipShape(33, 16.0) and clip_shape(tmp_path / "none") == DEFAULT_SHAPE
    assert [shape.frame(number) for number in (0, 5, 16)] == [0, 10, 32]
    chosen = [
        first("image", "motion", motion="moves left"), first("keyframes", "keyframes"), first("last", "last"),
        first("subject", "one", motion="moves left"), first("camera", "command"),
    ]  # fmt: skip
    for prompt in chosen:
        frames = true_clip(prompt, shape)
        right = judge(prompt, frames, shape.fps, shape).right
        assert len(frames) == 33 and right and all(right.values()), (prompt.task, right)
    given = stage_tasks._given(chosen[1], shape, 4)["keyframes"]
    frames = true_clip(chosen[1], shape)
    for (time, picture), number in zip(given.items(), chosen[1].given["keyframes"], strict=True):
        assert time == 2 * number / 16 and np.array_equal(picture, frames[2 * number])
    extended = first("extend", "extend", motion="stays")
    frames = true_clip(extended, shape)
    given = stage_tasks._given(extended, shape, 4)
    assert len(given["video"]) == 33 and given["num_frames"] == 96 and len(frames) == 129
    right = judge(extended, frames, shape.fps, shape).right
    assert all(right.values()), right


def test_vectors_are_those_of_the_command_times_its_amount():
    prompt = next(p for p in task_prompts("dev", "rung1", "camera", 9) if p.kind == "speed")
    given = stage_tasks._given(prompt, DEFAULT_SHAPE, 4)["camera"]
    expected = camera_vectors(((prompt.given["command"],),), 17)
    moves = [0, 1, 2, 3, 4, 5]
    assert np.allclose(given[:, moves], expected[:, moves] * prompt.given["amount"])
    assert (given[:, 8] == 1).all()


def test_summaries_have_intervals_and_bars():
    results = []
    for index in range(40):
        right = {"kept": index % 4 > 0, "actor": True, "scene": True, "no cut": True, "camera": True, "motion": True}
        line = {"task": "image", "kind": "motion", "right": right, "values": {"first psnr": 30.0 + index % 3}}
        results.append({**line, "seen": {}})
        speed = {"asked": SPEEDS[index % 5], "measured": SPEEDS[index % 5] * 0.9}
        results.append({"task": "camera", "kind": "speed", "right": {}, "values": speed, "seen": {}})
        command = ("Pan left", "Zoom in")[index % 2]
        seen = {"command": command, "camera": None}
        obeyed = {"obeyed": command == "Zoom in"}
        results.append({"task": "camera", "kind": "command", "right": obeyed, "values": {}, "seen": seen})
    summary = summarise(results)
    assert set(summary) == {"image", "camera"}
    assert summary["image"]["kept"] == {"accuracy": 0.75, "low": 0.5981, "high": 0.8581, "n": 40, "bar": 0.9}
    assert summary["image"]["first psnr"]["mean"] == pytest.approx(30.975) and "beyond" not in summary["image"]
    assert summary["camera"]["speed"]["mean"] == 1 and summary["camera"]["speed error"]["mean"] == pytest.approx(0.1)
    assert summary["camera"]["Zoom in"]["accuracy"] == 1 and summary["camera"]["Pan left"]["accuracy"] == 0
    assert summary["camera"]["obeyed"]["accuracy"] == 0.5
    text = format_tasks({**summary, "left_out": {"image beyond": "rung1 has no events"}}, renders=summary)
    assert "75.0 %" in text and "59.8 .. 85.8" in text and "left out: image beyond (rung1 has no events)" in text


def test_an_untrained_model_is_measured_and_goes_on(tmp_path, monkeypatch):
    vocabulary = json.loads(json.dumps({**rungs()["rung1"].to_dict(), "num_inference_steps": 1}))
    tiny_pipeline(vocabulary).save_pretrained(tmp_path / "model")
    settings = TaskSettings(model=str(tmp_path / "model"), num_prompts=1)
    summary = run_tasks(settings, tmp_path / "run")
    assert set(TASKS) <= set(summary) and set(summary["left_out"]) == set(left_out("rung1"))
    assert summary["last"]["psnr"]["n"] == 1 and summary["last"]["reached"]["accuracy"] == 0
    assert len(list((tmp_path / "run" / "clips").glob("*.mp4"))) == 7
    calls = []
    again = run_tasks(settings, tmp_path / "run", report=lambda done, total: calls.append((done, total)))
    assert again == summary and calls == [(7, 7)]
    with pytest.raises(ValueError, match="`folder` must be new or belong to the same run"):
        run_tasks(replace(settings, split="test"), tmp_path / "run")
    monkeypatch.setattr(stage_tasks, "checkers_version", lambda *judges: 0)
    with pytest.raises(ValueError, match="which differs in checkers;"):
        run_tasks(settings, tmp_path / "run")


def test_an_unreadable_clip_is_wrong_in_everything(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    for rung in ("rung1", "rung4"):
        for task in TASKS:
            for prompt in task_prompts("dev", rung, task, 3):
                found = stage_tasks._judge_file(TaskSettings(rung=rung), prompt, tmp_path / "clip.mp4")
                assert not any(found["right"].values())
                named = {"asked", "measured"} if prompt.kind == "speed" else set(MEASURES[task])
                assert set(found["right"]) | set(found["values"]) <= named


@pytest.mark.slow
@pytest.mark.parametrize(
    # Of rung 4 at two seconds 44 of 50 actors are found in the last quarter (docs/evaluation.md); no model of that rung is shipped yet.
    ("rung", "shape"),
    [("rung1", clip_shape(model_folder(""))), ("rung4", DEFAULT_SHAPE)],
)
def test_true_renders_pass_every_bar(rung, shape, tmp_path, monkeypatch):
    monkeypatch.setattr(stage_tasks, "clip_shape", lambda _: shape)
    summary = run_tasks(TaskSettings(rung=rung, source="renders", num_prompts=50), tmp_path)
    found = {
        (task, name): cell.get("accuracy", cell.get("mean"))
        for task in TASKS
        for name, cell in summary[task].items()
        if "bar" in cell
    }
    missed = {key: value for key, value in found.items() if value < summary[key[0]][key[1]]["bar"]}
    assert missed == {} and len(found) == 14 - (2 if left_out(rung) else 0), found
