"""What `submit`, `status`, `download` and `cancel` share: which server, which key, and errors as sentences."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

from videogen.client import Client, Job, ServerError

Server = Annotated[str, typer.Option(envvar="VIDEOGEN_SERVER", help="Address of the server.")]
DEFAULT_SERVER = "http://127.0.0.1:8000"
JobId = Annotated[str, typer.Argument(help="Id of the job.")]


@contextmanager
def client_of(server: str) -> Iterator[Client]:
    """A client with the key in VIDEOGEN_API_KEY; what the server refuses is the user's to mend, that it fails is not.

    Raises:
        ValueError: the server's sentence.
        typer.Exit: it does not answer, or has failed.
    """
    try:
        yield Client(server, os.environ.get("VIDEOGEN_API_KEY"))
    except ServerError as error:
        if 400 <= error.status < 500 and error.status != 429:
            raise ValueError(str(error)) from None
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Leave with what failed and is not the user's fault."""
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(1)


def line(job: Job) -> str:
    """A job in one line."""
    state = job.status if job.ended or job.status == "queued" else f"step {job.step} of {job.num_steps}"
    reason = f": {job.error['message']}" if job.error else ""
    return f"{job.id}  {state}{reason}  {job.prompt}"


def said(job: Job) -> None:
    """Print what is not as it was asked."""
    for kind, sentences in (("Adjusted", job.adjusted), ("Note", job.warnings)):
        for sentence in sentences:
            typer.echo(f"{kind}: {sentence}", err=True)
