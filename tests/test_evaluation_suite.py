"""Lists of prompts in VBench's schema, seeds, and names of files."""

from __future__ import annotations

import json
import os

import pytest

from videogen.data.video import write_video
from videogen.evaluation.clip_names import MAX_BYTES, clip_name, clip_stems, parse_name
from videogen.evaluation.stage_suite import clip_seed as stage_seed
from videogen.evaluation.stage_suite import load_prompts
from videogen.evaluation.suite import Entry, clip_seed, load_suite, num_samples, read_suite, with_rewritten

VBENCH_LIKE = [
    {"prompt_en": "In a still frame, a stop sign", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a bear", "dimension": ["object_class"], "auxiliary_info": {"object_class": {"object": "bear"}}},
    {"prompt_en": "a fox jumps", "dimension": ["subject_consistency", "dynamic_degree", "motion_smoothness"]},
    {
        "prompt_en": "the bund",
        "dimension": ["appearance_style"],
        "auxiliary_info": {"appearance_style": {"appearance_style": "oil"}},
    },
    {"prompt_en": "the bund", "dimension": ["overall_consistency"]},
]


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "VBench_full_info.json"
    path.write_text(json.dumps(VBENCH_LIKE))
    return path


def test_schema_is_read_and_written(listed) -> None:
    suite = load_suite("vbench", listed.parent)
    assert suite.name == "vbench" and len(suite.entries) == 4 and not suite.partial
    both = suite.entries[3]  # the same prompt in two lists is sampled once and tests both
    assert both.dimensions == ("appearance_style", "overall_consistency") and "appearance_style" in both.auxiliary
    assert suite.entries[1].to_json() == VBENCH_LIKE[1]
    assert [num_samples(entry, 5) for entry in suite.entries] == [25, 5, 5, 5]
    assert num_samples(suite.entries[0], 5, flickering=1) == 1
    part = suite.for_dimensions(["dynamic_degree", "object_class"])
    assert [entry.prompt for entry in part.entries] == ["a bear", "a fox jumps"] and part.partial
    assert suite.first(2).partial and suite.first(2).sha256() != suite.sha256()


def test_the_nearest_prompts_are_those_with_known_words(listed) -> None:
    suite = load_suite(str(listed))
    words = {"en": ["fox", "jumps", "bear"], "zh": []}
    assert [entry.prompt for entry in suite.nearest(2, words).entries] == ["a bear", "a fox jumps"]
    assert suite.nearest(10, words).entries == suite.entries


def test_rewritten_prompts_keep_their_names(listed, tmp_path) -> None:
    path = tmp_path / "long.json"
    path.write_text(json.dumps({"a bear": "a large brown bear in a river"}))
    entry = with_rewritten(load_suite(str(listed)), path).entries[1]
    assert (entry.prompt, entry.text) == ("a bear", "a large brown bear in a river")
    assert Entry.from_json(entry.to_json()) == entry
    path.write_text(json.dumps({"a dog": "a large dog"}))
    with pytest.raises(ValueError, match="`rewritten` must name prompts of the suite, got 'a dog'"):
        with_rewritten(load_suite(str(listed)), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "must be a list of objects"),
        ("[]", "must be a list of objects"),
        ('[{"dimension": []}]', r"`x.json\[0\]` must be an object with a text `prompt_en`"),
        ('[{"prompt_en": "a", "dimension": "b"}]', r"`x.json\[0\].dimension` must be a list of names"),
        ('[{"prompt_en": "a", "promt_used": "b"}]', "got promt_used; rename it"),
        ("nothing", "must be a JSON file"),
        (r'[{"prompt_en": "a \udcff"}]', r"`x.json\[0\].prompt_en` must be valid text"),
        (
            '[{"prompt_en": "a", "prompt_used": "b"}, {"prompt_en": "a"}]',
            "must be one for each prompt, got another for 'a'",
        ),
    ],
)
def test_other_content_is_refused(tmp_path, content: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_suite(path, "x")


def test_suites_that_are_not_there(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"`suite` must be vbench, vbench-i2v, stage or a .json file"):
        load_suite("vbench2")
    with pytest.raises(ValueError, match=r"`prompts` must be VBench_full_info.json or a folder that holds it"):
        load_suite("vbench", tmp_path)
    with pytest.raises(ValueError, match=r"`suite` vbench-i2v needs vbench2_i2v_full_info.json"):
        load_suite("vbench-i2v")
    with pytest.raises(ValueError, match="`kinds` must be among seen, pairs, words, strangers, got rare"):
        load_suite("stage", kinds=["rare"])
    with pytest.raises(ValueError, match="`num_prompts` must be between 1 and 350, got 0"):
        load_suite("stage").first(0)


def test_camera_prompts_start_from_the_picture_of_their_caption(tmp_path) -> None:
    listed = [
        {"prompt_en": "a town", "dimension": ["i2v_background"], "image_type": "scenery", "image_name": "a town.jpg"},
        {"prompt_en": "a town, camera zooms in", "dimension": ["camera_motion"], "image_type": "scenery"},
    ]
    (tmp_path / "vbench2_i2v_full_info.json").write_text(json.dumps(listed))
    suite = load_suite("vbench-i2v", tmp_path)
    assert [entry.image for entry in suite.entries] == ["a town.jpg"] * 2
    assert (
        len({entry.key for entry in suite.entries}) == 2 and clip_stems(suite.entries)[1] == "a town, camera zooms in"
    )


def test_stage_in_vbenchs_schema() -> None:
    suite = load_suite("stage", split="dev", rung="rung4")
    assert suite.name == "stage-dev-rung4" and len(suite.entries) == 350
    pair = next(entry for entry in suite.entries if "spatial_relationship" in entry.dimensions)
    truth = pair.auxiliary["spatial_relationship"]["spatial_relationship"]
    assert truth["relationship"] in ("on the left of", "on the right of") and "multiple_objects" in pair.dimensions
    assert pair.auxiliary["multiple_objects"]["object"] == f"{truth['object_a']} and {truth['object_b']}"
    stranger = next(entry for entry in suite.entries if entry.stage["kind"] == "strangers")
    assert stranger.subject == f"{stranger.stage['id']}.png" and "identity" in stranger.dimensions
    assert Entry.from_json(json.loads(json.dumps(stranger.to_json()))).to_json() == stranger.to_json()
    # The same clips as `videogen evaluate stage`.
    prompt = load_prompts("dev", "rung4", 5)[4]
    assert clip_seed(suite.entries[4], 2) == stage_seed(prompt, 2)


def test_seeds_belong_to_prompt_and_index() -> None:
    a, b = Entry(prompt="a"), Entry(prompt="b")
    seeds = [clip_seed(entry, index, base) for entry in (a, b) for index in range(3) for base in (0, 1)]
    assert len(set(seeds)) == 12 and all(0 <= seed < 2**31 for seed in seeds)
    assert clip_seed(a, 1) == clip_seed(Entry(prompt="a", dimensions=("color",)), 1)
    assert clip_seed(a, 0) != clip_seed(Entry(prompt="a", image="x.png"), 0)


def test_plain_prompts_are_their_own_names() -> None:
    prompts = [
        "a bear",
        "In a still frame, a stop sign",
        "一只狐狸, [左摇]",
        'what? "really": a*b' if os.name != "nt" else "c",
    ]
    assert clip_stems([Entry(prompt=prompt) for prompt in prompts]) == prompts
    assert clip_name("a bear", 3) == "a bear-3.mp4" and parse_name("a bear-3.mp4") == ("a bear", 3)
    assert parse_name("x/half-life-12.gif") == ("half-life", 12) and parse_name("a cat.mp4") == ("a cat", 0)


HOSTILE = [
    "../../etc/passwd",
    "/absolute",
    "..",
    ".hidden",
    "a/b",
    "a\\b",
    "a\x00b",
    "line\nbreak",
    "con.mp4",
    "长" * 200,
    "🦊" * 120,
    "x" * 300,
    "broken \udcff",
]


def test_hostile_prompts_become_harmless_names(tmp_path) -> None:
    import numpy as np

    entries = [Entry(prompt=prompt) for prompt in HOSTILE]
    stems = clip_stems(entries)
    assert len(set(stems)) == len(stems)
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    for stem, entry in zip(stems, entries, strict=True):
        name = clip_name(stem, 24)
        assert stem != entry.prompt and "~" in stem and len(name.encode()) <= MAX_BYTES
        assert os.path.basename(name) == name and not name.startswith(".")
        write_video(tmp_path / name, frames, 8.0)
        assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing beside it, nothing elsewhere
        (tmp_path / name).unlink()


def test_names_that_some_file_systems_take_for_one_are_kept_apart() -> None:
    prompts = ["A bear", "a bear", "caf\u00e9", "cafe\u0301"]
    stems = clip_stems([Entry(prompt=prompt) for prompt in prompts])
    assert len({stem.casefold() for stem in stems}) == 4 and all("~" in stem for stem in stems)
    same = [Entry(prompt="the subject jumps", subject=name) for name in ("a.png", "b.png")]
    assert len(set(clip_stems(same))) == 2
