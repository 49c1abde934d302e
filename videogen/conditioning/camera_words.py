"""Camera moves told in plain words, read as commands: "..., the camera pans left" is "[Pan left]", "镜头左摇" is [左摇].

A vector tells a move more exactly than words can, so what a clause says of the camera and nothing else becomes commands, like a bracket. Any
other clause stays in the prompt as it is, whatever it mentions.
"""

from __future__ import annotations

import re

from videogen.conditioning.camera import CameraPlan, check_segments

_SUBJECT = r"(?:(?:the|a) (?:camera|view|shot|lens|picture) )?"
_TO = r"(?: (?:to the|towards the|to))? "
_EN = {
    "Static shot": (
        r"(?:a |the )?(?:static|fixed|still|locked[- ]off) (?:shot|camera|view)",
        r"the (?:camera|view|shot) (?:stays|remains|is|holds|stands|keeps) (?:completely )?(?:still|static|fixed|steady)",
        r"the (?:camera|view|shot) (?:does not|doesn't|never|is not) mov(?:e|es|ing)",
    ),
    "Pan left": (rf"{_SUBJECT}pan(?:s|ning)?{_TO}left",),
    "Pan right": (rf"{_SUBJECT}pan(?:s|ning)?{_TO}right",),
    "Tilt up": (rf"{_SUBJECT}tilt(?:s|ing)? up(?:wards?)?",),
    "Tilt down": (rf"{_SUBJECT}tilt(?:s|ing)? down(?:wards?)?",),
    "Zoom in": (rf"{_SUBJECT}zoom(?:s|ing)? in",),
    "Zoom out": (rf"{_SUBJECT}zoom(?:s|ing)? out",),
    "Push in": (
        rf"{_SUBJECT}(?:push(?:es|ing)?|doll(?:y|ies|ying)) in",
        r"the (?:camera|view) (?:moves|goes|travels|glides) (?:forwards?|in|closer)",
    ),
    "Pull out": (
        rf"{_SUBJECT}(?:pull(?:s|ing)?|doll(?:y|ies|ying)) (?:out|back)",
        r"the (?:camera|view) (?:moves|goes|travels|glides) (?:backwards?|back|out|away)",
    ),
    "Truck left": (
        rf"{_SUBJECT}truck(?:s|ing)?{_TO}left",
        rf"the (?:camera|view) (?:slides|travels|moves|goes|glides){_TO}left",
    ),
    "Truck right": (
        rf"{_SUBJECT}truck(?:s|ing)?{_TO}right",
        rf"the (?:camera|view) (?:slides|travels|moves|goes|glides){_TO}right",
    ),
    "Pedestal up": (
        rf"{_SUBJECT}pedestal(?:s|ing)? up",
        r"the (?:camera|view) (?:rises|ascends|(?:goes|moves|travels|glides) up(?:wards?)?)",
    ),
    "Pedestal down": (
        rf"{_SUBJECT}pedestal(?:s|ing)? down",
        r"the (?:camera|view) (?:sinks|descends|(?:goes|moves|travels|glides) down(?:wards?)?)",
    ),
    "Shake": (
        r"(?:a |the )?(?:shaky|shaking|trembling|hand-?held) (?:camera|shot|view)",
        r"the (?:camera|view|picture) (?:shakes|trembles|is shaking)",
    ),
    "Tracking shot": (
        r"(?:a |the )?(?:tracking|following) shot",
        r"the (?:camera|view|shot) (?:follows|tracks)(?: (?:it|him|her|them|the subject|the actor))?",
    ),
}
_ZH_SUBJECT = "(?:镜头|摄像机|相机|画面)"
_ZH_TO = "(?:向|往|朝)?"
_ZH = {
    "Static shot": (rf"{_ZH_SUBJECT}(?:固定|静止|不动|保持不动)", "(?:固定|静止)镜头"),
    "Pan left": (rf"{_ZH_SUBJECT}{_ZH_TO}左摇",),
    "Pan right": (rf"{_ZH_SUBJECT}{_ZH_TO}右摇",),
    "Tilt up": (rf"{_ZH_SUBJECT}{_ZH_TO}上摇",),
    "Tilt down": (rf"{_ZH_SUBJECT}{_ZH_TO}下摇",),
    "Zoom in": (rf"{_ZH_SUBJECT}?变焦(?:推近|拉近|放大)", rf"{_ZH_SUBJECT}(?:拉近|放大)"),
    "Zoom out": (rf"{_ZH_SUBJECT}?变焦(?:拉远|缩小)", rf"{_ZH_SUBJECT}缩小"),
    "Push in": (rf"{_ZH_SUBJECT}(?:推进|[向往朝]前(?:移|推)?|前[移推])",),
    "Pull out": (rf"{_ZH_SUBJECT}(?:后拉|拉远|[向往朝]后(?:移|拉)?|后移)",),
    "Truck left": (rf"{_ZH_SUBJECT}{_ZH_TO}左移",),
    "Truck right": (rf"{_ZH_SUBJECT}{_ZH_TO}右移",),
    "Pedestal up": (rf"{_ZH_SUBJECT}(?:上升|升高|{_ZH_TO}上(?:升|移))",),
    "Pedestal down": (rf"{_ZH_SUBJECT}(?:下降|降低|{_ZH_TO}下(?:降|移))",),
    "Shake": (rf"{_ZH_SUBJECT}(?:晃动|抖动)", "(?:晃动|抖动)镜头"),
    "Tracking shot": (rf"{_ZH_SUBJECT}(?:跟随|跟着(?:它|他|她|主角)?|跟拍)", "(?:跟随|跟拍)镜头"),
}
_PHRASES = [
    (name, re.compile("|".join(f"(?:{pattern})" for pattern in patterns)))
    for table in (_EN, _ZH)
    for name, patterns in table.items()
]
# What a clause ends with: punctuation, or "while the camera ...".
_CLAUSES = re.compile(
    r"(\s*[,;.:!?，。；：！？]\s*|\s+(?:while|as) (?=(?:the|a) (?:camera|view|lens|shot)\b))", re.IGNORECASE
)
_AND_THE_CAMERA = re.compile(r"(.*\S)\s+and\s+((?:the|a) (?:camera|view|lens|shot)\b.*)", re.IGNORECASE)
_CAMERA = re.compile(
    r"(?<!to the )(?<!towards the )(?<!toward the )\b(?:camera|lens)\b|(?<![朝向])(?:镜头|摄像机|相机|画面)",
    re.IGNORECASE,
)
_THEN = re.compile(r"^(?:and then|then|and|finally|然后|接着|并且|最后)\s*")
_TOGETHER = re.compile(r"\s+and\s+|并且|同时")


