"""File names of clips: `{prompt}-{index}.mp4` as VBench expects, unless no file can be called that."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from videogen.evaluation.suite import Entry

MAX_BYTES = 255  # of a name, on the common file systems
_DIGEST = 8
_FORBIDDEN = re.compile(
    r"[/\\\x00-\x1f\x7f\ud800-\udfff]" if os.name != "nt" else r'[/\\\x00-\x1f\x7f\ud800-\udfff<>:"|?*]'
)
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(1, 10))}
_INDEX = re.compile(r"-(\d+)$")


def clip_name(stem: str, index: int, suffix: str = ".mp4") -> str:
    """The file of a prompt's clip; `stem` as `clip_stems` gives it."""
    return f"{stem}-{index}{suffix}"


def clip_stems(entries: Sequence[Entry]) -> list[str]:
    """One stem for each prompt: the prompt itself where a file can bear it and nobody else does.

    Otherwise forbidden characters become `_`, the text is cut to length, and `~` with eight digits of the prompt's SHA-256 makes it unique. Forbidden
    are separators of folders, control characters, broken Unicode, a leading dot, device names of Windows, and there also `<>:"|?*`. Prompts that differ
    only in case or in Unicode form count as the same, since some file systems do not tell them apart; so do equal prompts with other pictures.
    """
    stems = [_plain(entry.prompt) for entry in entries]
    seen: dict[str, int] = {}
    for stem in stems:
        seen[_folded(stem)] = seen.get(_folded(stem), 0) + 1
    return [
        stem if stem == entry.prompt and seen[_folded(stem)] == 1 else _with_digest(stem, entry)
        for stem, entry in zip(stems, entries, strict=True)
    ]


def parse_name(name: str) -> tuple[str, int]:
    """Prompt and index of a file of unknown origin: `a cat-3.mp4` -> ("a cat", 3); without a number the index is 0."""
    stem = Path(name).stem
    found = _INDEX.search(stem)
    return (stem[: found.start()], int(found[1])) if found else (stem, 0)


def _plain(prompt: str) -> str:
    stem = _FORBIDDEN.sub("_", prompt)
    if stem.startswith(".") or stem.split(".")[0].strip().casefold() in _RESERVED:
        stem = "_" + stem
    # Room for "-" and three digits, the suffix, and the digest that a cut name gets.
    room = MAX_BYTES - len("-000.webm")
    if len(stem.encode()) > room:
        stem = stem.encode()[: room - _DIGEST - 1].decode(errors="ignore")
    return stem


def _with_digest(stem: str, entry: Entry) -> str:
    room = MAX_BYTES - len("-000.webm") - _DIGEST - 1
    stem = stem.encode()[:room].decode(errors="ignore")
    return f"{stem}~{hashlib.sha256(entry.key.encode('utf-8', 'surrogatepass')).hexdigest()[:_DIGEST]}"


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFC", stem).casefold()
