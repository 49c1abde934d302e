"""Measures of the tokenizer against values known by hand, and the whole report with an untrained one."""

import json
import math

import cv2
import numpy as np
import pytest
import torch

from tokenizer3d import CausalVideoAutoencoder
from videogen.data.video import write_video
from videogen.evaluation import tokenizer as evaluation


def test_psnr_of_a_known_error():
    video = torch.full((2, 3, 1, 16, 16), 100.0)
    sample = video.clone()
    sample[0] += 5
    psnr = evaluation.peak_signal_to_noise(sample, video)
    assert psnr[0].item() == pytest.approx(20 * math.log10(255 / 5), abs=1e-6)
    assert psnr[1] == 99


def test_ssim_is_one_for_equal_lower_for_blurred_and_lowest_for_noise():
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(1, 3, 2, 32, 32, generator=generator) * 255
    blurred = torch.nn.functional.avg_pool3d(video, (1, 3, 3), stride=1, padding=(0, 1, 1))
    noise = torch.rand(1, 3, 2, 32, 32, generator=generator) * 255
    same, soft, wrong = (evaluation.structural_similarity(x, video).item() for x in (video, blurred, noise))
    assert same == pytest.approx(1, abs=1e-5)
    assert 0.9 > soft > wrong
    assert abs(wrong) < 0.1
    # Constant pictures: only the luminance term is left.
    a, b = torch.full((1, 3, 1, 16, 16), 100.0), torch.full((1, 3, 1, 16, 16), 50.0)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 50 + c1) / (100**2 + 50**2 + c1)
    assert evaluation.structural_similarity(a, b).item() == pytest.approx(expected, abs=1e-4)


def test_temporal_error_sees_flicker_and_not_a_constant_offset():
    video = torch.zeros(1, 3, 5, 8, 8)
    flicker = video.clone()
    flicker[:, :, ::2] = 4
    assert evaluation.temporal_error(video + 7, video).item() == 0
    assert evaluation.temporal_error(flicker, video).item() == 4
    assert evaluation.temporal_error(flicker[:, :, :1], video[:, :, :1]).item() == 0


def test_actor_psnr_looks_only_into_the_boxes():
    video = torch.zeros(2, 3, 1, 16, 16)
    sample = torch.full_like(video, 50.0)
    sample[0, :, :, 4:8, 2:6] = 10
    boxes = torch.full((2, 1, 1, 4), float("nan"))
    boxes[0, 0, 0] = torch.tensor([2.0, 4.0, 6.0, 8.0])
    psnr = evaluation.actor_psnr(sample, video, boxes)
    assert psnr[0].item() == pytest.approx(20 * math.log10(255 / 10), abs=1e-6)
    assert psnr[1].isnan()


def test_strangers_play_the_same_scenes():
    video, boxes = evaluation.evaluation_stage_clips(2, num_frames=9, size=48)
    other, other_boxes = evaluation.evaluation_stage_clips(2, use_strangers=True, num_frames=9, size=48)
    assert video.shape == other.shape == (2, 3, 9, 48, 48)
    assert not torch.equal(video, other)
    assert boxes.shape == other_boxes.shape
    assert not boxes.isnan().all()


def test_report_with_photographs_and_footage(tmp_path, capsys):
    generator = np.random.default_rng(0)
    photograph, footage = tmp_path / evaluation.PHOTOGRAPHS[0], tmp_path / evaluation.FOOTAGE[0]
    photograph.parent.mkdir(parents=True)
    footage.parent.mkdir(parents=True)
    picture = cv2.resize(generator.integers(0, 255, (8, 10, 3), dtype=np.uint8), (160, 128))
    cv2.imwrite(str(photograph), picture)
    frames = np.stack([np.roll(picture, 3 * i, axis=1) for i in range(40)])
    write_video(footage, frames, fps=24, metadata={})
    torch.manual_seed(0)
    vae = CausalVideoAutoencoder(
        latent_channels=8, encoder_widths=(16, 32, 64), decoder_widths=(16, 32, 64), decoder_blocks=(1, 1, 1)
    )
    vae.save_pretrained(tmp_path / "vae")
    out = tmp_path / "scores.json"
    arguments = [str(tmp_path / "vae"), "--media", str(tmp_path), "--num-clips", "1", "--json", str(out)]
    evaluation.main(arguments)
    written = json.loads(out.read_text())
    assert list(written) == ["stage", "strangers", "photographs_still", "photographs_moving", "footage"]
    assert written["footage"]["num_clips"] == 1  # 40 frames at 24 fps hold one window of 17 at 12 fps
    for row in written.values():
        assert 3 < row["psnr"] < 40
        assert row["psnr_worst_decile"] <= row["psnr"] + 0.01
    assert written["stage"]["psnr_actor"] is not None
    assert written["photographs_still"]["psnr_actor"] is None
    assert "| photographs, still | 1 |" in capsys.readouterr().out


def test_an_empty_media_folder_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="`media` must hold photographs"):
        CausalVideoAutoencoder(
            latent_channels=8, encoder_widths=(16, 32, 64), decoder_widths=(16, 32, 64)
        ).save_pretrained(tmp_path / "vae")
        evaluation.main([str(tmp_path / "vae"), "--media", str(tmp_path), "--num-clips", "1"])


def test_distances_name_their_extractor_and_sizes():
    torch.manual_seed(0)
    vae = CausalVideoAutoencoder(
        latent_channels=8, encoder_widths=(16, 32, 64), decoder_widths=(16, 32, 64), decoder_blocks=(1, 1, 1)
    )
    video = torch.rand(2, 3, 9, 32, 32) * 2 - 1
    scores = evaluation.score(vae, video, extractor="pixels")
    assert scores.distances is not None and scores.distances.frechet > 0
    assert (scores.distances.extractor, scores.distances.clips, scores.distances.reference_clips) == ("pixels", 2, 2)
    assert "Fréchet (pixels)" in evaluation.scores_table({"noise": scores})
    assert evaluation.score(vae, video[:1], extractor="pixels").distances is None
    assert evaluation.score(vae, video).distances is None
