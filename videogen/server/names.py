"""What arguments are called: a sentence names them as the one who asked does, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Mapping

DIALECTS: dict[str, dict[str, str]] = {
    "videogen": {},
    "minimax": {
        "first_frame": "first_frame_image",
        "last_frame": "last_frame_image",
        "subjects": "subject_reference",
        "width": "resolution",
        "height": "resolution",
        "watermark": "aigc_watermark",
    },
    "openai": {
        "first_frame": "input_reference",
        "duration": "seconds",
        "width": "size",
        "height": "size",
        "source": "video",
    },
}
"""Dialect -> our name of an argument -> its own."""

PIPELINES = {
    "image": "first_frame",
    "last_image": "last_frame",
    "subject_images": "subjects",
    "video": "source",
    "num_inference_steps": "steps",
}
"""The pipelines' name of an argument -> ours."""


def renamed(sentence: str, names: Mapping[str, str]) -> str:
    """A sentence with the arguments in its backticks called as in `names`; two that become one are told once."""
    sentence = re.sub(r"`([^`]+)`", lambda found: f"`{renamed_argument(found[1], names)}`", sentence)
    return re.sub(r"(`\w+`)(?: and \1)+", r"\1", sentence)


def renamed_argument(argument: str, names: Mapping[str, str]) -> str:
    """An argument, or a place in it such as `subjects.0`, called as in `names`."""
    head, dot, rest = argument.partition(".")
    return names.get(head, head) + dot + rest
