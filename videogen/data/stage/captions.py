"""The grammar of Stage: clips into words, English and Chinese, with synonyms and word orders held out for evaluation.

Words come in three styles: "words" tells the camera move in prose, "bracket" as a MiniMax command, "none" leaves it out (the camera vector
tells it then, or nobody does). With `held_out=True` only synonyms and word orders that training never uses are drawn.
"""

from __future__ import annotations

import random
import re
from typing import Literal

from videogen.data.stage.actors import UNNAMED, load_actors
from videogen.data.stage.vocabulary import ClipSpec

Language = Literal["en", "zh"]
CameraStyle = Literal["words", "bracket", "none"]

# (used in training, held out); the first entry is the canonical one.
_SCENES_EN = {
    "snow": (["in the snow", "in a snowy land", "on the snow", "among snowy mountains"], ["in the snowy wilderness"]),
    "beach": (["on the beach", "at the beach", "at the seaside", "on the sand by the sea"], ["on the seashore"]),
    "forest": (["in the forest", "in the woods", "among the trees", "in a green forest"], ["in the woodland"]),
    "city": (["in the city", "in a city street", "on the street", "downtown"], ["in town"]),
    "desert": (["in the desert", "among cacti", "in the sandy desert"], ["among the dunes"]),
    "space": (["in space", "on the moon", "in outer space"], ["on a distant planet"]),
    "meadow": (["in the meadow", "in a field of flowers", "on the green grass"], ["in a flowery field"]),
    "sea floor": (["on the sea floor", "under water", "under the sea"], ["at the bottom of the sea"]),
}
_SCENES_ZH = {
    "snow": (["雪地里", "雪中", "雪山下"], ["冰天雪地里"]),
    "beach": (["海滩上", "沙滩上", "海边"], ["海岸边"]),
    "forest": (["森林里", "树林里", "树林中"], ["林间"]),
    "city": (["城市里", "街道上", "大街上"], ["城里"]),
    "desert": (["沙漠里", "沙漠中", "仙人掌之间"], ["沙丘之间"]),
    "space": (["太空中", "月球上", "太空里"], ["外星球上"]),
    "meadow": (["草地上", "花丛中", "花田里"], ["草原上"]),
    "sea floor": (["海底", "水下", "海里"], ["深海里"]),
}
_LIGHTS_EN = {
    "day": (["by day", "in daylight", "during the day", "on a sunny day"], ["in broad daylight"]),
    "sunset": (["at sunset", "in the evening", "at dusk", "in the evening light"], ["as the sun goes down"]),
    "night": (["at night", "in the dark", "under the stars", "in the moonlight"], ["by moonlight"]),
}
_LIGHTS_ZH = {
    "day": (["白天", "晴天", "阳光下"], ["大白天"]),
    "sunset": (["日落时", "傍晚", "黄昏"], ["夕阳下"]),
    "night": (["夜晚", "夜里", "星空下"], ["月光下"]),
}
# Finite form, -ing form.
_MOTIONS_EN = {
    "stays": (
        [
            ("stays", "staying"),
            ("stands still", "standing still"),
            ("does not move", "not moving"),
            ("rests", "resting"),
        ],
        [("remains still", "remaining still")],
    ),
    "moves left": (
        [
            ("moves left", "moving left"),
            ("goes left", "going left"),
            ("moves to the left", "moving to the left"),
            ("travels to the left", "travelling to the left"),
        ],
        [("heads left", "heading left")],
    ),
    "moves right": (
        [
            ("moves right", "moving right"),
            ("goes right", "going right"),
            ("moves to the right", "moving to the right"),
            ("travels to the right", "travelling to the right"),
        ],
        [("heads right", "heading right")],
    ),
    "jumps": (
        [
            ("jumps", "jumping"),
            ("hops", "hopping"),
            ("jumps up and down", "jumping up and down"),
            ("bounces", "bouncing"),
        ],
        [("leaps", "leaping")],
    ),
    "spins": (
        [("spins", "spinning"), ("turns around", "turning around"), ("rotates", "rotating")],
        [("twirls", "twirling")],
    ),
    "moves up": ([("moves up", "moving up"), ("rises", "rising"), ("goes up", "going up")], [("ascends", "ascending")]),
    "moves down": (
        [("moves down", "moving down"), ("sinks", "sinking"), ("goes down", "going down")],
        [("descends", "descending")],
    ),
    "comes closer": (
        [("comes closer", "coming closer"), ("approaches", "approaching"), ("comes towards us", "coming towards us")],
        [("draws near", "drawing near")],
    ),
    "goes away": (
        [("goes away", "going away"), ("moves away", "moving away"), ("recedes", "receding")],
        [("retreats", "retreating")],
    ),
    "shakes": ([("shakes", "shaking"), ("trembles", "trembling"), ("wobbles", "wobbling")], [("shivers", "shivering")]),
}
_MOTIONS_ZH = {
    "stays": (["停着不动", "静止不动", "待着"], ["一动不动"]),
    "moves left": (["向左移动", "往左走", "向左走"], ["朝左移动"]),
    "moves right": (["向右移动", "往右走", "向右走"], ["朝右移动"]),
    "jumps": (["跳", "跳跃", "蹦跳"], ["跳来跳去"]),
    "spins": (["旋转", "转圈", "打转"], ["转来转去"]),
    "moves up": (["向上移动", "上升", "往上走"], ["升起"]),
    "moves down": (["向下移动", "下降", "往下走"], ["落下"]),
    "comes closer": (["走近", "靠近", "向我们走来"], ["越来越近"]),
    "goes away": (["走远", "远去", "离开我们"], ["越来越远"]),
    "shakes": (["摇晃", "颤抖", "抖动"], ["发抖"]),
}
_SPEEDS_EN = {"slow": (["slowly"], ["gently"]), "fast": (["quickly", "fast"], ["rapidly"])}
_SPEEDS_ZH = {"slow": (["慢慢地", "缓缓地"], ["徐徐地"]), "fast": (["快速地", "飞快地"], ["迅速地"])}
_CAMERAS_EN = {
    "Static shot": (["the camera stays still", "static shot", "a fixed camera"], ["the camera does not move"]),
    "Pan left": (["the camera pans left", "panning left"], ["the view pans to the left"]),
    "Pan right": (["the camera pans right", "panning right"], ["the view pans to the right"]),
    "Zoom in": (["the camera zooms in", "zooming in"], ["the lens zooms in"]),
    "Zoom out": (["the camera zooms out", "zooming out"], ["the lens zooms out"]),
    "Truck left": (["the camera trucks left", "the camera slides left"], ["the camera travels left"]),
    "Truck right": (["the camera trucks right", "the camera slides right"], ["the camera travels right"]),
    "Tilt up": (["the camera tilts up", "tilting up"], ["the view tilts upwards"]),
    "Tilt down": (["the camera tilts down", "tilting down"], ["the view tilts downwards"]),
    "Push in": (["the camera pushes in", "pushing in"], ["the camera moves forward"]),
    "Pull out": (["the camera pulls out", "pulling out"], ["the camera moves back"]),
    "Pedestal up": (["the camera rises", "the camera pedestals up"], ["the camera goes up"]),
    "Pedestal down": (["the camera sinks", "the camera pedestals down"], ["the camera goes down"]),
    "Shake": (["the camera shakes", "a shaky camera"], ["a trembling camera"]),
    "Tracking shot": (["the camera follows it", "tracking shot"], ["the camera tracks it"]),
}
_CAMERAS_ZH = {
    "Static shot": (["镜头固定", "固定镜头"], ["镜头不动"]),
    "Pan left": (["镜头左摇", "镜头向左摇"], ["镜头往左摇"]),
    "Pan right": (["镜头右摇", "镜头向右摇"], ["镜头往右摇"]),
    "Zoom in": (["镜头变焦推近", "镜头拉近"], ["镜头放大"]),
    "Zoom out": (["镜头变焦拉远", "变焦拉远"], ["镜头缩小"]),
    "Truck left": (["镜头左移", "镜头向左移"], ["镜头往左移"]),
    "Truck right": (["镜头右移", "镜头向右移"], ["镜头往右移"]),
    "Tilt up": (["镜头上摇", "镜头向上摇"], ["镜头往上摇"]),
    "Tilt down": (["镜头下摇", "镜头向下摇"], ["镜头往下摇"]),
    "Push in": (["镜头推进", "镜头向前推"], ["镜头往前"]),
    "Pull out": (["镜头后拉", "镜头拉远"], ["镜头往后"]),
    "Pedestal up": (["镜头上升", "镜头升高"], ["镜头往上升"]),
    "Pedestal down": (["镜头下降", "镜头降低"], ["镜头往下降"]),
    "Shake": (["镜头晃动", "晃动镜头"], ["镜头抖动"]),
    "Tracking shot": (["镜头跟随", "跟随镜头"], ["镜头跟着它"]),
}
_ORDERS_EN = (
    [
        "{actor} {motion} {scene} {light}",
        "{light}, {actor} {motion} {scene}",
        "{scene}, {actor} {motion} {light}",
        "{actor} {scene} {light}, {ing}",
        "{actor} {ing} {scene} {light}",
    ],
    ["{ing} {scene} {light}: {actor}", "{light} and {scene}, there is {actor} {ing}"],
)
_ORDERS_ZH = (
    ["{light},{actor}在{scene}{motion}", "{actor}{light}在{scene}{motion}", "{scene},{actor}在{motion},{light}"],
    ["{light}的{scene}有{actor}在{motion}", "{motion}的{actor},{scene},{light}"],
)


