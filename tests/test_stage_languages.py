"""Prompts in the other language, and the paired difference between them."""

import json
from dataclasses import replace

import pytest

from videogen.cli import main
from videogen.conditioning.prompt import stage_words, unknown_words
from videogen.data.stage.vocabulary import rungs
from videogen.evaluation import stage_suite
from videogen.evaluation.stage_languages import compare, format_languages, run_languages
from videogen.evaluation.stage_suite import SuiteSettings, _mentions_light, in_language, load_prompts


@pytest.mark.parametrize("rung", ["rung1", "rung4"])
def test_a_prompt_says_the_same_in_the_other_language(rung):
    words = stage_words(rungs()[rung].to_dict())
    for prompt in load_prompts("dev", rung, 105):
        assert in_language(prompt, prompt.language) is prompt
        language = "zh" if prompt.language == "en" else "en"
        other = in_language(prompt, language)
        assert other == in_language(prompt, language)  # always the same
        assert replace(other, language=prompt.language, prompt=prompt.prompt) == prompt
        text = other.prompt.partition("[")[0]
        assert any("\u4e00" <= c <= "\u9fff" for c in text) == (language == "zh")
        assert ("[" in prompt.prompt) == ("[" in other.prompt)
        light = json.loads(prompt.spec)["light"]
        assert _mentions_light(other.prompt, light) == _mentions_light(prompt.prompt, light)
        if prompt.kind in ("seen", "pairs"):
            assert unknown_words(text, words, 0) == {}
        if prompt.kind == "strangers":
            assert "subject" in other.prompt or "主角" in other.prompt or "主体" in other.prompt
    with pytest.raises(ValueError, match="`language` must be 'en' or 'zh', got 'fr'"):
        in_language(prompt, "fr")


def result(prompt: str, right: bool, seed: int = 0) -> dict:
    return {"prompt": prompt, "kind": "seen", "seed": seed, "right": {"actor": right, "scene": True}}


def test_the_difference_is_paired_by_prompt():
    english = [result(f"p{i}", i < 30) for i in range(40)] + [result("alone", False)]
    chinese = [result(f"p{i}", i < 26) for i in range(40)]
    found = compare(english, chinese)
    assert found["actor"] == found["all"] and set(found) == {"actor", "scene", "all"}
    cell = found["all"]
    assert (cell["en"], cell["zh"], cell["difference"], cell["prompts"]) == (0.75, 0.65, -0.1, 40)
    assert (
        cell["low"] < -0.1 < cell["high"] <= 0 and 0.2 < cell["p"] < 0.6
    )  # times three for Holm: four of forty, all one way
    assert found["scene"]["difference"] == 0 and found["scene"]["p"] == 1 and found["scene"]["low"] is None
    shifted = compare(english, chinese[1:] + [result("p0", False)])  # pairs, not lists
    assert shifted["all"]["difference"] == pytest.approx(-0.125)
    table = format_languages(found)
    assert "all" in table and "-10.0" in table and table.count("\n") == 3
    with pytest.raises(ValueError, match="must share a prompt"):
        compare(english[-1:], chinese)


def test_clips_of_a_prompt_count_as_one():
    english = [result(f"p{i}", True, seed) for i in range(10) for seed in (0, 1)]
    chinese = [result(f"p{i}", seed == 0, seed) for i in range(10) for seed in (0, 1)]
    cell = compare(english, chinese)["all"]
    assert cell["difference"] == -0.5 and cell["prompts"] == 10


def test_a_model_is_given_every_prompt_in_both_languages(tmp_path, monkeypatch, capsys):
    """A model that understands no Chinese: it draws the truth for an English prompt and the next prompt's clip for a Chinese one."""
    given = []
    prompts = load_prompts("dev", "rung1", 4)

    def maker(settings):
        def make(jobs):
            clips = []
            for prompt, index in jobs:
                given.append((prompt.id, prompt.language, prompt.prompt))
                place = [one.id for one in prompts].index(prompt.id) + (prompt.language == "zh")
                clips.append((stage_suite.true_clip(prompts[place % len(prompts)].id, index), 12.0))
            return clips

        return make

    monkeypatch.setattr(stage_suite, "_clip_maker", maker)
    settings = SuiteSettings(num_prompts=4, seeds=1, kinds=("seen", "pairs"))
    found = run_languages(settings, tmp_path / "api")
    wanted = {(p.id, name, in_language(p, name).prompt) for p in prompts for name in ("en", "zh") if p.kind != "words"}
    assert set(given) == wanted and len(given) == len(wanted)
    cell = found["difference"]["all"]
    assert cell["en"] == found["en"]["all"]["accuracy"] == 1 and cell["zh"] == found["zh"]["all"]["accuracy"] == 0
    assert {found[name]["about"]["language"] for name in ("en", "zh")} == {"en", "zh"}
    with pytest.raises(ValueError, match="`language` must be None where both are measured, got 'zh'"):
        run_languages(replace(settings, language="zh"), tmp_path / "api")
    fewer = run_languages(replace(settings, num_prompts=2), tmp_path / "api")
    assert fewer["difference"]["all"]["prompts"] == fewer["en"]["all"]["n"] == 2

    arguments = ["evaluate", "stage", "--languages", "--num-prompts", "4", "--seeds", "1", "--kinds", "seen,pairs"]
    arguments += ["-o", str(tmp_path / "cli"), "--json", str(tmp_path / "out.json")]
    assert main(arguments) == 0
    assert "-100.0" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["difference"] == found["difference"]
    for more, words in (
        (["--ceilings"], "must not both be given"),
        (["--source", "renders"], "true clips have no language"),
    ):
        assert main([*arguments, *more]) == 2
        assert words in capsys.readouterr().err


def test_strangers_count_for_identity_only():
    english = [result(f"p{i}", True) for i in range(5)]
    english += [
        {"prompt": f"s{i}", "kind": "strangers", "seed": 0, "right": {"identity": False, "scene": False}}
        for i in range(5)
    ]
    found = compare(english, english)
    assert found["all"]["en"] == found["scene"]["en"] == 1 and found["identity"]["en"] == 0
    assert found["all"]["low"] is None and "-" in format_languages(found)
