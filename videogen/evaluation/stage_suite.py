"""Measures a model on Stage: sample, encode, decode, check, count.

The prompts are fixed: `videogen/assets/stage/prompts_{dev,test}.jsonl`, made by `build_prompts` and hashed into every report;
`PROMPTS_VERSION` counts their versions, and results of different versions do not compare. For each rung they hold four kinds, interleaved so
that any first N are balanced: `seen` (pairs of attributes that training shows), `pairs` (at least one pair that it never shows), `words` (only
synonyms and word orders that it never shows) and `strangers` (a picture of an actor that it never shows).

The unit is the prompt: with one clip each the interval is Wilson's, with several it is a bootstrap over prompts. A clip that cannot be made or
read is wrong in everything.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from videogen.conditioning.unsaid import UNSAID_VERSION
from videogen.conditioning.wording import table_hash
from videogen.data.files import atomic_path
from videogen.data.stage import captions
from videogen.data.stage.actors import ASSETS, strangers
from videogen.data.stage.captions import caption
from videogen.data.stage.render import render, to_frames
from videogen.data.stage.vocabulary import LIGHTS, ActorSpec, ClipSpec, Vocabulary, attributes, rungs, sample_spec
from videogen.data.video import read_video
from videogen.evaluation.clip_jobs import Work, claim, run_jobs
from videogen.evaluation.metrics.stage import checkers_version
from videogen.evaluation.stage import check
from videogen.evaluation.stage_shape import DEFAULT_SHAPE, ClipShape, clip_shape
from videogen.evaluation.statistics import wilson
from videogen.receipt import weights_sha256

ATTRIBUTES = ("actor", "scene", "light", "motion", "speed", "camera", "count", "relation", "event", "identity", "all")
KINDS = ("seen", "pairs", "words", "strangers")
PROMPTS_PER_RUNG = 350
PROMPTS_VERSION = 2  # 1 said "an unicorn"
_SHUFFLES = 25
_CYCLE = ("seen", "seen", "pairs", "seen", "words", "seen", "strangers")
Source = Literal["model", "renders", "tokenizer"]


@dataclass(frozen=True)
class Prompt:
    """One line of a prompt list. `asked` is what the prompt names; `reference` draws the picture of a stranger."""

    id: str
    rung: str
    kind: str
    language: str
    prompt: str
    asked: dict[str, Any]
    spec: str
    reference: str | None = None


def prompt_file(split: str) -> Path:
    """The committed list of a split, "dev" or "test"."""
    if split not in ("dev", "test"):
        raise ValueError(f"`split` must be 'dev' or 'test', got {split!r}.")
    return ASSETS / f"prompts_{split}.jsonl"


def load_prompts(split: str, rung: str, num_prompts: int | None = None) -> list[Prompt]:
    """The first prompts of a rung.

    Raises:
        ValueError: Unknown split or rung, or more prompts than there are.
    """
    lines = prompt_file(split).read_text(encoding="utf-8").splitlines()
    prompts = [prompt for prompt in (Prompt(**json.loads(line)) for line in lines) if prompt.rung == rung]
    if not prompts:
        raise ValueError(f"`rung` must be one of {', '.join(rungs())}, got {rung!r}.")
    if num_prompts is not None and not 1 <= num_prompts <= len(prompts):
        raise ValueError(f"`num_prompts` must be between 1 and {len(prompts)}, got {num_prompts}.")
    return prompts[:num_prompts]


def suite_hash(split: str, rung: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a rung's prompts."""
    lines = [json.dumps(asdict(prompt), ensure_ascii=False) for prompt in load_prompts(split, rung)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def build_prompts(split: str) -> list[Prompt]:
    """Makes a list anew; the committed files are its result and stay as they are."""
    from videogen.training.batches import name_the_subject

    prompts = []
    for rung, vocabulary in rungs().items():
        generator = random.Random(f"stage-prompts:{split}:{rung}")
        for index in range(PROMPTS_PER_RUNG):
            kind = _CYCLE[index % len(_CYCLE)]
            spec = sample_spec(generator, vocabulary, split="heldout" if kind == "pairs" else "train")
            reference = None
            if kind == "strangers":
                spec = replace(
                    spec, actors=(replace(spec.actors[0], name=generator.choice(strangers())),), relation=None
                )
                spec = replace(spec, event=None if spec.event == "enters" else spec.event)
                others = [scene for scene in vocabulary.scenes if scene != spec.scene]
                reference = ClipSpec(
                    (ActorSpec(spec.actors[0].name),),
                    generator.choice(others),
                    generator.choice(LIGHTS),
                    seed=generator.randrange(2**31),
                ).to_json()
            language: Literal["en", "zh"] = "zh" if generator.random() < 0.3 else "en"
            style: Literal["words", "bracket"] = "bracket" if generator.random() < 0.5 else "words"
            text = caption(spec, generator, language, style, held_out=kind == "words")
            asked = attributes(spec)
            if not _mentions_light(text, spec.light) and spec.event != "night falls":
                del asked["light"]
            if kind == "strangers":
                text = name_the_subject(text, spec.actors[0].name, language)
                asked["identity"] = asked.pop("actor")
            prompts.append(
                Prompt(f"{split}-{rung}-{index:03d}", rung, kind, language, text, asked, spec.to_json(), reference)
            )
    return prompts


def in_language(prompt: Prompt, language: str) -> Prompt:
    """The prompt told in another language: the same kind of words, the same things said; itself in its own.

    Raises:
        ValueError: No language of Stage.
    """
    from videogen.training.batches import name_the_subject

    if language not in ("en", "zh"):
        raise ValueError(f"`language` must be 'en' or 'zh', got {language!r}.")
    if prompt.language == language:
        return prompt
    spec = ClipSpec.from_json(prompt.spec)
    generator = random.Random(f"{prompt.id}:{language}")
    style: Literal["words", "bracket"] = "bracket" if "[" in prompt.prompt else "words"
    while True:  # daylight goes unmentioned in some captions
        text = caption(spec, generator, language, style, held_out=prompt.kind == "words")  # type: ignore[arg-type]
        if _mentions_light(text, spec.light) == _mentions_light(prompt.prompt, spec.light):
            break
    if prompt.kind == "strangers":
        text = name_the_subject(text, spec.actors[0].name, language)
    return replace(prompt, language=language, prompt=text)


def _mentions_light(text: str, light: str) -> bool:
    words = [word for table in (captions._LIGHTS_EN, captions._LIGHTS_ZH) for group in table[light] for word in group]
    return any(word in text for word in words)


def write_prompts(split: str) -> Path:
    """Writes the list of a split; only for a new version of the suite."""
    path = prompt_file(split)
    lines = [json.dumps(asdict(prompt), ensure_ascii=False) for prompt in build_prompts(split)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def clip_seed(prompt: Prompt, index: int) -> int:
    """The seed of a prompt's clip: adding prompts changes nothing for the others."""
    digest = hashlib.sha256(f"{prompt.id}:{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True, kw_only=True)
class SuiteSettings:
    """What a run is; a folder of results belongs to one of these.

    Attributes:
        split: "dev" or "test".
        rung: Which vocabulary's prompts.
        num_prompts: The first so many; `None` = all.
        seeds: Clips per prompt.
        source: "model"; "renders" checks the checkers on true clips, "tokenizer" on reconstructions of these.
        model: Folder of weights; "" = the shipped ones.
        num_inference_steps: `None` = the model's own.
        guidance_scale: `None` = the model's own.
        guidance_interval: Lowest and highest noise level at which to guide; `None` = the model's own.
        literal_prompt: Words that the model never met go to it as they are, instead of being read as known ones.
        quality: "fast" (few steps without guidance) or "high"; `None` = the model's own.
        true_steps: Start after so many of the denoising steps, from the true clip's latents with the noise of that
            step: tells at which noise levels a model goes wrong, in high quality. 0 = generate from nothing but noise.
        batch_size: Clips per forward pass.
        kinds: Which of `KINDS`.
        language: Every prompt in this language, "en" or "zh"; `None` = in the one it is written in.
        device: Where clips are made. On another than "cpu" this process makes them, and the workers write and judge.
    """

    split: str = "dev"
    rung: str = "rung1"
    num_prompts: int | None = None
    seeds: int = 2
    source: Source = "model"
    model: str = ""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    literal_prompt: bool = False
    quality: str | None = None
    true_steps: int = 0
    batch_size: int = 8
    kinds: tuple[str, ...] = KINDS
    language: str | None = None
    device: str = "cpu"


def run_suite(
    settings: SuiteSettings,
    folder: str | Path,
    workers: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Makes and judges all clips that `folder` does not hold yet, and summarises.

    Args:
        settings: What to measure.
        folder: Gets `clips/*.mp4` and `results-*.jsonl`; an interrupted run goes on where it stopped.
        workers: Processes.
        report: Called with the number of judged clips and their total.

    Returns:
        See `summarise`; with `about`: the settings, the hashes of prompts and model and the version of the checkers.

    Raises:
        ValueError: The folder belongs to another run, or a setting is out of range.
    """
    if settings.seeds < 1 or workers < 1 or settings.batch_size < 1:
        raise ValueError("`seeds`, `workers` and `batch_size` must be at least 1.")
    if settings.true_steps < 0 or (
        settings.true_steps and (settings.source != "model" or "strangers" in settings.kinds)
    ):
        raise ValueError(
            "`true_steps` must be 0, or a number of steps with the source 'model' and no `kinds` of strangers (whose "
            f"picture is known), got {settings.true_steps} with {settings.source!r} and {', '.join(settings.kinds)}."
        )
    folder = Path(folder)
    prompts = [p for p in load_prompts(settings.split, settings.rung, settings.num_prompts) if p.kind in settings.kinds]
    if settings.language is not None:
        prompts = [in_language(prompt, settings.language) for prompt in prompts]
    about = {
        "suite": suite_hash(settings.split, settings.rung),
        "prompts_version": PROMPTS_VERSION,
        "checkers": checkers_version(),
        **model_hashes(settings.source, settings.model),
        **asdict(clip_shape(model_folder(settings.model))),
        **asdict(settings),
    }
    if settings.language is None:  # as in folders from before there was one
        del about["language"]
    if settings.source == "model" and not settings.literal_prompt:
        about["wording"], about["unsaid"] = table_hash(), UNSAID_VERSION
    about = json.loads(json.dumps(about))
    claim(folder, about, free=("num_prompts", "seeds", "batch_size", "kinds"))
    jobs = [(prompt, index) for index in range(settings.seeds) for prompt in prompts]
    chosen = run_jobs(Work(settings, _clip_name, _made_clips, _judge), jobs, folder, workers, report)
    return {**summarise(chosen), "about": about}


def model_hashes(source: Source, model: str) -> dict[str, str | None]:
    """What tells a run's model from others: `weights`, as reports name it, and `model_sha256` of its configurations as well."""
    if source == "renders":
        return {"weights": None, "model_sha256": None}
    return {"weights": weights_hash(model), "model_sha256": weights_sha256(model_folder(model))}


def weights_hash(model: str = "") -> str:
    """First 16 hexadecimal digits of the SHA-256 of a model's weights, "" = the shipped ones."""
    digest = hashlib.sha256()
    for path in sorted(model_folder(model).rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def model_folder(model: str) -> Path:
    """Where a model's weights lie, "" = the shipped ones."""
    return Path(model) if model else ASSETS.parent / "weights" / "tiny"


def _clip_name(job: tuple[Prompt, int]) -> str:
    return f"{job[0].id}-{job[1]}"


def _made_clips(
    settings: SuiteSettings, jobs: list[tuple[Prompt, int]]
) -> Iterator[tuple[tuple[Prompt, int], np.ndarray, float]]:
    """Every job with its frames, uint8 [F, H, W, 3], and their rate; subjects last, since they are made one by one."""
    make = _clip_maker(settings)
    for wants_picture in (False, True):
        group = [job for job in jobs if (job[0].reference is not None) == wants_picture]
        for start in range(0, len(group), settings.batch_size):
            batch = group[start : start + settings.batch_size]
            for job, (frames, fps) in zip(batch, make(batch), strict=True):
                yield job, frames, fps


def _judge(settings: SuiteSettings, job: tuple[Prompt, int], clip: Path) -> dict[str, Any]:
    prompt, index = job
    return judge(prompt, clip, _clip_name(job), index, rungs()[settings.rung])


def judge(prompt: Prompt, clip: Path, name: str, index: int, vocabulary: Vocabulary) -> dict[str, Any]:
    """Decodes a clip and checks it against its prompt."""
    try:
        video = read_video(clip)
        verdicts = check(video.frames, video.fps, prompt.asked, vocabulary)
        right = {key: verdict.right for key, verdict in verdicts.items()}
        seen = {key: verdict.seen for key, verdict in verdicts.items()}
    except ValueError:
        names = [key for key in prompt.asked if key in ATTRIBUTES]
        right, seen = dict.fromkeys(names, False), dict.fromkeys(names)
    result = {"clip": name, "prompt": prompt.id, "kind": prompt.kind, "seed": index, "right": right, "seen": seen}
    return {
        **result,
        "asked": {key: value for key, value in prompt.asked.items() if key in right or key == "second_actor"},
    }


def _clip_maker(settings: SuiteSettings) -> Callable[[Sequence[tuple[Prompt, int]]], list[tuple[np.ndarray, float]]]:
    """A function from jobs to frames (uint8 [F, H, W, 3]) and their rate."""
    shape = clip_shape(model_folder(settings.model))
    if settings.source == "renders":
        return lambda jobs: [(to_frames(_true_clip(prompt, index, shape)[0]), shape.fps) for prompt, index in jobs]
    if settings.source == "tokenizer":
        from tokenizer3d import CausalVideoAutoencoder

        vae = CausalVideoAutoencoder.from_pretrained(model_folder(settings.model) / "vae").eval().to(settings.device)

        @torch.no_grad()
        def reconstruct(jobs: Sequence[tuple[Prompt, int]]) -> list[tuple[np.ndarray, float]]:
            video = torch.cat([_true_clip(prompt, index, shape) for prompt, index in jobs]).to(settings.device)
            decoded = vae.decode(vae.encode(video).latents).sample.float().cpu()
            return [(to_frames(clip), shape.fps) for clip in decoded]

        return reconstruct
    from videogen.diffusion.sampling import sampling_sigmas
    from videogen_pipelines import SubjectToVideoPipeline, TextToVideoPipeline
    from videogen_pipelines.base import Checkpoint

    pipe = (
        TextToVideoPipeline.from_pretrained(settings.model) if settings.model else TextToVideoPipeline.from_pretrained()
    )
    pipe.to(settings.device)
    pipe.set_progress_bar_config(disable=True)
    subject_pipe = SubjectToVideoPipeline.from_pipe(pipe)
    subject_pipe.set_progress_bar_config(disable=True)
    names = ("num_inference_steps", "guidance_scale", "guidance_interval", "literal_prompt", "quality")
    options = {name: getattr(settings, name) for name in names}

    steps = settings.num_inference_steps or pipe.default_num_inference_steps
    if settings.true_steps:
        options["quality"] = "high"
    if settings.true_steps >= steps:
        raise ValueError(f"`true_steps` must leave a step to the model, got {settings.true_steps}.")

    def finish(prompt: Prompt, index: int) -> tuple[np.ndarray, float]:
        pipe.scheduler.set_timesteps(sigmas=sampling_sigmas(steps), device=settings.device)
        sigma = float(pipe.scheduler.sigmas[settings.true_steps])
        generator = torch.Generator().manual_seed(clip_seed(prompt, index))
        latents = pipe.encode_video(_true_clip(prompt, index, shape))
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        noisy = (1 - sigma) * latents + sigma * noise
        pipe.resume_from = Checkpoint(0, settings.true_steps, noisy, generator.get_state())
        output = pipe(prompt.prompt, generator=[generator], **options)
        return output.uint8()[0], output.fps

    def sample(jobs: Sequence[tuple[Prompt, int]]) -> list[tuple[np.ndarray, float]]:
        if settings.true_steps:
            return [finish(prompt, index) for prompt, index in jobs]
        generators = [torch.Generator().manual_seed(clip_seed(prompt, index)) for prompt, index in jobs]
        if jobs[0][0].reference is None:
            output = pipe([prompt.prompt for prompt, _ in jobs], generator=generators, batch_size=len(jobs), **options)
            return [(frames, output.fps) for frames in output.uint8()]
        made = []
        for (prompt, _), generator in zip(jobs, generators, strict=True):
            output = subject_pipe(prompt.prompt, _reference(prompt), generator=[generator], **options)
            made.append((output.uint8()[0], output.fps))
        return made

    return sample


def _true_clip(prompt: Prompt, index: int, shape: ClipShape) -> torch.Tensor:
    """A render of what the prompt asks for, [1, 3, F, H, W]; every seed another one."""
    spec = replace(ClipSpec.from_json(prompt.spec), seed=clip_seed(prompt, index))
    return render([spec], num_frames=shape.num_frames, fps=shape.fps)


def true_clip(prompt_id: str, index: int, shape: ClipShape = DEFAULT_SHAPE) -> np.ndarray:
    """A render of what a prompt asks for, uint8 [F, H, W, 3]; every index another one."""
    return to_frames(_true_clip(_by_id(prompt_id), index, shape)[0])


def reference_picture(prompt_id: str) -> Any:
    """The picture of the stranger that a prompt is about, PIL."""
    return _reference(_by_id(prompt_id))


@lru_cache(maxsize=8)
def _prompts_by_id(split: str, rung: str) -> dict[str, Prompt]:
    return {prompt.id: prompt for prompt in load_prompts(split, rung)}


def _by_id(prompt_id: str) -> Prompt:
    split, rung, _ = prompt_id.split("-")
    return _prompts_by_id(split, rung)[prompt_id]


def _reference(prompt: Prompt) -> Any:
    from PIL import Image

    assert prompt.reference is not None
    return Image.fromarray(to_frames(render([ClipSpec.from_json(prompt.reference)], num_frames=1)[0])[0])


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy with a 95 % interval of every attribute over the prompts in text (strangers count for `identity` only).

    Returns:
        One object per attribute with `accuracy`, `low`, `high`, `n` (clips); `kinds`: the same for each kind of prompt; `shuffled`: accuracy when every
        clip is compared with other prompts; `undetermined`: share of verdicts that saw nothing clear.
    """
    texts = [result for result in results if result["kind"] != "strangers"]
    table: dict[str, Any] = _table(texts)
    subjects = [result for result in results if result["kind"] == "strangers"]
    table.update({key: value for key, value in _table(subjects).items() if key == "identity"})
    table["kinds"] = {
        kind: _table(chosen) for kind in KINDS if (chosen := [result for result in results if result["kind"] == kind])
    }
    table["shuffled"] = _shuffled(texts)
    seen: dict[str, list[bool]] = {}
    for result in results:
        for key, value in result["seen"].items():
            seen.setdefault(key, []).append(value is None)
    table["undetermined"] = {key: round(float(np.mean(values)), 4) for key, values in seen.items()}
    return table


def _table(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    by_attribute: dict[str, dict[str, list[bool]]] = {}
    for result in results:
        everything = {**result["right"], "all": all(result["right"].values())}
        for key, right in everything.items():
            by_attribute.setdefault(key, {}).setdefault(result["prompt"], []).append(bool(right))
    return {key: _interval(list(by_attribute[key].values())) for key in ATTRIBUTES if key in by_attribute}


def _interval(prompts: list[list[bool]]) -> dict[str, Any]:
    flat = [right for clips in prompts for right in clips]
    accuracy = sum(flat) / len(flat)
    if all(len(clips) == 1 for clips in prompts):
        low, high = wilson(sum(flat), len(flat))
    else:
        low, high = _bootstrap(prompts)
    return {"accuracy": round(accuracy, 4), "low": round(low, 4), "high": round(high, 4), "n": len(flat)}


def _bootstrap(prompts: list[list[bool]], samples: int = 10_000) -> tuple[float, float]:
    """Percentile interval over resampled prompts; at 0 or 100 % Wilson's over prompts, which does not collapse to a point."""
    right = np.array([sum(clips) for clips in prompts])
    total = np.array([len(clips) for clips in prompts])
    if right.sum() in (0, total.sum()):
        return wilson(len(prompts) if right.sum() else 0, len(prompts))
    drawn = np.random.default_rng(0).integers(len(prompts), size=(samples, len(prompts)))
    means = right[drawn].sum(1) / total[drawn].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _shuffled(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The floor: each clip's sights compared with what other prompts asked for, each with up to `_SHUFFLES` others."""
    order = list(range(len(results)))
    random.Random(0).shuffle(order)
    hits: dict[str, list[bool]] = {}
    for turn in range(1, min(len(order) - 1, _SHUFFLES) + 1):
        for index, other in zip(order, order[turn:] + order[:turn], strict=True):
            seen, asked = results[index]["seen"], results[other]["asked"]
            rights = []
            for key, wish in asked.items():
                if key not in ATTRIBUTES or key not in seen:
                    continue
                right = _agrees(key, seen[key], wish, asked)
                hits.setdefault(key, []).append(right)
                rights.append(right)
            hits.setdefault("all", []).append(all(rights))
    return {key: round(float(np.mean(values)), 4) for key, values in hits.items()}


def chance(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What `summarise`'s `shuffled` would be, were every clip exactly what its own prompt asked for and every checker right.

    It follows from the prompts alone. Checkers that report what they see are within a few points of it; one that leans towards what is
    asked, or always answers the same, is not.
    """
    perfect = []
    for result in results:
        asked = result["asked"]
        truth = dict(asked)
        if "actor" in asked:
            truth["actor"] = [asked[key] for key in ("actor", "second_actor") if key in asked]
        if "camera" in asked:
            truth["camera"] = [sorted(set(group) - {"Static shot"}) for group in asked["camera"]]
        perfect.append({"seen": truth, "asked": asked})
    return _shuffled(perfect)


def _agrees(key: str, seen: Any, wish: Any, asked: Mapping[str, Any]) -> bool:
    if seen is None:
        return False
    if key == "actor":
        return {wish, asked.get("second_actor", wish)} <= set(seen)
    if key == "camera":
        return [sorted(set(group) - {"Static shot"}) for group in wish] == [sorted(group) for group in seen]
    return bool(seen == wish)


def rung_of(model: str = "") -> str:
    """The highest rung whose vocabulary a model covers, read from its `vocabulary.json`; "rung1" without one."""
    path = model_folder(model) / "vocabulary.json"
    if not path.is_file():
        return "rung1"
    known = json.loads(path.read_text(encoding="utf-8"))
    covered = [
        name
        for name, vocabulary in rungs().items()
        if all(
            set(getattr(vocabulary, field)) <= set(known.get(field, ()))
            for field in ("actors", "scenes", "motions", "cameras")
        )
    ]
    return covered[-1] if covered else "rung1"


def write_json(path: str | Path, summary: Mapping[str, Any]) -> None:
    """Writes a summary, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def format_table(summary: Mapping[str, Any], **columns: Mapping[str, Any]) -> str:
    """A plain text table; further summaries (ceilings) stand beside it, by title."""
    titles = ["attribute", "right", "95 % interval", "n", "shuffled", *columns]
    rows = []
    for key in ATTRIBUTES:
        if key in summary:
            cell = summary[key]
            rows.append(
                [
                    key,
                    f"{100 * cell['accuracy']:.1f} %",
                    f"{100 * cell['low']:.1f} .. {100 * cell['high']:.1f}",
                    str(cell["n"]),
                    f"{100 * summary['shuffled'][key]:.1f} %" if key in summary["shuffled"] else "",
                    *(f"{100 * other[key]['accuracy']:.1f} %" if key in other else "" for other in columns.values()),
                ]
            )
    widths = [max(len(row[k]) for row in [titles, *rows]) for k in range(len(titles))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [titles, *rows]
    ]
    return "\n".join(lines)
