"""The real VBench, where it is installed with its weights: in an interpreter and a process of its own, one dimension at a time, into the same report.

VBench pins old versions of its dependencies, so it lives in another environment than this project. Nothing is downloaded: the weights of a dimension are
looked for first and the first one missing is named, and a dimension that tries to fetch something all the same is stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videogen.evaluation.collection import Collection
from videogen.evaluation.score import meta_of
from videogen.evaluation.statistics import clustered_interval
from videogen.evaluation.suite import VBENCH_DIMENSIONS

_CLIP_B, _CLIP_L = "clip_model/ViT-B-32.pt", "clip_model/ViT-L-14.pt"
_GRIT = "grit_model/grit_b_densecap_objectdet.pth"
_VICLIP = "ViCLIP/ViClip-InternVid-10M-FLT.pth"
WEIGHTS: dict[str, tuple[str, ...]] = {
    "subject_consistency": (
        "dino_model/facebookresearch_dino_main/hubconf.py",
        "dino_model/dino_vitbase16_pretrain.pth",
    ),
    "background_consistency": (_CLIP_B,),
    "temporal_flickering": (),
    "motion_smoothness": ("amt_model/amt-s.pth",),
    "dynamic_degree": ("raft_model/models/raft-things.pth",),
    "aesthetic_quality": (_CLIP_L, "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
    "imaging_quality": ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",),
    "object_class": (_GRIT,),
    "multiple_objects": (_GRIT,),
    "human_action": ("umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",),
    "color": (_GRIT,),
    "spatial_relationship": (_GRIT,),
    "scene": ("caption_model/tag2text_swin_14m.pth",),
    "appearance_style": (_CLIP_B,),
    "temporal_style": (_VICLIP,),
    "overall_consistency": (_VICLIP,),
}
"""Files that vbench 0.1.5 reads for a dimension, inside its cache; it may need a tokenizer from the Hugging Face cache besides (scene)."""
NO_LOOSE_FILES = frozenset(
    {"object_class", "multiple_objects", "scene", "appearance_style", "color", "spatial_relationship"}
)
"""Dimensions that VBench refuses for clips without a list of prompts."""
_RUNNER = Path(__file__).with_name("vbench_runner.py")
_DOWNLOADERS = ("wget", "curl", "git")


@dataclass(frozen=True, kw_only=True)
class VBenchInstallation:
    """Attributes: `python`: an interpreter that has `vbench`; `version`: of it; `cache`: folder of weights; `device`: "cuda" or "cpu"."""

    python: Path
    version: str
    cache: Path
    device: str = "cuda"

    def missing_weight(self, dimension: str) -> str | None:
        """The first file that a dimension needs and the cache lacks."""
        return next((name for name in WEIGHTS[dimension] if not (self.cache / name).is_file()), None)


def find_vbench(python: str | Path, cache: str | Path | None = None, device: str = "cuda") -> VBenchInstallation:
    """Looks at an interpreter.

    Args:
        python: its file.
        cache: folder of weights; None = `$VBENCH_CACHE_DIR`, or `~/.cache/vbench` as VBench has it.
        device: what VBench runs on.

    Raises:
        ValueError: no interpreter, or one without `vbench`.
    """
    script = "import importlib.metadata as m; print(m.version('vbench'))"
    try:
        answer = subprocess.run([str(python), "-c", script], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"`--vbench-python` must be a Python interpreter, got {python} ({error}).") from None
    if answer.returncode:
        raise ValueError(
            f"`--vbench-python` must have the package vbench, got {python} without it; pip install vbench there."
        )
    folder = cache or os.environ.get("VBENCH_CACHE_DIR") or Path.home() / ".cache" / "vbench"
    return VBenchInstallation(python=Path(python), version=answer.stdout.strip(), cache=Path(folder), device=device)


def choose_dimensions(
    installation: VBenchInstallation, collection: Collection, asked: Sequence[str] | None
) -> tuple[list[str], dict[str, str]]:
    """Dimensions to run, and those that cannot be run with the reason.

    Args:
        installation: of VBench.
        collection: the clips.
        asked: by name; None = every dimension that the prompts test, or all if they name none. Temporal flickering is left to this project, which computes
            the same.

    Raises:
        ValueError: a dimension asked for by name cannot be run, or none can.
    """
    unknown = [name for name in asked or () if name not in VBENCH_DIMENSIONS]
    if unknown:
        raise ValueError(
            f"`--vbench-dimensions` must be among {', '.join(VBENCH_DIMENSIONS)}, got {', '.join(unknown)}."
        )
    listed = [name for name in VBENCH_DIMENSIONS if name in collection.dimensions and name != "temporal_flickering"]
    loose = not listed
    wanted = list(asked) if asked else listed or [name for name in VBENCH_DIMENSIONS if name != "temporal_flickering"]
    refused = {}
    for name in wanted:
        missing = installation.missing_weight(name)
        if loose and name in NO_LOOSE_FILES:
            refused[name] = "VBench judges it only with a list of prompts that test it"
        elif missing is not None:
            refused[name] = f"VBench needs {missing} in {installation.cache}, which is missing; nothing was downloaded"
    if refused and (asked or len(refused) == len(wanted)):
        name, reason = next(iter(refused.items()))
        raise ValueError(f"`--vbench-python` cannot run {name}: {reason}.")
    return [name for name in wanted if name not in refused], refused


def run_vbench(
    installation: VBenchInstallation,
    collection: Collection,
    dimensions: Sequence[str],
    report: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Runs dimensions one after another, each in a process of its own.

    Args:
        installation: of VBench.
        collection: the clips.
        dimensions: names, as `choose_dimensions` gives them.
        report: called with the name of the dimension that begins, how many are done, and their number.

    Returns:
        VBench's results by dimension, and dimensions that failed with the last line that VBench said.
    """
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment(installation, Path(folder) / "refused")
        full_info = Path(folder) / "full_info.json"
        # A copy alone in its folder: beside the original lie modules that would hide others of the same name, this one not least.
        runner = Path(folder) / "runner" / _RUNNER.name
        runner.parent.mkdir()
        shutil.copyfile(_RUNNER, runner)
        entries = {clip.entry.key: clip.entry.to_json() for clip in collection.clips}
        full_info.write_text(json.dumps(list(entries.values()), ensure_ascii=False), encoding="utf-8")
        for done, name in enumerate(dimensions):
            report(name, done, len(dimensions))
            out = Path(folder) / name
            out.mkdir()
            request = {
                "dimension": name,
                "videos": str(collection.videos.resolve()),
                "full_info": str(full_info),
                "out": str(out),
                "mode": "vbench_standard" if name in collection.dimensions else "custom_input",
                "device": installation.device,
            }
            (out / "request.json").write_text(json.dumps(request), encoding="utf-8")
            command = [str(installation.python), str(runner), str(out / "request.json")]
            answer = subprocess.run(
                command, capture_output=True, text=True, errors="replace", env=environment, cwd=folder
            )
            path = out / "result.json"
            if answer.returncode or not path.is_file():
                lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
                failed[name] = f"VBench stopped: {lines[-1] if lines else f'exit code {answer.returncode}'}"
                continue
            results[name] = json.loads(path.read_text(encoding="utf-8"))[name]
    report("", len(dimensions), len(dimensions))
    return results, failed


