"""`videogen publish`: a trained run becomes a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def publish(
    weights: Annotated[Path, typer.Argument(help="Exported weights of a run: RUN/weights.")],
    tokenizer: Annotated[Path, typer.Option(help="The video tokenizer that the run was trained with: RUN/vae.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write, for `generate --model`.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Default number of denoising steps of this model.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(min=1.0, help="Default guidance of this model.")] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(min=0.0, max=1.0, help="Lowest and highest noise level at which this model is guided by default."),
    ] = None,
    average_with: Annotated[
        Path | None,
        typer.Option(help="Publish the mean of the run's weights and these, which it began from (--init-from)."),
    ] = None,
    rung: Annotated[
        str | None,
        typer.Option(
            help="Vocabulary of the model, if it is to know less than the run showed: rung1 to rung4, or cameras."
        ),
    ] = None,
    cameras: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Camera commands that this model is to know, comma separated; default all of it."
        ),
    ] = None,
) -> None:
    """Put a run's weights and a video tokenizer together into one model folder."""
    from videogen.training.publish import publish as write

    sampling = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "guidance_interval": guidance_interval}
    given = {key: value for key, value in sampling.items() if value is not None}
    folder = write(
        weights, tokenizer, output, given, average_with, rung, None if cameras is None else cameras.split(",")
    )
    typer.echo(f"wrote {folder}")
