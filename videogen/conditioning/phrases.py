"""The phrases of Stage's captions by what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Phrases: TypeAlias = "Mapping[str, Mapping[str, Mapping[str, str]]]"
"""Language -> kind -> phrase (lower case) -> name."""


def stage_phrases(vocabulary: Mapping[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    """Every phrase that means a thing of a vocabulary, those held out for evaluation too: for telling what a text names.

    Args:
        vocabulary: `videogen.data.stage.Vocabulary.to_dict()`.

    Returns:
        language ("en", "zh") -> kind ("actors", "motions", ...) -> phrase, lower case -> name.
    """
    from videogen.data.stage.actors import load_actors

    known = load_actors()
    found: dict[str, dict[str, dict[str, str]]] = {"en": {"actors": {}}, "zh": {"actors": {}}}
    for name in vocabulary["actors"]:
        actor = known.get(name)
        english = (actor.name, actor.plural, *actor.synonyms_en, *actor.held_out_synonyms_en) if actor else (name,)
        chinese = (actor.name_zh, *actor.synonyms_zh, *actor.held_out_synonyms_zh) if actor else ()
        for language, words in (("en", english), ("zh", chinese)):
            for word in words:
                found[language]["actors"].setdefault(word.casefold(), name)
    for kind, tables in caption_tables().items():
        for language, table in tables.items():
            group = found[language].setdefault(kind, {})
            for name in vocabulary.get(kind, ()):
                for phrase in forms(table, name):
                    group.setdefault(phrase.casefold(), name)
    return found


def caption_tables() -> dict[str, dict[str, Mapping[str, Any]]]:
    """Kind -> language -> name -> its phrases in captions."""
    from videogen.data.stage import captions

    return {
        "motions": {"en": captions._MOTIONS_EN, "zh": captions._MOTIONS_ZH},
        "scenes": {"en": captions._SCENES_EN, "zh": captions._SCENES_ZH},
        "lights": {"en": captions._LIGHTS_EN, "zh": captions._LIGHTS_ZH},
        "speeds": {"en": captions._SPEEDS_EN, "zh": captions._SPEEDS_ZH},
        "cameras": {"en": captions._CAMERAS_EN, "zh": captions._CAMERAS_ZH},
    }


def forms(table: Mapping[str, Any], name: str) -> list[str]:
    """The phrases of a name in one of `caption_tables`, the plainest first."""
    groups = [form for group in table.get(name, ()) for form in group]
    return [one for form in groups for one in ((form,) if isinstance(form, str) else form)]
