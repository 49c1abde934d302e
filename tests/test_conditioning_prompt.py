import random

import pytest

from videogen.conditioning.prompt import (
    MAX_PROMPT_LENGTH,
    check_prompt,
    stage_words,
    unknown_words,
    vocabulary_warnings,
)
from videogen.data.stage import caption, rungs, sample_spec

WORDS = {
    "en": ["fox", "baby chick", "jumps", "jumping", "in the snow", "at night", "butterfly"],
    "zh": ["狐狸", "小狐狸", "雪地里", "跳", "跳跃", "夜晚"],
}


def test_good_prompts_pass_unchanged_but_for_white_space():
    for prompt in ("a fox", "狐狸 🦊 \x00 ' \" $ # \n x", "x" * MAX_PROMPT_LENGTH):
        assert check_prompt(f"  {prompt}\n") == prompt
    assert check_prompt("  ", "negative_prompt", allow_empty=True) == ""


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "`prompt` must not be empty"),
        (" \n\t　", "`prompt` must not be empty"),
        ("x" * 2001, "`prompt` must have at most 2000 characters, got 2001; shorten it"),
        ("a fox \udcff", "must be valid text, got a broken character at 6"),
    ],
)
def test_bad_prompts(prompt, message):
    with pytest.raises(ValueError, match=message):
        check_prompt(prompt)


def test_prompt_must_be_text():
    with pytest.raises(TypeError, match="`negative_prompt` must be text, got int"):
        check_prompt(3, "negative_prompt")  # type: ignore[arg-type]


def test_known_english_words_case_plurals_and_stop_words():
    assert unknown_words("A Fox JUMPS in the snow at night, and some foxes; butterflies", WORDS) == {}
    assert unknown_words("the fox's chicks", WORDS) == {}


def test_unknown_english_words_with_nearest():
    found = unknown_words("a foxx and a dragon jump, 2 foxes", WORDS)
    assert list(found) == ["foxx", "dragon", "jump", "2"]
    assert found["foxx"] == ["fox"]
    assert found["dragon"] == [] and found["2"] == []
    assert found["jump"][0] == "jumps"
    assert "fox" in unknown_words("a foks jumps", WORDS)["foks"]


def test_chinese_longest_match():
    assert unknown_words("一只小狐狸夜晚在雪地里跳跃", WORDS) == {}
    found = unknown_words("一只大狐狸和恐龙在雪山里跳", WORDS)
    assert list(found) == ["大", "恐龙", "雪山"]
    assert found["雪山"] == ["雪地里"]


def test_subjects_are_known_by_their_numbers():
    assert unknown_words("Subject 1 jumps, the subject 2's fox jumps, subject 3 jumps 1", WORDS) == {"3": [], "1": []}
    assert unknown_words("主角1跳, 主角 2 跳", {"en": [], "zh": ["跳"]}) == {}


def test_other_scripts_are_words_too():
    assert list(unknown_words("лиса fox きつね", WORDS)) == ["лиса", "きつね"]


def test_warnings_are_sentences_and_never_fatal():
    warnings = vocabulary_warnings("a foxx and a dragon", {"words": WORDS})
    assert warnings == [
        "the model does not know 'foxx'; the nearest it knows: fox.",
        "the model does not know 'dragon'; `videogen vocabulary` lists what it knows.",
    ]
    assert vocabulary_warnings("anything at all", None) == []
    assert vocabulary_warnings("a fox", {"actors": ["fox"]}) == []
    assert len(vocabulary_warnings("\x00 🦊 ]]] ---", {"words": WORDS})) == 0


@pytest.mark.parametrize("rung", ["rung1", "rung4"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_words_of_stage_cover_its_own_training_captions(rung, language):
    vocabulary = rungs()[rung]
    words = stage_words(vocabulary.to_dict())
    generator = random.Random(0)
    for _ in range(300):
        text = caption(sample_spec(generator, vocabulary), generator, language, "words")
        assert unknown_words(text, words) == {}, text


def test_words_of_stage_leave_out_other_rungs_and_held_out_synonyms():
    words = stage_words(rungs()["rung1"].to_dict())
    assert list(unknown_words("a fox leaps in the desert", words)) == ["leaps", "desert"]
