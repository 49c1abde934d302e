"""`videogen evaluate`: measure a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def evaluate() -> None:
    """Measure a model."""


@app.command()
def stage(
    split: Annotated[str, typer.Option(help="Which prompt list: dev, or test (once per release).")] = "dev",
    num_prompts: Annotated[int | None, typer.Option(help="Only the first N prompts; default all of the rung.")] = None,
    seeds: Annotated[int, typer.Option(help="Clips per prompt.", min=1)] = 2,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
    model: Annotated[str, typer.Option(help="Folder of weights; default the shipped model.")] = "",
    rung: Annotated[
        str, typer.Option(help="rung1 to rung4; default the highest that the model's vocabulary covers.")
    ] = "",
    source: Annotated[
        str, typer.Option(help="model; renders (true clips: the checkers' ceiling); tokenizer (reconstructions).")
    ] = "model",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; default the model's own.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Default the model's own.")] = None,
    batch_size: Annotated[int, typer.Option(help="Clips per forward pass.", min=1)] = 8,
    kinds: Annotated[str, typer.Option(help="Kinds of prompts, comma separated.")] = "seen,pairs,words,strangers",
    ceilings: Annotated[
        bool, typer.Option(help="Also judge true renders and reconstructions of the same prompts.")
    ] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of clips and results; goes on there.")] = Path(
        "runs/evaluate-stage"
    ),
) -> None:
    """Sample the fixed prompts of Stage, check the decoded clips' pixels, print the table."""
    from dataclasses import replace

    from videogen.evaluation.stage_suite import KINDS, SuiteSettings, format_table, run_suite, rung_of, write_json

    wanted = tuple(kinds.split(","))
    if not set(wanted) <= set(KINDS):
        raise ValueError(f"`--kinds` must be among {', '.join(KINDS)}, got {kinds}.")
    if source not in ("model", "renders", "tokenizer"):
        raise ValueError(f"`--source` must be model, renders or tokenizer, got {source}.")
    settings = SuiteSettings(
        split=split,
        rung=rung or rung_of(model),
        num_prompts=num_prompts,
        seeds=seeds,
        source=source,  # type: ignore[arg-type]
        model=model,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
        kinds=wanted,
    )

    def report(done: int, total: int) -> None:
        typer.echo(f"\r{done} of {total} clips", nl=done == total, err=True)

    summary = run_suite(settings, output / source, workers, report)
    columns = {}
    if ceilings:
        for other in ("renders", "tokenizer"):
            chosen = replace(settings, source=other, seeds=1, kinds=tuple(k for k in wanted if k != "strangers"))
            columns[other] = run_suite(chosen, output / other, workers, report)
            summary[other] = columns[other]
    typer.echo(format_table(summary, **columns))
    for kind, table in summary["kinds"].items():
        if "all" in table:
            cell = table["all"]
            typer.echo(f"{kind}: everything right {100 * cell['accuracy']:.1f} % ({cell['n']} clips)")
    if json_ is not None:
        write_json(json_, summary)
