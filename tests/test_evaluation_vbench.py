"""The bridge to the vbench package, with a stand-in of its interface in an interpreter of its own: somebody else's package, gigabytes of weights."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from videogen.cli import main
from videogen.data.video import write_video
from videogen.evaluation.collection import load_collection
from videogen.evaluation.score import meta_of
from videogen.evaluation.suite import VBENCH_DIMENSIONS
from videogen.evaluation.vbench import WEIGHTS, choose_dimensions, find_vbench

STAND_IN = """
import json, os, subprocess, urllib.request
from pathlib import Path

class VBench:
    def __init__(self, device, full_info_dir, output_path):
        self.full_info_dir, self.output_path = full_info_dir, output_path

    def evaluate(self, videos_path, name, dimension_list, local, read_frame, mode, **kwargs):
        assert local and not read_frame and len(dimension_list) == 1
        (dimension,) = dimension_list
        assert "videogen" not in __import__("sys").modules
        if dimension == "human_action":
            subprocess.run(["wget", "weights.pth"], check=True)
        if dimension == "scene":
            urllib.request.urlopen("http://192.0.2.1/weights.pth", timeout=5)
        prompts = [entry["prompt_en"] for entry in json.load(open(self.full_info_dir)) if dimension in entry["dimension"]]
        assert mode == ("vbench_standard" if prompts else "custom_input")
        files = [f"{prompt}-{index}.mp4" for prompt in prompts for index in range(5)] or sorted(os.listdir(videos_path))
        found = [os.path.join(videos_path, file) for file in files if os.path.exists(os.path.join(videos_path, file))]
        videos = [{"video_path": path, "video_results": index % 2 == 0} for index, path in enumerate(found)]
        print("noise on the terminal")
        weights = Path(os.environ["VBENCH_CACHE_DIR"]) / "raft_model/models/raft-things.pth"
        score = float(weights.read_text()) if dimension == "dynamic_degree" else 0.25
        with open(os.path.join(self.output_path, name + "_eval_results.json"), "w") as file:
            json.dump({dimension: [score, videos]}, file)
"""


@pytest.fixture
def world(tmp_path):
    """An interpreter with the stand-in, a cache with some weights, and a folder of clips with its list."""
    site = tmp_path / "site"
    (site / "vbench").mkdir(parents=True)
    (site / "vbench" / "__init__.py").write_text(STAND_IN)
    (site / "vbench-0.1.5.dist-info").mkdir()
    (site / "vbench-0.1.5.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vbench\nVersion: 0.1.5\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    cache = tmp_path / "cache"
    for dimension in ("dynamic_degree", "motion_smoothness", "human_action", "scene"):
        for name in WEIGHTS[dimension]:
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            (cache / name).write_text("0.75")
    videos = tmp_path / "clips"
    videos.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    for index in range(2):
        write_video(videos / f"a fox-{index}.mp4", frames, 8.0)
    listed = [{"prompt_en": "a fox", "dimension": ["dynamic_degree", "scene", "human_action", "color"]}]
    (tmp_path / "list.json").write_text(json.dumps(listed))
    return tmp_path


def test_the_first_missing_weight_is_named(world) -> None:
    installation = find_vbench(world / "python", world / "cache")
    assert installation.version == "0.1.5" and set(WEIGHTS) == set(VBENCH_DIMENSIONS)
    collection = load_collection(world / "clips", world / "list.json")
    chosen, refused = choose_dimensions(installation, collection, None)
    assert chosen == ["dynamic_degree", "human_action", "scene"]
    assert refused["color"].startswith("VBench needs grit_model/grit_b_densecap_objectdet.pth in ")
    with pytest.raises(
        ValueError,
        match=r"`--vbench-python` cannot run subject_consistency: VBench needs dino_model/facebookresearch_dino_main/hubconf.py in .*nothing was downloaded",
    ):
        choose_dimensions(installation, collection, ["subject_consistency"])
    with pytest.raises(ValueError, match="`--vbench-dimensions` must be among subject_consistency"):
        choose_dimensions(installation, collection, ["sharpness"])
    loose = load_collection(world / "clips")
    assert choose_dimensions(installation, loose, None)[0] == ["motion_smoothness", "dynamic_degree", "human_action"]
    with pytest.raises(ValueError, match="cannot run scene: VBench judges it only with a list of prompts"):
        choose_dimensions(installation, loose, ["scene"])


def test_interpreters_without_vbench_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="`--vbench-python` must be a Python interpreter, got nowhere"):
        find_vbench("nowhere")
    bare = tmp_path / "python"  # whatever is installed here, this one has the standard library alone
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(ValueError, match="`--vbench-python` must have the package vbench"):
        find_vbench(str(bare))


def test_results_go_into_the_same_report(world, capsys) -> None:
    out = world / "results.json"
    command = ["evaluate", "score", str(world / "clips"), "--prompts", str(world / "list.json"), "--samples", "3"]
    command += ["--dimensions", "temporal_flickering,dynamic_degree@dis", "--baseline-clips", "0", "--json", str(out)]
    command += [
        "--vbench-python",
        str(world / "python"),
        "--vbench-cache",
        str(world / "cache"),
        "--html",
        str(world / "r.html"),
    ]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "VBench 0.1.5: dynamic_degree (1 of 3)" in said.err and "noise on the terminal" not in said.out
    results = json.loads(out.read_text())
    assert results["dynamic_degree"][0] == 0.75  # as VBench said it
    assert [item["video_path"] for item in results["dynamic_degree"][1]] == ["a fox-0.mp4", "a fox-1.mp4"]
    meta = meta_of(results)
    about = meta["metrics"]["dynamic_degree"]
    assert (
        about["definition"] == "vbench" and about["clips"] == 3 and about["broken"] == 1 and meta["vbench"] == "0.1.5"
    )
    # What would have downloaded was stopped, and says so; the rest went on.
    assert "downloading is switched off" in meta["not_computed"]["scene"]
    assert "wget" in meta["not_computed"]["human_action"] and "grit_model" in meta["not_computed"]["color"]
    assert "dynamic_degree" not in meta["not_computed"] and "dynamic_degree@dis" in results
    assert "vbench 0.1.5 itself" in (world / "r.html").read_text()


def test_bridge_options_need_the_bridge(world, capsys) -> None:
    assert main(["evaluate", "score", str(world / "clips"), "--vbench-dimensions", "scene"]) == 2
    assert "need `--vbench-python`" in capsys.readouterr().err
