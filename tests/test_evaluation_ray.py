"""Scoring on a Ray cluster of two local machines, one of which is killed half way."""

from __future__ import annotations

import json

import numpy as np
import pytest

from videogen.data.video import write_video
from videogen.evaluation.score import score_folder

NAMES = ["temporal_flickering", "dynamic_degree@dis", "motion_smoothness@dis"]


@pytest.mark.slow
def test_a_cluster_that_is_not_there(tmp_path) -> None:
    pytest.importorskip("ray", reason="ray is not installed (extra ray)")
    write_video(tmp_path / "a-0.mp4", np.zeros((3, 16, 16, 3), np.uint8), 8.0)
    with pytest.raises(ValueError, match="`--ray` must be the address of a running cluster, got auto"):
        score_folder(tmp_path, dimensions=NAMES[:1], ray="auto", scores=tmp_path / "s.jsonl")


@pytest.mark.slow
def test_a_machine_that_dies_costs_no_clip_and_counts_none_twice(tmp_path) -> None:
    pytest.importorskip("ray", reason="ray is not installed (extra ray)")
    from ray_tools import ray_cluster

    clips = tmp_path / "clips"
    clips.mkdir()
    generator = np.random.default_rng(0)
    count = 40
    for index in range(count):
        frames = generator.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
        write_video(clips / f"clip-{index}.mp4", frames, 8.0)
    (clips / "clip-7.mp4").write_bytes(b"broken")
    alone = score_folder(clips, dimensions=NAMES, baseline_clips=1, scores=tmp_path / "alone.jsonl")
    with ray_cluster(2) as (cluster, nodes):
        cluster.wait_for_nodes()
        killed = []

        def report(done: int, total: int) -> None:
            assert total == count
            if done >= count // 2 and not killed:
                killed.append(done)
                cluster.remove_node(nodes[0], allow_graceful=False)

        kept = tmp_path / "cluster.jsonl"
        spread = score_folder(
            clips, dimensions=NAMES, baseline_clips=1, ray=cluster.address, scores=kept, report=report
        )
    assert killed
    files = [json.loads(line)["file"] for line in kept.read_text().splitlines()]
    assert len(files) == len(set(files)) == count
    assert json.dumps(spread) == json.dumps(alone)