def read_camera_words(plan: CameraPlan) -> CameraPlan:
    """The plan with the moves that its prompt tells in words, if it has no commands in brackets.

    Clauses one after another ("the camera pans left, then it zooms in" in two clauses) are segments in sequence; "pans left and
    zooms in" acts together. A clause that says more than moves is no command; contradictory moves leave the prompt as it is.

    Args:
        plan: as `videogen.conditioning.camera.parse_camera` made it.
    """
    if plan.segments:
        return plan
    pieces = _CLAUSES.split(plan.prompt_without_brackets)
    clauses, marks = pieces[::2], ["", *pieces[1::2]]
    segments: list[tuple[str, ...]] = []
    kept = ""
    for clause, mark in zip(clauses, marks, strict=True):
        commands = _commands(clause)
        if not commands and (both := _AND_THE_CAMERA.fullmatch(clause)) and (commands := _commands(both[2])):
            kept += (mark if kept else "") + both[1]
            segments.append(commands)
        elif commands:
            segments.append(commands)
        elif clause.strip():
            kept += (mark if kept else "") + clause
    try:
        check_segments(tuple(segments))
    except ValueError:
        return plan
    if not segments or not kept.strip():  # a prompt must say something besides
        return plan
    return CameraPlan(kept.strip(), tuple(segments), plan.notes)


def tells_camera(clause: str) -> bool:
    """Whether a clause speaks of the camera, or tells one of its moves."""
    return _CAMERA.search(clause) is not None or bool(_commands(clause))


def _commands(clause: str) -> tuple[str, ...]:
    """The commands of a clause that tells moves and nothing else; empty for any other."""
    text = _THEN.sub("", " ".join(clause.casefold().split()))
    found: list[str] = []
    for part in _TOGETHER.split(text):
        name = next((name for name, pattern in _PHRASES if pattern.fullmatch(part.strip())), None)
        if name is None:
            return ()
        if name not in found:
            found.append(name)
    return tuple(found)
