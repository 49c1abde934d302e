"""The recipe: tokenizer, transformer, publishing and evaluation in one command, in one call or in several."""

import json
from pathlib import Path

import pytest
import yaml
from tiny_models import MODEL, VAE

from videogen.training import recipe as recipes
from videogen.training.recipe import Recipe, load_recipe

TOKENIZER = {
    "task": "tokenizer", "num_frames": 17, "height": 32, "width": 32, "group_size": 2, "steps": 2, "warmup_steps": 0,
    "decay_steps": 0, "log_every": 1, "validate_every": 100, "checkpoint_every": 100, "validation_clips": 2,
    "statistics_clips": 8, "mixed_precision": "no",
    "sources": [{"kind": "stage", "rung": "rung1", "unnamed_share": 0}],
    "batches": [{"num_frames": 17, "size": 32, "batch_size": 2}],
    "model": VAE,
}  # fmt: skip


@pytest.fixture
def path(tmp_path) -> Path:
    """A tiny recipe on 96 x 96 pixels, the size that the checkers look at, two steps a run."""
    transformer = {
        "tokenizer": "set by the recipe",
        "model": str(tmp_path / "model.yaml"),
        "data": {"cache": "", "pool": 8, "reuse": 1, "num_validation": 1, "encode_batch_size": 4},
        "text": {"vocab_size": 300, "corpus_size": 20},
        "batch_size": 2,
        "image_batch_size": 2,
        "mixed_precision": "no",
        "schedule": {"num_steps": 2, "warmup_steps": 1},
        "log": {"metrics_every": 1, "validate_every": 0, "sample_every": 0, "checkpoint_every": 0},
    }
    recipe = {
        "task": "recipe",
        "output": str(tmp_path / "out"),
        "tokenizer": {"config": str(tmp_path / "tokenizer.yaml"), "minutes": 30, "decay_minutes": 10},
        "transformer": {"config": str(tmp_path / "transformer.yaml"), "minutes": 30, "decay_minutes": 10},
        "evaluation": {"num_prompts": 2, "seeds": 1, "ceilings": True},
    }
    files = {"tokenizer": TOKENIZER, "transformer": transformer, "model": MODEL, "recipe": recipe}
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "recipe.yaml"


@pytest.mark.slow
def test_one_command_goes_from_nothing_to_a_measured_model(path, capsys):
    from videogen.cli import main

    assert main(["train", str(path)]) == 0
    assert "done: tokenizer, transformer, evaluation" in capsys.readouterr().out
    out = path.parent / "out"
    state = json.loads((out / "recipe.json").read_text())
    assert state["finished"] == ["tokenizer", "transformer", "evaluation"]
    assert (out / "tokenizer" / "metrics.png").is_file() and (out / "transformer" / "metrics.png").is_file()
    assert (out / "model" / "model_index.json").is_file()
    report = json.loads((out / "evaluation" / "report.json").read_text())
    assert report["all"]["n"] == 2 and report["renders"]["all"]["accuracy"] == 1.0
    assert report["about"]["rung"] == "rung1" and "tokenizer" in report
    assert (out / "evaluation" / "sheet.png").stat().st_size > 1000
    assert main(["train", str(path), "--resume"]) == 0  # nothing is left to do


@pytest.fixture
def calls(monkeypatch):
    """Runs that only say what they were asked for, and leave what real ones leave; minutes pass as told."""
    made = []

    def runner(name: str):
        def run(recipe: Recipe, box, resume: bool) -> bool:
            folder = recipe.folder / name
            made.append((name, box.max_minutes, box.decay_minutes, box.more_minutes, resume, round(box.scale(), 3)))
            checkpoint = folder / "checkpoint-00000001"
            checkpoint.mkdir(parents=True, exist_ok=True)
            (checkpoint / "state.json").write_text("{}")
            clock[0] += box.max_minutes
            return False

        return run

    clock = [0.0]
    monkeypatch.setattr("videogen.training.schedule.time.monotonic", lambda: 60 * clock[0])
    monkeypatch.setattr(Recipe, "_train_tokenizer", runner("tokenizer"))
    monkeypatch.setattr(Recipe, "_train_transformer", runner("transformer"))
    monkeypatch.setattr(Recipe, "evaluate", lambda recipe: made.append(("evaluation",)) is None)
    return made


