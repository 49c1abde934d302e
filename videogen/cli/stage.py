"""`videogen stage`: look at the world that the model learns, and fetch what training needs of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)


@app.command()
def preview(
    rung: Annotated[str, typer.Option(help="How much may happen: rung1 to rung4, or cameras.")] = "rung1",
    num_clips: Annotated[int, typer.Option(help="Clips on the sheet.", min=1, max=200)] = 12,
    seed: Annotated[int, typer.Option(help="The same seed draws the same clips.", min=0)] = 0,
    split: Annotated[str, typer.Option(help="train, heldout (pairs that training never shows) or any.")] = "train",
    language: Annotated[str, typer.Option(help="Of the captions that are printed: en or zh.")] = "en",
    output: Annotated[Path, typer.Option("-o", "--output", help="Contact sheet to write.")] = Path("stage.png"),
) -> None:
    """Write a contact sheet of true Stage clips and print their captions."""
    import random

    from videogen.data.files import check_output_path

    check_output_path(output, (".png",))
    from einops import rearrange

    from videogen.data.sheet import write_sheet
    from videogen.data.stage import caption, render, rungs, sample_spec

    if rung not in rungs():
        raise ValueError(f"`rung` must be one of {', '.join(rungs())}, got {rung}.")
    generator = random.Random(seed)
    videos, labels = [], []
    for index in range(num_clips):
        spec = sample_spec(generator, rungs()[rung], split=split)  # type: ignore[arg-type]
        text = caption(spec, random.Random(index), language=language, style="bracket")  # type: ignore[arg-type]
        typer.echo(f"{index + 1:3d}  {text}")
        video = rearrange(render([spec]), "1 c f h w -> f h w c")
        videos.append(video.add(1).mul(127.5).round().byte().numpy())
        labels.append(f"{index + 1}  {caption(spec, random.Random(index), style='bracket')}")
    write_sheet(output, videos, fps=12.0, labels=labels, num_columns=5, num_videos_per_row=2 if num_clips > 4 else 1)
    typer.echo(f"Wrote {output}.")


@app.command()
def fetch(
    folder: Annotated[Path | None, typer.Option(help="Where to keep it; by default below ~/.cache/videogen.")] = None,
    packages: Annotated[
        Path | None, typer.Option(help="A folder with the packages as `npm pack` names them: nothing is downloaded.")
    ] = None,
    animated: Annotated[bool, typer.Option("--animated", help="Also the animated packages (0.7 GB).")] = False,
) -> None:
    """Fetch the artwork of the unnamed actors, for training identity and the tokenizer (needs npm)."""
    from videogen.data.stage.artwork import fetch as fetch_artwork

    try:
        path = fetch_artwork(folder, packages, animated)
    except RuntimeError as error:  # npm is missing or failed
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"Wrote {path}.")
