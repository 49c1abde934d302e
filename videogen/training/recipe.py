"""From nothing to a measured model in one command: tokenizer, transformer, publishing, evaluation.

A recipe is a YAML file with `task: recipe` that names the configurations of its two runs, the minutes each gets, and what is
measured at the end. `videogen train RECIPE --max-minutes M` does as much of it as fits into M minutes; called again with
`--resume` it goes on where it stopped, also in the middle of a run, and with the learning rates of a recipe that was never cut.

The output folder gets `recipe.json` (what is done), `tokenizer/` and `transformer/` (run folders), `model/` (what pipelines
load), and `evaluation/` with `report.json`, `report.txt` and `sheet.png`. Where only weights were kept of a run that is not
finished (`tokenizer/vae`, `transformer/weights`), but no checkpoint, it goes on from those with a fresh optimiser.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from videogen.training.checkpoint import list_checkpoints
from videogen.training.config import Section, apply_overrides, check_settings, load_config, read_yaml
from videogen.training.schedule import TimeBox

STAGES = ("tokenizer", "transformer", "evaluation")


class RunStage(Section):
    """One training run of a recipe.

    Attributes:
        config: YAML file of the run; its `output` (and the transformer's `tokenizer` and `data.rung`) are set by the recipe.
        minutes: of wall time for the run, setting up and saving included, over all calls.
        decay_minutes: the last so many, over which the learning rate falls to 0.
        overrides: settings of the run, `section.key=value`.
    """

    config: str
    minutes: float = Field(default=9.0, gt=0)
    decay_minutes: float = Field(default=3.0, ge=0)
    overrides: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self):
        if self.decay_minutes > self.minutes:
            raise ValueError(
                f"`decay_minutes` must be at most `minutes`, got {self.decay_minutes:g} and {self.minutes:g}."
            )
        return self


class EvaluationStage(Section):
    """What is measured at the end, see `videogen.evaluation.stage_suite.SuiteSettings`.

    Attributes:
        minutes: that it is expected to take: a call with less time left does not start it.
        workers: processes that write and judge the clips.
        ceilings: also judge true renders and the tokenizer's reconstructions.
    """

    minutes: float = Field(default=2.0, ge=0)
    split: Literal["dev", "test"] = "dev"
    num_prompts: int = Field(default=105, ge=1)
    seeds: int = Field(default=1, ge=1)
    workers: int = Field(default=1, ge=1)
    batch_size: int = Field(default=32, ge=1)
    ceilings: bool = True


class RecipeConfig(Section):
    """A whole recipe.

    Attributes:
        output: folder.
        rung: of Stage that the transformer learns and is measured on.
        reserve_minutes: of a call's time that a run leaves for saving, so that the call ends in time.
    """

    task: Literal["recipe"] = "recipe"
    output: str = "runs/tiny"
    rung: str = "rung1"
    reserve_minutes: float = Field(default=0.3, ge=0)
    tokenizer: RunStage
    transformer: RunStage
    evaluation: EvaluationStage = EvaluationStage()


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> RecipeConfig:
    """Read and check a recipe; `overrides` are `section.key=value`.

    Raises:
        ValueError: with the setting's name and what is wrong.
    """
    return check_settings(RecipeConfig, apply_overrides(read_yaml(path), overrides))


class Recipe:
    """Carries a recipe through.

    Args:
        config: of the recipe.
        resume: go on in an `output` that holds a recipe.

    Raises:
        ValueError: a recipe is in the way, there is none to resume, or there are several processes.
    """

    def __init__(self, config: RecipeConfig, resume: bool = False):
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ValueError("a recipe must run in one process; give its two runs to torchrun one after the other.")
        self.config = config
        self.folder = Path(config.output)
        self._state = self.folder / "recipe.json"
        if self._state.is_file() and not resume:
            raise ValueError(
                f"`output` must be a new folder, {self.folder} holds a recipe; use --resume or another one."
            )
        if resume and not self._state.is_file():
            raise ValueError(f"`--resume` needs a recipe in `output`, {self.folder} has none; start without it.")
        # Both runs are checked now, not when the first one is done.
        self._tokenizer_config()
        self._transformer_config(self.folder / "tokenizer" / "vae")
        self.spent: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.finished: list[str] = []
        if resume:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            self.spent, self.finished = {**self.spent, **state["spent_minutes"]}, state["finished"]

    def run(self, max_minutes: float = math.inf) -> bool:
        """Does what is left of the recipe, or what fits.

        Args:
            max_minutes: of wall time for this call. An evaluation is not cut off once it has started.

        Returns:
            whether the recipe is finished.
        """
        call = TimeBox(max_minutes).start()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._save()
        for name in STAGES:
            if name in self.finished:
                continue
            left = call.minutes_left - self.config.reserve_minutes
            if left <= (self.config.evaluation.minutes if name == "evaluation" else 0):
                break
            print(f"{name}: {self.spent[name]:.1f} minutes spent, {left:.1f} left in this call", flush=True)
            start = call.minutes
            done = self.evaluate() if name == "evaluation" else self._train(name, left)
            self.spent[name] += call.minutes - start
            if done:
                self.finished.append(name)
            self._save()
            if not done:
                break
        print(f"done: {', '.join(self.finished) or 'nothing yet'}; results in {self.folder}", flush=True)
        return len(self.finished) == len(STAGES)

    def _save(self) -> None:
        state = {
            "finished": self.finished,
            "spent_minutes": {name: round(minutes, 3) for name, minutes in self.spent.items()},
            "config": self.config.model_dump(mode="json"),
        }
        self._state.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")

    def _train(self, name: str, minutes: float) -> bool:
        """A run for at most so many minutes; whether it is finished: at its last step, or out of its time."""
        stage: RunStage = getattr(self.config, name)
        wanted = stage.minutes - self.spent[name]
        minutes = max(0.0, min(minutes, wanted))
        box = TimeBox(minutes, stage.decay_minutes, self.spent[name], max(0.0, wanted - minutes)).start()
        folder = self.folder / name
        resume = bool(list_checkpoints(folder))
        at_end = self._train_tokenizer(box, resume) if name == "tokenizer" else self._train_transformer(box, resume)
        out_of_time = box.minutes_left == 0 and wanted - minutes < 0.1  # of the run, not only of this call
        return at_end or out_of_time

    def _train_tokenizer(self, box: TimeBox, resume: bool) -> bool:
        from videogen.training.tokenizer import train_tokenizer

        config, weights = self._tokenizer_config(), self.folder / "tokenizer" / "vae"
        kept = weights if (weights / "config.json").is_file() and not resume else None
        train_tokenizer(config, box, resume, kept)
        return list_checkpoints(Path(config.output))[-1].name == f"checkpoint-{config.steps:08d}"

    def _train_transformer(self, box: TimeBox, resume: bool) -> bool:
        from videogen.training.publish import publish
        from videogen.training.trainer import train

        vae, weights = self.folder / "tokenizer" / "vae", self.folder / "transformer" / "weights"
        config = self._transformer_config(vae)
        kept = str(weights) if (weights / "transformer" / "config.json").is_file() and not resume else ""
        _, reason = train(config, resume, kept, box)
        publish(weights, vae, self.folder / "model")
        return reason == "finished"

    def _tokenizer_config(self) -> Any:
        from videogen.training.tokenizer import load_tokenizer_config

        stage = self.config.tokenizer
        return load_tokenizer_config(stage.config, [*stage.overrides, f"output={self.folder / 'tokenizer'}"])

    def _transformer_config(self, vae: Path) -> Any:
        stage = self.config.transformer
        fixed = [f"output={self.folder / 'transformer'}", f"tokenizer={vae}", f"data.rung={self.config.rung}"]
        return load_config(stage.config, [*stage.overrides, *fixed])

    def evaluate(self) -> bool:
        """Measures the model on Stage's prompts and writes the report and a sheet of its first clips."""
        from videogen.evaluation.stage_suite import SuiteSettings, format_table, run_suite, write_json

        wanted, folder = self.config.evaluation, self.folder / "evaluation"
        settings = SuiteSettings(
            split=wanted.split,
            rung=self.config.rung,
            num_prompts=wanted.num_prompts,
            seeds=wanted.seeds,
            model=str(self.folder / "model"),
            batch_size=wanted.batch_size,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
        summary = run_suite(settings, folder / "model", wanted.workers)
        columns = {}
        if wanted.ceilings:
            texts = replace(settings, seeds=1, kinds=("seen", "pairs", "words"))
            columns["renders"] = run_suite(replace(texts, source="renders"), folder / "renders", wanted.workers)
            columns["tokenizer"] = run_suite(replace(texts, source="tokenizer"), folder / "tokenizer", wanted.workers)
        table = format_table(summary, **columns)
        print(table, flush=True)
        write_json(folder / "report.json", {**summary, **columns})
        (folder / "report.txt").write_text(table + "\n", encoding="utf-8")
        self._write_sheet(folder)
        return True

    def _write_sheet(self, folder: Path, count: int = 12) -> None:
        from videogen.data.video import read_video
        from videogen.evaluation.stage_suite import load_prompts
        from videogen.training.sheets import write_sheet

        prompts = [p for p in load_prompts(self.config.evaluation.split, self.config.rung) if p.reference is None]
        found = [(p.prompt, folder / "model" / "clips" / f"{p.id}-0.mp4") for p in prompts]
        shown = [(text, path) for text, path in found if path.is_file()][:count]
        if shown:
            frames = [torch.from_numpy(read_video(path).frames.copy()).permute(3, 0, 1, 2) for _, path in shown]
            video = torch.stack(frames).float().div_(127.5).sub_(1)
            write_sheet(video, folder / "sheet.png", [text for text, _ in shown])