def test_calls_share_the_minutes_of_a_run(path, calls):
    settings = ["tokenizer.minutes=8", "tokenizer.decay_minutes=3", "transformer.minutes=15", "reserve_minutes=0.5"]
    config = load_recipe(path, [*settings, "transformer.decay_minutes=7"])
    assert not Recipe(config).run(9.5)
    # The tokenizer has its 8 minutes; 1 is left for the transformer, which gets 14 more later.
    assert calls == [("tokenizer", 8, 3, 0, False, 1.0), ("transformer", 1, 7, 14, False, 1.0)]
    calls.clear()
    assert not Recipe(config, resume=True).run(9.5)
    assert calls == [("transformer", 9, 7, 5, True, 1.0)]  # its decay begins after the eighth minute of 15
    calls.clear()
    assert not Recipe(config, resume=True).run(7)
    assert calls == [("transformer", 5, 7, 0, True, round(5 / 7, 3))]  # too little is left for an evaluation
    calls.clear()
    assert Recipe(config, resume=True).run(3)
    assert calls == [("evaluation",)]
    calls.clear()
    assert Recipe(config, resume=True).run(9.5) and calls == []


def test_weights_without_checkpoints_are_gone_on_from(path, monkeypatch):
    started = []
    monkeypatch.setattr(
        "videogen.training.tokenizer.train_tokenizer", lambda config, box, resume, kept: started.append((resume, kept))
    )
    recipe = Recipe(load_recipe(path))
    weights = recipe.folder / "tokenizer" / "vae"
    weights.mkdir(parents=True)
    (weights / "config.json").write_text("{}")
    monkeypatch.setattr(recipes, "list_checkpoints", lambda folder: [folder / "checkpoint-00000002"])
    assert recipe._train_tokenizer(None, resume=False)
    assert started == [(False, weights)]
    assert recipe._train_tokenizer(None, resume=True)
    assert started[1] == (True, None)


def test_misuse_is_refused(path, capsys, monkeypatch):
    from videogen.cli import main

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="a recipe must run in one process"):
        patch.setenv("WORLD_SIZE", "2")
        Recipe(load_recipe(path))
    with pytest.raises(ValueError, match="`--resume` needs a recipe in `output`"):
        Recipe(load_recipe(path), resume=True)
    out = path.parent / "out"
    out.mkdir()
    (out / "recipe.json").write_text('{"finished": [], "spent_minutes": {}}')
    with pytest.raises(ValueError, match=r"`output` must be a new folder, .* holds a recipe"):
        Recipe(load_recipe(path))
    for override, message in (
        ("tokenizer.decay_minutes=99", "`decay_minutes` must be at most `minutes`, got 99 and 30"),
        ("colour=1", "`colour`: Extra inputs are not permitted"),
        ("evaluation.workers=0", "greater than or equal to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            load_recipe(path, [override])
    with pytest.raises(ValueError, match="`bach_size`: Extra inputs"):  # before the first run, not after it
        Recipe(load_recipe(path, ["transformer.overrides=['bach_size=1']", f"output={path.parent / 'new'}"]))
    for option in (["--decay-minutes", "1", "--max-minutes", "5"], ["--init-from", "x"]):
        assert main(["train", str(path), *option]) == 2
        assert "belong to a single run" in capsys.readouterr().err


def test_the_shipped_recipes_are_valid():
    config = load_recipe("configs/train/tiny_gpu.yaml")
    recipe = Recipe(config.model_copy(update={"output": "runs/never"}))
    assert recipe._transformer_config(Path("x")).data.rung == config.rung == "rung4"
    assert recipe._tokenizer_config().sources[0].kind == "stage"
