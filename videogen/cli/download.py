"""`videogen download`: fetch a clip from a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from videogen.cli.remote import DEFAULT_SERVER, JobId, Server, client_of

VARIANTS = {
    ".mp4": "video",
    ".gif": "gif",
    ".png": "sheet",
    ".json": "receipt",
    ".webp": "thumbnail",
    ".jpg": "spritesheet",
}


def download(
    job_id: JobId,
    server: Server = DEFAULT_SERVER,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="File: .mp4 clip, .gif, .png sheet, .json receipt, .webp one frame, .jpg many frames.",
        ),
    ] = None,
) -> None:
    """Write the clip of a job, by default to JOB_ID.mp4."""
    from videogen.data.files import check_output_path

    path = check_output_path(output or Path(f"{job_id}.mp4"), tuple(VARIANTS), "--output")
    with client_of(server) as client:
        client.download(job_id, path, VARIANTS[path.suffix.lower()])
    typer.echo(f"Wrote {path}.")