def merge_vbench(
    results: Mapping[str, Any],
    collection: Collection,
    scored: Mapping[str, Any],
    refused: Mapping[str, str],
    installation: VBenchInstallation,
) -> dict[str, Any]:
    """Our results with VBench's among them, under their bare names.

    VBench leaves clips that it cannot find out of its mean; how many it judged stands beside its score.
    """
    meta = meta_of(results)
    merged = {name: value for name, value in results.items() if name != "meta"}
    by_file = {clip.file: clip for clip in collection.clips}
    about, not_computed = dict(meta["metrics"]), dict(meta["not_computed"])
    for name, value in scored.items():
        items: list[dict[str, Any]] = []
        groups: dict[str, list[float]] = {}
        for item in value[-1]:
            clip = by_file.get(Path(item["video_path"]).name)
            if clip is None:
                continue
            more: dict[str, Any] = {
                "video_path": collection.shown_path(clip),
                "prompt": clip.entry.prompt,
                "index": clip.index,
            }
            if clip.seed is not None:
                more["seed"] = clip.seed
            items.append({**item, **more})
            groups.setdefault(clip.entry.key, []).append(float(item["video_results"]))
        proportion = any(isinstance(item["video_results"], bool) for item in items)
        interval = clustered_interval(list(groups.values()), proportion) if groups else None
        meant = [
            clip for clip in collection.clips if name in clip.entry.dimensions or name not in collection.dimensions
        ]
        merged[name] = [value[0], items]
        per_hundred = name == "imaging_quality"  # per clip 0 to 100, as VBench has it
        scale = 100.0 if per_hundred else 1.0
        about[name] = {
            "definition": "vbench",
            "about": f"vbench {installation.version} itself; clips that it could not find are not in its mean",
            "clips": len(meant),
            "prompts": len(groups),
            "broken": len(meant) - len(items),
            "left_out": 0,
            "low": None if interval is None or interval.low is None else interval.low / scale,
            "high": None if interval is None or interval.high is None else interval.high / scale,
            "baselines": {},
        }
        not_computed.pop(name, None)
    not_computed |= refused
    meta |= {"metrics": about, "not_computed": not_computed, "vbench": installation.version}
    return {**merged, "meta": [None, [meta]]}


def _environment(installation: VBenchInstallation, folder: Path) -> dict[str, str]:
    """The child's environment: VBench's cache, hubs offline, and programs in front of the real ones that refuse to download."""
    folder.mkdir()
    for name in _DOWNLOADERS:
        program = folder / name
        program.write_text(
            f'#!/bin/sh\necho "downloading is switched off here: {name} $*" >&2\nexit 1\n', encoding="utf-8"
        )
        program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}",
        "VBENCH_CACHE_DIR": str(installation.cache.resolve()),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONPATH": "",
    }
