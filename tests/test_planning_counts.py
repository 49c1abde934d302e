"""Counting from a configuration, against the real networks: parameters exactly, operations as PyTorch's counter has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from tokenizer3d.autoencoder import CausalVideoAutoencoder
from videogen.models.embeddings import KIND_FIRST, KIND_GUIDE, KIND_REFERENCE_1, KIND_VIDEO, frame_visibility
from videogen.models.text_encoder import TextEncoder
from videogen.models.transformer import VideoTransformer
from videogen.planning import counts

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "models"
#: Total and active parameters that the headers of the files promise, and how exactly.
PROMISED = {
    "tiny": (5.4e6, 3.7e6, 0.1),
    "bench": (63e6, 19e6, 0.02),
    "base": (4.0e9, 1.24e9, 0.01),
    "large": (86.0e9, 15.7e9, 0.01),
    "minimax-01": (456e9, 45.9e9, 0.05),  # as published, arXiv 2501.08313
}


def sections(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", PROMISED)
def test_every_configuration_builds_and_counts_what_it_promises(name: str) -> None:
    config = sections(name)
    with torch.device("meta"):
        transformer = VideoTransformer(**config["transformer"])
        text_encoder = TextEncoder(**config["text_encoder"])
    parts = counts.transformer_parameters(transformer.config)
    assert sum(parts.values()) == num_parameters(transformer)
    assert counts.transformer_active(transformer.config) == transformer.num_parameters_active()
    assert counts.text_encoder_parameters(text_encoder.config) == num_parameters(text_encoder)
    assert config["transformer"]["text_width"] == config["text_encoder"]["width"]
    total, active, tolerance = PROMISED[name]
    assert abs(sum(parts.values()) / total - 1) < tolerance
    assert abs(counts.transformer_active(transformer.config) / active - 1) < tolerance


@pytest.mark.parametrize(
    "changes", [{}, {"encoder_widths": (32, 64, 128), "decoder_blocks": (1, 0, 2), "latent_channels": 16}]
)
def test_tokenizer_parameters_and_tiles(changes: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = CausalVideoAutoencoder(**changes)
    counted = counts.tokenizer_parameters(model.config)
    assert counted == (num_parameters(model.encoder), num_parameters(model.decoder))
    for height, width in ((32, 32), (33, 17), (45, 80)):
        tiles = model._tiles(height, width)
        areas = [(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in tiles]
        assert counts.tiled_positions(model.config, height, width) == (sum(areas), max(areas))


SMALL = {
    "latent_channels": 8,
    "width": 32,
    "num_heads": 2,
    "head_dim": 16,
    "mixers": ["linear", "softmax", "linear"],
    "feed_forwards": ["dense", "moe", "moe"],
    "cross_attention_layers": [0, 2],
    "text_width": 24,
    "dense_hidden": 48,
    "expert_hidden": 16,
    "shared_hidden": 24,
    "num_experts": 4,
    "top_k": 2,
}


def forward(model: VideoTransformer, kinds: list[int], height: int, width: int, text_tokens: int) -> None:
    n, c = len(kinds), model.config
    with torch.no_grad():
        model(
            torch.randn(1, c.latent_channels, n, height, width),
            torch.full((1, n), 0.5),
            torch.randn(1, text_tokens, c.text_width),
            torch.ones(1, text_tokens, dtype=torch.bool),
            torch.arange(n) / 3,
            torch.tensor(kinds),
            torch.zeros(1, n, c.camera_dim),
        )


@pytest.mark.parametrize("window", [None, 1], ids=["full", "windowed"])
@pytest.mark.parametrize("extra", [0, 2], ids=["video", "with-references"])
def test_operations_of_the_transformer(window: int | None, extra: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's counter sees PyTorch's operators, so the compiled ones are switched off; it has no formula for grouped products."""
    monkeypatch.setattr("videogen_kernels.native._DTYPES", ())
    torch.manual_seed(0)
    model = VideoTransformer(**{**SMALL, "window": window}).eval()
    kinds = [KIND_FIRST] + [KIND_VIDEO] * 5 + [KIND_GUIDE, KIND_REFERENCE_1][:extra]
    with FlopCounterMode(display=False) as counter:
        forward(model, kinds, 8, 6, 10)
    grid = counts.Grid(len(kinds), 8, 6, text_tokens=10, num_extra=extra)
    flops = counts.transformer_flops(model.config, grid)
    by_operator = {str(operator): value for operator, value in counter.get_flop_counts()["Global"].items()}
    expected = sum(flops.values())
    if not any("grouped_mm" in name for name in by_operator):
        expected -= flops["routed experts"]
    assert counter.get_total_flops() == expected


def test_visible_frames_are_those_of_the_model() -> None:
    for num_video in (1, 2, 3, 7):
        for extra in (0, 1, 2):
            kinds = torch.tensor([KIND_FIRST] + [KIND_VIDEO] * (num_video - 1) + [KIND_GUIDE] * extra)
            for window in (None, 1, 2, 5):
                visible = frame_visibility(kinds, window)
                expected = len(kinds) ** 2 if visible is None else int(visible.sum())
                grid = counts.Grid(len(kinds), 2, 2, num_extra=extra)
                assert grid.visible_frames(window) == expected, (num_video, extra, window)


def test_operations_of_text_encoder_and_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videogen_kernels.native._DTYPES", ())
    text_encoder = TextEncoder(vocab_size=40, width=32, num_heads=2, num_layers=3, hidden=48)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        text_encoder(torch.zeros(1, 9, dtype=torch.long), torch.ones(1, 9, dtype=torch.bool))
    assert counter.get_total_flops() == counts.text_encoder_flops(text_encoder.config, 9)

    tokenizer = CausalVideoAutoencoder()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        latents = tokenizer.encode_chunk(torch.zeros(1, 3, 5, 32, 48))
    encode, decode = counts.tokenizer_flops(tokenizer.config, 2 * 2 * 3)
    assert counter.get_total_flops() == encode
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tokenizer.decode_chunk(latents)
    assert counter.get_total_flops() == pytest.approx(decode, rel=0.02)  # the first frame's wavelet has no time


def test_experts_shrink_to_a_number_of_parameters() -> None:
    c = sections("bench")["transformer"]
    small = counts.with_smaller_experts(c, 30_000_000)
    assert sum(counts.transformer_parameters(small).values()) == pytest.approx(30e6, rel=0.03)
    assert {key for key in c if small[key] != c[key]} == {"expert_hidden", "shared_hidden"}
    with pytest.raises(ValueError, match="`parameters` must be more than the"):
        counts.with_smaller_experts(c, 1000)
    with pytest.raises(ValueError, match="`feed_forwards` must hold 'moe'"):
        counts.with_smaller_experts({**c, "feed_forwards": ["dense"] * 4}, 30_000_000)


def test_twins_share_what_they_are_to_share() -> None:
    c = sections("bench")["transformer"]
    total, active = sum(counts.transformer_parameters(c).values()), counts.transformer_active(c)
    for equal, wanted in (("total", total), ("active", active)):
        twin = counts.softmax_dense_twin(c, equal)
        assert set(twin["mixers"]) == {"softmax"} and set(twin["feed_forwards"]) == {"dense"} and twin["window"] is None
        parameters = sum(counts.transformer_parameters(twin).values())
        assert parameters == counts.transformer_active(twin) == pytest.approx(wanted, rel=0.005)
    with pytest.raises(ValueError, match="must be more than the"):
        counts.dense_twin(c, 1000)
    with pytest.raises(ValueError, match="`equal` must be 'total' or 'active'"):
        counts.softmax_dense_twin(c, "half")
