"""The model in the package, and that the documents about it point at files that exist."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from videogen_pipelines import SHIPPED_WEIGHTS, TextToVideoPipeline

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not (SHIPPED_WEIGHTS / "model_index.json").is_file(), reason="no weights are shipped with this version"
)


def test_weights_are_small_and_of_the_promised_kind():
    files = [path for path in SHIPPED_WEIGHTS.parent.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json"}
    assert sum(path.stat().st_size for path in files) <= 24e6
    assert max(path.stat().st_size for path in files) <= 15e6
    for component in ("vae", "transformer", "text_encoder"):
        shards = sorted((SHIPPED_WEIGHTS / component).glob("*.safetensors"))
        assert shards, component
        for shard in shards:
            for name, tensor in load_file(shard).items():
                full = "router" in name or name.endswith("bias") or name.startswith("latents_")
                assert tensor.dtype == (torch.float32 if full else torch.bfloat16), f"{component} {name}"


def test_it_generates_what_the_readme_asks_for():
    pipe = TextToVideoPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    active = pipe.transformer.num_parameters_active() + sum(p.numel() for p in pipe.text_encoder.parameters())
    assert active <= 4e6
    prompt = "a fox jumps in the snow, [Pan left]"
    first, again = (pipe(prompt, seed=0, num_inference_steps=4) for _ in range(2))
    assert first.frames.shape == (1, pipe.vocabulary["num_frames"][-1], 96, 96, 3)
    assert np.array_equal(first.frames, again.frames)
    assert not any("does not know" in warning or "black" in warning for warning in first.warnings)
    other = pipe(prompt.replace("fox", "frog"), seed=0, num_inference_steps=4)
    assert np.abs(other.frames - first.frames).mean() > 0.005


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_of_the_documents_lead_to_files(document: str):
    text = (ROOT / document).read_text(encoding="utf-8")
    assert not re.search(r"@[A-Z]+@", text), "a place that was to be filled in"
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    for target in filter(None, targets):
        assert (ROOT / document).parent.joinpath(target).exists(), target
