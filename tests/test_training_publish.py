"""`videogen publish`: a run's weights and a tokenizer become one folder that the pipelines load."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_text, tiny_transformer, tiny_vae

from videogen.cli import main
from videogen.data.stage import rungs
from videogen.models.low_rank import FAST_FOLDER
from videogen.models.text_encoder import TextEncoder
from videogen.models.text_tokenizer import BytePairTokenizer
from videogen.training.export import export_weights
from videogen.training.publish import WRITTEN
from videogen_pipelines import TextToVideoPipeline


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a tiny run leaves behind: `weights/` and `vae/`, with random numbers in them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    transformer = tiny_transformer()
    for tensor in (*transformer.parameters(), *(router.bias for router in transformer.routers())):
        torch.nn.init.normal_(tensor, std=0.3)
    text_encoder, tokenizer = tiny_text()
    export_weights(
        folder / "weights",
        transformer,
        text_encoder,
        tokenizer,
        rungs()["rung1"].to_dict(),
        {"steps": 1, "config": {"flow": {"shift": 1.5}}},
    )
    tiny_vae().save_pretrained(folder / "vae")
    torch.save(transformer.state_dict(), folder / "exact.pt")
    return folder


def publish(run: Path, output: Path, *more: str) -> int:
    return main(["publish", str(run / "weights"), "--tokenizer", str(run / "vae"), "-o", str(output), *more])


def test_a_published_folder_loads_and_samples(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "mine"
    assert publish(run, folder, "--steps", "2", "--guidance-scale", "1.5") == 0
    assert {path.name for path in folder.iterdir()} == WRITTEN - {FAST_FOLDER}
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]  # nothing temporary is left
    pipe = TextToVideoPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert (pipe.default_num_inference_steps, pipe.default_guidance_scale) == (2, 1.5)
    assert pipe.scheduler.config.shift == 1.5
    output = pipe("a fox jumps in the snow", seed=0)
    assert output.frames.shape == (1, 17, 96, 96, 3) and output.settings["num_inference_steps"] == 2


def test_weights_are_bfloat16_with_routers_and_biases_exact(run: Path, tmp_path: Path) -> None:
    assert publish(run, tmp_path / "mine") == 0
    exact = torch.load(run / "exact.pt", weights_only=True)
    for component in ("vae", "transformer", "text_encoder"):
        stored = load_file(tmp_path / "mine" / component / "diffusion_pytorch_model.safetensors")
        for name, tensor in stored.items():
            full = "router" in name or name.endswith("bias") or name.startswith("latents_")
            assert tensor.dtype == (torch.float32 if full else torch.bfloat16), f"{component} {name}"
            if component == "transformer":
                assert torch.equal(tensor, exact[name].to(tensor.dtype)), name
    loaded = TextToVideoPipeline.from_pretrained(tmp_path / "mine")
    router = "blocks.1.feed_forward.router."
    for name in (f"{router}weight", f"{router}bias"):
        assert torch.equal(loaded.transformer.state_dict()[name], exact[name])


def test_the_mean_with_what_the_run_began_from(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tmp_path / "before"
    shutil.copytree(run / "weights", before)
    start = tiny_transformer()
    start.save_pretrained(before / "transformer")
    assert publish(run, tmp_path / "mine", "--average-with", str(before)) == 0
    exact, begun = torch.load(run / "exact.pt", weights_only=True), start.state_dict()
    for name, tensor in load_file(tmp_path / "mine" / "transformer" / "diffusion_pytorch_model.safetensors").items():
        mean = (exact[name].to(tensor.dtype).float() + begun[name].float()) / 2
        torch.testing.assert_close(tensor.float(), mean, rtol=0.01, atol=1e-3)
    said = json.loads((tmp_path / "mine" / "training.json").read_text("utf-8"))
    assert said["steps"] == said["averaged_with"]["steps"] == 1
    assert publish(run, tmp_path / "mine", "--average-with", str(tmp_path)) == 2
    assert "has no transformer/" in capsys.readouterr().err
    tiny_transformer(num_experts=3).save_pretrained(before / "transformer")
    assert publish(run, tmp_path / "mine", "--average-with", str(before)) == 2
    assert "must hold the same network" in capsys.readouterr().err
    distilled = tmp_path / "distilled"
    shutil.copytree(run, distilled)
    (distilled / "weights" / FAST_FOLDER).mkdir()
    assert publish(distilled, tmp_path / "mine", "--average-with", str(run / "weights")) == 2
    assert "an adapter for few steps, which fits no others" in capsys.readouterr().err


def test_a_model_may_know_less_than_its_run_showed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = tmp_path / "wide"
    shutil.copytree(run, wide)
    vocabulary = rungs()["rung2"].to_dict() | {"num_frames": [33], "max_length": 72}
    (wide / "weights" / "vocabulary.json").write_text(json.dumps(vocabulary))
    assert publish(wide, tmp_path / "mine", "--rung", "rung1") == 0
    known = json.loads((tmp_path / "mine" / "vocabulary.json").read_text("utf-8"))
    narrow = json.loads(json.dumps(rungs()["rung1"].to_dict()))
    assert {name for name in known if known[name] != narrow.get(name)} == {"num_frames", "max_length"}
    assert publish(wide, tmp_path / "mine", "--rung", "rung1", "--cameras", "Zoom in, Static shot") == 0
    assert json.loads((tmp_path / "mine" / "vocabulary.json").read_text("utf-8"))["cameras"] == [
        "Static shot",
        "Zoom in",
    ]
    for cameras in ("Pan left,Tilt up", ""):
        assert publish(wide, tmp_path / "mine", "--cameras", cameras) == 2
        assert "`cameras` must name some of Static shot" in capsys.readouterr().err
    for rung, message in (("rung3", "at most the one that the run was trained on"), ("rung9", "must be one of rung1")):
        assert publish(wide, tmp_path / "mine", "--rung", rung) == 2
        assert message in capsys.readouterr().err


def test_no_folder_of_the_machine_is_published(run: Path, tmp_path: Path) -> None:
    assert publish(run, tmp_path / "mine") == 0
    for file in (tmp_path / "mine").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(encoding="utf-8") and str(run) not in file.read_text(
            encoding="utf-8"
        )


def test_a_published_model_is_replaced_but_no_other_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    assert publish(run, folder) == 0
    assert publish(run, folder, "--steps", "3") == 0
    assert json.loads((folder / "vocabulary.json").read_text())["num_inference_steps"] == 3
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "diary.txt").write_text("dear diary")
    capsys.readouterr()
    assert publish(run, precious) == 2
    assert "`output` must hold nothing but an older model, got 'diary.txt'" in capsys.readouterr().err
    assert (precious / "diary.txt").read_text() == "dear diary"


def test_what_does_not_fit_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_vae(latent_channels=16).save_pretrained(tmp_path / "other")
    arguments = ["publish", str(run / "weights"), "-o", str(tmp_path / "mine"), "--tokenizer"]
    assert main([*arguments, str(tmp_path / "other")]) == 2
    assert "got 16 channels instead of 8" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path)]) == 2
    assert "has no config.json" in capsys.readouterr().err
    assert main(["publish", str(run), "--tokenizer", str(run / "vae"), "-o", str(tmp_path / "mine")]) == 2
    assert "`weights` must be a folder of exported weights" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_pieces_of_text_that_the_run_never_met_are_left_out(run: Path, tmp_path: Path) -> None:
    weights = tmp_path / "run"
    shutil.copytree(run, weights)
    tokenizer = BytePairTokenizer.from_pretrained(run / "weights" / "tokenizer")
    fewer = tokenizer.without_unseen(["a fox jumps"])
    fewer.save_pretrained(weights / "weights" / "tokenizer")
    assert publish(weights, tmp_path / "mine") == 0
    pipe = TextToVideoPipeline.from_pretrained(tmp_path / "mine")
    exact = TextEncoder.from_pretrained(run / "weights" / "text_encoder")
    assert pipe.text_encoder.config.vocab_size == pipe.tokenizer.vocab_size < tokenizer.vocab_size
    rows = pipe.text_encoder.embedding(pipe.tokenizer("a fox jumps in the 🦊")[0])
    torch.testing.assert_close(rows, exact.embedding(fewer("a fox jumps in the 🦊")[0]), rtol=0.01, atol=1e-3)


def test_a_run_without_camera_commands_has_none_to_name(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(run, plain)
    (plain / "weights" / "vocabulary.json").write_text(json.dumps({"num_frames": [33], "max_length": 72}))
    assert publish(plain, tmp_path / "mine", "--cameras", "Pan left") == 2
    assert "the run knows none" in capsys.readouterr().err
