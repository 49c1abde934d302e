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
    for name in (
        "data/stage/captions.py",
        "assets/stage/actors.json",
        "conditioning/prompt.py",
        "conditioning/phrases.py",
        "server/lexicon.py",
    )
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
    from videogen.conditioning.phrases import caption_tables, forms, stage_phrases
    from videogen.conditioning.prompt import stage_words
    from videogen.data.stage import captions
    from videogen.data.stage.actors import load_actors

    known = load_actors()
    plain: dict[str, dict[str, dict[str, str]]] = {"actors": {}}
    for name in vocabulary["actors"]:
        actor = known.get(name)
        plain["actors"][name] = {"en": captions._with_article(name), "zh": actor.name_zh if actor else name}
    for kind, tables in caption_tables().items():
        said = {
            name: {language: forms(table, name) for language, table in tables.items()}
            for name in vocabulary.get(kind, ())
        }
        plain[kind] = {
            name: {language: phrases[0] for language, phrases in by_language.items() if phrases}
            for name, by_language in said.items()
        }
    every = vocabulary.get("words") or stage_words(vocabulary)
    return Lexicon(
        words={language: list(every.get(language, ())) for language in ("en", "zh")},
        plain=plain,
        phrases=stage_phrases(vocabulary),
        max_actors=int(vocabulary.get("max_actors", 1)),
    )


if __name__ == "__main__":
    json.dump(asdict(build_lexicon(json.load(sys.stdin))), sys.stdout, ensure_ascii=False)