def _fields(template: str) -> tuple[str, ...]:
    return tuple("motion" if name == "ing" else name for name in re.findall(r"{(\w+)}", template))


# Held-out word orders stay unseen in captions of free order, too.
_KEPT_ORDERS = {_fields(template) for template in (*_ORDERS_EN[1], *_ORDERS_ZH[1])}
_FREE_MARKS_EN = (" ", " ", " ", ", ", ", ", ": ", " and ")
_FREE_MARKS_ZH = ("", "", ",", ",", ",", ":")


def _free_order(generator: random.Random, parts: dict[str, str], marks: tuple[str, ...]) -> str:
    """The parts in any order but the held-out ones."""
    names = [name for name, text in parts.items() if text]
    generator.shuffle(names)
    while tuple(names) in _KEPT_ORDERS:
        generator.shuffle(names)
    text = parts[names[0]]
    for name in names[1:]:
        text += generator.choice(marks) + parts[name]
    return text


def _pick(generator: random.Random, choices: tuple[list, list], held_out: bool):
    return generator.choice(choices[1] if held_out else choices[0])


def _actor_names(generator: random.Random, name: str, language: Language, held_out: bool) -> str:
    if name.startswith(UNNAMED):
        return name  # to be replaced: who has no name is told by a picture
    actor = load_actors()[name]
    if language == "en":
        used, kept = [actor.name, *actor.synonyms_en], actor.held_out_synonyms_en
    else:
        used, kept = [actor.name_zh, *actor.synonyms_zh], actor.held_out_synonyms_zh
    if held_out and kept:
        return generator.choice(kept)
    # The plain name is as frequent as all synonyms together.
    return used[0] if generator.random() < 0.5 else generator.choice(used)


