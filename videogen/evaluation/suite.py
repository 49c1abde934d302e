"""Prompt lists in VBench's schema: its own, those of VBench-I2V, Stage's, or a file of yours.

An entry is `{"prompt_en": ..., "dimension": [...], "auxiliary_info": {dimension: truth}}`. Four keys of ours may stand beside them; VBench ignores them:
`prompt_used` (what the model is given, if a longer prompt than the one that names the file), `image_name` (VBench-I2V's key: the first frame),
`subject_name` (picture of a subject) and `stage` (what the Stage checkers need: `id`, `kind`, `rung`, `asked`).

VBench's list is read from the user's own installed `vbench` package or a path; no copy of it is here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

VBENCH_FILE = "VBench_full_info.json"
I2V_FILE = "vbench2_i2v_full_info.json"
VBENCH_DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
    "object_class",
    "multiple_objects",
    "human_action",
    "color",
    "spatial_relationship",
    "scene",
    "appearance_style",
    "temporal_style",
    "overall_consistency",
)
I2V_DIMENSIONS = ("i2v_subject", "i2v_background", "camera_motion")
CAMERA_PHRASES = {
    "camera pans left": "pan_left",
    "camera pans right": "pan_right",
    "camera tilts up": "tilt_up",
    "camera tilts down": "tilt_down",
    "camera zooms in": "zoom_in",
    "camera zooms out": "zoom_out",
    "camera static": "static",
}
"""How VBench-I2V's prompts name a camera move -> its class."""
FLICKERING_SAMPLES = 25
_KEYS = {"prompt_en", "dimension", "auxiliary_info", "prompt_used", "image_name", "subject_name", "stage", "image_type"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One prompt.

    Attributes:
        prompt: what names the clip's file, as VBench expects it.
        dimensions: what the prompt is made to test; empty = anything.
        auxiliary: VBench's `auxiliary_info`, by dimension.
        prompt_used: what the model is given; "" = `prompt`.
        image: file name of the first frame, or "".
        subject: file name of the picture of a subject, or "".
        stage: `id`, `kind`, `rung` and `asked` of a Stage prompt.
    """

    prompt: str
    dimensions: tuple[str, ...] = ()
    auxiliary: Mapping[str, Any] = field(default_factory=dict)
    prompt_used: str = ""
    image: str = ""
    subject: str = ""
    stage: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """What the model is given."""
        return self.prompt_used or self.prompt

    @property
    def key(self) -> str:
        """What seeds are drawn from: the identifier of a Stage prompt, else the prompt, with the picture's name where there is one."""
        if self.stage is not None:
            return str(self.stage["id"])
        return "\n".join(part for part in (self.prompt, self.image, self.subject) if part)

    def to_json(self) -> dict[str, Any]:
        """The entry in VBench's schema."""
        found: dict[str, Any] = {"prompt_en": self.prompt, "dimension": list(self.dimensions)}
        extra = {
            "auxiliary_info": dict(self.auxiliary),
            "prompt_used": self.prompt_used,
            "image_name": self.image,
            "subject_name": self.subject,
            "stage": self.stage,
        }
        return found | {key: value for key, value in extra.items() if value}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], where: str = "entry") -> Entry:
        """Inverse of `to_json`; a VBench entry as it is.

        Raises:
            ValueError: a key that is missing, unknown or of the wrong type.
        """
        if not isinstance(raw, Mapping) or not isinstance(raw.get("prompt_en"), str) or not raw["prompt_en"]:
            raise ValueError(f"`{where}` must be an object with a text `prompt_en`, got {json.dumps(raw)[:80]}.")
        try:
            raw["prompt_en"].encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"`{where}.prompt_en` must be valid text, got {raw['prompt_en']!r}; type it again."
            ) from None
        dimensions = raw.get("dimension", [])
        if not isinstance(dimensions, list) or not all(isinstance(name, str) for name in dimensions):
            raise ValueError(f"`{where}.dimension` must be a list of names, got {json.dumps(dimensions)[:80]}.")
        unknown = set(raw) - _KEYS
        if unknown:
            raise ValueError(
                f"`{where}` may hold {', '.join(sorted(_KEYS))}, got {', '.join(sorted(unknown))}; rename it."
            )
        return cls(
            prompt=raw["prompt_en"],
            dimensions=tuple(dimensions),
            auxiliary=raw.get("auxiliary_info", {}),
            prompt_used=raw.get("prompt_used", ""),
            image=raw.get("image_name", ""),
            subject=raw.get("subject_name", ""),
            stage=raw.get("stage"),
        )


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A list of prompts: `total` counts what the whole list holds, so that a part of it is known to be one."""

    name: str
    entries: tuple[Entry, ...]
    total: int
    folder: Path | None = None

    @property
    def partial(self) -> bool:
        """Whether prompts were left out."""
        return len(self.entries) < self.total

    def sha256(self) -> str:
        """Hash of what is asked, in order."""
        content = json.dumps([entry.to_json() for entry in self.entries], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def for_dimensions(self, names: Sequence[str]) -> Suite:
        """The prompts that test one of `names`.

        Raises:
            ValueError: no prompt tests one of them.
        """
        known = sorted({name for entry in self.entries for name in entry.dimensions})
        wrong = [name for name in names if name not in known]
        if wrong:
            raise ValueError(f"`dimensions` must be among {', '.join(known)}, got {', '.join(wrong)}.")
        return replace(self, entries=tuple(entry for entry in self.entries if set(entry.dimensions) & set(names)))

    def first(self, count: int) -> Suite:
        """The first prompts.

        Raises:
            ValueError: `count` is not between 1 and their number.
        """
        if not 1 <= count <= len(self.entries):
            raise ValueError(f"`num_prompts` must be between 1 and {len(self.entries)}, got {count}.")
        return replace(self, entries=self.entries[:count])

    def nearest(self, count: int, words: Mapping[str, Iterable[str]]) -> Suite:
        """The prompts with the largest share of words that a model knows, in the list's order; ties go to the earlier one.

        Args:
            count: at most so many.
            words: as in `videogen.conditioning.prompt.unknown_words`.

        Raises:
            ValueError: `count` below 1.
        """
        from videogen.conditioning.prompt import unknown_words

        if count < 1:
            raise ValueError(f"`nearest` must be at least 1, got {count}.")
        known = {language: list(phrases) for language, phrases in words.items()}
        nothing: dict[str, list[str]] = {language: [] for language in known}

        def share(entry: Entry) -> float:
            content = len(unknown_words(entry.text, nothing, 0))
            return 1 - len(unknown_words(entry.text, known, 0)) / content if content else 0.0

        order = sorted(range(len(self.entries)), key=lambda index: (-share(self.entries[index]), index))
        return replace(self, entries=tuple(self.entries[index] for index in sorted(order[:count])))


def load_suite(
    name: str, prompts: Path | None = None, split: str = "dev", rung: str = "rung1", kinds: Sequence[str] | None = None
) -> Suite:
    """Loads a list of prompts.

    Args:
        name: "vbench", "vbench-i2v", "stage", or a JSON file in VBench's schema.
        prompts: where VBench's list lies (the file, a folder with it, or the package's folder); None = the installed `vbench`.
        split: of Stage.
        rung: of Stage.
        kinds: of Stage; None = all.

    Raises:
        ValueError: no such list, or it is not in VBench's schema.
    """
    if name == "stage":
        return _stage_suite(split, rung, kinds)
    if name in ("vbench", "vbench-i2v"):
        path = _vbench_file(VBENCH_FILE if name == "vbench" else I2V_FILE, prompts, name)
        suite = read_suite(path, name)
        return suite if name == "vbench" else _with_first_frames(suite)
    path = Path(name)
    if path.suffix.lower() != ".json":
        raise ValueError(f"`suite` must be vbench, vbench-i2v, stage or a .json file in VBench's schema, got {name}.")
    return read_suite(path, path.stem)


def read_suite(path: Path, name: str) -> Suite:
    """Reads a file in VBench's schema; prompts that occur twice become one that tests both.

    Raises:
        ValueError: no such file, or another content.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"`suite` must be a file that exists, got {path}.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"`suite` must be a JSON file, got {path} ({error}).") from None
    if not isinstance(raw, list) or not raw:
        raise ValueError(f"`suite` must be a list of objects as in {VBENCH_FILE}, got {path}.")
    merged: dict[str, Entry] = {}
    for index, item in enumerate(raw):
        entry = Entry.from_json(item, f"{path.name}[{index}]")
        other = merged.get(entry.key)
        if other is not None:
            if other.text != entry.text:
                raise ValueError(
                    f"`{path.name}[{index}].prompt_used` must be one for each prompt, got another for {entry.prompt!r}."
                )
            dimensions = tuple(dict.fromkeys(other.dimensions + entry.dimensions))
            entry = replace(other, dimensions=dimensions, auxiliary={**other.auxiliary, **entry.auxiliary})
        merged[entry.key] = entry
    return Suite(name=name, entries=tuple(merged.values()), total=len(merged), folder=path.parent)


