"""Video files: the same bytes every time, metadata that survives, whole files or none."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videogen.data.files import atomic_path, check_output_path
from videogen.data.sheet import contact_sheet, write_sheet
from videogen.data.video import VIDEO_SUFFIXES, _insert_gif_comment, read_metadata, read_video, write_video


def moving_gradient(num_frames: int = 17, height: int = 96, width: int = 96) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    frames = [
        np.stack([(x * 2 + 5 * t) % 256, (y * 2 + 3 * t) % 256, 128 + 100 * np.sin((x + y + 4 * t) / 20)], -1)
        for t in range(num_frames)
    ]
    return np.stack(frames).astype(np.uint8)


@pytest.mark.parametrize(("suffix", "limit"), [(".mp4", 1.5), (".webm", 1.5), (".gif", 9.0)])
def test_frames_survive_in_number_order_and_colour(tmp_path: Path, suffix: str, limit: float) -> None:
    frames = moving_gradient()
    frames[6] = frames[5]  # a repeated frame must not be merged away
    write_video(tmp_path / f"a{suffix}", frames, fps=12.0)
    video = read_video(tmp_path / f"a{suffix}")
    assert video.frames.shape == frames.shape and video.frames.dtype == np.uint8
    assert video.fps == 12.0
    error = video.frames.astype(float) - frames
    assert np.abs(error).mean() < limit
    assert np.abs(error.mean((0, 1, 2))).max() < 0.7  # no colour cast


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 30, 60)])
def test_flat_colours_are_kept_within_two_levels(tmp_path: Path, suffix: str, color: tuple[int, int, int]) -> None:
    frames = np.broadcast_to(np.array(color, np.uint8), (3, 32, 32, 3))
    write_video(tmp_path / f"a{suffix}", frames, fps=12.0)
    assert np.abs(read_video(tmp_path / f"a{suffix}").frames.astype(int) - frames).max() <= 2


def test_metadata_holds_a_megabyte_of_any_text(tmp_path: Path) -> None:
    text = '{"prompt": "狐狸 \\"quotes\\" $HOME # \n"}' + "x" * 1_000_000
    for suffix in (".mp4", ".webm"):
        write_video(tmp_path / f"a{suffix}", moving_gradient(2), 12.0, {"videogen_receipt": text, "comment": "short"})
        found = read_metadata(tmp_path / f"a{suffix}")
        assert found["videogen_receipt"] == text and found["comment"] == "short"
    write_video(tmp_path / "a.gif", moving_gradient(2), 12.0, {"comment": text})
    assert read_metadata(tmp_path / "a.gif")["comment"] == text
    assert read_video(tmp_path / "a.gif").frames.shape[0] == 2


def test_gif_comment_without_global_palette_goes_behind_the_header() -> None:
    header = b"GIF89a" + bytes([1, 0, 1, 0, 0x00, 0, 0])
    assert _insert_gif_comment(header + b"\x3b", b"hi") == header + b"\x21\xfe\x02hi\x00\x3b"


def test_file_holds_no_name_path_or_time(tmp_path: Path) -> None:
    first, second = tmp_path / "secret_name.mp4", tmp_path / "folder_name" / "b.mp4"
    second.parent.mkdir()
    for path in (first, second):
        write_video(path, moving_gradient(3), 12.0, {"comment": "c"})
    content = first.read_bytes()
    assert content == second.read_bytes()
    assert b"secret_name" not in content and str(tmp_path).encode() not in content
    header = content.index(b"mvhd")
    assert content[header + 8 : header + 16] == bytes(8)  # creation and modification time


ENCODE = """
import sys
import numpy as np
junk = [np.random.default_rng().bytes(n) for n in np.random.default_rng().integers(10, 300_000, 400)]
del junk[::2]  # a dirty heap: freed blocks full of noise
from videogen.data.video import write_video
y, x = np.mgrid[:96, :96]
frames = np.stack([np.stack([(x * y // 7 + 5 * t) % 256, (y * 2 + 3 * t) % 256, (x + t) % 256], -1) for t in range(17)])
write_video(sys.argv[1], frames.astype(np.uint8), 12.0, {"comment": "c"})
"""


def _hashes(folder: Path, suffix: str, count: int) -> set[str]:
    found = set()
    for index in range(count):
        path = folder / f"{index}{suffix}"
        subprocess.run([sys.executable, "-c", ENCODE, str(path)], check=True)
        found.add(hashlib.sha256(path.read_bytes()).hexdigest())
    return found


def test_encodes_in_separate_processes_agree(tmp_path: Path) -> None:
    assert len(_hashes(tmp_path, ".mp4", 3)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_twenty_encodes_in_separate_processes_agree(tmp_path: Path, suffix: str) -> None:
    assert len(_hashes(tmp_path, suffix, 20)) == 1


@pytest.mark.parametrize(
    ("frames", "fps", "name", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), 12.0, "a.mp4", "must be uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), 12.0, "a.mp4", "no empty axis"),
        (np.zeros((2, 9, 8, 3), np.uint8), 12.0, "a.mp4", "even height and width"),
        (np.zeros((2, 8, 8, 3), np.uint8), float("nan"), "a.mp4", "`fps`"),
        (np.zeros((2, 8, 8, 3), np.uint8), 12.0, "a.avi", "must end in one of"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, frames: np.ndarray, fps: float, name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / name, frames, fps)
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_a_gif_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'comment' only"):
        write_video(tmp_path / "a.gif", moving_gradient(2), 12.0, {"title": "t"})


def test_odd_sizes_go_into_a_gif(tmp_path: Path) -> None:
    write_video(tmp_path / "a.gif", moving_gradient(2, 33, 31), 12.0)
    assert read_video(tmp_path / "a.gif").frames.shape == (2, 33, 31, 3)


def test_files_that_are_no_complete_video_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("hello")
    with pytest.raises(ValueError, match="readable video"):
        read_video(text)
    with pytest.raises(ValueError, match="exists"):
        read_video(tmp_path / "none.mp4")
    write_video(tmp_path / "a.mp4", moving_gradient(), 12.0)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"complete|readable"):
        read_video(tmp_path / "cut.mp4")
    with pytest.raises(ValueError, match="at most 10 frames"):
        read_video(tmp_path / "a.mp4", max_frames=10)


def test_nothing_is_left_when_writing_is_interrupted(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    target.write_bytes(b"the old file")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert target.read_bytes() == b"the old file"


def test_output_path_is_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    assert check_output_path(tmp_path / "a.MP4", (".mp4",)) == tmp_path / "a.MP4"
    for path, message in [
        (tmp_path / "a.avi", "must end in"),
        (tmp_path / "none" / "a.mp4", "create"),
        (tmp_path / "folder.mp4", "got the folder"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_output_path(path, (".mp4",))


def test_contact_sheet_shows_first_and_last_frame_of_every_video(tmp_path: Path) -> None:
    videos = [np.full((17, 32, 48, 3), 10 * i, np.uint8) for i in range(1, 4)]
    for video in videos:
        video[-1] = 250
    write_sheet(tmp_path / "s.png", videos, fps=12.0, labels=["a", "狐狸", "c" * 500], num_columns=4)
    pixels = np.asarray(Image.open(tmp_path / "s.png"))
    assert pixels.shape == (3 * (14 + 32 + 14 + 4) + 4, 4 * 52 + 4, 3)
    for row in range(3):
        middle = 4 + row * 64 + 14 + 16
        assert (pixels[middle, 4 + 24] == 10 * (row + 1)).all()
        assert (pixels[middle, 4 + 3 * 52 + 24] == 250).all()


def test_contact_sheet_of_one_frame_and_of_nothing() -> None:
    assert contact_sheet([np.zeros((1, 16, 16, 3), np.uint8)], fps=12.0, num_columns=3).width == 3 * 20 + 4
    with pytest.raises(ValueError, match="at least one video"):
        contact_sheet([], fps=12.0)
    with pytest.raises(ValueError, match="one size"):
        contact_sheet([np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 8, 16, 3), np.uint8)], fps=12.0)
