"""Prompts: what is refused, and which words the model has never met.

The shipped model knows a small world. A prompt may hold anything; words beyond that world are pointed out together
with the nearest known ones, and generation goes on.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

MAX_PROMPT_LENGTH = 2000
"""Characters, as in MiniMax's API."""

_STOP_WORDS_EN = frozenset(
    """a an the and or of in on at to by with from into onto over as for is are be it its this that there then while
    some one image picture video clip shot scene camera view show showing shows featuring please me of where which who
    very subject subject's""".split()  # noqa: SIM905
)
_STOP_PHRASES_ZH = frozenset(
    """一个 一只 一辆 一条 一头 一匹 一架 一艘 一朵 一颗 一位 一 个 只 的 地 得 在 有 和 与 是 着 了 里 中 上 下 边
    并且 然后 接着 画面 镜头 视频 场景 这 那 它 请 主角 主体""".split()  # noqa: SIM905
)
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]+")
_NUMBERED_SUBJECT = re.compile(r"(subject|主角|主体)\s*[12](?!\d)")
_WORD = re.compile(r"[^\W\d_\u3400-\u4dbf\u4e00-\u9fff]+(?:['’-][^\W\d_\u3400-\u4dbf\u4e00-\u9fff]+)*|\d+")


def check_prompt(prompt: str, name: str = "prompt", allow_empty: bool = False) -> str:
    """Returns the prompt without surrounding white space.

    Raises:
        TypeError: not a string.
        ValueError: empty (unless `allow_empty`), longer than `MAX_PROMPT_LENGTH`, or holding bytes that are no text.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"`{name}` must be text, got {type(prompt).__name__}.")
    prompt = prompt.strip()
    if not prompt and not allow_empty:
        raise ValueError(
            f"`{name}` must not be empty; say what the video shows, for example 'a fox jumps in the snow'."
        )
    if len(prompt) > MAX_PROMPT_LENGTH:
        raise ValueError(f"`{name}` must have at most {MAX_PROMPT_LENGTH} characters, got {len(prompt)}; shorten it.")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"`{name}` must be valid text, got a broken character at {error.start}; type it again."
        ) from error
    return prompt


def unknown_words(prompt: str, words: Mapping[str, Iterable[str]], num_nearest: int = 3) -> dict[str, list[str]]:
    """The words of a prompt that the model has never met.

    English is compared word by word, plurals with their singular; Chinese by the longest known phrase at each place.
    Subjects of reference pictures ("the subject", "subject 1", 主角2) are always known.

    Args:
        prompt: without camera brackets.
        words: known phrases by language, ``{"en": [...], "zh": [...]}``; stop-words are known without being listed.
        num_nearest: how many known words are suggested for each unknown one; looking for them takes most of the time, 0 = none.

    Returns:
        unknown word -> nearest known ones, in the order of the prompt.
    """
    known_en = known_english(words)
    known_zh = known_chinese(words)
    phrases_zh = sorted(set(words.get("zh", ())))
    longest = max(map(len, known_zh))

    found: dict[str, list[str]] = {}
    plain = _NUMBERED_SUBJECT.sub(r"\1", prompt.casefold())
    for match in re.finditer(f"{_HAN.pattern}|{_WORD.pattern}", plain):
        text = match.group()
        if _HAN.fullmatch(text):
            for part in _unmatched(text, known_zh, longest):
                found.setdefault(part, _nearest(part, phrases_zh, num_nearest, 0.3))
        elif not known_en.intersection(singulars(text)):
            found.setdefault(text, _nearest(text, sorted(known_en - _STOP_WORDS_EN), num_nearest, 0.55))
    return found


def known_english(words: Mapping[str, Iterable[str]]) -> set[str]:
    """The single words of known English phrases, lower case, and the stop-words."""
    return {word for phrase in words.get("en", ()) for word in _WORD.findall(phrase.casefold())} | _STOP_WORDS_EN


def known_chinese(words: Mapping[str, Iterable[str]]) -> set[str]:
    """The known Chinese phrases and the stop-phrases."""
    return set(words.get("zh", ())) | _STOP_PHRASES_ZH


def _nearest(word: str, known: list[str], count: int, cutoff: float) -> list[str]:
    return difflib.get_close_matches(word, known, n=count, cutoff=cutoff) if count else []


def vocabulary_warnings(prompt: str, vocabulary: Mapping[str, Any] | None) -> list[str]:
    """One sentence per word the model does not know; empty without a vocabulary.

    Args:
        prompt: without camera brackets.
        vocabulary: content of `vocabulary.json`; its `words` (see `unknown_words`), or else the words of Stage for the
            names it lists. A vocabulary that lists no actors says nothing about words.
    """
    words = known_words(vocabulary)
    if words is None:
        return []
    sentences = []
    for word, nearest in unknown_words(prompt, words).items():
        hint = f"the nearest it knows: {', '.join(nearest)}" if nearest else "`videogen vocabulary` lists what it knows"
        sentences.append(f"the model does not know '{word}'; {hint}.")
    return sentences


def known_words(vocabulary: Mapping[str, Any] | None) -> Mapping[str, Iterable[str]] | None:
    """The phrases that a model knows by language; None where its vocabulary says nothing about words."""
    if not vocabulary:
        return None
    words = vocabulary.get("words")
    if words is None and vocabulary.get("actors"):
        words = stage_words(vocabulary)
    return words


def stage_words(vocabulary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Every phrase that training captions of a Stage vocabulary use: what `words` of `vocabulary.json` holds.

    Args:
        vocabulary: `videogen.data.stage.Vocabulary.to_dict()`. Synonyms held out for evaluation are not among the words.
    """
    from videogen.data.stage import captions
    from videogen.data.stage.actors import load_actors

    english: set[str] = set()
    chinese: set[str] = set()
    actors = load_actors()
    for name in vocabulary["actors"]:
        if name not in actors:
            english.add(name)
            continue
        english |= {name, *actors[name].synonyms_en}
        chinese |= {actors[name].name_zh, *actors[name].synonyms_zh}
    for key, table_en, table_zh in (
        ("scenes", captions._SCENES_EN, captions._SCENES_ZH),
        ("lights", captions._LIGHTS_EN, captions._LIGHTS_ZH),
        ("motions", captions._MOTIONS_EN, captions._MOTIONS_ZH),
        ("speeds", captions._SPEEDS_EN, captions._SPEEDS_ZH),
        ("cameras", captions._CAMERAS_EN, captions._CAMERAS_ZH),
    ):
        for name in vocabulary.get(key, ()):
            for phrase in table_en.get(name, ((), ()))[0]:
                english |= {phrase} if isinstance(phrase, str) else set(phrase)
            chinese |= set(table_zh.get(name, ((), ()))[0])
    if "enters" in vocabulary.get("events", ()):
        english |= {"comes in", "enters", "appears"}
        chinese |= {"进来", "出现"}
    if "night falls" in vocabulary.get("events", ()):
        english |= {"night falls", "it gets dark"}
        chinese |= {"夜幕降临", "天黑了"}
    if vocabulary.get("max_actors", 1) > 1:
        english |= {"left of", "to the right of"}
        chinese |= {"左边", "右边"}
    return {"en": sorted(english), "zh": sorted(chinese)}


def singulars(word: str) -> set[str]:
    """A word and what it may be the plural or the possessive of."""
    forms = {word, word.removesuffix("'s").removesuffix("’s")}
    if len(word) > 3 and word.endswith("s"):
        forms.add(word[:-1])
    if len(word) > 4 and word.endswith("es"):
        forms.add(word[:-2])
    if len(word) > 4 and word.endswith("ies"):
        forms.add(word[:-3] + "y")
    return forms


def _unmatched(text: str, known: set[str], longest: int) -> list[str]:
    """The stretches of Chinese text that no known phrase covers, reading from left to right."""
    parts: list[str] = []
    open_part = ""
    start = 0
    while start < len(text):
        length = next(
            (size for size in range(min(longest, len(text) - start), 0, -1) if text[start : start + size] in known), 0
        )
        if length == 0:
            open_part += text[start]
            start += 1
            continue
        if open_part:
            parts.append(open_part)
        open_part = ""
        start += length
    return [*parts, open_part] if open_part else parts
