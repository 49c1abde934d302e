"""`videogen status`: how jobs on a server stand."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from videogen.cli.remote import DEFAULT_SERVER, Server, client_of, line


def status(
    job_id: Annotated[str | None, typer.Argument(help="Id of the job; without one the newest are listed.")] = None,
    server: Server = DEFAULT_SERVER,
    limit: Annotated[int, typer.Option(help="How many to list, 1 to 100.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show how a job stands, or list the newest."""
    with client_of(server) as client:
        jobs = [client.status(job_id)] if job_id is not None else client.jobs(limit)
    for job in jobs:
        typer.echo(json.dumps(asdict(job), ensure_ascii=False) if as_json else line(job))
