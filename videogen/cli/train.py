"""`videogen train`: train the video model, the tokenizer, or both from nothing to a measured model, or distil one, from one YAML file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the run, for example configs/train/t2v_tiny_cpu.yaml.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value.")] = None,
    max_minutes: Annotated[float, typer.Option(help="Stop after this many minutes, with a checkpoint.")] = math.inf,
    decay_minutes: Annotated[
        float, typer.Option(help="Let the learning rate fall to 0 over the last so many of --max-minutes.")
    ] = 0.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of `output`.")] = False,
    init_from: Annotated[str, typer.Option(help="Folder of exported weights to start from.")] = "",
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of the run; overrides the file.")] = "",
) -> None:
    """Train from a configuration; Ctrl-C stops with a checkpoint."""
    from videogen.training.config import load_config, read_yaml
    from videogen.training.schedule import TimeBox

    overrides = [*(set_ or []), *([f"output={output}"] if output else [])]
    if not max_minutes > 0:
        raise ValueError(f"`--max-minutes` must be above 0, got {max_minutes:g}.")
    box = TimeBox(max_minutes, decay_minutes)
    try:
        task = read_yaml(config).get("task")
        if task == "recipe":
            from videogen.training.recipe import Recipe, load_recipe

            if init_from or decay_minutes:
                raise ValueError(
                    "`--init-from` and `--decay-minutes` belong to a single run; a recipe's file names its own."
                )
            Recipe(load_recipe(config, overrides), resume).run(max_minutes)
            return
        if task == "tokenizer":
            from videogen.training.tokenizer import load_tokenizer_config, train_tokenizer

            train_tokenizer(load_tokenizer_config(config, overrides), box, resume, init_from or None)
            return
        if task == "distill":
            from videogen.training.distill import distill, load_distill_config

            distill(load_distill_config(config, overrides), resume, init_from, box)
            return
        from videogen.training.trainer import train as run

        run(load_config(config, overrides), resume, init_from, box)
    except FloatingPointError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
