"""Camera moves in plain words: read where a clause tells them and nothing else."""

import random

import pytest

from videogen.conditioning.camera import CAMERA_COMMANDS, parse_camera
from videogen.conditioning.camera_words import read_camera_words
from videogen.data.stage import captions, rungs, sample_spec
from videogen.data.stage.captions import caption


def read(prompt: str):
    plan = read_camera_words(parse_camera(prompt))
    return plan.prompt_without_brackets, plan.segments


@pytest.mark.parametrize(
    ("prompt", "text", "segments"),
    [
        ("a fox jumps in the snow, the camera pans left", "a fox jumps in the snow", (("Pan left",),)),
        ("a fox jumps in the snow while the camera pans to the right.", "a fox jumps in the snow", (("Pan right",),)),
        ("a fox jumps and the camera pans left", "a fox jumps", (("Pan left",),)),
        ("Zooming in, a car in the city", "a car in the city", (("Zoom in",),)),
        ("a pig, a fixed camera, at night", "a pig, at night", (("Static shot",),)),
        ("a pig, the camera zooms in and pans left", "a pig", (("Zoom in", "Pan left"),)),
        ("a pig, the camera pans left, then the camera zooms in", "a pig", (("Pan left",), ("Zoom in",))),
        ("一个企鹅在雪地里, 镜头左摇", "一个企鹅在雪地里", (("Pan left",),)),
        ("镜头前，一只狐狸在跳", "镜头前，一只狐狸在跳", ()),  # in front of the camera
        ("一只狐狸在跳，画面后", "一只狐狸在跳，画面后", ()),
        ("一只狐狸，镜头前移，然后镜头向后", "一只狐狸", (("Push in",), ("Pull out",))),
        ("一个企鹅,镜头变焦拉远,然后镜头固定", "一个企鹅", (("Zoom out",), ("Static shot",))),
    ],
)
def test_moves_in_words_become_commands(prompt, text, segments):
    assert read(prompt) == (text, segments)


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox moves left in the snow",
        "a camera stands in the snow",
        "a fox follows a rabbit",
        "a robot zooms in on its prey",  # more than a move
        "the camera pans left",  # nothing else to show
        "a pig, the camera pans left and pans right",  # contradictory
        "a static shot of a fox",
        "一只狐狸向左移动",
    ],
)
def test_other_prompts_stay_as_they_are(prompt):
    assert read(prompt) == (prompt, ())


def test_brackets_come_first():
    plan = parse_camera("a fox, the camera pans left, [Zoom in]")
    assert read_camera_words(plan) == plan


@pytest.mark.parametrize("held_out", [False, True])
def test_every_phrase_of_stage_is_read(held_out):
    vocabulary = rungs()["rung4"]
    for language, table in (("en", captions._CAMERAS_EN), ("zh", captions._CAMERAS_ZH)):
        for command in CAMERA_COMMANDS:
            for phrase in table[command][held_out]:
                text = f"a fox in the snow, {phrase}" if language == "en" else f"雪地里一个狐狸, {phrase}"
                assert read(text)[1] == ((command,),), phrase
    generator = random.Random(0)
    for _ in range(200):
        spec = sample_spec(generator, vocabulary, "any")
        text, segments = read(caption(spec, generator, "en", "words", held_out=held_out))
        assert [set(part) for part in segments] == ([set(part) for part in spec.camera] if spec.camera_told else [])
        assert "camera" not in text
