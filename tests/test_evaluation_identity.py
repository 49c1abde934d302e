import cv2
import numpy as np
import pytest
from PIL import Image

from videogen.evaluation.identity import identity_score


def fox(size=64, colour=(230, 110, 30)):
    """A face with ears, eyes and a nose on transparent ground: [size, size, 3] and its mask."""
    canvas = np.zeros((64, 64, 3), np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    for picture, fill in ((canvas, colour), (mask, 255)):
        cv2.circle(picture, (32, 36), 22, fill, -1)
        cv2.fillPoly(picture, [np.array([[12, 30], [16, 4], [32, 18]])], fill)
        cv2.fillPoly(picture, [np.array([[52, 30], [48, 4], [32, 18]])], fill)
    for x in (24, 40):
        cv2.circle(canvas, (x, 32), 4, (20, 20, 20), -1)
    cv2.ellipse(canvas, (32, 46), (12, 8), 0, 0, 360, (250, 250, 250), -1)
    resized = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return resized, cv2.resize(mask, (size, size)) > 127


def scene(subjects, background):
    """Frames [F, 96, 96, 3]: the subject of each frame (or None) walking over a background."""
    frames = []
    for i, subject in enumerate(subjects):
        frame = background.copy()
        if subject is not None:
            picture, mask = subject
            side = len(mask)
            part = frame[30 : 30 + side, 4 * i : 4 * i + side]
            part[mask] = picture[mask]
        frames.append(frame)
    return np.stack(frames)


@pytest.fixture
def meadow():
    rows = np.linspace(0, 1, 96)[:, None, None]
    sky, grass = np.array([120, 180, 240]), np.array([60, 140, 60])
    return np.broadcast_to(sky * (1 - rows) + grass * rows, (96, 96, 3)).astype(np.uint8)


@pytest.fixture
def reference():
    picture, mask = fox(80)
    ground = np.full((96, 96, 3), 215, np.uint8)
    ground[8:88, 8:88][mask] = picture[mask]
    return Image.fromarray(ground)


def test_same_subject_elsewhere_outscores_another_one(meadow, reference):
    same = identity_score(scene([fox(44)] * 4, meadow), reference)
    other = identity_score(scene([fox(44, colour=(60, 90, 210))] * 4, meadow), reference)
    nobody = identity_score(scene([None] * 4, meadow), reference)
    assert same.mean > other.mean + 0.1 and same.mean > nobody.mean + 0.15
    assert all(0 <= score.worst <= score.mean <= 1 for score in (same, other, nobody))


def test_worst_frame_is_the_one_without_the_subject(meadow, reference):
    score = identity_score(scene([fox(44), None, fox(44)], meadow), reference)
    assert score.frames.index(score.worst) == 1 and len(score.frames) == 3
    assert score.mean == pytest.approx(sum(score.frames) / 3)


def test_mirrored_subject_keeps_its_score(meadow, reference):
    frames = scene([fox(44)], meadow)
    plain, mirrored = (
        identity_score(frames, reference),
        identity_score(np.ascontiguousarray(frames[:, :, ::-1]), reference),
    )
    assert abs(plain.mean - mirrored.mean) < 0.05


def test_deterministic_and_array_equals_picture(meadow, reference):
    frames = scene([fox(44)], meadow)
    assert identity_score(frames, reference) == identity_score(frames, np.asarray(reference))


def test_bad_input(reference):
    with pytest.raises(ValueError, match=r"`frames` must be uint8 \[F, H, W, 3\], got float32"):
        identity_score(np.zeros((1, 96, 96, 3), np.float32), reference)
    with pytest.raises(ValueError, match="`frames`"):
        identity_score(np.zeros((0, 96, 96, 3), np.uint8), reference)
    with pytest.raises(ValueError, match="`subject`"):
        identity_score(np.zeros((1, 96, 96, 3), np.uint8), np.zeros((96, 96), np.uint8))
