"""`videogen replay`: the same bytes again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer


def replay(
    file: Annotated[Path, typer.Argument(help="A video that videogen made, or its receipt as JSON (`videogen info`).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Video to write: .mp4, .webm or .gif.")] = Path(
        "replay.mp4"
    ),
    sheet: Annotated[Path | None, typer.Option(metavar="F", help="Also write a contact sheet (.png).")] = None,
    model: Annotated[Path | None, typer.Option(help="Model folder; by default the shipped model.")] = None,
) -> None:
    """Make the video of FILE again from its receipt alone, and name what differs here from where it was made."""
    from videogen.cli import run

    run.check_outputs(output, sheet)
    from videogen.receipt import (
        current_environment,
        describe_differences,
        frames_sha256,
        read_receipt,
        receipt_metadata,
        weights_sha256,
    )

    then = read_receipt(file)
    arguments = run.replay_arguments(then.request)
    folder = run.model_folder(model)
    found = weights_sha256(folder)
    if found != then.model_sha256:
        raise ValueError(
            f"the receipt must be replayed with the weights that made it ({then.model_sha256[:12]}), "
            f"got {found[:12]}; pass their folder with `--model`, or install the version of videogen they came with "
            f"({then.environment.versions.get('videogen', 'unknown')})."
        )
    import torch

    if torch.get_num_threads() != then.environment.num_threads:
        typer.echo(
            f"Difference: the thread count was {then.environment.num_threads}, here it is {torch.get_num_threads()}; "
            f"set to {then.environment.num_threads}.",
            err=True,
        )
        torch.set_num_threads(then.environment.num_threads)
    pipe = run.load_pipeline(then.request.task, folder, "cpu" if then.environment.device == "cpu" else None)
    here = current_environment(str(pipe.device))
    differences = describe_differences(then.environment, here)
    if then.request.batch_size > 1:
        differences.append(f"the video was made in a batch of {then.request.batch_size}, here it is made alone.")
    for difference in differences:
        typer.echo(f"Difference: {difference}", err=True)

    result = run.call_pipeline(pipe, arguments, "replaying")
    frames = result.uint8()[0]
    alone = then.request.model_copy(update={"batch_size": 1})
    now = then.model_copy(update={"request": alone, "environment": here, "frames_sha256": frames_sha256(frames)})
    from videogen.data.video import write_video

    original = None if file.suffix.lower() == ".json" else hashlib.sha256(file.read_bytes()).digest()
    write_video(output, frames, result.fps, receipt_metadata(now, output.suffix.lower()))
    if sheet is not None:
        from videogen.data.sheet import write_sheet

        write_sheet(sheet, [frames], fps=result.fps)
    typer.echo(f"Wrote {output}.")
    if now.frames_sha256 != then.frames_sha256:
        reason = "see the differences above" if differences else "although nothing else differs"
        typer.echo(f"The frames are not the same as in the receipt, {reason}.", err=True)
        raise typer.Exit(0 if differences else 1)
    same_kind = original is not None and file.suffix.lower() == output.suffix.lower()
    if not same_kind:
        typer.echo("The frames are the same, bit for bit.")
    elif hashlib.sha256(output.read_bytes()).digest() == original:
        typer.echo("The file is the same, byte for byte.")
    else:
        reason = "see the differences above" if differences else "the file was changed since it was made"
        typer.echo(f"The frames are the same, bit for bit; the file differs ({reason}).")
