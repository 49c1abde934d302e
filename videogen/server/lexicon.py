"""The words of a model as the server needs them, without importing what renders Stage (and with it torch).

They are worked out once, by a child process unless torch is there already, and kept as JSON in the data folder, under a hash of the vocabulary
and of the files that they come from.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from videogen._version import __version__
from videogen.data.files import write_atomic

Language = str  # "en" or "zh"
CHILD_SECONDS = 600.0
PACKAGE = Path(__file__).resolve().parents[1]
SOURCES = tuple(
    PACKAGE / name
    for name in ("data/stage/captions.py", "assets/stage/actors.json", "conditioning/prompt.py", "server/lexicon.py")
)
"""Tables and code that make a lexicon; importing them would load torch, so they are told apart by their bytes."""

KINDS = ("actors", "motions", "scenes", "lights", "speeds", "cameras")


@dataclass(frozen=True)
class Lexicon:
    """What a model knows, in words.

    Attributes:
        words: language -> every phrase of the training captions.
        plain: kind -> name -> language -> the plainest phrase.
        phrases: language -> kind -> phrase (lower case) -> name.
        max_actors: how many a prompt may name.
    """

    words: dict[Language, list[str]] = field(default_factory=lambda: {"en": [], "zh": []})
    plain: dict[str, dict[str, dict[Language, str]]] = field(default_factory=dict)
    phrases: dict[Language, dict[str, dict[str, str]]] = field(default_factory=dict)
    max_actors: int = 1


def load_lexicon(vocabulary: Mapping[str, Any] | None, folder: Path) -> Lexicon:
    """The lexicon of a model, from `folder` or made there; an empty one for a model that lists no actors."""
    if not vocabulary:
        return Lexicon()
    if not vocabulary.get("actors"):
        words = vocabulary.get("words") or {}
        return Lexicon(words={language: list(words.get(language, ())) for language in ("en", "zh")})
    text = json.dumps(vocabulary, sort_keys=True)
    key = hashlib.sha256((__version__ + text).encode())
    for source in SOURCES:
        key.update(source.read_bytes())
    path = folder / f"lexicon-{key.hexdigest()[:16]}.json"
    if not path.is_file() and "torch" in sys.modules:
        write_atomic(path, json.dumps(asdict(build_lexicon(vocabulary)), ensure_ascii=False).encode())
    elif not path.is_file():
        done = subprocess.run(
            [sys.executable, "-m", "videogen.server.lexicon"],
            input=text.encode(),
            capture_output=True,
            timeout=CHILD_SECONDS,
            check=True,
        )
        write_atomic(path, done.stdout)
    return Lexicon(**json.loads(path.read_text(encoding="utf-8")))


def build_lexicon(vocabulary: Mapping[str, Any]) -> Lexicon:
    """Work the lexicon out of the tables of Stage's captions."""
    from videogen.conditioning.prompt import stage_words
    from videogen.data.stage import captions
    from videogen.data.stage.actors import load_actors

    known = load_actors()
    tables: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
        "motions": (captions._MOTIONS_EN, captions._MOTIONS_ZH),
        "scenes": (captions._SCENES_EN, captions._SCENES_ZH),
        "lights": (captions._LIGHTS_EN, captions._LIGHTS_ZH),
        "speeds": (captions._SPEEDS_EN, captions._SPEEDS_ZH),
        "cameras": (captions._CAMERAS_EN, captions._CAMERAS_ZH),
    }
    plain: dict[str, dict[str, dict[str, str]]] = {"actors": {}}
    phrases: dict[str, dict[str, dict[str, str]]] = {"en": {"actors": {}}, "zh": {"actors": {}}}
    for name in vocabulary["actors"]:
        actor = known.get(name)
        plain["actors"][name] = {"en": captions._with_article(name), "zh": actor.name_zh if actor else name}
        english = (actor.name, actor.plural, *actor.synonyms_en, *actor.held_out_synonyms_en) if actor else (name,)
        chinese = (actor.name_zh, *actor.synonyms_zh, *actor.held_out_synonyms_zh) if actor else ()
        for language, words in (("en", english), ("zh", chinese)):
            for word in words:
                phrases[language]["actors"].setdefault(word.casefold(), name)
    for kind, (table_en, table_zh) in tables.items():
        plain[kind] = {}
        for language, table in (("en", table_en), ("zh", table_zh)):
            found = phrases[language].setdefault(kind, {})
            for name in vocabulary.get(kind, ()):
                forms = [form for group in table.get(name, ()) for form in group]
                flat = [one for form in forms for one in ((form,) if isinstance(form, str) else form)]
                for phrase in flat:
                    found.setdefault(phrase.casefold(), name)
                if flat:
                    plain[kind].setdefault(name, {})[language] = flat[0]
    every = vocabulary.get("words") or stage_words(vocabulary)
    return Lexicon(
        words={language: list(every.get(language, ())) for language in ("en", "zh")},
        plain=plain,
        phrases=phrases,
        max_actors=int(vocabulary.get("max_actors", 1)),
    )


if __name__ == "__main__":
    json.dump(asdict(build_lexicon(json.load(sys.stdin))), sys.stdout, ensure_ascii=False)
