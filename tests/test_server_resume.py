"""A generation that was interrupted goes on with the same bits, in every window and for every task."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="the `server` extra is not installed")
from server_tools import make_model, png

from videogen.server.generation import Generator, Step, load_checkpoint, save_checkpoint
from videogen.server.planning import JobRequest, Picture
from videogen.server.storage import Storage


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return Generator(make_model(tmp_path_factory.mktemp("model") / "tiny"), "cpu")


def request(**changes: object) -> JobRequest:
    values = {
        "task": "text", "prompt": "a fox stays in the snow", "negative_prompt": "night", "camera": None, "camera_vectors": None,
        "height": 32, "width": 32, "num_frames": 17, "fps": 12.0, "steps": 4, "guidance_scale": 2.0, "guidance_method": "standard",
        "guidance_rescale": 0.0, "seed": 5, **changes,
    }  # fmt: skip
    return JobRequest(**values)  # type: ignore[arg-type]


def interrupted_at(generator: Generator, job: JobRequest, storage: Storage, at: int, path: Path) -> None:
    """Run until step `at`, keep what a worker keeps, and stop."""

    def on_step(step: Step) -> None:
        if step.done == at:
            assert step.checkpoint is not None
            save_checkpoint(path, step.checkpoint, "key")
            raise Interrupted

    with pytest.raises(Interrupted):
        generator.run(job, storage, on_step)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, (1, 3, 4)),
        ({"num_frames": 33, "camera": "[Pan left] [Zoom in]"}, (2, 4, 5, 8, 11)),
        ({"task": "image", "pictures": "first"}, (2,)),
        ({"task": "subject", "prompt": "the subject stays in the snow", "pictures": "subject"}, (3,)),
    ],
    ids=["text", "three windows", "image", "subject"],
)
def test_resumed_is_the_same_as_uninterrupted(
    generator: Generator, tmp_path: Path, changes: dict, steps: tuple[int, ...]
) -> None:
    storage = Storage(tmp_path / "data")
    if "pictures" in changes:
        picture = Picture(role=changes["pictures"], file_id=storage.new_id())
        storage.upload(picture.file_id, "image").write_bytes(png())
        changes = {**changes, "pictures": (picture,)}
    job = request(**changes)
    seen: list[Step] = []
    whole = generator.run(job, storage, seen.append)
    assert [step.done for step in seen] == list(range(1, seen[-1].total + 1))
    for at in steps:
        path = tmp_path / f"{at}.safetensors"
        interrupted_at(generator, job, storage, at, path)
        kept = load_checkpoint(path, "key")
        assert kept is not None and kept.window * job.steps + kept.step == at
        rest: list[Step] = []
        resumed = generator.run(job, storage, rest.append, kept)
        assert [step.done for step in rest] == list(range(at + 1, seen[-1].total + 1))
        assert np.array_equal(resumed.frames, whole.frames) and resumed.receipt == whole.receipt


def test_a_checkpoint_of_another_request_or_half_a_file_is_not_used(generator: Generator, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    interrupted_at(generator, request(), Storage(tmp_path / "data"), 2, path)
    assert load_checkpoint(path, "another") is None
    path.write_bytes(path.read_bytes()[:100])
    assert load_checkpoint(path, "key") is None and load_checkpoint(tmp_path / "none", "key") is None


def test_a_checkpoint_that_does_not_fit_on_the_disk_says_so_as_other_files_do(
    generator: Generator, tmp_path: Path
) -> None:
    """The worker tells a full disk by the number of the error; safetensors' own exception has none."""
    path = tmp_path / "a.safetensors"
    kept: list[Step] = []
    generator.run(request(), Storage(tmp_path / "data"), kept.append)
    assert kept[1].checkpoint is not None
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            save_checkpoint(path, kept[1].checkpoint, "key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG and list(tmp_path.glob("*.safetensors")) == []
    save_checkpoint(path, kept[1].checkpoint, "key")
    assert load_checkpoint(path, "key") is not None


def test_one_video_at_a_time(generator: Generator, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    interrupted_at(generator, request(), Storage(tmp_path / "data"), 2, path)
    pipe = generator.pipes["text"]
    pipe.resume_from = load_checkpoint(path, "key")
    with pytest.raises(ValueError, match="`resume_from` must be used for one video at a time, got 2"):
        pipe(["a fox", "a pig"], seed=0, num_inference_steps=2)
    assert pipe.resume_from is None
