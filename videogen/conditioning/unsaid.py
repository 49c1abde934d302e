"""What a prompt leaves unsaid, said for it: "a fox" becomes "a fox, staying in the forest [Static shot]".

Captions in training always tell what moves how and where. A model given less is left with what it has never seen, and draws worse; and where
nobody asks for a camera move, it draws any. So a prompt that names no movement, no place or no camera move gets the quietest movement or a
likely place behind its actor, or a camera that stands still, and that is said.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from videogen.conditioning.camera import parse_camera
from videogen.conditioning.camera_words import tells_camera
from videogen.conditioning.phrases import Phrases, stage_phrases
from videogen.conditioning.prompt import MAX_PROMPT_LENGTH
from videogen.conditioning.wording import Read, clauses, is_han, load_table, quoted, words_of

HOMES: Mapping[str, tuple[str, ...]] = {
    "penguin": ("snow",), "snowman": ("snow",), "unicorn": ("meadow", "snow"),
    "whale": ("sea floor", "beach"), "turtle": ("beach",), "crab": ("beach",), "sailboat": ("beach",), "flamingo": ("beach",),
    "soccer ball": ("meadow", "beach"), "umbrella": ("beach",), "chick": ("meadow", "beach"), "pig": ("meadow", "forest"),
    "car": ("city",), "bus": ("city",), "balloon": ("city",),
    "rocket": ("space", "city"), "flying saucer": ("space", "city"),
    "cow": ("meadow",), "ladybug": ("meadow",), "sunflower": ("meadow",), "tractor": ("meadow",), "cactus": ("desert",),
}  # fmt: skip
"""Scenes where somebody would look for an actor, the likeliest first; anybody else's is the forest."""

UNSAID_VERSION = 1
"""Counts the rules: the same prompt is completed the same where it is the same."""

STILL = "Static shot"
"""The camera command of who asks for none."""

_NOUNS = {"motions": "movement", "scenes": "place", "cameras": "camera move"}
_SUBJECT = re.compile(r"\bsubject\b|主角|主体", re.IGNORECASE)
_MOVES = re.compile(  # of a camera, in words that are no command
    r"\b(?:zoom|pan|tilt|dolly|orbit)(?:s|ning|ing|ed)?\b|\b(?:tracking|crane|drone|aerial|handheld|hand-held|pov|shaky|static) (?:shot|view|footage)\b"
    r"|\b(?:push|pull|truck)(?:s|ing)? (?:in|out|back|left|right)\b|航拍|跟拍|推近|拉远|拉近|俯拍",
    re.IGNORECASE,
)
_LONGEST = 4  # words of a phrase


def say_the_unsaid(
    prompt: str, vocabulary: Mapping[str, Any] | None, kinds: Collection[str] = ("motions", "scenes", "cameras")
) -> Read:
    """A prompt with a movement, a place and a camera command, where it names none.

    Args:
        prompt: after `read_words`; may hold camera brackets.
        vocabulary: content of `vocabulary.json`, its `phrases` (see `stage_phrases`) or else those of Stage; without one, or without
            actors, motions or scenes in it, the prompt stays as it is.
        kinds: what may be added: where a picture shows the scene, or a camera is given apart from the prompt, these go without saying.

    Returns:
        The prompt, and what was added to it in `notes`. Words that mean a movement or a place count as one, whether the model knows them
        or not; so do words about the camera.
    """
    if not vocabulary or not all(vocabulary.get(kind) for kind in ("actors", "motions", "scenes")):
        return Read(prompt)
    phrases = vocabulary.get("phrases") or stage_phrases(vocabulary)
    parts = [(text, start) for text, start in clauses(prompt) if text.strip()]
    told = [(text, start) for text, start in parts if not tells_camera(text)]
    if not told:
        return Read(prompt)
    actors = [(_named(text, "actors", phrases), text, start) for text, start in told]
    chosen = next((clause for clause in actors if clause[0] or _SUBJECT.search(clause[1])), actors[0])
    actor, at = chosen[0], chosen[2] + len(chosen[1].rstrip())
    missing = [
        kind
        for kind in ("motions", "scenes")
        if kind in kinds
        and not any(_told(text, kind, phrases) for text in (*quoted(prompt), *(text for text, _ in told)))
    ]
    scenes = [name for name in (*HOMES.get(actor or "", ()), "forest") if name in vocabulary["scenes"]]
    motion = "stays" if "stays" in vocabulary["motions"] else vocabulary["motions"][0]
    scene = scenes[0] if scenes else vocabulary["scenes"][0]
    if not {("motions", motion), ("scenes", scene)} <= load_table().things.keys():  # of a world that is not Stage
        return Read(prompt)
    chinese = any(is_han(character) for character in chosen[1])
    added = _say(motion if "motions" in missing else None, scene if "scenes" in missing else None, chinese)
    completed = f"{prompt[:at]}{added}{prompt[at:]}"
    shown = [f"'{added.lstrip(' ,')}'"] if added else []
    if (
        "cameras" in kinds
        and STILL in vocabulary.get("cameras", ())
        and len(told) == len(parts)
        and not _MOVES.search(prompt)
        and not parse_camera(prompt).segments
    ):
        missing.append("cameras")
        shown.append(f"[{STILL}]")
        completed += f" [{STILL}]"
    if not missing or len(completed) > MAX_PROMPT_LENGTH:
        return Read(prompt)
    what = ", no ".join(_NOUNS[kind] for kind in missing)
    said = f"no {what} was named, {' and '.join(shown)} {'were' if len(shown) > 1 else 'was'} added"
    return Read(completed, (f"{said}; `literal_prompt` takes a prompt as it is.",))


def _say(motion: str | None, scene: str | None, chinese: bool) -> str:
    """What is added behind the clause of the actor; nothing where there is nothing to say."""
    if motion is None and scene is None:
        return ""
    things = load_table().things
    if chinese:
        place = f"在{things['scenes', scene].chinese}" if scene else ""
        return f",{place}{things['motions', motion].chinese if motion else ''}"
    place = f" {things['scenes', scene].english}" if scene else ""
    return f", {things['motions', motion].second}{place}" if motion else place


def _named(text: str, kind: str, phrases: Phrases) -> str | None:
    """The first thing of a kind that a clause names in the model's own words."""
    folded = text.casefold()
    best: tuple[int, int, str] | None = None
    for language, by_kind in phrases.items():
        for phrase, name in by_kind.get(kind, {}).items():
            if language == "zh":
                start = folded.find(phrase)
            else:
                match = re.search(rf"(?<!\w){re.escape(phrase)}(?:e?s)?(?!\w)", folded)
                start = -1 if match is None else match.start()
            if start >= 0 and (best is None or (start, -len(phrase)) < best[:2]):
                best = (start, -len(phrase), name)
    return None if best is None else best[2]


def _told(text: str, kind: str, phrases: Phrases) -> bool:
    """Whether a clause tells a movement or a place, in words of any model."""
    if _named(text, kind, phrases) is not None:
        return True
    table = load_table()
    words = words_of(text)
    for start in range(len(words)):
        for size in range(1, min(_LONGEST, len(words) - start) + 1):
            meaning = table.english.get(" ".join(words[start : start + size]).replace("-", " "))
            if meaning is not None and meaning[0][0] == kind:
                return True
    return any(meaning[0][0] == kind and word in text for word, meaning in table.chinese.items())
