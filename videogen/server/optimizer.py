"""Prompt rewriting towards the words that a model was trained on: offline, by rules, and shown to who asked.

A prompt whose words were read (`videogen.conditioning.wording`) is searched for what it names (actor, motion, scene, light, camera); what was understood
is said again in the plainest words of the training captions. What was not understood is dropped and named. A prompt in
which no actor and no scene is recognised stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from videogen.conditioning.camera import CAMERA_CHINESE, parse_camera
from videogen.server.lexicon import Lexicon

# Looser than what the dictionaries say (`videogen.conditioning.wording` has read the prompt before): what else stands nearby in this world.
_MORE: dict[str, dict[str, tuple[str, ...]]] = {
    "scenes": {
        "snow": ("winter", "ice", "arctic", "冬天", "雪", "冰"),
        "beach": ("sea", "ocean", "coast", "shore", "海", "沙滩"),
        "forest": ("wood", "jungle", "tree", "trees", "林", "树"),
        "city": ("town", "skyline", "building", "buildings", "urban", "城", "街"),
        "desert": ("dune", "dunes"),
        "space": ("planet", "galaxy", "stars", "宇宙", "月球"),
        "meadow": ("garden", "flowers", "park", "草", "花园"),
        "sea floor": ("underwater", "reef", "coral", "水底"),
    },
    "lights": {
        "day": ("sunny", "bright"),
        "sunset": ("golden hour", "dawn", "sunrise", "黎明", "晚霞"),
        "night": ("moonlit", "dark", "starry", "夜", "晚上"),
    },
    "motions": {
        "stays": ("sits", "sitting", "waits", "waiting", "sleeps", "sleeping", "idle", "坐", "站", "睡"),
        "moves right": ("moves", "moving", "rolls", "走", "跑", "游", "飞"),
        "jumps": ("dances", "dancing", "plays", "playing", "跃", "玩"),
        "spins": ("turns", "turning", "转"),
        "moves down": ("falls", "falling", "lands"),
        "shakes": ("vibrates",),
    },
    "speeds": {"slow": ("slow", "calmly", "慢"), "fast": ("快",)},
    "actors": {
        "car": ("vehicle", "taxi"), "chick": ("hen", "bird", "chicken"), "soccer ball": ("ball", "football"),
        "whale": ("fish", "dolphin"), "fox": ("wolf",), "pig": ("boar",), "owl": ("eagle",),
        "unicorn": ("horse", "pony"), "penguin": ("seabird",),
    },
}  # fmt: skip
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_FILLER = frozenset(
    """a an the and or of in on at to by with from into onto over as for is are be it its this that there then while some
    one image picture video clip shot scene camera view very cinematic beautiful photo realistic quality high detailed
    cute little big small lovely""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Rewritten:
    """A prompt after rewriting; `changes` says in words what was done (empty where nothing was)."""

    prompt: str
    changes: tuple[str, ...] = ()


