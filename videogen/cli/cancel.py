"""`videogen cancel`: cancel a job on a server."""

from __future__ import annotations

import typer

from videogen.cli.remote import DEFAULT_SERVER, JobId, Server, client_of, line


def cancel(job_id: JobId, server: Server = DEFAULT_SERVER) -> None:
    """Cancel a job: at once where it waits, within one step where it runs."""
    with client_of(server) as client:
        job = client.cancel(job_id)
        if not job.ended:
            job = client.wait(job_id, 0.1)
    typer.echo(line(job))