# The article goes by sound: written with a vowel but spoken "you" (unicorn, UFO, eucalyptus), or with a silent h.
_SPOKEN_YOU = re.compile(r"(uni(?![nm])|ufo|uku|use|eu|ewe)", re.IGNORECASE)
_SILENT_H = re.compile(r"(hour|honest|honou?r|heir)", re.IGNORECASE)


def _with_article(noun: str) -> str:
    vowel = noun[0].lower() in "aeiou" and not _SPOKEN_YOU.match(noun)
    return f"{'an' if vowel or _SILENT_H.match(noun) else 'a'} {noun}"


def _camera_words(generator: random.Random, spec: ClipSpec, language: Language, held_out: bool) -> str:
    table = _CAMERAS_EN if language == "en" else _CAMERAS_ZH
    together, then = (" and ", ", then ") if language == "en" else ("并且", ",然后")
    return then.join(together.join(_pick(generator, table[c], held_out) for c in group) for group in spec.camera)


def _english(generator: random.Random, spec: ClipSpec, held_out: bool, show_light: bool, free: bool) -> str:
    actor = spec.actors[0]
    finite, ing = _pick(generator, _MOTIONS_EN[actor.motion], held_out)
    if actor.speed != "normal":
        adverb = _pick(generator, _SPEEDS_EN[actor.speed], held_out)
        finite, ing = f"{finite} {adverb}", f"{ing} {adverb}"
    subject = _with_article(_actor_names(generator, actor.name, "en", held_out))
    if spec.relation is not None:
        other = _with_article(_actor_names(generator, spec.actors[1].name, "en", held_out))
        side = spec.relation if generator.random() < 0.5 else f"to the {spec.relation}"
        subject = f"{subject} {side} {other}"
    light = _pick(generator, _LIGHTS_EN[spec.light], held_out) if show_light else ""
    order = None if free else _pick(generator, _ORDERS_EN, held_out)
    scene = _pick(generator, _SCENES_EN[spec.scene], held_out)
    if order is None:
        motion = generator.choice((finite, ing))
        parts = {"actor": subject, "motion": motion, "scene": scene, "light": light}
        text = _free_order(generator, parts, _FREE_MARKS_EN)
    else:
        text = order.format(actor=subject, motion=finite, ing=ing, scene=scene, light=light)
        text = text.replace(" ,", ",").replace("  ", " ").strip(" ,:")
    return text + _english_event(generator, spec, held_out)


def _english_event(generator: random.Random, spec: ClipSpec, held_out: bool) -> str:
    if spec.event == "enters":
        other = _with_article(_actor_names(generator, spec.actors[1].name, "en", held_out))
        return generator.choice([f", then {other} comes in", f", {other} enters", f" and then {other} appears"])
    if spec.event == "night falls":
        return generator.choice([", night falls", ", then it gets dark", " and night falls"])
    return ""


