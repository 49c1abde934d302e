"""VBench's totals: two published rows, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from videogen.cli import main
from videogen.data.video import write_video
from videogen.evaluation.report.published import PUBLISHED
from videogen.evaluation.score import score_folder, write_results
from videogen.evaluation.total import QUALITY, SEMANTIC, board_total, read_scores


def result_file(path, scores, **meta):
    content = {name: [value, [{"video_path": "a-0.mp4", "video_results": value}]] for name, value in scores.items()}
    if meta:
        content["meta"] = [None, [meta]]
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Veo 3", (85.06, 85.70, 82.49)),
        ("MiniMax-Video-01", (83.41, 84.85, 77.64)),  # Semantic published as 77.65
        ("Kling", (81.85, 83.39, 75.68)),
        ("Gen-3", (82.32, 84.11, 75.17)),
        ("Sora", (84.28, 85.51, 79.35)),
        ("HunyuanVideo", (83.24, 85.09, 75.82)),
        ("CogVideoX-5B", (81.61, 82.75, 77.04)),
    ],
)
def test_published_rows(model: str, expected: tuple[float, float, float]) -> None:
    found = board_total(PUBLISHED[model])
    numbers = [round(100 * value, 2) for value in (found.total, found.parts["Quality"], found.parts["Semantic"])]
    assert numbers == pytest.approx(expected, abs=0.0101)
    if model in ("Veo 3", "MiniMax-Video-01"):
        assert numbers == pytest.approx(expected, abs=1e-9)


def test_i2v() -> None:
    names = [*(n for n in QUALITY if n != "temporal_flickering"), "i2v_subject", "i2v_background", "camera_motion"]
    perfect = dict.fromkeys(names, 1.0) | {"motion_smoothness": 0.9975}
    assert board_total(perfect, "vbench-i2v").total == pytest.approx(1.0)
    still = board_total(perfect | {"camera_motion": 0.0}, "vbench-i2v")
    assert still.parts["I2V"] == pytest.approx(2.0 / 2.1) and still.total == pytest.approx((2.0 / 2.1 + 1) / 2)


def test_a_missing_dimension_is_refused_unless_asked() -> None:
    scores = {name: value for name, value in PUBLISHED["Veo 3"].items() if name != "color"}
    with pytest.raises(
        ValueError, match=r"`results` must hold all 16 dimensions of vbench, missing: color; .*--missing-as-zero"
    ):
        board_total(scores)
    found = board_total(scores, missing_as_zero=True)
    assert found.counted_as_zero == ("color",)
    assert found.parts["Semantic"] == pytest.approx(0.824945 - 0.8248 / 9, abs=1e-5)
    assert board_total({}, missing_as_zero=True).total < 0  # raw 0 lies below some minima, as in the official script


def test_only_shares_count() -> None:
    with pytest.raises(ValueError, match=r"scores in 0..1, got 97.36 for subject_consistency; divide percents by 100"):
        board_total({name: 100 * value for name, value in PUBLISHED["Veo 3"].items()})
    with pytest.raises(ValueError, match="`board` must be one of vbench, vbench-i2v, got 'mine'"):
        board_total({}, "mine")  # type: ignore[arg-type]


def test_files_are_put_together_and_suffixed_metrics_never_count(tmp_path) -> None:
    row = PUBLISHED["Veo 3"]
    quality = result_file(tmp_path / "q.json", {n.replace("_", " "): row[n] for n in QUALITY if n != "dynamic_degree"})
    semantic = result_file(tmp_path / "s.json", {n: row[n] for n in SEMANTIC} | {"dynamic_degree@dis": 1.0})
    with pytest.raises(ValueError, match="missing: dynamic_degree;"):
        board_total(read_scores([quality, semantic]))
    last = result_file(tmp_path / "d.json", {"dynamic_degree": row["dynamic_degree"]}, partial=False)
    assert round(100 * board_total(read_scores([quality, semantic, last])).total, 2) == 85.06
    with pytest.raises(ValueError, match="each dimension once, got dynamic_degree twice"):
        read_scores([last, last])


def test_a_part_of_a_suite_has_no_total(tmp_path) -> None:
    path = result_file(tmp_path / "part.json", PUBLISHED["Veo 3"], partial=True)
    with pytest.raises(ValueError, match="which holds a part of one; a part has no Total"):
        read_scores([path])


def test_results_of_all_clips_have_no_total(tmp_path) -> None:
    write_video(tmp_path / "a cat-0.mp4", np.full((3, 32, 32, 3), 90, np.uint8), 8.0)
    scored = {"dimensions": ["temporal_flickering"], "scores": tmp_path / "kept.jsonl", "baseline_clips": 0}
    write_results(tmp_path / "own.json", score_folder(tmp_path, **scored))
    assert read_scores([tmp_path / "own.json"]) == {"temporal_flickering": 1.0}
    write_results(tmp_path / "all.json", score_folder(tmp_path, **scored, all_clips=True))
    with pytest.raises(ValueError, match=r"got .*all\.json, which was scored with --all-clips; score without it"):
        read_scores([tmp_path / "all.json"])


@pytest.mark.parametrize("content", ["[]", "{}", '{"a": 1}', '{"a": [1]}', "no json"])
def test_other_files_are_refused(tmp_path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="`results` must be"):
        read_scores([path])


def test_command(tmp_path, capsys) -> None:
    path = result_file(tmp_path / "veo.json", PUBLISHED["Veo 3"])
    assert main(["evaluate", "total", str(path), "--json", str(tmp_path / "total.json")]) == 0
    assert capsys.readouterr().out == "Quality: 85.70\nSemantic: 82.49\nTotal: 85.06\n"
    assert round(json.loads((tmp_path / "total.json").read_text())["total"], 4) == 0.8506
    assert main(["evaluate", "total", str(tmp_path / "none.json")]) == 2
    assert "`results` must be a file that exists" in capsys.readouterr().err
