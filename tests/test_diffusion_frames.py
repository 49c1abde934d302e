import pytest
import torch

from videogen.conditioning.camera import CAMERA_DIM
from videogen.conditioning.frames import build_frames, latent_times

SIZE = (4, 2, 2)


def test_times_are_seconds_at_the_centre_of_the_frames():
    # 17 frames at 12 fps: frame 0; frames 1 to 4, centre 2.5; ...; frames 13 to 16, centre 14.5.
    torch.testing.assert_close(latent_times(5, 12.0, 4), torch.tensor([0.0, 2.5, 6.5, 10.5, 14.5]) / 12)
    torch.testing.assert_close(latent_times(2, 24.0, 8), torch.tensor([0.0, 4.5 / 24]))


def test_every_task_has_its_layout():
    torch.manual_seed(0)
    image, images = torch.randn(2, 4, 1, 2, 2), torch.randn(2, 4, 2, 2, 2)
    text = build_frames(5, SIZE, fps=12.0, batch_size=2)
    assert text.known.tolist() == [False] * 5
    assert text.kinds.tolist() == [0, 1, 1, 1, 1]
    first = build_frames(5, SIZE, fps=12.0, batch_size=2, known_video=image)
    assert first.known.tolist() == [True, False, False, False, False]
    assert torch.equal(first.latents[:, :, :1], image)
    last = build_frames(5, SIZE, fps=12.0, batch_size=2, guides=image, guide_frames=[16])
    assert last.kinds.tolist() == [0, 1, 1, 1, 1, 2]
    assert last.times[5].item() == pytest.approx(16 / 12)
    everything = build_frames(
        5, SIZE, fps=12.0, batch_size=2, known_video=images, guides=image, guide_frames=[8], references=images
    )
    assert everything.kinds.tolist() == [0, 1, 1, 1, 1, 2, 3, 4]
    assert everything.known.tolist() == [True, True, False, False, False, True, True, True]
    assert everything.times[5].item() == pytest.approx(8 / 12)
    assert torch.equal(everything.latents[:, :, 6:], images)
    assert build_frames(1, SIZE, fps=12.0).kinds.tolist() == [0]
    bare = everything.unconditional()
    assert everything.num_references == 2 and bare.num_references == 0
    assert bare.kinds.tolist() == [0, 1, 1, 1, 1, 2] and bare.camera.shape[1] == len(bare.times) == len(bare.known) == 6
    assert torch.equal(bare.latents, everything.latents[:, :, :6]) and bare.num_video_frames == 5


def test_camera_belongs_to_the_video_frames_only():
    camera = torch.ones(3, CAMERA_DIM)
    frames = build_frames(3, SIZE, fps=12.0, batch_size=2, camera=camera, references=torch.zeros(1, 4, 1, 2, 2))
    assert torch.equal(frames.camera[:, :3], torch.ones(2, 3, CAMERA_DIM))
    assert torch.equal(frames.camera[:, 3:], torch.zeros(2, 1, CAMERA_DIM))
    assert torch.equal(frames.unconditional().camera, torch.zeros(2, 3, CAMERA_DIM))


def test_repeat_and_select():
    frames = build_frames(2, SIZE, fps=12.0, batch_size=2, known_video=torch.randn(2, 4, 1, 2, 2))
    doubled = frames.repeat(2)
    assert doubled.batch_size == 4
    assert torch.equal(doubled.select(3).latents, frames.select(1).latents)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guides": torch.zeros(1, 4, 1, 2, 2), "guide_frames": [17]}, "must lie within the video, 0 to 16"),
        ({"guides": torch.zeros(1, 4, 1, 2, 2)}, "one frame per guide, got 0 for 1"),
        ({"references": torch.zeros(1, 4, 3, 2, 2)}, "at most 2 images, got 3"),
        ({"known_video": torch.zeros(1, 4, 6, 2, 2)}, r"longer than the video \(5 latent frames\), got 6"),
        ({"known_video": torch.zeros(1, 5, 1, 2, 2)}, "`known_video` must have the shape"),
        ({"camera": torch.zeros(2, CAMERA_DIM)}, "`camera` must end in"),
    ],
    ids=["guide outside", "guide without frame", "three references", "too long", "channels", "camera"],
)
def test_misfits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_frames(5, SIZE, fps=12.0, **arguments)
