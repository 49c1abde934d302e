"""What a prompt leaves unsaid is said for it, and nothing else."""

from __future__ import annotations

import json

import pytest

from videogen.conditioning.phrases import stage_phrases
from videogen.conditioning.prompt import MAX_PROMPT_LENGTH
from videogen.conditioning.unsaid import HOMES, say_the_unsaid
from videogen.conditioning.wording import Read, read_words
from videogen.data.stage import rungs
from videogen.data.stage.actors import load_actors
from videogen.evaluation.stage_suite import prompt_file

RUNG1 = rungs()["rung1"].to_dict()


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a fox", "a fox, staying in the forest"),
        ("a whale", "a whale, staying on the beach"),
        ("two foxes at night", "two foxes at night, staying in the forest"),
        ("a fox jumps", "a fox jumps in the forest"),
        ("a fox in the snow", "a fox in the snow, staying"),
        ("a car, [Pan left]", "a car, staying in the city, [Pan left]"),
        ("a fox, the camera pans left", "a fox, staying in the forest, the camera pans left"),
        ("in a kitchen, a fox", "in a kitchen, a fox, staying in the forest"),
        ("the subject at night", "the subject at night, staying in the forest"),
        ("a pterodactyl", "a pterodactyl, staying in the forest"),
        ("a fox spins", "a fox spins in the forest"),  # a movement that this model does not know is one
        ('a fox jumps and says "snow"', 'a fox jumps and says "snow"'),  # what is quoted may be meant
        ("a fox, 狐狸", "a fox, staying in the forest, 狐狸"),
        ("狐狸", "狐狸,在森林里停着不动"),
        ("狐狸在雪地里", "狐狸在雪地里,停着不动"),
        ("狐狸跳,镜头左摇", "狐狸跳,在森林里,镜头左摇"),
    ],
)
def test_what_is_added(prompt: str, said: str) -> None:
    found = say_the_unsaid(prompt, RUNG1, ("motions", "scenes"))
    assert found.prompt == said
    assert [("was named" in note and "`literal_prompt`" in note) for note in found.notes] == [True] * (prompt != said)
    assert say_the_unsaid(said, RUNG1, ("motions", "scenes")) == Read(said)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a fox", "a fox, staying in the forest [Static shot]"),
        ("a fox jumps in the snow", "a fox jumps in the snow [Static shot]"),
        ("a fox jumps in the snow, [Pan left]", "a fox jumps in the snow, [Pan left]"),
        ("a fox jumps in the snow, the camera pans left", "a fox jumps in the snow, the camera pans left"),
        ("a fox jumps in the snow. the camera climbs", "a fox jumps in the snow. the camera climbs"),
        ("a fox jumps in the snow, slow zoom in", "a fox jumps in the snow, slow zoom in"),
        ("aerial view of a fox that jumps in the snow", "aerial view of a fox that jumps in the snow"),
        ("航拍,狐狸在雪地里跳", "航拍,狐狸在雪地里跳"),
        ("a panda jumps in the snow", "a panda jumps in the snow [Static shot]"),
        ("狐狸在雪地里跳", "狐狸在雪地里跳 [Static shot]"),
        ("狐狸在雪地里跳,镜头左摇", "狐狸在雪地里跳,镜头左摇"),
    ],
)
def test_the_camera_stands_still_where_nobody_moves_it(prompt: str, said: str) -> None:
    found = say_the_unsaid(prompt, RUNG1)
    assert found.prompt == said and bool(found.notes) == (prompt != said)
    assert say_the_unsaid(said, RUNG1) == Read(said)
    assert say_the_unsaid("a fox jumps in the snow", {**RUNG1, "cameras": ["Pan left"]}).notes == ()


def test_the_note_names_what_was_missing() -> None:
    for prompt, note in (
        (
            "a fox",
            "no movement, no place, no camera move was named, 'staying in the forest' and [Static shot] were added;",
        ),
        ("a fox jumps, [Pan left]", "no place was named, 'in the forest' was added;"),
        ("a fox jumps in the snow", "no camera move was named, [Static shot] was added;"),
    ):
        assert say_the_unsaid(prompt, RUNG1).notes[0].startswith(note)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_prompts_that_say_everything_stay(split: str) -> None:
    for line in prompt_file(split).read_text(encoding="utf-8").splitlines():
        prompt = json.loads(line)
        vocabulary = rungs()[prompt["rung"]].to_dict()
        read = read_words(prompt["prompt"], vocabulary).prompt
        assert say_the_unsaid(read, vocabulary, ("motions", "scenes")) == Read(read)
        asked = "camera" in prompt["asked"]
        assert say_the_unsaid(read, vocabulary).prompt == (read if asked else f"{read} [Static shot]")


@pytest.mark.parametrize("prompt", ["[Pan left]", "the camera pans left", "x " * (MAX_PROMPT_LENGTH // 2), ""])
def test_nothing_to_hang_it_on(prompt: str) -> None:
    assert say_the_unsaid(prompt, RUNG1) == Read(prompt)


def test_other_worlds_stay() -> None:
    for vocabulary in (
        None,
        {},
        {"actors": ["fox"]},
        {"actors": ["robot"], "motions": ["welds"], "scenes": ["factory"]},
    ):
        assert say_the_unsaid("a fox", vocabulary) == Read("a fox")


def test_phrases_may_come_with_the_vocabulary() -> None:
    written = {**RUNG1, "phrases": stage_phrases(RUNG1)}
    assert say_the_unsaid("an owl jumps", written) == say_the_unsaid("an owl jumps", RUNG1)


def test_homes_are_actors_and_scenes() -> None:
    scenes = set(rungs()["rung3"].scenes)
    assert set(HOMES) <= set(load_actors()) and {scene for homes in HOMES.values() for scene in homes} <= scenes
