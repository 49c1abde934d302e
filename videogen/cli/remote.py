"""What `submit`, `status`, `download` and `cancel` share: which server, which key, and errors as sentences."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from videogen.client import Client, Job, ServerError

Server = Annotated[str, typer.Option(envvar="VIDEOGEN_SERVER", help="Address of the server.")]
DEFAULT_SERVER = "http://127.0.0.1:8000"
JobId = Annotated[str, typer.Argument(help="Id of the job.")]


@contextmanager
def client_of(server: str) -> Iterator[Client]:
    """A client with the key in VIDEOGEN_API_KEY; what the server refuses is the user's to mend.

    Raises:
        ValueError: the server's sentence.
    """
    try:
        yield Client(server, os.environ.get("VIDEOGEN_API_KEY"))
    except ServerError as error:
        raise ValueError(str(error)) from None


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