def _chinese(generator: random.Random, spec: ClipSpec, held_out: bool, show_light: bool, free: bool) -> str:
    actor = spec.actors[0]
    motion = _pick(generator, _MOTIONS_ZH[actor.motion], held_out)
    if actor.speed != "normal":
        motion = _pick(generator, _SPEEDS_ZH[actor.speed], held_out) + motion
    subject = "一个" + _actor_names(generator, actor.name, "zh", held_out)
    if spec.relation is not None:
        side = "左边" if spec.relation == "left of" else "右边"
        subject = f"一个{_actor_names(generator, spec.actors[1].name, 'zh', held_out)}{side}的{subject}"
    light = _pick(generator, _LIGHTS_ZH[spec.light], held_out) if show_light else ""
    order = None if free else _pick(generator, _ORDERS_ZH, held_out)
    scene = _pick(generator, _SCENES_ZH[spec.scene], held_out)
    if order is None:
        scene, motion = (generator.choice(("在", "")) + part for part in (scene, motion))
        parts = {"actor": subject, "motion": motion, "scene": scene, "light": light}
        text = _free_order(generator, parts, _FREE_MARKS_ZH)
    else:
        text = order.format(actor=subject, motion=motion, scene=scene, light=light)
        text = text.strip(",").removeprefix("的").replace(",,", ",")
    return text + _chinese_event(generator, spec, held_out)


def _chinese_event(generator: random.Random, spec: ClipSpec, held_out: bool) -> str:
    if spec.event == "enters":
        other = "一个" + _actor_names(generator, spec.actors[1].name, "zh", held_out)
        return generator.choice([f",然后{other}进来", f",{other}出现"])
    if spec.event == "night falls":
        return generator.choice([",夜幕降临", ",天黑了"])
    return ""


def caption(
    spec: ClipSpec,
    generator: random.Random,
    language: Language = "en",
    style: CameraStyle = "words",
    held_out: bool = False,
    free_order: bool = False,
) -> str:
    """Puts a clip into words.

    Args:
        spec: The clip. A camera move that is not to be told (`camera_told`) is never mentioned; daylight may go unmentioned.
        generator: Chooses synonyms and word order.
        language: "en" or "zh".
        style: How the camera move is told; see the module's docstring.
        held_out: Use only synonyms and word orders that training never shows (for the *words* split).
        free_order: Tell actor, motion, scene and light in any order but those, whatever the grammar says.

    Raises:
        ValueError: If `language` or `style` is unknown, or a free order is to be a held-out one.
    """
    if language not in ("en", "zh"):
        raise ValueError(f"`language` must be 'en' or 'zh', got {language!r}.")
    if style not in ("words", "bracket", "none"):
        raise ValueError(f"`style` must be 'words', 'bracket' or 'none', got {style!r}.")
    if held_out and free_order:
        raise ValueError("`held_out` and `free_order` exclude each other: held-out word orders are fixed.")
    show_light = spec.light != "day" or held_out or generator.random() < 0.6
    text = (_english if language == "en" else _chinese)(generator, spec, held_out, show_light, free_order)
    return _with_camera(text, generator, spec, language, style, held_out)


def action_caption(
    spec: ClipSpec, generator: random.Random, language: Language = "en", style: CameraStyle = "words"
) -> str:
    """What happens in a clip of one actor, or of another that enters, without scene and light: for prompts that come with a picture.

    Arguments and errors as in `caption`.
    """
    if language not in ("en", "zh"):
        raise ValueError(f"`language` must be 'en' or 'zh', got {language!r}.")
    if style not in ("words", "bracket", "none"):
        raise ValueError(f"`style` must be 'words', 'bracket' or 'none', got {style!r}.")
    actor = spec.actors[0]
    subject = _actor_names(generator, actor.name, language, False)
    if language == "en":
        words = [_with_article(subject), _pick(generator, _MOTIONS_EN[actor.motion], False)[0]]
        if actor.speed != "normal":
            words.append(_pick(generator, _SPEEDS_EN[actor.speed], False))
        text = " ".join(words) + _english_event(generator, spec, False)
    else:
        adverb = _pick(generator, _SPEEDS_ZH[actor.speed], False) if actor.speed != "normal" else ""
        text = f"一个{subject}{adverb}{_pick(generator, _MOTIONS_ZH[actor.motion], False)}"
        text += _chinese_event(generator, spec, False)
    return _with_camera(text, generator, spec, language, style, False)


def _with_camera(
    text: str, generator: random.Random, spec: ClipSpec, language: Language, style: CameraStyle, held_out: bool
) -> str:
    if style == "none" or not spec.camera_told:
        return text
    if style == "words":
        return f"{text}, {_camera_words(generator, spec, language, held_out)}"
    brackets = " ".join(f"[{','.join(group)}]" for group in spec.camera)
    return f"{text}, {brackets}"