def with_rewritten(suite: Suite, path: Path) -> Suite:
    """The suite with longer prompts for the model; files keep the short prompts as names, as VBench expects.

    Args:
        suite: the list.
        path: JSON object from prompt to longer prompt; prompts that it lacks stay as they are.

    Raises:
        ValueError: another content, or prompts that the suite does not have.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"`rewritten` must be a JSON file, got {path} ({error}).") from None
    if not isinstance(raw, dict) or not all(isinstance(text, str) and text.strip() for text in raw.values()):
        raise ValueError(f"`rewritten` must be a JSON object from prompt to longer prompt, got {path}.")
    strange = set(raw) - {entry.prompt for entry in suite.entries}
    if strange:
        raise ValueError(f"`rewritten` must name prompts of the suite, got {min(strange)!r}.")
    return replace(
        suite, entries=tuple(replace(e, prompt_used=raw.get(e.prompt, e.prompt_used)) for e in suite.entries)
    )


def num_samples(entry: Entry, samples: int, flickering: int = FLICKERING_SAMPLES) -> int:
    """Clips of a prompt: VBench asks for 25 where temporal flickering is tested, since its static filter drops many."""
    return flickering if "temporal_flickering" in entry.dimensions else samples


def clip_seed(entry: Entry, index: int, base: int = 0) -> int:
    """The seed of a prompt's clip, 0 to 2^31 - 1: prompts that come or go change nothing for the others.

    With base 0 it is that of `videogen evaluate stage`.
    """
    text = f"{entry.key}:{index}" if base == 0 else f"{base}:{entry.key}:{index}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big") >> 1


def _vbench_file(file: str, prompts: Path | None, name: str) -> Path:
    if prompts is not None:
        candidates = [prompts] if prompts.is_file() else [prompts / file, prompts / "vbench" / file]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise ValueError(f"`prompts` must be {file} or a folder that holds it, got {prompts}.")
        return found
    spec = importlib.util.find_spec("vbench")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / file
        if path.is_file():
            return path
        raise ValueError(
            f"`suite` {name} needs {file}, which the installed vbench lacks; give its place with --prompts."
        )
    raise ValueError(f"`suite` {name} needs {file}: pip install --no-deps vbench, or give its place with --prompts.")


def _with_first_frames(suite: Suite) -> Suite:
    """VBench-I2V names a picture with its caption only; "CAPTION, camera pans left" starts from the same one."""
    pictures = {entry.prompt: entry.image for entry in suite.entries if entry.image}

    def completed(entry: Entry) -> Entry:
        caption = next(
            (entry.prompt.removesuffix(f", {p}") for p in CAMERA_PHRASES if entry.prompt.endswith(p)), entry.prompt
        )
        return entry if entry.image else replace(entry, image=pictures.get(caption, f"{caption}.jpg"))

    return replace(suite, entries=tuple(map(completed, suite.entries)))


def _stage_suite(split: str, rung: str, kinds: Sequence[str] | None) -> Suite:
    from videogen.evaluation.stage_suite import KINDS, Prompt, load_prompts

    if kinds is not None and not (kinds and set(kinds) <= set(KINDS)):
        raise ValueError(f"`kinds` must be among {', '.join(KINDS)}, got {', '.join(kinds)}.")
    prompts = load_prompts(split, rung)

    def entry(prompt: Prompt) -> Entry:
        dimensions, auxiliary = _stage_truth(prompt.asked)
        stage = {"id": prompt.id, "kind": prompt.kind, "rung": prompt.rung, "asked": prompt.asked}
        subject = f"{prompt.id}.png" if prompt.reference is not None else ""
        return Entry(prompt=prompt.prompt, dimensions=dimensions, auxiliary=auxiliary, subject=subject, stage=stage)

    entries = tuple(entry(prompt) for prompt in prompts if kinds is None or prompt.kind in kinds)
    return Suite(name=f"stage-{split}-{rung}", entries=entries, total=len(prompts))


def _stage_truth(asked: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """VBench's names and `auxiliary_info` of what a Stage prompt asks for."""
    dimensions = {"light": "light", "scene": "scene", "motion": "motion", "speed": "speed", "camera": "camera_motion"}
    dimensions |= {"count": "count", "event": "event", "identity": "identity", "relation": "spatial_relationship"}
    names = [dimensions[key] for key in asked if key in dimensions]
    auxiliary: dict[str, Any] = {"scene": {"scene": {"scene": asked["scene"]}}} if "scene" in asked else {}
    if "second_actor" in asked:
        names.append("multiple_objects")
        auxiliary["multiple_objects"] = {"object": f"{asked['actor']} and {asked['second_actor']}"}
    elif "actor" in asked:
        names.append("object_class")
        auxiliary["object_class"] = {"object": asked["actor"]}
    if "relation" in asked:
        pair = {
            "object_a": asked["actor"],
            "object_b": asked["second_actor"],
            "relationship": f"on the {asked['relation']}",
        }
        auxiliary["spatial_relationship"] = {"spatial_relationship": pair}
    return tuple(sorted(names)), auxiliary
