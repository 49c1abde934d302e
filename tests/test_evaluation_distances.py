"""Distances between sets of clips against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from videogen.cli import main
from videogen.data.video import write_video
from videogen.evaluation.distances import clip_features, distances, frechet_distance, kernel_distance


def test_frechet_is_the_formula() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(40, 6)), generator.normal(1.0, 2.0, size=(50, 6)) @ generator.normal(size=(6, 6))
    covariance_a, covariance_b = np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.linalg.eigvals(covariance_a @ covariance_b).real.clip(0)).sum()
    direct = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariance_a) + np.trace(covariance_b) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(direct, rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_a_shift_and_a_scale_have_known_distances() -> None:
    a = np.random.default_rng(1).normal(size=(30, 100))  # fewer clips than features
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 0.3) == pytest.approx(100 * 0.09)
    doubled = a.mean(0) + 2 * (a - a.mean(0))
    assert frechet_distance(a, doubled) == pytest.approx(np.trace(np.cov(a.T)))


def test_the_kernel_distance_is_unbiased() -> None:
    generator = np.random.default_rng(2)
    same = [kernel_distance(generator.normal(size=(8, 4)), generator.normal(size=(8, 4))) for _ in range(300)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(300) and min(same) < 0
    assert kernel_distance(generator.normal(size=(8, 4)), generator.normal(2, 1, size=(8, 4))) > max(same)


def test_motion_counts() -> None:
    still = np.zeros((4, 16, 16, 3), np.uint8)
    blinking = still.copy()
    blinking[1::2] = 255
    assert (clip_features(still, "pixels")[768:] == 0).all() and (clip_features(blinking, "pixels")[768:] == 255).all()
    assert (clip_features(still[:1], "pixels")[768:] == 0).all()


def test_sizes_are_stated_and_too_small_sets_refused() -> None:
    found = distances(np.eye(3), np.ones((2, 3)), "pixels")
    assert (found.clips, found.reference_clips, found.extractor) == (3, 2, "pixels")
    with pytest.raises(ValueError, match="`reference` must be of at least 2 clips"):
        distances(np.eye(3), np.ones((1, 3)), "pixels")
    with pytest.raises(ValueError, match="`reference` must have 3 features"):
        distances(np.eye(3), np.ones((2, 4)), "pixels")


def test_command(tmp_path, capsys) -> None:
    generator = np.random.default_rng(0)
    for name, count in (("a", 3), ("b", 2)):
        (tmp_path / name).mkdir()
        for index in range(count):
            frames = generator.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
            write_video(tmp_path / name / f"{index}.mp4", frames, 8.0)
    assert main(["evaluate", "distance", str(tmp_path / "a"), str(tmp_path / "b"), "--extractor", "pixels"]) == 0
    said = capsys.readouterr()
    assert "features pixels, 3 clips against 2." in said.out and "biased" in said.err
