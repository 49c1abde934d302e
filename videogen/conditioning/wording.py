"""Words that a model has never met, read as the nearest it knows: "an orca at midnight" is "a whale at night".

What a word means comes from a table made of general dictionaries (`videogen.data.stage.wording_build`), not from the model. Only what holds a
word the model does not know is read, only as a thing that this model knows, and everything that was read is said. A
direction beside a verb of movement decides what the movement is ("dashes off to the left" is "moves left"). Quoted text,
brackets, clauses about the camera and known words stay as they are.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from videogen.conditioning.camera_words import tells_camera
from videogen.conditioning.prompt import MAX_PROMPT_LENGTH, known_chinese, known_english, known_words, singulars

TABLE = Path(__file__).resolve().parents[1] / "assets" / "wording" / "table.txt.gz"
CHINESE = TABLE.with_name("chinese.txt.gz")
"""More Chinese words, from a dictionary with a licence of its own."""

BEFORE_NOUN = frozenset("a an the some in on at by under during among of its his her our my".split())  # noqa: SIM905
_ARTICLES = frozenset(("a", "an"))
_DETERMINERS = frozenset("a an the some its his her their our my this that".split())  # noqa: SIM905
_PLACES = frozenset(  # before a scene: what with it becomes the phrase of the scene
    "in on at by near across through into inside within along amid amidst among between beside around upon".split()  # noqa: SIM905
)
_TIMES = frozenset("at by in on during under before until around through towards toward within".split())  # noqa: SIM905
DIRECTIONS = {
    "left": "moves left", "leftward": "moves left", "leftwards": "moves left",
    "right": "moves right", "rightward": "moves right", "rightwards": "moves right",
    "up": "moves up", "upward": "moves up", "upwards": "moves up",
    "down": "moves down", "downward": "moves down", "downwards": "moves down",
    "away": "goes away", "closer": "comes closer", "nearer": "comes closer",
}  # fmt: skip
_WHILE = frozenset(("as", "when", "while", "whilst", "once", "with"))
_ELSEWHEN = frozenset(("before", "until", "till", "after", "since", "if", "unless", "not"))
_HAVE = frozenset(("has", "have", "had"))
_MODAL = frozenset(("should", "would", "could", "might", "may", "must", "will", "can"))
_UNDER_ZH = "光阳月色空"  # 月光下 is under the moonlight, 晚上下 begins another word
_SIDES = frozenset(("left", "right"))
_TOWARDS = frozenset(("towards", "toward", "to", "at"))
_US = frozenset(("us", "me", "viewer", "viewers", "audience", "camera"))
STEERED = frozenset(("moves", "moves left", "moves right", "moves up", "moves down", "comes closer", "goes away"))
_NOT = frozenset("not never no cannot can't don't doesn't didn't won't isn't without".split())  # noqa: SIM905
_BETWEEN = frozenset(("off", "along", "over", "straight", "back", "forth", "out"))
_LONGEST = 4  # words of a phrase in the table
_TOKEN = re.compile(r"[^\W\d_\u3400-\u4dbf\u4e00-\u9fff]+(?:['’-][^\W\d_\u3400-\u4dbf\u4e00-\u9fff]+)*|\d+")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]+")
_KEPT = re.compile(r"\[[^\]]*\]|【[^】]*】|［[^］]*］|\"[^\"]*\"|“[^”]*”|「[^」]*」|『[^』]*』|«[^»]*»|《[^》]*》")
_CLAUSE = re.compile(r"[^,;.:!?，。；：！？\n]+")
_PLACES_ZH = "里中上下边内间旁"
_SIDES_ZH = {"左": "moves left", "右": "moves right", "上": "moves up", "下": "moves down"}
_TURN_ZH = re.compile(r"(?:朝着|向着|朝|向|往)(左|右|上|下)(?:边|侧|方|面)?([\u4e00-\u9fff]{1,3})")
_GO_ZH = re.compile(r"([\u4e00-\u9fff]{1,2})(?:向|到|往|去)(左|右|上|下)(?:边|侧|方|面)?")
_COME_ZH = re.compile(r"(?:朝着|向着|朝|向)(?:我们|我|观众|镜头)([\u4e00-\u9fff]{1,2})(?:过来|来)?")
_FAR_ZH = re.compile(r"([\u4e00-\u9fff]{1,2})(远|近)")


def words_of(phrase: str) -> list[str]:
    """The words of an English phrase, lower case."""
    return _TOKEN.findall(phrase.casefold())


def is_han(text: str) -> bool:
    """Whether a text is Chinese characters and nothing else."""
    return bool(_HAN.fullmatch(text))


@dataclass(frozen=True)
class Said:
    """How training captions say a thing: `second` is a plural, an -ing form, or what is left without "in the"."""

    english: str
    second: str
    chinese: str


@dataclass(frozen=True)
class Table:
    """What words mean.

    Attributes:
        things: (kind, name) -> how it is said.
        english: word or phrase, lower case without hyphens -> (thing, grammar): "one", "many" or "name" of a noun; "does" or "ing" of a
            verb, with "weak" before or instead where it counts beside a direction only; "clause" of a sentence that tells the light
            ("sun sets"); "" of any other.
        chinese: word -> (thing, "" or "weak").
        whole: Chinese words that hold one of the others but mean something else.
    """

    things: Mapping[tuple[str, str], Said]
    english: Mapping[str, tuple[tuple[str, str], str]]
    chinese: Mapping[str, tuple[tuple[str, str], str]]
    whole: frozenset[str] = frozenset()

    def to_text(self) -> str:
        """One line for each thing and grammar with its words; the same table always gives the same text."""
        lines = []
        for (kind, name), said in sorted(self.things.items()):
            lines.append("\t".join(("=", kind, name, said.english, said.second, said.chinese)))
        for mark, words in (("en", self.english), ("zh", self.chinese)):
            groups: dict[tuple[str, str, str], list[str]] = {}
            for word, ((kind, name), grammar) in words.items():
                groups.setdefault((kind, name, grammar), []).append(word)
            for group, members in sorted(groups.items()):
                lines.append("\t".join((mark, *group, *sorted(members))))
        lines.append("\t".join(("whole", *sorted(self.whole))))
        return "\n".join(lines) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Table:
        """Inverse of `to_text`; of several texts together, the later one decides on a word."""
        things: dict[tuple[str, str], Said] = {}
        words: dict[str, dict[str, tuple[tuple[str, str], str]]] = {"en": {}, "zh": {}}
        whole: frozenset[str] = frozenset()
        for line in text.split("\n"):
            mark, *rest = line.split("\t")
            if mark == "=":
                things[rest[0], rest[1]] = Said(*rest[2:])
            elif mark in words:
                meaning = ((rest[0], rest[1]), rest[2])
                words[mark].update(dict.fromkeys(rest[3:], meaning))
            elif mark == "whole":
                whole |= frozenset(rest)
        return cls(things, words["en"], words["zh"], whole)


@lru_cache(maxsize=1)
def load_table() -> Table:
    """The table that is installed with the package."""
    return Table.from_text("\n".join(gzip.decompress(path.read_bytes()).decode() for path in (CHINESE, TABLE)))


def table_hash() -> str:
    """First 16 hexadecimal digits of the SHA-256 of the table: prompts are read the same where it is the same."""
    return hashlib.sha256(CHINESE.read_bytes() + TABLE.read_bytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Reading:
    """One stretch of a prompt and what it was read as."""

    start: int
    end: int
    text: str
    kind: str
    name: str


@dataclass(frozen=True)
class Read:
    """A prompt after reading; `notes` says what was read as what."""

    prompt: str
    notes: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = field(default=(), compare=False)


def read_words(prompt: str, vocabulary: Mapping[str, Any] | None) -> Read:
    """A prompt with its unknown words read as the nearest known ones.

    Args:
        prompt: may hold camera brackets, which stay.
        vocabulary: content of `vocabulary.json`; without one, or without actors in it, the prompt stays as it is.
    """
    if not vocabulary or not vocabulary.get("actors"):
        return Read(prompt)
    read = _reader(json.dumps(vocabulary, sort_keys=True)).read(prompt)
    return read if len(read.prompt) <= MAX_PROMPT_LENGTH else Read(prompt)


@lru_cache(maxsize=4)
def _reader(vocabulary: str) -> Reader:
    content = json.loads(vocabulary)
    return Reader(load_table(), known_words(content) or {}, content)


@dataclass(frozen=True)
class _Token:
    text: str
    start: int
    end: int
    unknown: bool
    joined: bool  # to the one before by white space or a hyphen only


class Reader:
    """Reads prompts for one model.

    Args:
        table: what words mean.
        words: the phrases that the model knows by language, as in `videogen.conditioning.prompt.unknown_words`.
        vocabulary: the names of what it knows by kind.
    """

    def __init__(self, table: Table, words: Mapping[str, Iterable[str]], vocabulary: Mapping[str, Any]):
        self.table = table
        self.known_en = known_english(words)
        self.known_zh = known_chinese(words)
        names = {
            (kind, name)
            for kind in ("actors", "scenes", "lights", "motions", "speeds")
            for name in vocabulary.get(kind, ())
        }
        self.things = {thing for thing in table.things if thing in names}
        sideways = {("motions", name) for name in STEERED}
        if self.things & sideways and {"moves", "moving"} <= self.known_en:
            self.things.add(("motions", "moves"))
        self.heads = {
            said.second.split()[-1]: (kind, name)
            for (kind, name), said in table.things.items()
            if kind in ("scenes", "lights") and (kind, name) in self.things
        }
        self.longest_zh = max(map(len, (*self.known_zh, *table.chinese, *table.whole, "一")))

    def read(self, prompt: str) -> Read:
        """The prompt with what could be read, and what that was; reading the result again changes nothing."""
        text, notes, readings = prompt, [], []
        for _ in range(4):
            found = self._readings(text)
            if not found:
                break
            for reading in found:
                notes.append(f"'{text[reading.start : reading.end].strip()}' was read as '{reading.text.strip()}'.")
            for reading in reversed(found):
                text = text[: reading.start] + reading.text + text[reading.end :]
            readings += found
        return Read(text, tuple(dict.fromkeys(notes)), tuple(readings))

    def not_understood(self, text: str) -> bool:
        """Whether a piece of text holds a word that the model does not know."""
        return any(token.unknown for token in self._tokens(text, 0)) or any(
            kind == "unknown" for match in _HAN.finditer(text) for _, _, kind in self._segments(match.group(), False)
        )

    def _readings(self, prompt: str) -> list[Reading]:
        """What can be read, in the order of the prompt and without overlap."""
        found: list[Reading] = []
        for clause, offset in clauses(prompt):
            if tells_camera(clause):
                continue
            found += self._english(self._tokens(clause, offset), prompt)
            for match in _HAN.finditer(clause):
                found += self._chinese(match.group(), offset + match.start())
        found.sort(key=lambda reading: reading.start)
        return [reading for reading in found if reading.text != prompt[reading.start : reading.end]]

    # English

    def _tokens(self, clause: str, offset: int) -> list[_Token]:
        tokens: list[_Token] = []
        end = -1
        for match in _TOKEN.finditer(clause):
            text = match.group().casefold().replace("’", "'")
            between = clause[end : match.start()] if end >= 0 else "?"
            unknown = not text.isdecimal() and not self.known_en.intersection(singulars(text))
            tokens.append(
                _Token(
                    text,
                    offset + match.start(),
                    offset + match.end(),
                    unknown,
                    bool(re.fullmatch(r"\s+|\s*-\s*", between)),
                )
            )
            end = match.end()
        return tokens

    def _english(self, tokens: Sequence[_Token], prompt: str) -> list[Reading]:
        found: list[Reading] = []
        index = 0
        while index < len(tokens):
            reading = None
            for size in range(min(_LONGEST, len(tokens) - index), 0, -1):
                window = tokens[index : index + size]
                if all(token.joined for token in window[1:]):
                    reading = self._window(tokens, index, size, prompt)
                if reading is not None:
                    break
            if reading is None:
                reading = self._without_modifier(tokens, index, prompt)
            if reading is None or (found and reading.start < found[-1].end):
                index += 1
                continue
            found.append(reading)
            while index < len(tokens) and tokens[index].start < reading.end:
                index += 1
        return found

    def _look_up(self, window: Sequence[_Token], prompt: str) -> tuple[tuple[str, str], str] | None:
        text = " ".join(token.text.replace("-", " ") for token in window)
        text = text.removesuffix("'s")
        meaning = self.table.english.get(text)
        if meaning is not None and meaning[1] == "name" and not prompt[window[0].start].isupper():
            return None
        return meaning

    def _window(self, tokens: Sequence[_Token], index: int, size: int, prompt: str) -> Reading | None:
        window = tokens[index : index + size]
        meaning = self._look_up(window, prompt)
        if meaning is None:
            return None
        (kind, name), grammar = meaning
        if kind == "motions":
            return self._motion(tokens, index, size, name, grammar, prompt)
        # A model may know the sun (of a sunflower) and going down, each by itself.
        if (grammar != "clause" and not any(token.unknown for token in window)) or (kind, name) not in self.things:
            return None
        following = tokens[index + size] if index + size < len(tokens) else None
        if following is not None and following.joined and self._belongs(following, prompt) and kind != "speeds":
            return None
        said = self.table.things[kind, name]
        start, end = window[0].start, window[-1].end
        before = tokens[index - 1] if index > 0 and window[0].joined else None
        if kind == "speeds":
            return self._say(start, end, said.english, kind, name, prompt)
        if grammar == "clause":
            return self._clause(tokens, index, size, name, prompt)
        if kind == "actors":
            text = said.second if grammar == "many" else said.english
            own = {said.english, said.second}
            if following is not None and following.joined and following.text in own:  # "an orca whale"
                return self._say(start, following.start, "", kind, name, prompt, before)
            if prompt[start:end].casefold().endswith(("'s", "’s")):
                text += "'s"
            return self._say(start, end, text, kind, name, prompt, before)
        places = _PLACES if kind == "scenes" else _TIMES
        first = index
        while first > 0 and tokens[first].joined and tokens[first - 1].text in _DETERMINERS:
            first -= 1
        if first > 0 and tokens[first].joined and tokens[first - 1].text in places:
            return self._say(tokens[first - 1].start, end, said.english, kind, name, prompt)
        if before is None:
            return self._say(start, end, said.english, kind, name, prompt)
        return self._say(start, end, said.second, kind, name, prompt, before)

    def _clause(self, tokens: Sequence[_Token], index: int, size: int, name: str, prompt: str) -> Reading | None:
        """'as the sun sets' is 'at sunset', where it stands alone or behind such a conjunction; 'before the sun sets' stays, its verb with it."""
        first, after = index, index + size
        while first > 0 and tokens[first].joined and tokens[first - 1].text in _DETERMINERS:
            first -= 1
        before = tokens[first - 1].text if first > 0 and tokens[first].joined else ""
        if before in _ELSEWHEN:
            start, end = tokens[index].start, tokens[after - 1].end
            return Reading(start, end, prompt[start:end], "lights", name)
        if before and before not in _WHILE:  # "rock stars rise", "a rocket on the moon rises"
            return None
        following = tokens[after].text if after < len(tokens) and tokens[after].joined else ""
        if following not in ("", "and", *(_DETERMINERS if before else _ARTICLES)):  # "the stars glow on a carpet"
            return None
        first -= bool(before)
        said = self.table.things["lights", name].english
        return self._say(tokens[first].start, tokens[after - 1].end, said, "lights", name, prompt)

    def _belongs(self, following: _Token, prompt: str) -> bool:
        """Whether the next word may be the noun that a word belongs to ("jungle gym"): unknown, and no form of a verb or adverb."""
        return (
            following.unknown
            and self._look_up([following], prompt) is None
            and not following.text.endswith(("ing", "ed", "ly", "s"))
        )

    def _without_modifier(self, tokens: Sequence[_Token], index: int, prompt: str) -> Reading | None:
        """'on a chilly night' is 'on a night': the noun decides, for places and times."""
        if not 0 < index < len(tokens) - 1 or not tokens[index].unknown:
            return None
        if not (tokens[index].joined and tokens[index + 1].joined):
            return None
        before, own, head = tokens[index - 1], tokens[index], tokens[index + 1]
        thing = self.heads.get(head.text)
        places = _PLACES | _TIMES
        led = before.text in places or (
            before.text in _DETERMINERS and index > 1 and before.joined and tokens[index - 2].text in places
        )
        if thing is None or not led or self._look_up([own], prompt) is not None or own.text[-3:] == "ing":
            return None
        if index + 2 < len(tokens) and tokens[index + 2].joined and self._belongs(tokens[index + 2], prompt):
            return None
        return self._say(own.start, head.end, head.text, *thing, prompt, before)

    def _motion(
        self, tokens: Sequence[_Token], index: int, size: int, name: str, grammar: str, prompt: str
    ) -> Reading | None:
        window = tokens[index : index + size]
        before = tokens[index - 1].text if index > 0 and window[0].joined else ""
        if (
            before in _NOT
            or before.endswith(("n't", "n’t"))
            or (before in _DETERMINERS and not grammar.endswith("ing"))
        ):  # "does not walk", "a walk"
            return None
        end, unknown = window[-1].end, any(token.unknown for token in window)
        adverbs = ""
        if name in STEERED:
            direction, after = self._direction(tokens, index + size)
            if direction is not None:
                way = tokens[index + size : after]
                kept = [token for token in way if token.text.endswith("ly")]
                unknown = unknown or any(token.unknown for token in way)
                adverbs = "".join(f" {prompt[token.start : token.end]}" for token in kept)
                name, end = direction, tokens[after - 1].end
            elif grammar.startswith("weak"):
                return None
        if not unknown or ("motions", name) not in self.things:
            return None
        said = self.table.things["motions", name]
        text = said.second if grammar.endswith("ing") else said.english
        if window[0].unknown or end != window[-1].end or size > 1:
            start = window[0].start
            if before in _HAVE and not grammar.endswith("ing") and not window[0].text.endswith("s"):
                earlier = tokens[index - 2].text if index > 1 and tokens[index - 1].joined else ""
                if earlier in _MODAL or earlier in _NOT:
                    return None
                start = tokens[index - 1].start  # "has leapt" is "jumps"
            return self._say(start, end, text + adverbs, "motions", name, prompt)
        return None

    def _direction(self, tokens: Sequence[_Token], start: int) -> tuple[str | None, int]:
        """The motion that the words after a verb steer it to, and where they end."""
        index = start

        def word(at: int) -> str:
            return tokens[at].text if at < len(tokens) and tokens[at].joined else ""

        while index < start + 3 and (word(index) in _BETWEEN or word(index).endswith("ly") or word(index) == "fast"):
            index += 1
        if word(index) == "away" or (
            word(index) in DIRECTIONS and word(index + 1) not in ("of", "and", "the", "a", "an")
        ):
            direction, after = DIRECTIONS[word(index)], index + 1
            further = after + 1 + (word(after + 1) in _DETERMINERS)
            if word(after) in ("to", "towards", "toward") and word(further) in _SIDES:  # "away to the left"
                return DIRECTIONS[word(further)], further + 1
            return direction, after
        if word(index) in ("up", "down") and word(index + 1) in ("the", "a", "an"):
            return DIRECTIONS[word(index)], index + 1
        if word(index) in _TOWARDS or word(index) == "on":
            after = index + 1 + (word(index + 1) in _DETERMINERS)
            if word(after) in _SIDES and word(after + 1) != "of":
                return DIRECTIONS[word(after)], after + 1 + (word(after + 1) == "side")
            if word(after) in _US and word(index) != "on":
                return "comes closer", after + 1
        return None, start

    def _say(
        self, start: int, end: int, text: str, kind: str, name: str, prompt: str, before: _Token | None = None
    ) -> Reading:
        """A reading with the article before it and the first letter put right."""
        if before is not None and before.text in _ARTICLES and text:
            article = _article(text)
            if before.text != article:
                old = prompt[before.start : before.end]
                start, text = before.start, (article.capitalize() if old[0].isupper() else article) + " " + text
        if text and prompt[start].isupper() and text[0].islower() and not prompt[:start].strip():
            text = text[0].upper() + text[1:]
        return Reading(start, end, text, kind, name)

    # Chinese

    def _segments(self, text: str, with_table: bool = True) -> list[tuple[int, int, str]]:
        """(start, end, "known" | "table" | "whole" | "unknown") by the longest match from left to right."""
        found: list[tuple[int, int, str]] = []
        start = 0
        while start < len(text):
            kind, size = "unknown", 1
            for length in range(min(self.longest_zh, len(text) - start), 0, -1):
                part = text[start : start + length]
                if part in self.known_zh:
                    kind, size = "known", length
                elif with_table and self.table.chinese.get(part, (None, "weak"))[1] != "weak":
                    kind, size = "table", length
                elif with_table and (part in self.table.whole or part in self.table.chinese):
                    kind, size = "whole", length
                else:
                    continue
                break
            found.append((start, start + size, kind))
            start += size
        return found

    def _chinese(self, text: str, offset: int) -> list[Reading]:
        found: list[Reading] = []
        taken = [False] * len(text)

        def say(start: int, end: int, kind: str, name: str) -> None:
            said = self.table.things[kind, name].chinese
            if said and text[start:end] != said and text[start:end] not in self.known_zh and not any(taken[start:end]):
                taken[start:end] = [True] * (end - start)
                found.append(Reading(offset + start, offset + end, said, kind, name))

        segments = self._segments(text)
        known = [False] * len(text)
        for start, end, kind in self._segments(text, False):
            known[start:end] = [kind == "known"] * (end - start)
        for start, end, name in self._steered(text):
            if ("motions", name) in self.things and not all(known[start:end]):
                say(start, end, "motions", name)
            else:  # a direction the model does not know: the verb alone would lose it
                taken[start:end] = [True] * (end - start)
        for position, (start, end, segment) in enumerate(segments):
            if segment != "table":
                continue
            (kind, name), _ = self.table.chinese[text[start:end]]
            if (kind, name) not in self.things or all(known[start:end]):
                continue
            around = [segments[at][2] for at in (position - 1, position + 1) if 0 <= at < len(segments)]
            after = segments[position + 1][2] if position + 1 < len(segments) else "known"
            if end - start == 1 and any(other != "known" for other in around):
                continue
            if kind != "speeds" and after in ("unknown", "whole"):  # may be what the next word belongs to
                continue
            if kind == "scenes":
                while (
                    end < len(text)
                    and text[end] in _PLACES_ZH
                    and segments[min(position + 1, len(segments) - 1)][:2] == (end, end + 1)
                ):
                    end += 1
            elif kind == "speeds" and text[end : end + 1] in ("地", "的"):
                end += 1
            elif kind == "lights" and text[end : end + 2] == "时分":
                end += 2
            elif kind == "lights" and self._under(text, end, segments[position + 1 : position + 3]):
                end += 1
            say(start, end, kind, name)
        return found

    @staticmethod
    def _under(text: str, end: int, following: Sequence[tuple[int, int, str]]) -> bool:
        """Whether the 下 of 月光下 or the 里 of 深夜里 stands behind a light, and begins no other word (晚上下雨)."""
        if not following or following[0][:2] != (end, end + 1) or text[end] not in "下里中":
            return False
        if text[end] == "下" and text[end - 1] not in _UNDER_ZH:
            return False
        return len(following) == 1 or following[1][2] in ("known", "table")

    def _steered(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Movements with a direction that stand in no known phrase: (start, end, motion)."""
        for pattern, side, verb in ((_TURN_ZH, 1, 2), (_GO_ZH, 2, 1), (_FAR_ZH, 2, 1), (_COME_ZH, 0, 1)):
            for match in pattern.finditer(text):
                own = match.group(verb)
                first = verb > side > 0
                sizes = range(len(own), 0, -1)
                part = next(
                    (
                        own[:size] if first or side == 0 else own[-size:]
                        for size in sizes
                        if self._goes(own[:size] if first or side == 0 else own[-size:])
                    ),
                    None,
                )
                if part is None:
                    continue
                start = match.start() if first or side == 0 else match.end(verb) - len(part)
                end = match.start(verb) + len(part) if first else match.end()
                if side == 0:
                    name = "comes closer"
                elif pattern is _FAR_ZH:
                    name = "goes away" if match.group(side) == "远" else "comes closer"
                else:
                    name = _SIDES_ZH[match.group(side)]
                yield start, end, name

    def _goes(self, verb: str) -> bool:
        meaning = self.table.chinese.get(verb)
        return meaning is not None and meaning[0][0] == "motions" and meaning[0][1] in STEERED


def clauses(prompt: str) -> Iterator[tuple[str, int]]:
    """Clauses outside brackets and quotes with where they start."""
    start = 0
    for match in (*_KEPT.finditer(prompt), None):
        stop = len(prompt) if match is None else match.start()
        for clause in _CLAUSE.finditer(prompt, start, stop):
            yield clause.group(), clause.start()
        if match is not None:
            start = match.end()


def quoted(prompt: str) -> list[str]:
    """What stands in quotes."""
    return [match.group() for match in _KEPT.finditer(prompt) if match.group()[0] not in "[【［"]


_SPOKEN_YOU = re.compile(r"(uni(?![nm])|ufo|use|eu)", re.IGNORECASE)


def _article(noun: str) -> str:
    return "an" if noun[0].lower() in "aeiou" and not _SPOKEN_YOU.match(noun) else "a"
