"""Receipts: complete, unchanged through every container, and honest about what differs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videogen.data.video import VIDEO_SUFFIXES, write_video
from videogen.receipt import (
    Environment,
    Receipt,
    Request,
    current_environment,
    describe_differences,
    frames_sha256,
    picture_record,
    read_receipt,
    receipt_metadata,
    source_frames,
    weights_sha256,
)

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def make_receipt(num_pictures: int = 1) -> Receipt:
    noise = np.random.default_rng(1).integers(0, 256, (num_pictures, 96, 96, 3), dtype=np.uint8)
    request = Request(
        task="image",
        prompt='狐狸 "in" the $now # [Pan left]',
        height=96,
        width=96,
        num_frames=17,
        fps=12.0,
        num_inference_steps=20,
        guidance_scale=0.1 + 0.2,
        seed=2**63 - 1,
        pictures=tuple(picture_record(Image.fromarray(array), "keyframe", time=1 / 3) for array in noise),
    )
    return Receipt(
        request=request,
        model_sha256="0" * 64,
        environment=current_environment(),
        frames_sha256=frames_sha256(FRAMES),
        warnings=("the model does not know 'zebra'.",),
    )


def test_what_was_asked_for_is_kept_where_words_were_read_as_others() -> None:
    receipt = make_receipt()
    assert "asked_prompt" not in receipt.to_json()  # a receipt written before there was the field stays the same
    asked = receipt.model_copy(update={"request": receipt.request.model_copy(update={"asked_prompt": "an orca"})})
    assert Receipt.model_validate_json(asked.to_json()) == asked


def test_a_receipt_of_an_older_version_stays_the_same() -> None:
    content = json.loads(make_receipt().to_json())
    assert {"asked_prompt", "guidance_interval", "quality"}.isdisjoint(content["request"])
    old = Receipt.model_validate(content)
    assert (old.request.guidance_interval, old.request.quality) == ((0.0, 1.0), "high")
    again = old.model_copy(update={"request": old.request.model_copy(update={"batch_size": 1})})  # as a replay does
    assert again.to_json() == json.dumps(content, ensure_ascii=False)
    new = {**content, "request": {**content["request"], "guidance_interval": [0.0, 1.0], "quality": "high"}}
    assert json.loads(Receipt.model_validate(new).to_json()) == new


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_receipt_comes_back_equal_from_every_container(tmp_path: Path, suffix: str) -> None:
    receipt = make_receipt(num_pictures=10)
    assert len(receipt.to_json()) > 300_000
    write_video(tmp_path / f"a{suffix}", FRAMES, 12.0, receipt_metadata(receipt, suffix))
    assert read_receipt(tmp_path / f"a{suffix}") == receipt


def test_receipt_comes_back_equal_from_json_and_holds_the_exact_picture(tmp_path: Path) -> None:
    receipt = make_receipt()
    (tmp_path / "r.json").write_text(receipt.to_json(indent=2), encoding="utf-8")
    again = read_receipt(tmp_path / "r.json")
    assert again == receipt and again.to_json() == receipt.to_json()
    noise = np.random.default_rng(1).integers(0, 256, (1, 96, 96, 3), dtype=np.uint8)[0]
    assert (np.asarray(again.request.pictures[0].picture()) == noise).all()


def test_receipt_names_no_host_user_path_or_time(tmp_path: Path) -> None:
    import platform

    content = json.loads(make_receipt().to_json())
    del content["request"]
    text = json.dumps(content)
    assert platform.node() not in text and str(Path.home()) not in text and str(tmp_path) not in text


def test_receipt_without_images_keeps_hashes_and_says_why_it_cannot_replay() -> None:
    record = make_receipt().without_images().request.pictures[0]
    assert record.png is None and record.sha256 == make_receipt().request.pictures[0].sha256
    with pytest.raises(ValueError, match="written without images"):
        record.picture()


def test_altered_picture_is_refused() -> None:
    record = make_receipt().request.pictures[0]
    other = picture_record(Image.new("RGB", (96, 96)), "keyframe")
    with pytest.raises(ValueError, match="altered"):
        record.model_copy(update={"png": other.png}).picture()
    with pytest.raises(ValueError, match="damaged"):
        record.model_copy(update={"png": "!!"}).picture()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "damaged"),
        ("[1]", "not complete"),
        ('{"format": 2}', "update videogen"),
        ('{"format": 1}', "not complete: request"),
    ],
)
def test_files_that_are_no_receipt_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_receipt(tmp_path / "r.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_video_without_receipt_is_refused(tmp_path: Path, suffix: str) -> None:
    write_video(tmp_path / f"a{suffix}", FRAMES, 12.0)
    with pytest.raises(ValueError, match="no videogen receipt"):
        read_receipt(tmp_path / f"a{suffix}")


def test_differences_are_named_one_by_one() -> None:
    then = Environment(
        versions={"torch": "2.12", "av": "18"}, num_threads=2, instruction_set="AVX2", machine="x86_64", device="cpu"
    )
    assert describe_differences(then, then) == []
    now = then.model_copy(
        update={"versions": {"torch": "2.13", "av": "18"}, "num_threads": 4, "instruction_set": "AVX512"}
    )
    text = " ".join(describe_differences(then, now))
    assert "torch was 2.12, here it is 2.13" in text
    assert "thread count was 2, here it is 4" in text
    assert "instruction set was AVX2, here it is AVX512" in text
    assert "av was" not in text


def test_environment_describes_this_process() -> None:
    import torch

    environment = current_environment()
    assert environment.versions["torch"] == torch.__version__
    assert set(environment.versions) == {"videogen", "torch", "diffusers", "av", "numpy"}
    assert environment.num_threads == torch.get_num_threads()


def test_weights_hash_changes_with_content_and_name_only(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "vae").mkdir(parents=True)
        (tmp_path / folder / "vae" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "b" / "README.md").write_text("does not count")
    assert weights_sha256(tmp_path / "a") == weights_sha256(tmp_path / "b")
    (tmp_path / "b" / "vae" / "model.safetensors").write_bytes(b"weightz")
    assert weights_sha256(tmp_path / "a") != weights_sha256(tmp_path / "b")


def test_source_frames_come_back_in_order() -> None:
    records = [picture_record(Image.fromarray(frame), "source") for frame in FRAMES]
    assert (source_frames(records) == FRAMES).all()