def optimize_prompt(
    prompt: str, lexicon: Lexicon, *, has_subject: bool = False, camera_given: bool = False
) -> Rewritten:
    """Rewrite a prompt towards the words of a model.

    Args:
        prompt: may hold camera brackets, which are kept (in their canonical spelling).
        lexicon: the model's words; without actors in it nothing is rewritten.
        has_subject: the actor comes from a reference picture and is called "the subject".
        camera_given: the camera is told apart from the prompt, so that none is read out of its words.

    Raises:
        ValueError: a bracket that holds no camera command.
    """
    if not lexicon.plain.get("actors"):
        return Rewritten(prompt)
    plan = parse_camera(prompt)
    text = plan.prompt_without_brackets
    language = "zh" if _HAN.search(text) else "en"
    rest = text.casefold()
    found: dict[str, list[str]] = {}
    for kind, phrases in _phrases(lexicon, language).items():
        most = lexicon.max_actors if kind == "actors" else 1
        for _ in range(most):
            hit = _first(rest, phrases, language)
            if hit is None:
                break
            name, start, end = hit
            rest = f"{rest[:start]} ~ {rest[end:]}"
            if name not in found.setdefault(kind, []):
                found[kind].append(name)
    if "subject" in text.casefold() or "主角" in text or "主体" in text:
        has_subject = True
    if not (found.get("actors") or has_subject) and not found.get("scenes"):
        return Rewritten(prompt)

    changes = []
    missing = [
        kind
        for kind in ("actors", "motions", "scenes")
        if not found.get(kind) and not (kind == "actors" and has_subject)
    ]
    for kind in missing:
        found[kind] = [next(iter(lexicon.plain[kind]))]
        changes.append(f"no {kind[:-1]} of the model's was named, '{found[kind][0]}' was taken")
    segments = plan.segments
    if not segments and not camera_given and found.get("cameras"):
        segments = ((found["cameras"][0],),)
        changes.append(f"the camera move became [{found['cameras'][0]}]")
    body = _sentence(found, lexicon, language, has_subject)
    if segments:
        spell = CAMERA_CHINESE if language == "zh" else {}
        brackets = " ".join("[" + ",".join(spell.get(name, name) for name in segment) + "]" for segment in segments)
        body = f"{body}, {brackets}"
    dropped = _dropped(rest, language)
    if dropped:
        changes.append(f"left out, as the model does not know it: {', '.join(dropped)}")
    if body == prompt:
        return Rewritten(prompt)
    return Rewritten(body, (f"'{prompt}' became '{body}'", *changes))


def _phrases(lexicon: Lexicon, language: str) -> dict[str, dict[str, str]]:
    """Kind -> phrase -> what it means, for what the model knows; in the order of reading."""
    found = {}
    for kind in ("cameras", "actors", "scenes", "motions", "speeds", "lights"):
        phrases = dict(lexicon.phrases[language].get(kind, {}))
        for name in lexicon.plain.get(kind, {}):
            for phrase in _MORE.get(kind, {}).get(name, ()):
                if bool(_HAN.search(phrase)) == (language == "zh"):
                    phrases.setdefault(phrase, name)
        found[kind] = phrases
    return found


def _first(text: str, phrases: Mapping[str, str], language: str) -> tuple[str, int, int] | None:
    """The longest phrase in the text (the first of equal length) as (meaning, start, end)."""
    best: tuple[int, int, str] | None = None
    for phrase, name in phrases.items():
        pattern = re.escape(phrase) if language == "zh" else rf"(?<!\w){re.escape(phrase)}(?:s)?(?!\w)"
        match = re.search(pattern, text)
        if match and (best is None or (len(phrase), -match.start()) > (best[0], -best[1])):
            best = (len(phrase), match.start(), name)
            end = match.end()
    return None if best is None else (best[2], best[1], end)


def _sentence(found: Mapping[str, Sequence[str]], lexicon: Lexicon, language: str, has_subject: bool) -> str:
    def say(kind: str) -> str:
        names = found.get(kind)
        return lexicon.plain[kind].get(names[0], {}).get(language, "") if names else ""

    actors = [lexicon.plain["actors"][name][language] for name in found.get("actors", ())]
    motion, scene, light, speed = say("motions"), say("scenes"), say("lights"), say("speeds")
    if language == "zh":
        subject = "主角" if has_subject else "和".join(f"一个{name}" for name in actors)
        return f"{light + ',' if light else ''}{subject}在{scene}{speed}{motion}"
    subject = "the subject" if has_subject else " and ".join(actors)
    return " ".join(part for part in (subject, motion, speed, scene, light) if part)


def _dropped(rest: str, language: str) -> list[str]:
    """What of the prompt was not understood, at most eight pieces."""
    if language == "zh":
        pieces = re.findall(
            r"[\u3400-\u4dbf\u4e00-\u9fff]{2,}", re.sub(r"一[个只辆条头匹]|[在的地得着了里中上下]", " ", rest)
        )
    else:
        pieces = [
            word for word in re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", rest) if word not in _FILLER | {"subject"}
        ]
    return list(dict.fromkeys(pieces))[:8]
